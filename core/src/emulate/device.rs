//! Device accesses of an instruction that somebody else answers later.
//!
//! User space is where most devices are, and it does its part between two calls. So an instruction
//! that reads from a device stops there, and is executed again when the answer has come. It asks
//! the same questions in the same order ([`Machine`](super::Machine)), so the answers that are
//! there already are given again, in order, until one is missing. What it writes to devices comes
//! last and is kept until the instruction has happened; then user space gets it.
//!
//! # A device that is asked twice
//!
//! An instruction that has had an answer and then raises an exception, or finds the host unable,
//! asks the device again when the guest executes it again. To a device whose registers change when
//! they are read that is a difference. What is written is looked at before the first question, so
//! it happens only
//!
//! - to an instruction that reads two operands in memory (CMPS), the first from a device, when the
//!   second raises a page fault;
//! - to a division whose divisor comes from a device and is no good;
//! - when another vCPU changes page tables, or the owner its memory, between question and answer.
use super::machine::Stop;
use crate::Error;

/// The most accesses in each direction that one instruction makes: two operands of 16 bytes at
/// most, each across two pages.
pub const MOST_FRAGMENTS: usize = 6;

/// Where a device is accessed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// At a guest physical address.
    Memory(u64),
    /// At a port.
    Port(u16),
}

/// One access, as a device sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fragment {
    /// Where.
    pub target: Target,
    /// Bytes, 1 to 8.
    pub length: u8,
    /// The bytes, as many as the length says.
    pub data: [u8; 8],
}

impl Fragment {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        self.data.get(..usize::from(self.length)).unwrap_or(&[])
    }
}

/// What an instruction has asked devices and what it tells them.
///
/// The owner calls [`begin`](Devices::begin) before each execution. When one stops with
/// [`Stop::Device`], [`question`](Devices::question) is what is to be asked, and
/// [`answer`](Devices::answer) takes what came back. When one succeeds, [`finish`](Devices::finish)
/// forgets the answers, and [`take_write`](Devices::take_write) gives out what is to be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Devices {
    /// The first `answered` have data; one more may wait for some.
    reads: [Fragment; MOST_FRAGMENTS],
    asked: usize,
    answered: usize,
    /// How many of them this execution has used.
    used: usize,
    /// The first `taken` of the `written` ones have been passed on.
    writes: [Fragment; MOST_FRAGMENTS],
    written: usize,
    taken: usize,
}

impl Default for Devices {
    fn default() -> Self {
        Self::new()
    }
}

impl Devices {
    /// Nothing asked, nothing told.
    pub const fn new() -> Self {
        const NOTHING: Fragment = Fragment {
            target: Target::Port(0),
            length: 0,
            data: [0; 8],
        };
        Self {
            reads: [NOTHING; MOST_FRAGMENTS],
            asked: 0,
            answered: 0,
            used: 0,
            writes: [NOTHING; MOST_FRAGMENTS],
            written: 0,
            taken: 0,
        }
    }

    /// An execution begins. What one before it, which stopped, would have written is forgotten.
    pub fn begin(&mut self) {
        self.used = 0;
        self.written = 0;
        self.taken = 0;
    }

    /// The instruction, or an iteration of it, has happened: its answers are used up.
    pub fn finish(&mut self) {
        self.asked = 0;
        self.answered = 0;
        self.used = 0;
    }

    /// Whether the instruction has had to do with a device so far. While it has, no second
    /// iteration may follow in the same call.
    pub fn is_idle(&self) -> bool {
        self.used == 0 && self.written == self.taken
    }

    /// Whether the next answer is a device's there: it need not be found out again that one is.
    pub fn is_answered(&self, target: Target) -> bool {
        let next = self.reads.get(self.used);
        self.used < self.answered && next.is_some_and(|fragment| fragment.target == target)
    }

    /// Reads from a device, in pieces of up to eight bytes.
    ///
    /// # Errors
    ///
    /// [`Stop::Device`] when an answer is missing: see [`question`](Devices::question).
    /// [`Stop::Retry`] when the answers are to other questions, because something else has changed
    /// since; they are forgotten.
    pub fn read(&mut self, target: Target, data: &mut [u8]) -> Result<(), Stop> {
        for (index, piece) in data.chunks_mut(8).enumerate() {
            let target = further(target, index);
            let length = piece.len() as u8;
            let fragment = self.reads.get_mut(self.used).ok_or(TOO_MANY)?;
            if self.used >= self.asked {
                *fragment = Fragment {
                    target,
                    length,
                    data: [0; 8],
                };
                self.asked = self.used + 1;
            } else if fragment.target != target || fragment.length != length {
                self.finish();
                return Err(Stop::Retry);
            }
            if self.used >= self.answered {
                return Err(Stop::Device);
            }
            self.used += 1;
            for (to, &from) in piece.iter_mut().zip(&fragment.data) {
                *to = from;
            }
        }
        Ok(())
    }

    /// Keeps what is to be written to a device, in pieces of up to eight bytes.
    ///
    /// # Errors
    ///
    /// [`Stop::Failed`] when it is more than an instruction can write.
    pub fn write(&mut self, target: Target, data: &[u8]) -> Result<(), Stop> {
        for (index, piece) in data.chunks(8).enumerate() {
            let place = self.writes.get_mut(self.written).ok_or(TOO_MANY)?;
            self.written += 1;
            let mut data = [0; 8];
            for (to, from) in data.iter_mut().zip(piece) {
                *to = *from;
            }
            *place = Fragment {
                target: further(target, index),
                length: piece.len() as u8,
                data,
            };
        }
        Ok(())
    }

    /// The read that waits for an answer.
    pub fn question(&self) -> Option<Fragment> {
        let question = self.reads.get(self.answered)?;
        (self.answered < self.asked).then_some(*question)
    }

    /// The answer to [`question`](Devices::question): as many bytes as it has are used, and the
    /// missing ones are zero.
    pub fn answer(&mut self, data: &[u8]) {
        if self.answered >= self.asked {
            return;
        }
        if let Some(fragment) = self.reads.get_mut(self.answered) {
            let room = usize::from(fragment.length);
            for (to, from) in fragment.data.iter_mut().take(room).zip(data) {
                *to = *from;
            }
            self.answered += 1;
        }
    }

    /// The next write to be passed on.
    pub fn take_write(&mut self) -> Option<Fragment> {
        let write = self.writes.get(..self.written)?.get(self.taken)?;
        self.taken += 1;
        Some(*write)
    }
}

/// Not reached by the instructions that are emulated.
const TOO_MANY: Stop = Stop::Failed(Error::Invalid);

/// Eight bytes further, as often as `index` says.
fn further(target: Target, index: usize) -> Target {
    match target {
        Target::Memory(address) => Target::Memory(address.wrapping_add(8 * index as u64)),
        port => port,
    }
}
