//! `cargo xtask bench mmu`: instructions and nanoseconds per page.
//!
//! The program `mmu` of the package `waterbear-bench` does the work, once per line of the plan
//! below; callgrind counts the instructions of its function `measured`.

mod report;

use crate::process::{self, seconds};
use crate::workspace::Workspace;
use crate::{Outcome, Verdict, need};
use report::{Counts, Report, Times};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// The function whose instructions are counted, as callgrind knows it.
const MEASURED: &str = "mmu::measured::measured";

/// How much memory a VM has, and in which pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Size {
    name: &'static str,
    mib: u32,
    large: bool,
    /// How often everything is timed.
    rounds: u32,
    /// Whether instructions are counted: callgrind is slow.
    counted: bool,
}

const SIZES: [Size; 4] = [
    size("64 MiB", 64, 100),
    size("4 GiB", 4 << 10, 4),
    Size {
        counted: false,
        ..size("64 GiB", 64 << 10, 1)
    },
    LARGE,
];

const QUICK: [Size; 2] = [size("64 MiB", 64, 100), LARGE];

const LARGE: Size = Size {
    large: true,
    ..size("64 GiB in 2 MiB", 64 << 10, 20)
};

const fn size(name: &'static str, mib: u32, rounds: u32) -> Size {
    Size {
        name,
        mib,
        large: false,
        rounds,
        counted: true,
    }
}

/// The profiles that the program is built with: as fast as can be, which is the one that is timed
/// and has the targets, and as small as can be.
const PROFILES: [(&str, &str); 2] = [("module", "opt-level 3"), ("module-small", "opt-level s")];

pub fn run(quick: bool) -> Outcome<Verdict> {
    let start = Instant::now();
    need::tool("valgrind", "valgrind")?;
    let workspace = Workspace::find()?;
    let sizes: &[Size] = if quick { &QUICK } else { &SIZES };
    for (profile, _) in PROFILES {
        build(&workspace, profile)?;
    }
    let [fast, small] = PROFILES.map(|(profile, _)| workspace.program(profile, "mmu"));

    let mut report = Report::default();
    for size in sizes {
        let mut counts = Counts::default();
        if size.counted {
            println!("  count instructions: {}", size.name);
            counts = count(&workspace, &fast, size)?;
        }
        report.counts.push((size.name, counts));
    }
    println!("  count instructions: {}, {}", sizes[0].name, PROFILES[1].1);
    let counts = count(&workspace, &small, &sizes[0])?;
    report.counts.push((PROFILES[1].1, counts));

    for size in sizes {
        let mut times = [[None, None], [None, None]];
        for (threads, row) in [1, 2].into_iter().zip(&mut times) {
            for (mutex, cell) in [false, true].into_iter().zip(row) {
                let lock = if mutex { ", one mutex" } else { "" };
                println!("  time: {}, threads: {threads}{lock}", size.name);
                let mut command = program(&fast, size);
                command.args(["--threads", &threads.to_string()]);
                command.args(["--rounds", &size.rounds.to_string()]);
                if mutex {
                    command.arg("--mutex");
                }
                let output = captured(&mut command)?;
                *cell = Some(Times::read(&output));
                if threads == 1 && !mutex {
                    report.bytes.push((size.name, report::bytes(&output)));
                }
            }
        }
        report.times.push((
            size.name,
            times.map(|row| row.map(Option::unwrap_or_default)),
        ));
    }
    println!("  took {}\n", seconds(start.elapsed()));
    print!("{}", report.text());
    let missed = report.missed_targets();
    for fault in &missed {
        println!("FAILED {fault}");
    }
    Ok(if missed.is_empty() {
        Verdict::Good
    } else {
        Verdict::Bad
    })
}

fn build(workspace: &Workspace, profile: &str) -> Outcome {
    println!("  build with the profile {profile}");
    let arguments = format!("build --quiet --profile {profile} --package waterbear-bench");
    captured(&mut workspace.cargo(&arguments)).map(drop)
}

fn program(path: &Path, size: &Size) -> Command {
    let mut command = Command::new(path);
    add_size(&mut command, size);
    command
}

fn add_size(command: &mut Command, size: &Size) {
    command.args(["--mib", &size.mib.to_string()]);
    if size.large {
        command.arg("--large");
    }
}

/// Counts the instructions of each operation. Callgrind writes one file whenever the measured
/// function ends, so the files come in the order of the operations.
fn count(workspace: &Workspace, program: &Path, size: &Size) -> Outcome<Counts> {
    let folder = workspace.scratch("bench-mmu");
    fs::create_dir_all(&folder)
        .map_err(|error| format!("cannot create {}: {error}.", folder.display()))?;
    let out = folder.join("out");
    let mut command = Command::new("valgrind");
    command.arg("--tool=callgrind");
    for option in ["toggle-collect", "dump-after"] {
        command.arg(format!("--{option}={MEASURED}"));
    }
    command.arg(format!("--callgrind-out-file={}", out.display()));
    command.arg(program).arg("--count");
    add_size(&mut command, size);
    let counts = captured(&mut command).and_then(|output| {
        Counts::read(&output, |number| {
            crate::workspace::read(&out.with_extension(number.to_string()))
        })
    });
    // What cannot be removed lies in the build folder and does no harm.
    let _ = fs::remove_dir_all(&folder);
    counts
}

/// The standard output of a program that must succeed.
fn captured(command: &mut Command) -> Outcome<String> {
    let name = command.get_program().display().to_string();
    let finished = process::captured(command, None, &name, |_| {})?;
    if finished.success {
        Ok(finished.stdout)
    } else {
        Err(format!(
            "{name} has failed ({}): {}",
            finished.ending, finished.output
        ))
    }
}
