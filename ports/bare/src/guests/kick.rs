//! What a kick costs: one CPU runs a guest that only counts in its memory, the other kicks it out
//! and waits until it counts again. Bochs's CPUs take turns of 5 instructions: one tick is one
//! instruction of each, and what comes out is the longest chain of instructions, not their sum.
use core::sync::atomic::{AtomicU64, Ordering};

use waterbear_core::Error;
use waterbear_core::request::Request;
use waterbear_core::vcpu::{Mode, Vcpu};
use waterbear_core::vendor::Vendor;
use waterbear_guests::{KICK, KICK_COUNT, KICKED, LOAD};
use waterbear_hal::{CpuId, CpuSet};

use super::drive::Drive;
use super::machine::{Machine, Verdict};
use crate::console::say;
use crate::host::{self, Bare, timer};
use crate::smp;

/// The vCPU that is kicked, and the CPU that it runs on. The boot CPU kicks.
const GUEST: CpuId = 1;
const KICKER: CpuId = 0;
/// Kicks before the ones that count, and those.
const WARM: u64 = 100;
const ROUNDS: u64 = 1000;
/// How often the kicker looks for something before it gives up.
const LOOKS: u32 = 20_000_000;

/// Measures, on the first two CPUs.
pub fn measure<V: Vendor + Sync>(vendor: &V) -> Result<Verdict, Error> {
    let machine = Machine::new(vendor, &KICKED)?;
    machine.wanted[GUEST as usize].start_at(LOAD);
    let cost = AtomicU64::new(0);
    let work = |cpu| {
        if cpu == GUEST {
            match Drive::new(&machine, GUEST as usize) {
                Ok(mut drive) => drive.run(),
                Err(error) => machine.finish(Verdict::Error(error)),
            }
        } else if let Some(ticks) = round_trip(&machine) {
            cost.store(ticks, Ordering::Relaxed);
            machine.finish(Verdict::Passed);
        } else {
            machine.finish(Verdict::TooLong);
        }
    };
    let mut cpus = CpuSet::new();
    cpus.insert(KICKER);
    cpus.insert(GUEST);
    smp::run_on(&cpus, &work);
    // The end was signalled to both.
    host::take_signal();
    if let Some(why) = machine.failure() {
        return Ok(why);
    }
    say!("BENCH {} {KICK}", cost.load(Ordering::Relaxed));
    Ok(Verdict::Passed)
}

/// Ticks from a kick to the guest's next count, on average; `None` when the guest does not count.
fn round_trip<V: Vendor>(machine: &Machine<'_, V>) -> Option<u64> {
    let word = machine.slot(0)?.word(KICK_COUNT)?;
    // SAFETY: inside the slot's memory, which the guest shares.
    let count = || unsafe { word.read_volatile() };
    look_for(|| machine.vm.vcpus().get(GUEST).is_some())?;
    let vcpu = machine.vm.vcpus().get(GUEST)?;
    // From its first count on the guest leaves only when it is kicked.
    look_for(|| count() != 0)?;
    kicks(vcpu, WARM, count)?;
    Some(kicks(vcpu, ROUNDS, count)? / ROUNDS)
}

/// Ticks of some kicks, each of which finds the guest running.
fn kicks(vcpu: &Vcpu<Bare>, rounds: u64, count: impl Fn() -> u32) -> Option<u64> {
    let mut ticks = 0;
    for _ in 0..rounds {
        look_for(|| vcpu.mode() == Mode::InGuest)?;
        let start = timer::tsc();
        // Waits until it has left.
        vcpu.make_request(Request::OUTSIDE_GUEST_MODE);
        let left = count();
        look_for(|| count() != left)?;
        ticks += timer::tsc() - start;
    }
    Some(ticks)
}

/// Waits until something is so; not for ever.
fn look_for(is_so: impl Fn() -> bool) -> Option<()> {
    (0..LOOKS).any(|_| is_so()).then_some(())
}
