//! All vCPUs of a VM, and requests to all of them at once.
use waterbear_hal::sync::atomic::{AtomicBool, Ordering, fence};
use waterbear_hal::{CpuSet, Hal, Pinned};

use super::{Vcpu, interrupt, sender_barrier};
use crate::Error;
use crate::mem::boxed;
use crate::once_table::{self, OnceTable};
use crate::request::Request;

/// The most vCPUs of one VM; indices are below it.
pub const MAX_VCPUS: usize = once_table::LEN;

/// The vCPUs of a VM. Each is added once and stays as long as the VM.
pub struct Vcpus<H: Hal> {
    hal: H,
    table: OnceTable<Vcpu<H>, H>,
    /// The VM is dead; so is every vCPU that is added from now on.
    dead: AtomicBool,
    /// `[a]` How often all of them had to flush; a statistic.
    flushes: core::sync::atomic::AtomicU64,
}

impl<H: Hal> Vcpus<H> {
    /// No vCPUs.
    pub fn new(hal: &H) -> Self {
        Self {
            hal: hal.clone(),
            table: OnceTable::new(hal),
            dead: AtomicBool::new(false),
            flushes: core::sync::atomic::AtomicU64::new(0),
        }
    }

    /// Makes the vCPU `index` and puts it online: broadcasts reach it from now
    /// on. There is no way back, so whatever else can fail while a vCPU is
    /// created comes first. May sleep.
    ///
    /// A broadcast that runs at the same time may miss the vCPU. That is
    /// right: the vCPU was put online before it can enter the guest, so its
    /// first entry comes after the sender's barrier, and it sees what the
    /// sender did. It begins without a root and with an empty TLB.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when `index` is not below [`MAX_VCPUS`],
    /// [`Error::Exists`] when there is such a vCPU, [`Error::NoMemory`].
    pub fn add(&self, index: u32) -> Result<&Vcpu<H>, Error> {
        if index as usize >= MAX_VCPUS {
            return Err(Error::Invalid);
        }
        if self.get(index).is_some() {
            return Err(Error::Exists);
        }
        let vcpu = boxed(&self.hal, Vcpu::new(&self.hal, index)?)?;
        let vcpu = self.table.insert(index as usize, vcpu)?;
        // Either the broadcast of a death finds the vCPU, or we find the
        // death. Pairs with the fence in `make_request_all`.
        fence(Ordering::SeqCst);
        if self.dead.load(Ordering::Relaxed) {
            vcpu.requests.make(Request::VM_DEAD);
        }
        Ok(vcpu)
    }

    /// Whether [`Request::VM_DEAD`] was made to all of them. A look.
    pub fn are_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    /// The vCPU `index`, if it is online. Any context.
    pub fn get(&self, index: u32) -> Option<&Vcpu<H>> {
        self.table.get(index as usize)
    }

    /// The vCPUs that are online, in order of their indices. Any context.
    pub fn iter(&self) -> impl Iterator<Item = &Vcpu<H>> {
        self.table.iter()
    }

    /// Makes a request to one vCPU, as [`Vcpu::make_request`].
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when no such vCPU is online.
    pub fn make_request(&self, index: u32, request: Request) -> Result<(), Error> {
        self.get(index)
            .ok_or(Error::NotFound)?
            .make_request(request);
        Ok(())
    }

    /// Makes a request to every vCPU that is online, with one interrupt to all
    /// CPUs that need it (KR-5). Says whether one was sent.
    ///
    /// With `WAIT` it returns when each vCPU has been outside the guest, and
    /// outside walks of page tables, at some time after the call began. Does
    /// not sleep and does not allocate; spin locks may be held and RCU
    /// sections open. Interrupts on.
    pub fn make_request_all(&self, request: Request) -> bool {
        if request == Request::VM_DEAD {
            self.dead.store(true, Ordering::Relaxed);
            // Pairs with the fence in `add`.
            fence(Ordering::SeqCst);
        }
        // First a pass that sets the bits, then one barrier for all, then a
        // pass that looks at the modes. A vCPU that comes online in between is
        // met by the second pass only: interrupted for nothing at worst. `add`
        // says why a vCPU that neither pass meets is right as well.
        for vcpu in self.iter() {
            vcpu.requests.make(request);
        }
        sender_barrier();
        let pinned = Pinned::new(&self.hal);
        let mut cpus = CpuSet::new();
        for vcpu in self.iter() {
            if request.wakes() && vcpu.wake() {
                continue;
            }
            if let Some(cpu) = vcpu.cpu_to_interrupt(&pinned, request) {
                vcpu.count_kick();
                cpus.insert(cpu);
            }
        }
        let any = !cpus.is_empty();
        if any {
            interrupt(&self.hal, &cpus, request);
        }
        any
    }

    /// How often all of them had to flush their TLBs.
    pub fn flushes(&self) -> u64 {
        self.flushes.load(Ordering::Relaxed)
    }

    /// Makes every vCPU flush its TLB before it runs guest code again. When it
    /// returns, no CPU uses a translation of this VM that was gone before the
    /// call. Where it may be called: as
    /// [`make_request_all`](Vcpus::make_request_all).
    pub fn flush_tlbs(&self) {
        self.flushes.fetch_add(1, Ordering::Relaxed);
        self.make_request_all(Request::TLB_FLUSH);
    }
}
