//! The layer `const`: what can be checked without running the project's code.

mod fence;

use super::Tally;
use crate::process::{self, seconds};
use crate::workspace::Workspace;
use crate::{Outcome, need};
use std::process::Command;

/// The target without an operating system.
const BARE: &str = "x86_64-unknown-none";

/// The crates that are built for it. A vendor's crate is checked as soon as it exists.
const BARE_CRATES: [&str; 4] = [
    "waterbear-hal",
    "waterbear-core",
    "waterbear-svm",
    "waterbear-vmx",
];

pub fn run(workspace: &Workspace, tally: &mut Tally) -> Outcome {
    need::rust_part("component", "rustfmt")?;
    need::rust_part("component", "clippy")?;
    need::rust_part("target", BARE)?;

    check(
        tally,
        "cargo fmt",
        &mut workspace.cargo(["fmt", "--all", "--check"]),
    )?;
    let mut clippy = workspace.cargo([
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]);
    check(tally, "cargo clippy", &mut clippy)?;
    let mut clippy = workspace.loom_cargo(["clippy", "--package", "waterbear-proofs"]);
    clippy.args(["--all-targets", "--", "-D", "warnings"]);
    check(tally, "cargo clippy for loom", &mut clippy)?;

    for name in BARE_CRATES {
        if workspace.has_package(name)? {
            let mut build = workspace.cargo(["build", "--release", "--target", BARE]);
            build.args(["--package", name]);
            check(tally, &format!("{name} builds for {BARE}"), &mut build)?;
        }
    }

    let checks = [
        (
            "no operating system is named in the portable crates",
            fence::no_system(workspace)?,
        ),
        (
            "the core denies unsafe code",
            fence::core_denies_unsafe(workspace)?,
        ),
        (
            "unsafe code only in the named modules",
            fence::unsafe_only_where_named(workspace)?,
        ),
    ];
    for (name, faults) in checks {
        report(tally, name, faults.is_empty(), "", &faults.join("\n"));
    }
    Ok(())
}

/// Runs a command as one check.
fn check(tally: &mut Tally, name: &str, command: &mut Command) -> Outcome {
    let finished = process::captured(command, None, name, |_| {})?;
    report(
        tally,
        name,
        finished.success,
        &seconds(finished.time),
        &finished.output,
    );
    Ok(())
}

fn report(tally: &mut Tally, name: &str, passed: bool, time: &str, output: &str) {
    let word = if passed { "ok    " } else { "FAILED" };
    println!("  {word} {name}  {time}");
    if !passed {
        println!("{output}");
    }
    tally.count(name, passed);
}
