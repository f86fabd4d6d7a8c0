//! Two guests that run the same program on one CPU, in turns, while the host has values of its own
//! in the registers that nobody switches by himself.
use core::sync::atomic::Ordering;

use waterbear_core::vendor::Vendor;
use waterbear_guests::Program;

use super::Miss;
use super::drive::Drive;
use super::machine::{Machine, Verdict};
use crate::host;
use crate::selftest::fpu;

/// Whose values the host has in its FPU.
const HOST: u8 = 1;

/// Runs a program twice and says how many exits that took.
pub fn run<V: Vendor>(vendor: &V, program: &'static Program) -> Result<u32, Miss> {
    let machines = [
        Machine::new(vendor, program)?,
        Machine::new(vendor, program)?,
    ];
    let mut drives = [Drive::new(&machines[0], 0)?, Drive::new(&machines[1], 0)?];
    drives[1].twin = 1;
    fpu::put(HOST);
    while machines.iter().any(|machine| !machine.is_over()) {
        for (drive, machine) in drives.iter_mut().zip(&machines) {
            if machine.is_over() {
                continue;
            }
            drive.step();
            if !fpu::holds(HOST) {
                machine.finish(Verdict::HostFpu);
            }
        }
    }
    host::take_signal();
    match machines.iter().find_map(Machine::failure) {
        Some(why) => Err(Miss::Failed(why)),
        None => Ok(machines
            .iter()
            .map(|machine| machine.exits.load(Ordering::Relaxed))
            .sum()),
    }
}
