//! A VM as its owner has it.
use waterbear_core::Error;
use waterbear_core::abi::{Answer, Failure, Reply, VmFile};
use waterbear_core::tdp::DirtyTracking;
use waterbear_mock::MockHost;
use waterbear_proofs::{Paging, Process};

/// A command that has nothing to say was carried out.
pub const DONE: Answer = Ok(Reply::Value(0));

/// A command was refused.
pub fn refused(error: Error) -> Answer {
    Err(Failure::Error(error))
}

pub struct Owner {
    pub file: VmFile<MockHost>,
    pub process: Process,
    pub host: MockHost,
}

impl Owner {
    pub fn new() -> Self {
        let host = MockHost::new();
        let format = Paging::Npt.format(Paging::ROOT);
        let space = host.new_space();
        let file = VmFile::new(&host, space, format, DirtyTracking::WriteProtect);
        Self {
            file: file.expect("memory"),
            process: Process::new(),
            host,
        }
    }

    /// Gives a command with a structure.
    pub fn command(&self, command: u32, argument: &[u8]) -> Answer {
        let argument = self.process.with(argument);
        self.file.command(&self.process, command, argument)
    }
}
