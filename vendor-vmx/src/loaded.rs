//! On which CPU a control structure is.
//!
//! Hardware keeps the control structure of a vCPU that ran in a form of its own, part of it on the
//! CPU: it is *active* there. Before another CPU uses it, or its memory goes, VMCLEAR on that CPU
//! writes it back. Here at most one structure is active on a CPU, the current one:
//!
//! ```text
//!  CPU a, thread of vCPU 2              CPU b, thread of vCPU 1, whose structure is on CPU a
//!  -----------------------              ----------------------------------------------------
//!  VMCLEAR 1                            current[a] is 1? then call CPU a, which does
//!  current[a] := 2        (Release)       VMCLEAR 1, current[a] := 0
//!  VMPTRLD 2                            it is something else (Acquire): 1 is in memory
//!                                       VMCLEAR whatever is current here
//!                                       current[b] := 1, VMPTRLD 1
//! ```
//!
//! Only the thread of a vCPU makes its structure current anywhere, pinned; only the CPU itself
//! changes its `current`. The call can come between any two steps on the left and does nothing or
//! a VMCLEAR too many, which has no effect. An emergency that comes there finds the new structure's
//! address before it is active, and clears it or nothing.
//!
//! Source: Intel SDM volume 3, "Software Use of the VMCS and Related Structures".
#![expect(unsafe_code, reason = "VMX instructions")]
use waterbear_core::Error;
use waterbear_core::mem::{Box, array};
use waterbear_hal::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use waterbear_hal::{CpuId, CpuSet, Hal};

use crate::cpu::{self, CR4_VMXE};
use crate::detect::Features;
use crate::fields::Current;
use crate::pages::Page;

const NONE: u64 = 0;

/// What belongs to a CPU.
struct PerCpu<H: Hal> {
    /// Where it keeps its state while VMX operation is on. Always there when the CPU is used.
    region: Option<Page<H>>,
    /// VMX operation is on.
    on: AtomicBool,
    /// The address of the only control structure that is active on it.
    current: AtomicU64,
}

/// Every CPU.
pub struct Cpus<H: Hal> {
    hal: H,
    list: Box<[PerCpu<H>], H>,
}

/// Whether [`Cpus::bring`] had anything to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Brought {
    /// The structure was current.
    Already,
    /// It is now, in the clear state.
    Freshly,
}

impl<H: Hal> Cpus<H> {
    /// What the CPUs below `count` need. May sleep.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`].
    pub fn new(hal: &H, count: u32, features: &Features) -> Result<Self, Error> {
        let list = array(hal, count as usize, |_| PerCpu {
            region: Page::new(hal, features.revision).ok(),
            on: AtomicBool::new(false),
            current: AtomicU64::new(NONE),
        })?;
        if list.iter().any(|cpu| cpu.region.is_none()) {
            return Err(Error::NoMemory);
        }
        Ok(Self {
            hal: hal.clone(),
            list,
        })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.list.len()
    }

    /// The host learns what an exit has done to the task register. Interrupts off.
    #[inline(always)]
    pub fn cut_task_register(&self) {
        self.hal.task_register_was_cut();
    }

