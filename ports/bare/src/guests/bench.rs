//! What exits cost, measured by a guest with the time-stamp counter. On the emulated machines where
//! this is run, one tick is one instruction. Machines with more CPUs than one are less exact, and
//! measure [what a kick costs](super::kick) instead.
use waterbear_core::Error;
use waterbear_core::registry::Registry;
use waterbear_core::run::{GuestCpu, Leave};
use waterbear_core::vendor::{Hardware, Vendor};
use waterbear_guests::devices::number;
use waterbear_guests::{BENCH, LOAD, MEASURED};

use super::cpuid;
use super::kick;
use super::machine::{Machine, Verdict};
use crate::console::say;
use crate::host::{self, Bare};

const DONE: u16 = 0x500;
const NUMBER: u16 = 0x570;
const COST: u16 = 0x574;

/// Measures; says whether that worked.
pub fn run<V: Vendor + Sync>(vendor: &V) -> bool {
    let vendors: [&dyn Hardware; 1] = [vendor];
    let done = Registry::new(&Bare, &vendors)
        .and_then(|registry| {
            registry.register(0, || Ok(()))?;
            let verdict = {
                let _token = registry.vm_created()?;
                if host::count() > 1 {
                    kick::measure(vendor)?
                } else {
                    measure(vendor)?
                }
            };
            registry.unregister(|| ())?;
            Ok(verdict)
        })
        .unwrap_or_else(Verdict::Error);
    if !matches!(done, Verdict::Passed) {
        say!("FAIL bench: {done}");
    }
    matches!(done, Verdict::Passed)
}

fn measure<V: Vendor>(vendor: &V) -> Result<Verdict, Error> {
    let machine = Machine::new(vendor, &BENCH)?;
    let vcpu = machine.vm.vcpus().add(0)?;
    let mut cpu = GuestCpu::new(&Bare, vendor, &cpuid::limited(vendor))?;
    cpuid::give(vendor, &mut cpu)?;
    vendor.regs(cpu.state()).rip = LOAD;
    let mut costs = [0; MEASURED.len()];
    let mut which = 0;
    loop {
        match cpu.run(&machine.vm, vcpu, vendor)? {
            Leave::Io { port, .. } => match port {
                NUMBER => which = number(cpu.data()) as usize,
                COST => {
                    if let Some(place) = costs.get_mut(which) {
                        *place = number(cpu.data()) as u32;
                    }
                }
                DONE => break,
                _ => {}
            },
            Leave::Mmio { .. } | Leave::Interrupted => {}
            Leave::Halted => cpu.queue_interrupt(0x40)?,
            other => return Ok(Verdict::Left(other)),
        }
    }
    for (name, cost) in MEASURED.iter().zip(costs) {
        say!("BENCH {cost} {name}");
    }
    Ok(Verdict::Passed)
}
