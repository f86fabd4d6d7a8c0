//! The layer `linux`: the module in a stock kernel, called by a client of ours.

use super::Tally;
use super::report::Report;
use crate::Outcome;
use crate::linux::{ABLE, Client, Disc, Kernel, MONITOR, Machine, Module, PROGRAMS};
use crate::workspace::Workspace;
use crate::{pool, process};
use std::time::Instant;

/// On which the module must refuse to serve.
const UNABLE: Machine = Machine {
    cpu: "EPYC,-svm",
    say: "waterbear=unable",
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
    let jobs = vec![
        (MONITOR, &monitor),
        (ABLE, &modules),
        (PROGRAMS, &modules),
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
        let (text, name) = (text?, format!("{} {}", machine.cpu, machine.say));
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
