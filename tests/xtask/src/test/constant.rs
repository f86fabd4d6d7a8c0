//! The layer `const`: what can be checked without running the project's code.

mod fence;

use super::{Options, Skipped, Tally};
use crate::process::{self, seconds};
use crate::workspace::Workspace;
use crate::{Outcome, abi, need};
use std::process::Command;

/// The target without an operating system.
const BARE: &str = "x86_64-unknown-none";

/// The crates that must build for it.
const PORTABLE: [&str; 2] = ["waterbear-hal", "waterbear-core"];

/// Those that must build for it as soon as they are part of the workspace.
const VENDORS: [&str; 2] = ["waterbear-svm", "waterbear-vmx"];

pub fn run(workspace: &Workspace, _: &Options, tally: &mut Tally) -> Outcome {
    need::rust_part("component", "rustfmt")?;
    need::rust_part("component", "clippy")?;
    need::rust_part("target", BARE)?;

    let mut fmt = workspace.cargo("fmt --all --check");
    check(tally, "cargo fmt", &mut fmt)?;
    let mut clippy = workspace.cargo("clippy --workspace --all-targets -- -D warnings");
    check(tally, "cargo clippy", &mut clippy)?;
    let mut clippy =
        workspace.loom_cargo("clippy --package waterbear-proofs --all-targets -- -D warnings");
    check(tally, "cargo clippy for loom", &mut clippy)?;
    let mut doc = workspace.cargo("doc --workspace --no-deps --document-private-items");
    doc.env("RUSTDOCFLAGS", "-D warnings");
    check(tally, "cargo doc", &mut doc)?;

    let mut crates = PORTABLE.to_vec();
    for vendor in VENDORS {
        if workspace.has_package(vendor)? {
            crates.push(vendor);
        }
    }
    for name in crates {
        let arguments = format!("build --release --target {BARE} --package {name}");
        let mut build = workspace.cargo(&arguments);
        check(tally, &format!("{name} builds for {BARE}"), &mut build)?;
    }

    let checks = [
        (
            "no operating system is named in the portable crates",
            fence::no_system(workspace)?,
        ),
        (
            "the core and the vendor crates deny unsafe code",
            fence::unsafe_is_denied(workspace)?,
        ),
        (
            "unsafe code only in the named files",
            fence::unsafe_only_where_named(workspace)?,
        ),
    ];
    for (name, faults) in checks {
        report(tally, name, faults.is_empty(), &faults.join("\n"));
    }
    let name = "the interface's structures are those of the public header";
    match abi::compare(workspace)? {
        Ok(fault) => report(tally, name, fault.is_none(), &fault.unwrap_or_default()),
        Err(reason) => {
            println!("  skipped {name}: {reason}");
            tally.skipped.push(Skipped {
                name: name.to_owned(),
                reason,
            });
        }
    }
    Ok(())
}

/// Runs a command as one check.
fn check(tally: &mut Tally, name: &str, command: &mut Command) -> Outcome {
    println!("  run    {name}");
    let finished = process::captured(command, None, name, |_| {})?;
    report(tally, name, finished.success, &finished.output);
    println!("         in {}", seconds(finished.time));
    Ok(())
}

fn report(tally: &mut Tally, name: &str, passed: bool, output: &str) {
    if passed {
        println!("  ok     {name}");
        tally.passed += 1;
    } else {
        println!("  FAILED {name}\n{output}");
        tally.failed.push(name.to_owned());
    }
}
