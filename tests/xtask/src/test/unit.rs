//! The layer `unit`: the tests and doc tests of every crate, on this machine.

use super::{Options, Skipped, Tally};
use crate::libtest::Report;
use crate::workspace::Workspace;
use crate::{Outcome, process};

pub fn run(workspace: &Workspace, _: &Options, tally: &mut Tally) -> Outcome {
    if !process::shown(&mut workspace.cargo("test --workspace --no-run"))? {
        return Err("the tests do not build; the compiler's messages are above".to_owned());
    }
    let mut tests = workspace.cargo("test --workspace --no-fail-fast");
    let finished = process::captured(&mut tests, None, "cargo test", |line| {
        let line = line.trim();
        if line.starts_with("Running ") || line.starts_with("Doc-tests ") || is_failure(line) {
            println!("  {line}");
        }
    })?;
    if !finished.success {
        let passed = |line: &&str| line.starts_with("test ") && line.ends_with(" ... ok");
        finished
            .output
            .lines()
            .filter(|line| !passed(line))
            .for_each(|line| println!("{line}"));
    }

    let report = Report::parse(&finished.stdout);
    tally.passed = report.passed;
    tally
        .failed
        .extend(report.failed_names().map(str::to_owned));
    for (name, reason) in report.ignored_names() {
        tally.skipped.push(Skipped {
            name: name.to_owned(),
            reason: reason.to_owned(),
        });
    }
    // A harness that counts more than it named, or that died, must not look better than it is.
    let unnamed = || "a test whose line was not understood".to_owned();
    for _ in tally.failed.len() as u64..report.failed {
        tally.failed.push(unnamed());
    }
    for _ in tally.skipped.len() as u64..report.ignored {
        tally.skipped.push(Skipped {
            name: unnamed(),
            reason: "unknown".to_owned(),
        });
    }
    if !finished.success && tally.failed.is_empty() {
        tally
            .failed
            .push(format!("cargo test: {}", finished.ending));
    }
    Ok(())
}

fn is_failure(line: &str) -> bool {
    line.starts_with("test ") && line.ends_with(" ... FAILED")
}
