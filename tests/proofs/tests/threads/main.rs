//! Threads that do everything to one VM at once.
//!
//! What must hold is checked by whoever can see it: the mock panics when a
//! guest reaches a page that the host has back, when freed tables are used and
//! when something leaks; [`services`] keeps a copy of the guest's memory by the
//! dirty log alone and compares it, and counts writes to tracked pages.
#![cfg(not(loom))]

mod memory;
mod services;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::scope;

use waterbear_core::Error;
use waterbear_core::memslot::SpaceId;
use waterbear_core::tdp::DirtyTracking::{self, DirtyBit, WriteProtect};
use waterbear_hal::Gfn;
use waterbear_mock::MockConfig;
use waterbear_mock::hw::Access;
use waterbear_proofs::random::Random;
use waterbear_proofs::{Paging, Reached, Rig};

/// What an access comes to.
pub type Outcome = Result<Reached, Error>;

/// How many vCPUs there are.
const VCPUS: u32 = if cfg!(miri) { 2 } else { 3 };
/// How often each touches memory at least, and between two looks at whether
/// the services are done.
const TOUCHES: usize = if cfg!(miri) { 5 } else { 20 };

/// The machine, and who is not done yet.
pub struct Stress<const N: bool> {
    rig: Rig<N>,
    vcpus: AtomicUsize,
    services: AtomicUsize,
}

impl<const N: bool> Stress<N> {
    /// Whether a vCPU still runs. What the others have done is visible.
    pub fn runs(&self) -> bool {
        self.vcpus.load(Ordering::Acquire) != 0
    }

    /// Until this is dropped the vCPUs go on.
    pub fn working(&self) -> Turn<'_> {
        Turn(&self.services)
    }
}

/// One of those who are not done; also if its thread panics.
pub struct Turn<'a>(&'a AtomicUsize);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

/// A vCPU's thread.
fn vcpu<const N: bool>(stress: &Stress<N>, index: u32) {
    let _running = Turn(&stress.vcpus);
    let mut random = Random::new(u64::from(index) + 1);
    let mut guest = stress.rig.guest(index);
    let mut space = SpaceId::NORMAL;
    loop {
        for _ in 0..TOUCHES {
            if random.percent(2) {
                space = random.pick(&SpaceId::ALL);
                guest.switch_space(space);
            }
            let gfn = memory::any_frame(&mut random);
            if random.percent(5) {
                let gpa = Gfn(gfn).gpa();
                let _ = stress.rig.vm.prefault(&mut guest.mmu, gpa);
                continue;
            }
            let access = random.pick(&[Access::READ, Access::WRITE, Access::WRITE, Access::EXEC]);
            let reached = guest.access(gfn, access);
            memory::judge(space, gfn, access, reached);
        }
        if stress.services.load(Ordering::Relaxed) == 0 {
            return;
        }
        // The services wait for CPUs all the time; let them have some.
        std::thread::yield_now();
    }
}

/// Runs it all. Under Miri one service is enough, another one in each variant.
fn stress<const N: bool>(paging: Paging, dirty: DirtyTracking) {
    let config = MockConfig::new().cpus(16);
    let stress = Stress {
        rig: Rig::<N>::with(config, paging, Paging::ROOT, dirty),
        vcpus: AtomicUsize::new(VCPUS as usize),
        services: AtomicUsize::new(0),
    };
    memory::prepare(&stress.rig);
    stress
        .rig
        .host
        .contend_every(if cfg!(miri) { 20 } else { 100 });
    // A page is old by the time that a fault has it.
    stress.rig.user.on_resolve(|_| std::thread::yield_now());
    let services: [fn(&Stress<N>); 5] = [
        services::copy_by_the_log,
        services::change_pages,
        services::replace_slots,
        services::track_and_age,
        services::replace_roots,
    ];
    let variant = 2 * paging as usize + dirty as usize + 3 * usize::from(N);
    let chosen = |number: usize| !cfg!(miri) || number == variant % services.len();
    let count = (0..services.len()).filter(|&number| chosen(number)).count();
    stress.services.store(count, Ordering::Relaxed);
    let on = |cpu, work: &dyn Fn()| stress.rig.host.run_on(cpu, work);
    scope(|scope| {
        for index in 0..VCPUS {
            let (stress, on) = (&stress, &on);
            scope.spawn(move || on(index, &|| vcpu(stress, index)));
        }
        for (number, service) in services.into_iter().enumerate() {
            if chosen(number) {
                let (stress, on) = (&stress, &on);
                // No vCPU shares its CPU: a kick skips the sender's own.
                scope.spawn(move || on(8 + number as u32, &|| service(stress)));
            }
        }
    });
    memory::remove(&stress.rig);
    stress.rig.finish();
}

