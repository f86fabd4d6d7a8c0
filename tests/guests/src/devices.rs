//! The devices that programs find: ports, and one device behind MMIO.
//!
//! `asm/guest.inc` lists the ports. Those that concern one vCPU alone are with whoever runs it.

/// Where the MMIO device is: a page that keeps what is written, and one with a register that
/// counts how often it is read.
pub const DEVICE: u64 = 0xa0000;
const COUNTER: u64 = 0x1000;
const END: u64 = 0x2000;
/// Bytes that the FIFO holds.
const FIFO: usize = 16 << 10;
/// Bytes that the devices keep.
pub const ROOM: usize = FIFO + COUNTER as usize;

/// A port that a device answers to.
#[derive(Clone, Copy, Debug)]
pub enum Port {
    /// A character for the console.
    Text,
    /// A register.
    Scratch,
    /// How often the register was accessed.
    ScratchCount,
    /// Bytes of its last access.
    ScratchSize,
    /// What is written comes back in the same order.
    Fifo,
    /// How many bytes are in there.
    FifoLength,
    /// How often the MMIO device was read.
    MmioReads,
    /// How often it was written.
    MmioWrites,
    /// Bytes of its last access.
    MmioSize,
    /// Where in the device that was.
    MmioOffset,
    /// Writes to nothing at all.
    Strays,
}

impl Port {
    /// The device at a port.
    pub fn at(number: u16) -> Option<Self> {
        Some(match number {
            0xe9 => Port::Text,
            0x510 => Port::Scratch,
            0x514 => Port::ScratchCount,
            0x518 => Port::ScratchSize,
            0x520 => Port::Fifo,
            0x528 => Port::FifoLength,
            0x550 => Port::MmioReads,
            0x554 => Port::MmioWrites,
            0x558 => Port::MmioSize,
            0x55c => Port::MmioOffset,
            0x578 => Port::Strays,
            _ => return None,
        })
    }
}

/// The devices of one machine, over [`ROOM`] bytes of its memory.
#[derive(Debug)]
pub struct Devices<B> {
    scratch: u32,
    scratch_count: u32,
    scratch_size: u32,
    /// The page behind MMIO, and the FIFO.
    room: B,
    fifo_first: usize,
    fifo_len: usize,
    counter: u32,
    reads: u32,
    writes: u32,
    size: u32,
    offset: u32,
    strays: u32,
    line: [u8; 80],
    line_len: usize,
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Devices<B> {
    /// Devices as after a reset. `room` has [`ROOM`] bytes, all 0.
    pub fn new(room: B) -> Self {
        Self {
            scratch: 0,
            scratch_count: 0,
            scratch_size: 0,
            fifo_first: 0,
            fifo_len: 0,
            room,
            counter: 0,
            reads: 0,
            writes: 0,
            size: 0,
            offset: 0,
            strays: 0,
            line: [0; 80],
            line_len: 0,
        }
    }

    /// OUT of 1, 2 or 4 bytes. `say` gets each line that is complete.
    pub fn output(&mut self, port: Port, bytes: &[u8], mut say: impl FnMut(&[u8])) {
        match port {
            Port::Text => bytes.iter().for_each(|&byte| self.text(byte, &mut say)),
            Port::Scratch => {
                self.scratch = number(bytes) as u32;
                self.scratch_accessed(bytes.len());
            }
            Port::Fifo => bytes.iter().for_each(|&byte| self.push(byte)),
            Port::FifoLength => self.fifo_len = 0,
            Port::MmioReads => (self.reads, self.writes) = (0, 0),
            Port::Strays => self.strays = 0,
            _ => {}
        }
    }

    /// IN of 1, 2 or 4 bytes.
    pub fn input(&mut self, port: Port, bytes: &mut [u8]) {
        let value = match port {
            Port::Fifo => {
                bytes.iter_mut().for_each(|byte| *byte = self.pop());
                return;
            }
            Port::Scratch => {
                self.scratch_accessed(bytes.len());
                self.scratch
            }
            Port::ScratchCount => self.scratch_count,
            Port::ScratchSize => self.scratch_size,
            Port::FifoLength => self.fifo_len as u32,
            Port::MmioReads => self.reads,
            Port::MmioWrites => self.writes,
            Port::MmioSize => self.size,
            Port::MmioOffset => self.offset,
            Port::Strays => self.strays,
            Port::Text => 0xe9,
        };
        put(bytes, value.into());
    }

    /// An access to memory that is not there.
    pub fn mmio(&mut self, gpa: u64, write: bool, bytes: &mut [u8]) {
        let Some(offset) = gpa.checked_sub(DEVICE).filter(|&at| at < END) else {
            if write {
                self.strays += 1;
            } else {
                bytes.fill(0xff);
            }
            return;
        };
        self.size = bytes.len() as u32;
        self.offset = offset as u32;
        *(if write {
            &mut self.writes
        } else {
            &mut self.reads
        }) += 1;
        if offset >= COUNTER {
            if write {
                self.counter = number(bytes) as u32;
            } else {
                self.counter = self.counter.wrapping_add(1);
                put(bytes, self.counter.into());
            }
            return;
        }
        let from = offset as usize;
        // The guest's own accesses do not cross the page, so there is room.
        if let Some(place) = self.room.as_mut().get_mut(from..from + bytes.len()) {
            if write {
                place.copy_from_slice(bytes);
            } else {
                bytes.copy_from_slice(place);
            }
        }
    }

    fn scratch_accessed(&mut self, size: usize) {
        self.scratch_count += 1;
        self.scratch_size = size as u32;
    }

    fn push(&mut self, byte: u8) {
        if self.fifo_len < FIFO {
            let last = (self.fifo_first + self.fifo_len) % FIFO;
            self.room.as_mut()[COUNTER as usize + last] = byte;
            self.fifo_len += 1;
        }
    }

    fn pop(&mut self) -> u8 {
        if self.fifo_len == 0 {
            return 0xff;
        }
        let byte = self.room.as_ref()[COUNTER as usize + self.fifo_first];
        self.fifo_first = (self.fifo_first + 1) % FIFO;
        self.fifo_len -= 1;
        byte
    }

    fn text(&mut self, byte: u8, say: &mut impl FnMut(&[u8])) {
        if byte == b'\n' || self.line_len == self.line.len() {
            say(self.line.get(..self.line_len).unwrap_or_default());
            self.line_len = 0;
        }
        if byte != b'\n' {
            self.line[self.line_len] = byte;
            self.line_len += 1;
        }
    }
}

/// The little-endian number in some bytes.
pub fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |number, &byte| number << 8 | u64::from(byte))
}

/// Puts a little-endian number into some bytes.
pub fn put(bytes: &mut [u8], value: u64) {
    for (to, from) in bytes.iter_mut().zip(value.to_le_bytes()) {
        *to = from;
    }
}
