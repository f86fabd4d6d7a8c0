//! `cargo xtask guest`: one guest program on one machine, for whoever works on it.

use crate::machine::{Image, MACHINES};
use crate::workspace::Workspace;
use crate::{Command, Outcome, Verdict, usage};

pub const COMMAND: Command = Command {
    name: "guest",
    summary: "run one guest program on the bare port and show what it says",
    options: "\
NAME            the program
--machine NAME  the machine, by the begin of its processor's name; QEMU's EPYC by default",
    run,
};

fn run(mut arguments: lexopt::Parser) -> Outcome<Verdict> {
    use lexopt::prelude::*;
    let mut program = None;
    let mut wanted = String::from("EPYC");
    while let Some(argument) = arguments.next().map_err(|error| usage(&error))? {
        match argument {
            Value(name) if program.is_none() => {
                program = Some(name.string().map_err(|error| usage(&error))?);
            }
            Long("machine") => {
                let name = arguments.value().and_then(|value| value.string());
                wanted = name.map_err(|error| usage(&error))?;
            }
            other => return Err(usage(&other.unexpected())),
        }
    }
    let program = program.ok_or("no program is named. Run `cargo xtask guest NAME`.")?;
    let machine = MACHINES
        .iter()
        .find(|machine| machine.cpu.starts_with(&wanted))
        .ok_or_else(|| {
            let names: Vec<_> = MACHINES.iter().map(|machine| machine.cpu).collect();
            format!(
                "there is no machine {wanted:?}. Machines are {}.",
                names.join(", ")
            )
        })?;
    let image = Image::build(&Workspace::find()?, &format!("only={program}"), "release")?;
    let text = image.run(machine, |line| println!("  | {line}"))?;
    let passed = format!("PASS {program}");
    Ok(if text.lines().any(|line| line == passed) {
        Verdict::Good
    } else {
        Verdict::Bad
    })
}
