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

/// Whose memory is under pressure: in two nodes, partly in a page of 1 GiB.
const PRESSURE: Machine = Machine {
    say: "waterbear=pressure numa=fake=2 hugepagesz=1G hugepages=1 panic_on_warn=1",
    memory: "4G",
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
            let last = lines[lines.len().saturating_sub(100)..].join("\n");
            *failure += &format!("; the last lines are\n{last}");
        }
        report.tell(&name, tally);
    }
    Ok(())
}