    /// Switches VMX operation on, on this CPU; says whether it is on now.
    ///
    /// # Safety
    ///
    /// The CPU has VMX, the firmware allows it, VMX operation is off, and interrupts are off.
    pub unsafe fn switch_on(&self, cpu: CpuId) -> bool {
        let Some(here) = self.list.get(cpu as usize) else {
            return false;
        };
        let Some(region) = &here.region else {
            return false;
        };
        here.current.store(NONE, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { cpu::unlock() }
        self.change_cr4(CR4_VMXE, 0);
        // SAFETY: as the caller promises, and the region is this CPU's.
        if !unsafe { cpu::vmxon(region.address()) } {
            self.change_cr4(0, CR4_VMXE);
            return false;
        }
        here.on.store(true, Ordering::Relaxed);
        // Whatever is cached is from a time before.
        // SAFETY: VMX operation is on, and `detect` wants this form.
        unsafe { cpu::invept_all() }
        true
    }

    /// Switches it off again. Any context.
    ///
    /// The mark is set after VMX operation is on and cleared before it is off: so an emergency in
    /// between does too little, once, instead of faulting.
    pub fn switch_off(&self, cpu: CpuId) {
        let Some(here) = self.list.get(cpu as usize) else {
            return;
        };
        if !here.on.swap(false, Ordering::Relaxed) {
            return;
        }
        let active = here.current.swap(NONE, Ordering::Release);
        if active != NONE {
            // SAFETY: VMX operation is on, and the structure is active here.
            unsafe { cpu::vmclear(active) }
        }
        // SAFETY: it is on, as the mark said, and no other structure is active here.
        unsafe { cpu::vmxoff() }
        self.change_cr4(0, CR4_VMXE);
    }

    /// Lets VMX operation be on, which it is not yet, or no longer.
    fn change_cr4(&self, set: u64, clear: u64) {
        // SAFETY: only CR4.VMXE, on a CPU with VMX, with VMX operation off.
        if !unsafe { self.hal.change_cr4(set, clear) } {
            // SAFETY: as above, and the host keeps no copy.
            unsafe { cpu::write_cr4(cpu::read_cr4() & !clear | set) }
        }
    }

    /// Access to the structure at `address`, if it is current on this CPU.
    ///
    /// # Safety
    ///
    /// The caller is the thread of the structure's vCPU, and is pinned to this CPU until the
    /// result is used no more.
    #[inline]
    pub unsafe fn current(&self, cpu: CpuId, address: u64) -> Option<Current> {
        let here = self.list.get(cpu as usize)?;
        // SAFETY: only this CPU changes what is current, for other threads or for the caller.
        (here.current.load(Ordering::Relaxed) == address).then(|| unsafe { Current::new() })
    }

    /// Makes the structure at `address` current on this CPU. `None` when VMX operation is off
    /// here, as it is when the machine goes down.
    ///
    /// # Safety
    ///
    /// As for [`current`](Cpus::current). `address` is that of a control structure, which was last
    /// current on `last`; interrupts are on.
    pub unsafe fn bring(
        &self,
        cpu: CpuId,
        last: CpuId,
        address: u64,
    ) -> Option<(Current, Brought)> {
        // SAFETY: as the caller promises.
        if let Some(current) = unsafe { self.current(cpu, address) } {
            return Some((current, Brought::Already));
        }
        let here = self.list.get(cpu as usize)?;
        self.send_home(last, address);
        if !here.on.load(Ordering::Relaxed) {
            return None;
        }
        let old = here.current.load(Ordering::Relaxed);
        if old != NONE {
            // SAFETY: VMX operation is on, and the structure is active here.
            unsafe { cpu::vmclear(old) }
        }
        // Release: the old one is in memory. Pairs with `is_on`.
        here.current.store(address, Ordering::Release);
        // It is in memory already, or was never anywhere: this makes its state known.
        // SAFETY: VMX operation is on, and the structure is active nowhere.
        unsafe { cpu::vmclear(address) }
        // SAFETY: as above.
        unsafe { cpu::vmptrld(address) }
        // SAFETY: it is current, and the caller is pinned.
        Some((unsafe { Current::new() }, Brought::Freshly))
    }

    /// Whether the structure at `address` is active on `cpu`. Only its thread may ask.
    pub fn is_on(&self, cpu: CpuId, address: u64) -> bool {
        // Acquire: if not, it is in memory. Pairs with `bring` and `clear_here`.
        let current = |there: &PerCpu<H>| there.current.load(Ordering::Acquire);
        self.list.get(cpu as usize).map(current) == Some(address)
    }

    /// Makes the structure at `address`, which was last on `cpu`, be in memory. Interrupts on.
    pub fn send_home(&self, cpu: CpuId, address: u64) {
        if !self.is_on(cpu, address) {
            return;
        }
        let mut cpus = CpuSet::new();
        cpus.insert(cpu);
        // A CPU that is not online has switched VMX operation off, and cleared it.
        self.hal
            .call_on(&cpus, &|here| self.clear_here(here, address));
    }

    /// Clears the structure at `address` if it is active on this CPU, whose interrupts are off.
    // A call, because a closure's code is there twice.
    #[inline(never)]
    fn clear_here(&self, cpu: CpuId, address: u64) {
        let Some(here) = self.list.get(cpu as usize) else {
            return;
        };
        if here.on.load(Ordering::Relaxed) && here.current.load(Ordering::Relaxed) == address {
            // SAFETY: VMX operation is on, and the structure is active here.
            unsafe { cpu::vmclear(address) }
            // Release: it is in memory. Pairs with `is_on`.
            here.current.store(NONE, Ordering::Release);
        }
    }
}
