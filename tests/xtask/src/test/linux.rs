//! The layer `linux`: the module in a stock kernel, called by a client of ours.

use super::report::Report;
use super::{Options, Tally};
use crate::Outcome;
use crate::linux::{
    ABLE, Client, Disc, Flavour, INTEL, Kernel, MONITOR, Machine, Module, PROGRAMS, Version,
};
use crate::workspace::Workspace;
use crate::{pool, process};
use std::time::Instant;

/// On which the module must refuse to serve.
const UNABLE: Machine = Machine {
    cpu: "EPYC,-svm",
    say: "waterbear=unable",
    ..ABLE
};

/// Whose memory is under pressure: in two nodes, partly in a page of 1 GiB.
const PRESSURE: Machine = Machine {
    say: "waterbear=pressure numa=fake=2 hugepagesz=1G hugepages=1 panic_on_warn=1",
    memory: 4096,
    ..ABLE
};

/// Whose CPUs are crowded.
const CROWD: Machine = Machine {
    say: "waterbear=crowd panic_on_warn=1",
    ..ABLE
};

/// That is called at random, with a kernel that checks its small pieces of memory.
const FUZZ: Machine = Machine {
    say: "waterbear=fuzz panic_on_warn=1 slub_debug=FZP,kmalloc-*",
    ..ABLE
};

/// That crashes while guests run, and starts anew.
const CRASH: Machine = Machine {
    say: "waterbear=crash",
    restarts: true,
    ..ABLE
};

/// A kernel with what its machines start from.
struct Prepared {
    kernel: Kernel,
    modules: Disc,
    monitor: Disc,
    /// The same version, small.
    small: Kernel,
    small_modules: Disc,
}

pub fn run(workspace: &Workspace, options: &Options, tally: &mut Tally) -> Outcome {
    let client = Client::build(workspace)?;
    let mut prepared = Vec::new();
    for version in &options.kernels {
        let (small, small_module) = build(workspace, *version, Flavour::Cloud, tally)?;
        let (kernel, module) = build(workspace, *version, Flavour::Amd64, tally)?;
        prepared.push(Prepared {
            small_modules: Disc::with_modules(workspace, &client, &small, &small_module)?,
            small,
            modules: Disc::with_modules(workspace, &client, &kernel, &module)?,
            monitor: Disc::with_monitor(workspace, &client, &kernel, &module)?,
            kernel,
        });
    }
    let jobs = prepared.iter().flat_map(|prepared| {
        [
            (&prepared.kernel, PRESSURE, &prepared.modules),
            (&prepared.kernel, CROWD, &prepared.modules),
            (&prepared.kernel, FUZZ, &prepared.modules),
            (&prepared.kernel, ABLE, &prepared.modules),
            (&prepared.kernel, MONITOR, &prepared.monitor),
            (&prepared.kernel, PROGRAMS, &prepared.modules),
            (&prepared.kernel, CRASH, &prepared.modules),
            (&prepared.kernel, UNABLE, &prepared.modules),
        ]
    });
    // Bochs takes long, longer still with newer kernels: one is enough. It begins first.
    let small = prepared
        .first()
        .map(|p| (&p.small, INTEL, &p.small_modules));
    let named = small
        .into_iter()
        .chain(jobs)
        .map(|(kernel, machine, disc)| {
            let name = format!("{} on {} {}", kernel.release, machine.cpu, machine.say);
            (name, kernel, machine, disc)
        });
    let wanted = named.filter(|(name, ..)| name.contains(&options.machine));
    let results = pool::run(wanted.collect(), |(name, kernel, machine, disc)| {
        let start = Instant::now();
        let text = machine.run(kernel, disc, |_| {});
        let report = text.map(|text| judge(&text));
        println!("  {name} {}", process::seconds(start.elapsed()));
        (name, report)
    });
    for (name, report) in results {
        Report::tell(report, &name, tally);
    }
    Ok(())
}

/// Reads a run's lines, and keeps the last ones of a run that failed.
fn judge(text: &str) -> Report {
    let mut report = Report::of(text);
    if let Some(failure) = report.failed.last_mut() {
        let lines: Vec<_> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(100)..].join("\n");
        *failure += &format!("; the last lines are\n{last}");
    }
    report
}

/// Builds the module for a kernel, which is a test of its own; its stack frames are another.
fn build(
    workspace: &Workspace,
    version: Version,
    flavour: Flavour,
    tally: &mut Tally,
) -> Outcome<(Kernel, Module)> {
    let kernel = Kernel::fetch(workspace, version, flavour)?;
    let start = Instant::now();
    let module = Module::build(workspace, &kernel)?;
    let time = process::seconds(start.elapsed());
    println!("  the module for {} was built in {time}", kernel.release);
    if module.complaints.is_empty() {
        tally.passed += 1;
    } else {
        tally.failed.push(format!(
            "the module for {} builds without a warning:\n{}",
            kernel.release,
            module.complaints.join("\n")
        ));
    }
    let large = module.large_frames()?;
    if large.is_empty() {
        tally.passed += 1;
    } else {
        tally.failed.push(format!(
            "no function of the module takes more than 2 KiB of the kernel's stack ({}):\n{}",
            kernel.release,
            large.join("\n")
        ));
    }
    Ok((kernel, module))
}
