//! The layer `linux`: the module in a stock kernel, called by a client of ours.

use super::Tally;
use crate::Outcome;
use crate::linux::{ABLE, Client, Disc, Kernel, MONITOR, Machine, Module};
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
    memory: "3G",
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

pub fn run(workspace: &Workspace, tally: &mut Tally) -> Outcome {
    let kernel = Kernel::fetch(workspace)?;
    let start = Instant::now();
    let module = Module::build(workspace, &kernel)?;
    println!(
        "  the module was built in {}",
        process::seconds(start.elapsed())
    );
    if module.complaints.is_empty() {
        tally.passed += 1;
    } else {
        let complaints = module.complaints.join("\n");
        tally.failed.push(format!(
            "the module builds without a warning:\n{complaints}"
        ));
    }
    let client = Client::build(workspace)?;
    let modules = Disc::with_modules(workspace, &client, &kernel, &module)?;
    let monitor = Disc::with_monitor(workspace, &client, &kernel, &module)?;
    // Those that take longest begin.
    let jobs = vec![
        (PRESSURE, &modules),
        (CROWD, &modules),
        (FUZZ, &modules),
        (MONITOR, &monitor),
        (ABLE, &modules),
        (UNABLE, &modules),
    ];
    let results = pool::run(jobs, |(machine, disc)| {
        let start = Instant::now();
        let text = machine.run(&kernel, disc, |line| {
            if line.starts_with("FAIL ") {
                println!("  {line}");
            }
        });
        let time = process::seconds(start.elapsed());
        println!("  {} {} {time}", machine.cpu, machine.say);
        (machine, text)
    });
    for (machine, text) in results {
        let (passed, failed) = judge(&text?);
        tally.passed += passed;
        tally.failed.extend(
            failed
                .into_iter()
                .map(|why| format!("{} {}: {why}", machine.cpu, machine.say)),
        );
    }
    Ok(())
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
        let last = lines[lines.len().saturating_sub(100)..].join("\n");
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
