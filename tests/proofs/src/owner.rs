//! A process that calls the interface.
use std::sync::{Mutex, PoisonError};

use waterbear_core::Error;
use waterbear_core::abi::Caller;

/// The process: its memory, as far as it has any.
pub struct Process {
    memory: Mutex<Vec<u8>>,
}

/// Where its memory begins.
const BASE: u64 = 0x1_0000;
const SIZE: usize = 0x4000;

impl Process {
    /// An address at which it has memory.
    pub const ARGUMENT: u64 = BASE;
    /// One at which it has none.
    pub const NOWHERE: u64 = 0x10;

    /// A process with zeroed memory.
    pub fn new() -> Self {
        Self {
            memory: Mutex::new(vec![0; SIZE]),
        }
    }

    /// Puts bytes at [`ARGUMENT`](Process::ARGUMENT), and says where that is.
    pub fn with(&self, bytes: &[u8]) -> u64 {
        self.copy_out(Self::ARGUMENT, bytes)
            .expect("that many bytes");
        Self::ARGUMENT
    }

    /// As many bytes from there.
    pub fn bytes(&self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.copy_in(Self::ARGUMENT, &mut bytes)
            .expect("that many bytes");
        bytes
    }

    fn at<R>(
        &self,
        address: u64,
        count: usize,
        access: impl FnOnce(&mut [u8]) -> R,
    ) -> Result<R, Error> {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let start = address.checked_sub(BASE).ok_or(Error::Fault)? as usize;
        let end = start.checked_add(count).ok_or(Error::Fault)?;
        memory.get_mut(start..end).map(access).ok_or(Error::Fault)
    }
}

impl Default for Process {
    fn default() -> Self {
        Self::new()
    }
}

impl Caller for Process {
    fn copy_in(&self, address: u64, into: &mut [u8]) -> Result<(), Error> {
        self.at(address, into.len(), |bytes| into.copy_from_slice(bytes))
    }

    fn copy_out(&self, address: u64, bytes: &[u8]) -> Result<(), Error> {
        self.at(address, bytes.len(), |place| place.copy_from_slice(bytes))
    }
}
