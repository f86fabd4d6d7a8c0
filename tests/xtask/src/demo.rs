//! `cargo xtask demo`: the main job, shown.

use crate::machine::{Emulator, Expect, Image, MACHINES, Machine};
use crate::workspace::Workspace;
use crate::{Command, Outcome, Verdict, usage};

pub const COMMAND: Command = Command {
    name: "demo",
    summary: "boot the bare port on an emulated machine and run guests on it",
    options: "\
--vendor NAME  svm (on QEMU, the default) or vmx (on Bochs)",
    run,
};

fn run(arguments: lexopt::Parser) -> Outcome<Verdict> {
    let machine = chosen(arguments)?;
    let image = Image::build(&Workspace::find()?, "")?;
    let emulator = match machine.emulator {
        Emulator::Qemu => "QEMU",
        Emulator::Bochs => "Bochs",
    };
    println!("booting on {emulator}'s {}", machine.name());
    let text = image.run(machine, |line| {
        if ours(line) {
            println!("  | {line}");
        }
    })?;
    let passed = text
        .lines()
        .filter(|line| line.starts_with("PASS "))
        .count();
    if text.lines().any(|line| line == "END passed") {
        println!("{passed} tests passed on an emulated {}.", machine.name());
        Ok(Verdict::Good)
    } else {
        println!("The run failed; its lines are above.");
        Ok(Verdict::Bad)
    }
}

/// Whether a line comes from the bare port and not from firmware or emulator.
fn ours(line: &str) -> bool {
    const STARTS: [&str; 8] = [
        "waterbear: ",
        "PLAN ",
        "PASS ",
        "FAIL ",
        "SKIP ",
        "END ",
        "REFUSED ",
        "NOTE ",
    ];
    STARTS.iter().any(|start| line.starts_with(start))
}

/// The first machine on which the wanted vendor registers.
fn chosen(mut arguments: lexopt::Parser) -> Outcome<&'static Machine> {
    use lexopt::prelude::*;
    let mut vendor = "svm".to_owned();
    while let Some(argument) = arguments.next().map_err(|error| usage(&error))? {
        match argument {
            Long("vendor") => {
                let name = arguments.value().and_then(|value| value.string());
                vendor = name.map_err(|error| usage(&error))?;
            }
            other => return Err(usage(&other.unexpected())),
        }
    }
    let registers = |machine: &&Machine| match machine.expect {
        Expect::Guests(name) => name.eq_ignore_ascii_case(&vendor),
        Expect::Refused(_) => false,
    };
    MACHINES
        .iter()
        .find(registers)
        .ok_or_else(|| format!("there is no vendor {vendor:?}. Vendors are svm and vmx."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu(arguments: &[&str]) -> Outcome<&'static str> {
        chosen(lexopt::Parser::from_args(arguments)).map(|machine| machine.cpu)
    }

    #[test]
    fn each_vendor_has_a_machine() {
        assert_eq!(cpu(&[]).unwrap(), "EPYC,+svm,+npt");
        assert_eq!(cpu(&["--vendor", "vmx"]).unwrap(), "corei7_skylake_x");
        let error = cpu(&["--vendor", "via"]).unwrap_err();
        assert!(error.contains("svm and vmx"), "{error}");
    }
}
