//! The guest programs of `waterbear-guests`, each in a machine of its own.
//!
//! | file | idea |
//! |---|---|
//! | `machine` | what the vCPUs of a program share |
//! | `drive` | one vCPU: runs it, and answers its ports |
//! | `commands` | what a program asks its host to do |
//! | `needs` | what programs must not expect of this machine |
mod commands;
mod drive;
mod machine;
mod needs;

use std::io;
use std::path::Path;
use std::thread;

use waterbear_guests::Program;

use crate::kvm::Node;
use crate::sys;
use drive::Drive;
use machine::Machine;
pub use machine::Verdict;
pub use needs::Emulator;

/// Why a program has not passed.
#[derive(Debug)]
pub enum Miss {
    /// It says nothing here, and why.
    Skipped(&'static str),
    /// It ended otherwise than it must.
    Failed(Verdict),
}

impl From<io::Error> for Miss {
    fn from(error: io::Error) -> Self {
        Miss::Failed(Verdict::Error(error.to_string()))
    }
}

/// Where programs run.
#[derive(Debug)]
pub struct Host {
    node: Node,
    emulator: Emulator,
}

impl Host {
    /// Opens a node. Every emulator is lax in a way of its own, and programs take that into account.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn new(node: &Path, emulator: Emulator) -> io::Result<Self> {
        sys::listen();
        Ok(Self {
            node: Node::open(node)?,
            emulator,
        })
    }

    /// Runs a program.
    ///
    /// # Errors
    ///
    /// Why it has not passed.
    pub fn run(&self, program: &'static Program) -> Result<(), Miss> {
        if let Some(why) = program
            .needs
            .iter()
            .find_map(|&need| self.emulator.lacks(need))
        {
            return Err(Miss::Skipped(why));
        }
        let machines = if program.twins {
            self.twins(program)?.into()
        } else {
            vec![self.one(program)?]
        };
        match machines.iter().find_map(Machine::failure) {
            Some(verdict) => Err(Miss::Failed(verdict)),
            None => Ok(()),
        }
    }

    /// Runs a program on as many threads as it has vCPUs.
    fn one(&self, program: &'static Program) -> io::Result<Machine> {
        let machine = Machine::new(&self.node, program, self.emulator.quirks())?;
        let drives = (0..program.vcpus).map(|index| Drive::new(&self.node, &machine, index));
        let drives: Vec<_> = drives.collect::<io::Result<_>>()?;
        thread::scope(|scope| {
            for mut drive in drives {
                scope.spawn(move || drive.run());
            }
            machine.watch();
        });
        Ok(machine)
    }

    /// Runs a program twice, in turns.
    fn twins(&self, program: &'static Program) -> io::Result<[Machine; 2]> {
        let new = || Machine::new(&self.node, program, self.emulator.quirks());
        let machines = [new()?, new()?];
        let [first, second] = &machines;
        let mut drives = [
            Drive::new(&self.node, first, 0)?,
            Drive::new(&self.node, second, 0)?,
        ];
        drives[1].twin = 1;
        thread::scope(|scope| {
            scope.spawn(|| {
                while machines.iter().any(|machine| !machine.is_over()) {
                    for drive in &mut drives {
                        drive.turn();
                    }
                }
            });
            machines.iter().for_each(Machine::watch);
        });
        Ok(machines)
    }
}
