//! The layer `linux`: the module in a stock kernel, called by a client of ours.

use super::{Options, Tally};
use crate::Outcome;
use crate::linux::{ABLE, Client, Disc, Flavour, INTEL, Kernel, MONITOR, Machine, Module, Version};
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
        let (passed, failed) = judge(&text?);
        tally.passed += passed;
        let failed = failed.into_iter().map(|why| format!("{name}: {why}"));
        tally.failed.extend(failed);
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

/// Reads a run's lines: `PLAN n`, one `PASS name` or `FAIL name: why` for each of the n tests,
/// `END passed` or `END failed`. Returns how many passed, and what failed; a run that says less
/// has failed, with its last lines.
fn judge(text: &str) -> (u64, Vec<String>) {
    let count = |start: &str| text.lines().filter(|line| line.starts_with(start)).count() as u64;
    let mut failed: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("FAIL "))
        .map(str::to_owned)
        .collect();
    let passed = count("PASS ");
    let planned = text
        .lines()
        .find_map(|line| line.strip_prefix("PLAN ")?.parse::<u64>().ok());
    let seen = passed + failed.len() as u64;
    if planned != Some(seen) || (failed.is_empty() && !text.lines().any(|l| l == "END passed")) {
        let lines: Vec<_> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(40)..].join("\n");
        failed.push(format!(
            "{seen} tests of {planned:?} ran; the last lines are\n{last}"
        ));
    }
    (passed, failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "PLAN 1\nPASS a\nEND passed\n";

    #[test]
    fn a_complete_run_passes() {
        assert_eq!(judge(GOOD), (1, Vec::new()));
    }

    #[test]
    fn a_run_that_says_less_fails() {
        for less in [
            "",
            &GOOD.replace("END passed", ""),
            &GOOD.replace("PASS a", ""),
            &GOOD.replace("PLAN 1", "PLAN 2"),
            &GOOD.replace("PLAN 1\n", ""),
            &GOOD.replace("PASS a", "FAIL a: it is broken"),
        ] {
            assert!(!judge(less).1.is_empty(), "{less:?}");
        }
    }
}
