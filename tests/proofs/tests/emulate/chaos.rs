//! Any bytes, on a machine in any state, with memory that answers in any way.
use waterbear_core::arch::{Attributes, Cr0, Cr4, Efer, Exception, Segment, SegmentName};
use waterbear_core::emulate::{Access, Machine, Stop, code_size, decode, execute};
use waterbear_core::regs::Regs;

use crate::agree::{SIZES, check};

/// The most that an instruction may ask of a machine in one call: two accesses per iteration, and
/// a few for ports.
const MOST_CALLS: usize = 4 * 1024;

/// A machine that takes its answers from bytes.
struct Chaos<'a> {
    bytes: &'a [u8],
    at: usize,
    regs: Regs,
    calls: usize,
    /// The iteration has written; what fails afterwards cannot be undone.
    written: bool,
}

impl Chaos<'_> {
    /// The bytes again and again.
    fn byte(&mut self) -> u8 {
        let byte = self.bytes.get(self.at % self.bytes.len().max(1));
        self.at += 1;
        byte.map_or(0, |byte| byte ^ (self.at / self.bytes.len().max(1)) as u8)
    }

    fn number(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }

    fn outcome(&mut self, size: usize, writes: bool) -> Result<(), Stop> {
        assert!((1..=16).contains(&size));
        assert!(!self.written, "nothing comes after a write");
        self.calls += 1;
        assert!(self.calls <= MOST_CALLS);
        match self.byte() {
            0 => Err(Stop::Device),
            1 => Err(Stop::Retry),
            2 => Err(Stop::Exception(Exception::page_fault(0, 0))),
            _ => {
                self.written = writes;
                Ok(())
            }
        }
    }

    fn fill(&mut self, data: &mut [u8]) {
        for byte in data {
            *byte = self.byte();
        }
    }
}

impl Machine for Chaos<'_> {
    const HAS_VECTORS: bool = true;

    fn regs(&mut self) -> &mut Regs {
        &mut self.regs
    }

    fn segment(&mut self, name: SegmentName) -> Segment {
        let mut seed = self.regs.general[3] >> (name as u32 * 4);
        // Segments stay as they are while an instruction is executed.
        seed ^= self.bytes.len() as u64;
        let limit = [u32::MAX, 0xffff, 0, seed as u32][(seed & 3) as usize];
        let base = [0, 0xffff_0000, seed << 20, 0][(seed >> 2 & 3) as usize];
        let attributes = Attributes::from_bits_retain((seed >> 4) as u16 & 0xfff);
        Segment {
            selector: 8,
            attributes,
            limit,
            base,
        }
    }

    fn cr0(&mut self) -> Cr0 {
        Cr0::from_bits_retain(self.regs.general[14])
    }

    fn cr4(&mut self) -> Cr4 {
        Cr4::from_bits_retain(self.regs.general[13])
    }

    fn efer(&mut self) -> Efer {
        Efer::from_bits_retain(self.regs.general[15])
    }

    fn cpl(&mut self) -> u8 {
        (self.regs.general[12] & 3) as u8
    }

    fn read(&mut self, _: u64, data: &mut [u8], access: Access) -> Result<(), Stop> {
        self.outcome(data.len(), false)?;
        if access != Access::Probe {
            self.fill(data);
        }
        Ok(())
    }

    fn write(&mut self, _: u64, data: &[u8]) -> Result<(), Stop> {
        self.outcome(data.len(), true)
    }

    fn compare_exchange(&mut self, _: u64, old: &[u8], new: &[u8]) -> Result<bool, Stop> {
        assert_eq!(old.len(), new.len());
        self.outcome(new.len(), false)?;
        self.written = self.byte() & 1 == 0;
        Ok(self.written)
    }

    fn port_in(&mut self, _: u16, data: &mut [u8]) -> Result<(), Stop> {
        assert!(data.len() <= 4);
        self.outcome(data.len(), false)?;
        self.fill(data);
        Ok(())
    }

    fn port_out(&mut self, _: u16, data: &[u8]) -> Result<(), Stop> {
        assert!(data.len() <= 4);
        self.outcome(data.len(), true)
    }

    fn again(&mut self) -> bool {
        self.written = false;
        self.byte() != 0
    }

    fn vector(&mut self, _: u8) -> Result<[u64; 2], Stop> {
        Ok([self.number(), self.number()])
    }

    fn set_vector(&mut self, _: u8, _: [u64; 2]) -> Result<(), Stop> {
        Ok(())
    }
}

/// Decodes the bytes, compares with the other decoder, and executes what they are. Panics when
/// something is wrong.
pub fn run(input: &[u8]) {
    let (head, bytes) = input.split_at(input.len().min(2));
    let choice = head.first().copied().unwrap_or(0);
    for size in SIZES {
        if let Err(what) = check(bytes, size) {
            panic!("{what}");
        }
    }
    let mut chaos = Chaos {
        bytes: input,
        at: 0,
        regs: Regs::default(),
        calls: 0,
        written: false,
    };
    chaos.at = usize::from(choice);
    let general = std::array::from_fn(|_| chaos.number());
    chaos.regs = Regs {
        general,
        rip: chaos.number(),
        rflags: chaos.number(),
    };
    let cs = chaos.segment(SegmentName::Cs);
    let size = code_size(chaos.efer(), &cs);
    let Ok(instruction) = decode(bytes, size) else {
        return;
    };
    let before = chaos.regs;
    if execute(&instruction, &mut chaos).is_err() {
        let repeats = chaos.regs.general[1] != before.general[1];
        assert!(
            repeats || chaos.regs == before,
            "a stop leaves the registers"
        );
        assert_eq!(chaos.regs.rip, before.rip);
    }
}
