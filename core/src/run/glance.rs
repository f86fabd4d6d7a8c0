//! A glance at the bytes at RIP, without waiting: 64-bit code, all of it there, nothing unusual.
//!
//! Most instructions that have to be looked at are of that kind. For the others
//! [`fetch`](super::fetch) takes its time.
use waterbear_hal::addr::PAGE_SIZE;
use waterbear_hal::{Gpa, Hal};

use crate::arch::{Attributes, Cr4, Efer, SegmentName};
use crate::memslot::SpaceId;
use crate::paging::CodeWalk;
use crate::vendor::{Control, Vendor};
use crate::vm::{GuestTables, Vm};

/// The bytes from RIP on: more than an instruction has.
pub(super) type Glance = [u64; 2];

/// The size of an instruction at most, in words.
const WORDS: usize = size_of::<Glance>() / 8;

/// Looks at RIP, at one word of two; the other is 0 then. Interrupts may be off, and the vCPU may be
/// in guest mode.
#[inline(never)]
pub(super) fn glance<H: Hal, V: Vendor>(
    vm: &Vm<H>,
    space: SpaceId,
    vendor: &V,
    state: &mut V::Vcpu,
    physical_bits: u32,
    words: usize,
) -> Option<Glance> {
    let cs = vendor.segment(state, SegmentName::Cs);
    let linear = vendor.regs(state).rip;
    let room = PAGE_SIZE - (linear & (PAGE_SIZE - 1));
    if !cs.attributes.contains(Attributes::LONG) || room < size_of::<Glance>() as u64 {
        return None;
    }
    let walk = CodeWalk {
        cr3: vendor.control(state, Control::Cr3),
        cr4: Cr4::from_bits_retain(vendor.control(state, Control::Cr4)),
        efer: Efer::from_bits_retain(vendor.control(state, Control::Efer)),
        physical_bits,
        user: vendor.cpl(state) == 3,
    };
    let mut tables = GuestTables::now(vm, space)?;
    let gpa = walk.find(linear, |at| tables.read_now(at))?;
    let first = tables.read_now(gpa)?;
    let second = match words {
        WORDS => tables.read_now(Gpa(gpa.0 + 8))?,
        _ => 0,
    };
    Some([first, second])
}

/// The length of an instruction that its opcode alone tells, if `code` begins with such a one: what
/// leaves the guest most often.
pub(super) fn known_length(code: &Glance) -> u8 {
    // HLT.
    if code[0] & 0xff == 0xf4 {
        return 1;
    }
    match code[0] & 0xffff {
        // CPUID, RDMSR, WRMSR, INVD, WBINVD.
        0xa20f | 0x320f | 0x300f | 0x080f | 0x090f => 2,
        _ => 0,
    }
}

/// Whether `code` begins with CPUID.
pub(super) fn is_cpuid(code: &Glance) -> bool {
    code[0] & 0xffff == 0xa20f
}
