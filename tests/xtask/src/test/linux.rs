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
            (&prepared.small, INTEL, &prepared.small_modules),
            (&prepared.kernel, ABLE, &prepared.modules),
            (&prepared.kernel, MONITOR, &prepared.monitor),
            (&prepared.kernel, PROGRAMS, &prepared.modules),
            (&prepared.kernel, UNABLE, &prepared.modules),
        ]
    });
    let results = pool::run(jobs.collect(), |(kernel, machine, disc)| {
        let start = Instant::now();
        let name = format!("{} on {} {}", kernel.release, machine.cpu, machine.say);
        let text = machine.run(kernel, disc, |line| {
            if line.starts_with("FAIL ") {
                println!("  {line}");
            }
        });
        println!("  {name} {}", process::seconds(start.elapsed()));
        (name, text)
    });
    for (name, text) in results {
        let text = text?;
        let mut report = Report::of(&text);
        if let Some(failure) = report.failed.last_mut() {
            let lines: Vec<_> = text.lines().collect();
            let last = lines[lines.len().saturating_sub(40)..].join("\n");
            *failure += &format!("; the last lines are\n{last}");
        }
        report.tell(&name, tally);
    }
    Ok(())
}

/// Builds the module for a kernel, which is a test of its own.
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
    Ok((kernel, module))
}
