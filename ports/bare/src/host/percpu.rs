//! What each CPU has of its own. GS leads to it, as in a real kernel: a guest
//! or a world switch that leaves another GS base behind breaks the host at
//! once.
use core::arch::asm;
use core::cell::UnsafeCell;
use core::mem::offset_of;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use waterbear_hal::{CpuId, CpuSet};
use x86::msr::{IA32_GS_BASE, wrmsr};

use super::call::Call;
use crate::smp::Job;

/// The most CPUs that this host uses; the rest are left alone.
pub const MOST: usize = 8;

/// How many bytes a foreign kernel has behind GS.
pub const FOREIGN: usize = 4096;

/// One CPU's block.
#[repr(C, align(64))]
pub struct PerCpu {
    /// What GS leads to belongs to the kernel whose parts run on this host, if there is one.
    foreign: UnsafeCell<[u8; FOREIGN]>,
    /// Its own address; `this` reads it through GS.
    own: AtomicPtr<PerCpu>,
    number: AtomicU32,
    /// The number of its local APIC.
    pub apic: AtomicU32,
    /// Somebody wants this CPU to look again at what it sleeps for.
    pub woken: AtomicBool,
    /// A signal waits for the thread on this CPU.
    pub signal: AtomicBool,
    pub nmis: AtomicU64,
    pub ticks: AtomicU64,
    /// How many read sections are open here, one inside the other.
    pub nesting: AtomicU32,
    /// How many outermost read sections were opened and closed here: odd
    /// inside of one.
    pub sections: AtomicU64,
    /// What this CPU asks others to do.
    pub call: Call,
    /// What this CPU is to do when it is idle.
    pub job: AtomicPtr<Job>,
}

// SAFETY: this host does not touch `foreign`; the rest is made of atomics, but for the call, which
// guards itself.
unsafe impl Sync for PerCpu {}

static CPUS: [PerCpu; MOST] = [const { PerCpu::new() }; MOST];
/// How many CPUs run. They are numbered in the order in which they came.
static COUNT: AtomicU32 = AtomicU32::new(0);

impl PerCpu {
    const fn new() -> Self {
        Self {
            foreign: UnsafeCell::new([0; FOREIGN]),
            own: AtomicPtr::new(ptr::null_mut()),
            number: AtomicU32::new(0),
            apic: AtomicU32::new(0),
            woken: AtomicBool::new(false),
            signal: AtomicBool::new(false),
            nmis: AtomicU64::new(0),
            ticks: AtomicU64::new(0),
            nesting: AtomicU32::new(0),
            sections: AtomicU64::new(0),
            call: Call::new(),
            job: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// What GS leads to.
    pub fn foreign(&self) -> *mut u8 {
        self.foreign.get().cast()
    }

    pub fn number(&self) -> CpuId {
        self.number.load(Ordering::Relaxed)
    }
}

/// Makes this CPU number `cpu`, whose local APIC is number `apic`. Before
/// anything that asks for `this`.
pub fn init(cpu: CpuId, apic: u8) {
    let block = of(cpu);
    block.number.store(cpu, Ordering::Relaxed);
    block.apic.store(apic.into(), Ordering::Relaxed);
    let own = ptr::from_ref(block);
    block.own.store(own.cast_mut(), Ordering::Relaxed);
    // SAFETY: GS is used for this alone.
    unsafe { wrmsr(IA32_GS_BASE, own as u64) }
}

/// Counts this CPU in: from now on others send it interrupts.
pub fn come_online() {
    // Pairs with `count`: who counts this CPU sees its block filled in.
    COUNT.fetch_add(1, Ordering::Release);
}

/// How many CPUs run.
pub fn count() -> u32 {
    // Pairs with `come_online`.
    COUNT.load(Ordering::Acquire)
}

/// This CPU's block.
#[inline(always)]
pub fn this() -> &'static PerCpu {
    let block: *const PerCpu;
    // SAFETY: GS leads to the block, which has its own address there.
    unsafe {
        asm!("mov {}, gs:[{own}]", out(reg) block, own = const offset_of!(PerCpu, own),
             options(nostack, readonly, preserves_flags));
    }
    // SAFETY: `init` has set it; the blocks are static.
    unsafe { &*block }
}

/// The block of a CPU by its number.
pub fn of(cpu: CpuId) -> &'static PerCpu {
    match CPUS.get(cpu as usize) {
        Some(block) => block,
        None => panic!("there is no CPU {cpu}"),
    }
}

/// The blocks of the CPUs that run.
pub fn all() -> impl Iterator<Item = &'static PerCpu> {
    CPUS.iter().take(count() as usize)
}

/// The CPUs of the set that run, without this one.
pub fn others(cpus: &CpuSet) -> impl Iterator<Item = &'static PerCpu> {
    let me = this().number();
    all().filter(move |cpu| cpu.number() != me && cpus.contains(cpu.number()))
}

/// The CPU with this local APIC, for those who cannot trust GS.
pub fn by_apic(apic: u8) -> CpuId {
    all()
        .find(|cpu| cpu.apic.load(Ordering::Relaxed) == apic.into())
        .map_or(CpuId::MAX, PerCpu::number)
}
