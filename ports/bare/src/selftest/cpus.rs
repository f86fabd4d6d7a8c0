//! The CPUs are there and hear each other.
use core::sync::atomic::{AtomicU32, Ordering};

use waterbear_hal::Cpu;

use super::{Miss, Verdict, must, needs_two_cpus, soon};
use crate::host::{self, Bare, cpu};
use crate::smp;

pub fn every_cpu_started_and_answers_a_call() -> Verdict {
    must(
        host::count() == smp::listed(),
        "fewer CPUs run than the firmware lists",
    )?;
    let online = Bare.online();
    must(
        online.iter().count() == host::count() as usize,
        "the online set has another size",
    )?;
    let called = AtomicU32::new(0);
    let wrong = AtomicU32::new(0);
    Bare.call_on(&online, &|cpu| {
        called.fetch_add(1 << (8 * (cpu & 3)), Ordering::Relaxed);
        if cpu != Bare.pin() || cpu::interrupts_are_on() {
            wrong.fetch_add(1, Ordering::Relaxed);
        }
    });
    let expected = (0..host::count()).fold(0, |sum, cpu| sum + (1 << (8 * (cpu & 3))));
    must(
        called.into_inner() == expected,
        "not every CPU was called once",
    )?;
    must(
        wrong.into_inner() == 0,
        "a call ran on another CPU or with interrupts on",
    )?;
    must(cpu::interrupts_are_on(), "interrupts stayed off")?;
    let ran = AtomicU32::new(0);
    host::run_on_all(|cpu| {
        ran.fetch_or(1 << cpu, Ordering::Relaxed);
    });
    must(
        ran.into_inner() == (1 << host::count()) - 1,
        "a CPU did not do its work",
    )?;
    let last = host::count() - 1;
    let ran = AtomicU32::new(0);
    host::on_cpu(last, |cpu| {
        ran.fetch_add(1 + cpu, Ordering::Relaxed);
    });
    must(
        ran.into_inner() == host::count(),
        "work for one CPU was done elsewhere",
    )
}

pub fn cpus_that_call_each_other_do_not_deadlock() -> Verdict {
    const CALLS: u32 = 40;
    needs_two_cpus()?;
    let answers = AtomicU32::new(0);
    host::run_on_all(|_| {
        let online = Bare.online();
        for _ in 0..CALLS {
            Bare.call_on(&online, &|_| {
                answers.fetch_add(1, Ordering::Relaxed);
            });
            Bare.kick(&online);
            Bare.kick_and_wait(&online);
        }
    });
    must(
        answers.into_inner() == CALLS * host::count() * host::count(),
        "a call was lost",
    )
}

pub fn every_cpu_counts_its_nmis() -> Verdict {
    for cpu in Bare.online().iter() {
        let before = host::nmi_count(cpu);
        host::send_nmi(cpu);
        if !soon(|| host::nmi_count(cpu) == before + 1) {
            return Err(Miss::Failed("an NMI did not arrive"));
        }
    }
    Ok(())
}
