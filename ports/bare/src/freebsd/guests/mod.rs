//! The guest programs of `waterbear-guests` on the module, each in a process of its own.
//!
//! CPU 0 is the clock: it ends a program whose time is over, and asks the other threads to yield
//! again and again. The vCPUs run on the CPUs behind it.
//!
//! | file | idea |
//! |---|---|
//! | [`machine`] | what the vCPUs of a program share |
//! | [`drive`] | one vCPU: runs it, and answers its ports |
//! | [`commands`] | what a program asks its host to do |
mod commands;
mod drive;
mod machine;

use waterbear_guests::{End, Need, Program};
use waterbear_hal::CpuSet;

use super::Host;
use super::calls::{Outcome, Process};
use super::kvm::Node;
use crate::guests::cpuid;
use crate::host::{self, timer, wait};
use crate::smp;
use drive::Drive;
use machine::{Machine, Verdict};

/// How often the clock ticks, in nanoseconds.
const TICK: u64 = 20_000_000;
/// How long a program may run. Generous: the emulator's host may be busy.
const PATIENCE: u64 = 20_000_000_000;
/// How long one may run that never ends.
const MOMENT: u64 = 300_000_000;
/// The CPU of a machine's first vCPU.
const FIRST: u32 = 1;

/// Why a program has not passed.
pub enum Miss {
    Lacks(&'static str),
    Failed(Verdict),
}

/// Runs a program in a process of its own, which leaves everything as it is when it ends.
pub fn run(host: &Host, program: &'static Program) -> Result<(), Miss> {
    let lacks = |need: &Need| match need {
        Need::Tracker => Some("the interface has no word for trackers"),
        &need => cpuid::lacks(need),
    };
    if let Some(why) = program.needs.iter().find_map(lacks) {
        return Err(Miss::Lacks(why));
    }
    if program.vcpus + FIRST > host::count() {
        return Err(Miss::Lacks("it needs more CPUs"));
    }
    let calls = host.calls;
    let process = calls.process();
    calls.enter(process);
    let failure = if program.twins {
        twins(host, process, program)
    } else {
        one(host, process, program)
    };
    calls.exit(process);
    match failure {
        Ok(None) => Ok(()),
        Ok(Some(verdict)) => Err(Miss::Failed(verdict)),
        Err(error) => Err(Miss::Failed(Verdict::Error(error))),
    }
}

/// Runs a function on this many CPUs behind the first, and the clock here.
fn with_clock(vcpus: u32, machines: &[&Machine], run: impl Fn(u32) + Sync) {
    let mut cpus = CpuSet::new();
    (0..=vcpus).for_each(|cpu| cpus.insert(cpu));
    smp::run_on(&cpus, &|cpu| match cpu.checked_sub(FIRST) {
        None => clock(vcpus, machines),
        Some(index) => run(index),
    });
}

fn clock(vcpus: u32, machines: &[&Machine]) {
    for machine in machines {
        let calls = machine.node.calls;
        let end = timer::now()
            + match machine.program.end {
                End::Never => MOMENT,
                _ => PATIENCE,
            };
        timer::every(TICK);
        while !machine.is_over() {
            let now = timer::now();
            if now > end {
                machine.finish(Verdict::TooLong);
            }
            (FIRST..=vcpus).for_each(|cpu| calls.preempt(cpu));
            let next = now + TICK;
            wait::until(false, || machine.is_over() || timer::now() >= next);
        }
        timer::stop();
    }
}

fn one(host: &Host, process: Process, program: &'static Program) -> Outcome<Option<Verdict>> {
    let machine = Machine::new(Node::open(host.calls)?, program, FIRST)?;
    with_clock(program.vcpus, &[&machine], |index| {
        host.calls.enter(process);
        match Drive::new(&machine, index) {
            Ok(mut drive) => drive.run(),
            Err(error) => machine.finish(Verdict::Error(error)),
        }
    });
    Ok(machine.failure())
}

/// Runs a program twice, in turns on one CPU.
fn twins(host: &Host, process: Process, program: &'static Program) -> Outcome<Option<Verdict>> {
    let node = Node::open(host.calls)?;
    let machines = [
        Machine::new(node, program, FIRST)?,
        Machine::new(node, program, FIRST)?,
    ];
    let [one, other] = &machines;
    with_clock(1, &[one, other], |_| {
        host.calls.enter(process);
        match (Drive::new(one, 0), Drive::new(other, 0)) {
            (Ok(mut one), Ok(mut other)) => {
                other.twin = 1;
                while machines.iter().any(|machine| !machine.is_over()) {
                    for (drive, machine) in [&mut one, &mut other].into_iter().zip(&machines) {
                        if !machine.is_over() {
                            drive.step();
                        }
                    }
                }
            }
            (Err(error), _) | (_, Err(error)) => {
                one.finish(Verdict::Error(error));
                other.finish(Verdict::Error(error));
            }
        }
    });
    Ok(machines.iter().find_map(Machine::failure))
}
