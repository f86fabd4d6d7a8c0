//! Work for the other CPUs. Each has room for one job, which it takes when it
//! is idle.
use core::ptr;
use core::sync::atomic::{AtomicU32, Ordering};

use waterbear_hal::{Cpu, CpuId, CpuSet};

use crate::host::{Bare, percpu, wait};

/// What a job does; borrowed from the owner, who waits.
type Function = *const (dyn Fn(CpuId) + Sync);

/// A job, on the stack of the CPU that waits for its end.
pub struct Job {
    f: Function,
    /// How many CPUs have not finished it.
    left: AtomicU32,
    owner: CpuId,
}

/// Runs `f` on each CPU of the set that runs, at the same time, this one
/// included, and waits for all. `f` gets the CPU's number. A CPU that has a job
/// already does that first. Interrupts on.
pub fn run_on(cpus: &CpuSet, f: &(dyn Fn(CpuId) + Sync)) {
    let me = percpu::this().number();
    let f = ptr::from_ref(f);
    // SAFETY: only the lifetime is forgotten; this function waits until no CPU
    // uses the pointer any more.
    let f: Function = unsafe { core::mem::transmute(f) };
    let job = Job {
        f,
        left: AtomicU32::new(percpu::others(cpus).count() as u32),
        owner: me,
    };
    for cpu in percpu::others(cpus) {
        let place = ptr::from_ref(&job).cast_mut();
        // Pairs with the swap in `idle`: who takes the job sees it whole.
        let put = || {
            cpu.job
                .compare_exchange(ptr::null_mut(), place, Ordering::Release, Ordering::Relaxed)
                .is_ok()
        };
        while !put() {
            core::hint::spin_loop();
        }
        wait::wake(cpu.number());
    }
    if cpus.contains(me) {
        // SAFETY: the function is the caller's, who waits.
        unsafe { (*f)(me) }
    }
    // Pairs with the release in `idle`: what the others did is visible here.
    wait::until(false, || job.left.load(Ordering::Acquire) == 0);
}

/// Runs `f` on every CPU, as [`run_on`].
pub fn run_on_all(f: impl Fn(CpuId) + Sync) {
    run_on(&Bare.online(), &f);
}

/// Runs `f` on one CPU, as [`run_on`].
pub fn on_cpu(cpu: CpuId, f: impl Fn(CpuId) + Sync) {
    let mut cpus = CpuSet::new();
    cpus.insert(cpu);
    run_on(&cpus, &f);
}

/// What a CPU does for ever when it has been started.
pub fn idle() -> ! {
    let me = percpu::this();
    loop {
        wait::until(false, || !me.job.load(Ordering::Relaxed).is_null());
        // Pairs with the exchange in `run_on`.
        let job = me.job.swap(ptr::null_mut(), Ordering::Acquire);
        // SAFETY: its owner keeps it until `left` is 0, which needs us.
        let job = unsafe { &*job };
        // SAFETY: as above.
        unsafe { (*job.f)(me.number()) }
        let owner = job.owner;
        // The job may be gone as soon as this is done.
        if job.left.fetch_sub(1, Ordering::Release) == 1 {
            wait::wake(owner);
        }
    }
}
