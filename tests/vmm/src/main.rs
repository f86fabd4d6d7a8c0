//! `waterbear-vmm`: runs guests over the KVM interface.
use std::path::PathBuf;
use std::process::ExitCode;

use lexopt::prelude::*;
use waterbear_guests::{PROGRAMS, Program};
use waterbear_vmm::programs::{Emulator, Host, Miss};

const HELP: &str = "\
usage: waterbear-vmm [--device NODE] [--emulator qemu|bochs|bochs-svm|none] programs [NAME...]

Runs guest programs that check the machine they are on: those that are named, or all. The node is
/dev/kvm unless another one is named. An emulated CPU is lax in places; QEMU's is recognised, others
have to be named.";

struct Wish {
    device: PathBuf,
    emulator: Emulator,
    programs: Vec<&'static Program>,
}

fn wish() -> Result<Option<Wish>, lexopt::Error> {
    let mut wish = Wish {
        device: "/dev/kvm".into(),
        emulator: Emulator::detect(),
        programs: Vec::new(),
    };
    let mut command = false;
    let mut parser = lexopt::Parser::from_env();
    while let Some(arg) = parser.next()? {
        match arg {
            Long("device") => wish.device = parser.value()?.into(),
            Long("emulator") => {
                wish.emulator = match parser.value()?.string()?.as_str() {
                    "none" => Emulator::None,
                    "qemu" => Emulator::Qemu,
                    "bochs" => Emulator::Bochs,
                    "bochs-svm" => Emulator::BochsSvm,
                    other => return Err(format!("there is no emulator {other}").into()),
                }
            }
            Short('h') | Long("help") => return Ok(None),
            Value(word) if !command && word == "programs" => command = true,
            Value(name) if command => {
                let name = name.string()?;
                let found = PROGRAMS.iter().find(|program| program.name == name);
                wish.programs
                    .push(found.ok_or_else(|| format!("there is no program {name}"))?);
            }
            other => return Err(other.unexpected()),
        }
    }
    if wish.programs.is_empty() {
        wish.programs.extend(PROGRAMS);
    }
    Ok(command.then_some(wish))
}

fn main() -> ExitCode {
    let wish = match wish() {
        Ok(Some(wish)) => wish,
        Ok(None) => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("{error}\n{HELP}");
            return ExitCode::from(2);
        }
    };
    let host = match Host::new(&wish.device, wish.emulator) {
        Ok(host) => host,
        Err(error) => {
            eprintln!("{}: {error}", wish.device.display());
            return ExitCode::FAILURE;
        }
    };
    let mut failed = 0;
    println!("PLAN {}", wish.programs.len());
    for program in wish.programs {
        match host.run(program) {
            Ok(()) => println!("PASS {}", program.name),
            Err(Miss::Skipped(why)) => println!("SKIP {}: {why}", program.name),
            Err(Miss::Failed(verdict)) => {
                println!("FAIL {}: {verdict}", program.name);
                failed += 1;
            }
        }
    }
    println!("END {}", if failed == 0 { "passed" } else { "failed" });
    ExitCode::from(u8::from(failed != 0))
}
