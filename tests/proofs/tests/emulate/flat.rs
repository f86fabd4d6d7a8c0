//! A machine whose memory is plain bytes.
use waterbear_core::arch::{Attributes, Cr0, Cr4, Efer, Exception, Segment, SegmentName};
use waterbear_core::emulate::{
    Access, CodeSize, Done, Instruction, Machine, Stop, code_size, decode, execute,
};
use waterbear_core::regs::Regs;

/// A machine with one piece of memory, and nothing around it.
#[derive(Clone)]
pub struct Flat {
    pub regs: Regs,
    pub segments: [Segment; 8],
    pub cr0: Cr0,
    pub cr4: Cr4,
    pub efer: Efer,
    pub cpl: u8,
    pub vectors: [[u64; 2]; 16],
    /// Where the memory begins.
    pub base: u64,
    pub memory: Vec<u8>,
    /// Everything that was asked, in order.
    pub log: Vec<Call>,
    /// Iterations of repeated strings that may still follow in the same call.
    pub again: usize,
    /// The next compare-exchange finds another value.
    pub disturb: bool,
    pub ports: u64,
}

/// A call of the machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Call {
    Read(u64, usize, Access),
    Write(u64, Vec<u8>),
    CompareExchange(u64, Vec<u8>),
    In(u16, usize),
    Out(u16, Vec<u8>),
}

/// A flat segment, 64-bit code or data.
fn flat(code: bool) -> Segment {
    let kind = if code {
        Attributes::CODE | Attributes::LONG
    } else {
        Attributes::BIG
    };
    let common = Attributes::PRESENT
        | Attributes::CODE_OR_DATA
        | Attributes::ACCESSED
        | Attributes::WRITABLE_OR_READABLE
        | Attributes::GRANULARITY;
    Segment {
        selector: if code { 8 } else { 16 },
        attributes: common | kind,
        limit: u32::MAX,
        base: 0,
    }
}

impl Flat {
    /// In 64-bit mode at privilege level 0.
    pub fn long(base: u64, size: usize) -> Self {
        let mut segments = [flat(false); 8];
        segments[SegmentName::Cs as usize] = flat(true);
        Self {
            regs: Regs {
                rflags: 2,
                ..Regs::default()
            },
            segments,
            cr0: Cr0::PE | Cr0::PG | Cr0::ET,
            cr4: Cr4::PAE | Cr4::OSFXSR,
            efer: Efer::LME | Efer::LMA,
            cpl: 0,
            vectors: [[0; 2]; 16],
            base,
            memory: vec![0; size],
            log: Vec::new(),
            again: 0,
            disturb: false,
            ports: 0x1122_3344_5566_7788,
        }
    }

    /// In protected mode with flat 32-bit segments.
    pub fn protected(base: u64, size: usize) -> Self {
        let mut flat = Self::long(base, size);
        flat.efer = Efer::empty();
        let cs = &mut flat.segments[SegmentName::Cs as usize].attributes;
        cs.remove(Attributes::LONG);
        cs.insert(Attributes::BIG);
        flat
    }

    /// In real mode with segments at 0.
    pub fn real(base: u64, size: usize) -> Self {
        let mut flat = Self::protected(base, size);
        flat.cr0 = Cr0::ET;
        for segment in &mut flat.segments {
            segment
                .attributes
                .remove(Attributes::BIG | Attributes::GRANULARITY);
            segment.limit = 0xffff;
        }
        flat
    }

    pub fn segment_mut(&mut self, name: SegmentName) -> &mut Segment {
        &mut self.segments[name as usize]
    }

    pub fn code_size(&self) -> CodeSize {
        code_size(self.efer, &self.segments[SegmentName::Cs as usize])
    }

    /// Decodes an instruction that has exactly these bytes.
    pub fn decode(&self, bytes: &[u8]) -> Instruction {
        let instruction = decode(bytes, self.code_size()).unwrap();
        assert_eq!(usize::from(instruction.length), bytes.len(), "{bytes:02x?}");
        instruction
    }

    pub fn execute(&mut self, bytes: &[u8]) -> Result<Done, Stop> {
        let instruction = self.decode(bytes);
        execute(&instruction, self)
    }

    fn range(&self, linear: u64, length: usize, write: bool) -> Result<usize, Stop> {
        let start = linear.wrapping_sub(self.base);
        if start.saturating_add(length as u64) <= self.memory.len() as u64 {
            return Ok(start as usize);
        }
        let error = 2 * u32::from(write);
        Err(Stop::Exception(Exception::page_fault(linear, error)))
    }
}

impl Machine for Flat {
    const HAS_VECTORS: bool = true;

    fn regs(&mut self) -> &mut Regs {
        &mut self.regs
    }

    fn segment(&mut self, name: SegmentName) -> Segment {
        self.segments[name as usize]
    }

    fn cr0(&mut self) -> Cr0 {
        self.cr0
    }

    fn cr4(&mut self) -> Cr4 {
        self.cr4
    }

    fn efer(&mut self) -> Efer {
        self.efer
    }

    fn cpl(&mut self) -> u8 {
        self.cpl
    }

    fn read(&mut self, linear: u64, data: &mut [u8], access: Access) -> Result<(), Stop> {
        self.log.push(Call::Read(linear, data.len(), access));
        let write = matches!(access, Access::Modify | Access::Probe);
        let start = self.range(linear, data.len(), write)?;
        if access != Access::Probe {
            data.copy_from_slice(&self.memory[start..start + data.len()]);
        }
        Ok(())
    }

    fn write(&mut self, linear: u64, data: &[u8]) -> Result<(), Stop> {
        self.log.push(Call::Write(linear, data.to_vec()));
        let start = self.range(linear, data.len(), true)?;
        self.memory[start..start + data.len()].copy_from_slice(data);
        Ok(())
    }

    fn compare_exchange(&mut self, linear: u64, old: &[u8], new: &[u8]) -> Result<bool, Stop> {
        self.log.push(Call::CompareExchange(linear, new.to_vec()));
        let start = self.range(linear, new.len(), true)?;
        let place = &mut self.memory[start..start + new.len()];
        if self.disturb {
            place[0] = !place[0];
            self.disturb = false;
        }
        if place != old {
            return Ok(false);
        }
        place.copy_from_slice(new);
        Ok(true)
    }

    fn port_in(&mut self, port: u16, data: &mut [u8]) -> Result<(), Stop> {
        self.log.push(Call::In(port, data.len()));
        data.copy_from_slice(&self.ports.to_le_bytes()[..data.len()]);
        Ok(())
    }

    fn port_out(&mut self, port: u16, data: &[u8]) -> Result<(), Stop> {
        self.log.push(Call::Out(port, data.to_vec()));
        Ok(())
    }

    fn again(&mut self) -> bool {
        let more = self.again > 0;
        self.again = self.again.saturating_sub(1);
        more
    }

    fn vector(&mut self, number: u8) -> Result<[u64; 2], Stop> {
        Ok(self.vectors[usize::from(number)])
    }

    fn set_vector(&mut self, number: u8, value: [u64; 2]) -> Result<(), Stop> {
        self.vectors[usize::from(number)] = value;
        Ok(())
    }
}
