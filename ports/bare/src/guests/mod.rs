//! Guests, and what must come of them.
//!
//! Each program of `waterbear-guests` runs in a machine of its own, on as many CPUs as it has
//! vCPUs. It checks itself; here are the machine that it finds and the host that must outlive it.
//!
//! | file | idea |
//! |---|---|
//! | [`machine`] | a machine: what the vCPUs of a program share |
//! | [`memory`] | the memory behind its slots |
//! | [`commands`] | what a program asks its host to do |
//! | [`tracker`] | who is told of writes to tracked pages |
//! | [`drive`] | one vCPU |
//! | [`twins`] | two guests in turns on one CPU |
//! | [`cpuid`] | what CPUID says |
//! | [`bench`] | what exits cost |
//! | [`kick`] | what a kick costs |
//! | [`host_walk`] | what the host has in its registers, before and after |
mod bench;
mod commands;
pub mod cpuid;
mod drive;
mod host_walk;
mod kick;
pub mod machine;
mod memory;
mod tracker;
mod twins;

use waterbear_core::Error;
use waterbear_core::host_state::HostState;
use waterbear_core::registry::Registry;
use waterbear_core::vendor::{Either, Hardware, Vendor};
use waterbear_guests::{PROGRAMS, Program};
use waterbear_hal::CpuSet;
use waterbear_svm::svm::Svm;
use waterbear_vmx::vmx::Vmx;

use crate::console::say;
use crate::host::{self, Bare, timer};
use crate::{boot, hooks, smp};
use drive::Drive;
use host_walk::HostWalk;
use machine::{Machine, Verdict};

/// How often a CPU that runs a guest looks at the clock, in nanoseconds.
const TICK: u64 = 100_000_000;

/// The vendor, as a module has it that brings both.
type Both = Either<Vmx<Bare>, Svm<Bare>>;

/// Runs every program; says whether none failed.
pub fn run() -> bool {
    let cpus = host::count();
    // Both vendors look; at most one of them finds its CPU.
    match (Vmx::new(&Bare, cpus), Svm::new(&Bare, cpus)) {
        (Ok(vmx), _) => on(&Both::A(vmx), waterbear_vmx::host_state::HOST_STATE),
        (_, Ok(svm)) => on(&Both::B(svm), waterbear_svm::host_state::HOST_STATE),
        _ => {
            say!("REFUSED this CPU cannot host guests");
            true
        }
    }
}

/// Tests the vendor's hooks, registers it and runs the programs on it.
fn on<V: Vendor + Sync>(vendor: &V, states: &'static [HostState]) -> bool {
    if boot::option("bench").is_some() {
        return bench::run(vendor);
    }
    let vendors: [&dyn Hardware; 1] = [vendor];
    let mut passed = 0;
    let mut failed = 0;
    if boot::option("only").is_none() {
        say!("PLAN {}", hooks::COUNT);
        let mut report = |name: &str, result: hooks::Verdict| match result {
            Ok(()) => say!("PASS {name}"),
            Err(why) => {
                say!("FAIL {name}: {why}");
                failed += 1;
            }
        };
        if let Err(why) = hooks::run(vendor, states, &mut report) {
            report("the_vendor_s_hooks", Err(why));
        }
    }
    let wanted = |program: &&Program| {
        boot::option("only").is_none_or(|only| only.split(',').any(|name| program.name == name))
    };
    let chosen = PROGRAMS.iter().filter(wanted);
    say!("PLAN {}", chosen.clone().count() + 2);
    let mut host = HostWalk::new(states);
    let before = host::memory::used();
    match Registry::new(&Bare, &vendors) {
        Ok(registry) if registry.register(0, || Ok(())).is_ok() => {
            smp::run_on_all(|_| timer::signal_every(TICK));
            for program in chosen {
                let start = timer::now();
                host.remember();
                let result = one(&registry, vendor, program);
                host.compare(program.name);
                match result {
                    Ok(exits) => {
                        let time = (timer::now() - start) / 1_000_000;
                        say!("NOTE {}: {exits} exits, {time} ms", program.name);
                        say!("PASS {}", program.name);
                        passed += 1;
                    }
                    Err(Miss::Lacks(why)) => say!("SKIP {}: {why}", program.name),
                    Err(Miss::Failed(why)) => {
                        say!("FAIL {}: {why}", program.name);
                        failed += 1;
                    }
                }
            }
            smp::run_on_all(|_| timer::stop());
            if registry.unregister(|| ()).is_err() {
                say!("FAIL host: the vendor was not unregistered");
                failed += 1;
            }
        }
        _ => {
            say!("FAIL host: the vendor was not registered");
            failed += 1;
        }
    }
    if host.is_sound() {
        say!("PASS the_host_keeps_every_register");
    } else {
        say!("FAIL the_host_keeps_every_register: the notes say which it lost");
        failed += 1;
    }
    if host::memory::used() == before {
        say!("PASS nothing_is_left_of_the_guests");
    } else {
        say!("FAIL nothing_is_left_of_the_guests: memory leaked");
        failed += 1;
    }
    say!("NOTE {passed} programs passed, {failed} failed");
    failed == 0
}

/// Why a program has not passed.
enum Miss {
    Lacks(&'static str),
    Failed(Verdict),
}

impl From<Error> for Miss {
    fn from(error: Error) -> Self {
        Miss::Failed(Verdict::Error(error))
    }
}

/// Runs one program and says how many exits it took.
fn one<V: Vendor + Sync>(
    registry: &Registry<'_, Bare>,
    vendor: &V,
    program: &'static Program,
) -> Result<u32, Miss> {
    if let Some(why) = program.needs.iter().find_map(|&need| cpuid::lacks(need)) {
        return Err(Miss::Lacks(why));
    }
    if program.vcpus > host::count() {
        return Err(Miss::Lacks("it needs more CPUs"));
    }
    let _token = registry.vm_created()?;
    if program.twins {
        return twins::run(vendor, program);
    }
    let machine = Machine::new(vendor, program)?;
    let first = machine.first_cpu();
    let run = |cpu: u32| match Drive::new(&machine, (cpu - first) as usize) {
        Ok(mut drive) => drive.run(),
        Err(error) => machine.finish(Verdict::Error(error)),
    };
    let mut cpus = CpuSet::new();
    (first..first + program.vcpus).for_each(|cpu| cpus.insert(cpu));
    smp::run_on(&cpus, &run);
    // A signal that nobody has taken is for this program alone.
    host::take_signal();
    match machine.failure() {
        None => Ok(machine.exits.load(core::sync::atomic::Ordering::Relaxed)),
        Some(why) => Err(Miss::Failed(why)),
    }
}