/// Proves TDP-2, TDP-4, TDP-6, TDP-8, TDP-13.
#[test]
fn threads_on_ept_under_write_protection_lose_nothing() {
    stress::<true>(Paging::Ept, WriteProtect);
}

/// Proves TDP-2, TDP-4, TDP-6, TDP-8, TDP-10, TDP-13.
#[test]
#[cfg_attr(miri, ignore = "one of each kind of table is enough for unsafe code")]
fn threads_on_ept_under_dirty_bits_lose_nothing() {
    stress::<true>(Paging::Ept, DirtyBit);
}

/// Proves TDP-2, TDP-4, TDP-6, TDP-8, TDP-13, TDP-14.
#[test]
#[cfg_attr(miri, ignore = "one of each kind of table is enough for unsafe code")]
fn threads_on_ept_without_accessed_bits_lose_nothing() {
    stress::<true>(Paging::EptPlain, WriteProtect);
}

/// Proves TDP-2, TDP-4, TDP-6, TDP-8, TDP-13.
#[test]
#[cfg_attr(miri, ignore = "one of each kind of table is enough for unsafe code")]
fn threads_on_npt_under_write_protection_lose_nothing() {
    stress::<true>(Paging::Npt, WriteProtect);
}

/// Proves TDP-2, TDP-4, TDP-6, TDP-8, TDP-10, TDP-13.
#[test]
fn threads_on_npt_under_dirty_bits_lose_nothing() {
    stress::<true>(Paging::Npt, DirtyBit);
}

/// Proves TDP-6, TDP-13, TDP-14.
#[test]
#[cfg_attr(miri, ignore = "one of each kind of table is enough for unsafe code")]
fn threads_on_ept_with_pinned_pages_lose_nothing() {
    stress::<false>(Paging::Ept, WriteProtect);
}

/// Proves TDP-6, TDP-10, TDP-13, TDP-14.
#[test]
#[cfg_attr(miri, ignore = "one of each kind of table is enough for unsafe code")]
fn threads_on_ept_with_pinned_pages_and_dirty_bits_lose_nothing() {
    stress::<false>(Paging::Ept, DirtyBit);
}

/// Proves TDP-6, TDP-13, TDP-14.
#[test]
fn threads_on_ept_without_accessed_bits_and_with_pinned_pages_lose_nothing() {
    stress::<false>(Paging::EptPlain, WriteProtect);
}

/// Proves TDP-6, TDP-13, TDP-14.
#[test]
#[cfg_attr(miri, ignore = "one of each kind of table is enough for unsafe code")]
fn threads_on_npt_with_pinned_pages_lose_nothing() {
    stress::<false>(Paging::Npt, WriteProtect);
}

/// Proves TDP-6, TDP-10, TDP-13, TDP-14.
#[test]
#[cfg_attr(miri, ignore = "one of each kind of table is enough for unsafe code")]
fn threads_on_npt_with_pinned_pages_and_dirty_bits_lose_nothing() {
    stress::<false>(Paging::Npt, DirtyBit);
}
