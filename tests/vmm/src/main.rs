//! `waterbear-vmm`: runs guests over the KVM interface.
use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use lexopt::prelude::*;
use waterbear_guests::{PROGRAMS, Program};
use waterbear_vmm::boot::Guest;
use waterbear_vmm::kvm::{Exit, Node};
use waterbear_vmm::programs::{Emulator, Host, Miss};

const HELP: &str = "\
usage: waterbear-vmm [--device NODE] programs [--emulator qemu|bochs|bochs-svm|none] [NAME...]
       waterbear-vmm [--device NODE] boot KERNEL [--initrd FILE] [--append WORDS] [--memory MIB]

programs runs guests that check the machine they are on: those that are named, or all. An emulated
CPU is lax in places; QEMU's is recognised, others have to be named.

boot runs a bzImage, an ELF file, or code for address 0x1000 in real mode, with its serial line as
the console; of 128 MiB unless told otherwise.

The node is /dev/kvm unless another one is named.";

/// What the command line asks for.
#[derive(Default)]
struct Wish {
    device: Option<PathBuf>,
    emulator: Option<Emulator>,
    command: Option<String>,
    names: Vec<String>,
    initrd: Option<PathBuf>,
    line: String,
    memory: Option<usize>,
}

impl Wish {
    fn read() -> Result<Self, lexopt::Error> {
        let mut wish = Self::default();
        let mut parser = lexopt::Parser::from_env();
        while let Some(arg) = parser.next()? {
            match arg {
                Long("device") => wish.device = Some(parser.value()?.into()),
                Long("emulator") => {
                    wish.emulator = Some(match parser.value()?.string()?.as_str() {
                        "none" => Emulator::None,
                        "qemu" => Emulator::Qemu,
                        "bochs" => Emulator::Bochs,
                        "bochs-svm" => Emulator::BochsSvm,
                        other => return Err(format!("there is no emulator {other}").into()),
                    });
                }
                Long("initrd") => wish.initrd = Some(parser.value()?.into()),
                Long("append") => wish.line = parser.value()?.string()?,
                Long("memory") => wish.memory = Some(parser.value()?.parse()?),
                Short('h') | Long("help") => wish.command = None,
                Value(word) if wish.command.is_none() => wish.command = Some(word.string()?),
                Value(word) => wish.names.push(word.string()?),
                other => return Err(other.unexpected()),
            }
        }
        Ok(wish)
    }

    fn device(&self) -> PathBuf {
        self.device.clone().unwrap_or_else(|| "/dev/kvm".into())
    }

    fn programs(&self) -> Result<bool, Box<dyn Error>> {
        let mut programs: Vec<&'static Program> = Vec::new();
        for name in &self.names {
            let found = PROGRAMS.iter().find(|program| program.name == name);
            programs.push(found.ok_or_else(|| format!("there is no program {name}"))?);
        }
        if programs.is_empty() {
            programs.extend(PROGRAMS);
        }
        let emulator = self.emulator.unwrap_or_else(Emulator::detect);
        let host = Host::new(&self.device(), emulator).map_err(|error| self.node(&error))?;
        let mut passed = true;
        println!("PLAN {}", programs.len());
        for program in programs {
            match host.run(program) {
                Ok(()) => println!("PASS {}", program.name),
                Err(Miss::Skipped(why)) => println!("SKIP {}: {why}", program.name),
                Err(Miss::Failed(verdict)) => {
                    println!("FAIL {}: {verdict}", program.name);
                    passed = false;
                }
            }
        }
        println!("END {}", if passed { "passed" } else { "failed" });
        Ok(passed)
    }

    fn boot(self) -> Result<bool, Box<dyn Error>> {
        const MIB: usize = 1 << 20;
        let node = Node::open(&self.device()).map_err(|error| self.node(&error))?;
        let [kernel] = self.names.as_slice() else {
            return Err("boot takes one kernel".into());
        };
        let guest = Guest {
            kernel: kernel.into(),
            initrd: self.initrd,
            line: self.line,
            memory: self.memory.unwrap_or(128).saturating_mul(MIB),
        };
        let end = guest.run(&node, io::stdout())?;
        if !matches!(end, Exit::Shutdown | Exit::Halt) {
            return Err(format!("the guest ended with {end:?}").into());
        }
        Ok(true)
    }

    fn node(&self, error: &io::Error) -> String {
        format!("{}: {error}", self.device().display())
    }
}

fn main() -> ExitCode {
    let wish = match Wish::read() {
        Ok(wish) => wish,
        Err(error) => {
            eprintln!("{error}\n{HELP}");
            return ExitCode::from(2);
        }
    };
    let result = match wish.command.as_deref() {
        Some("programs") => wish.programs(),
        Some("boot") => wish.boot(),
        Some(other) => {
            eprintln!("there is no command {other}\n{HELP}");
            return ExitCode::from(2);
        }
        None => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
