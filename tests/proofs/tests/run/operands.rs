//! Operands of executed instructions: across pages, wide ones, and those that cannot be reached.
use waterbear_core::arch::{Attributes, Event, Exception, SegmentName};
use waterbear_core::exit::Exit;
use waterbear_core::memslot::SpaceId;
use waterbear_core::regs::Regs;
use waterbear_core::run::Leave;
use waterbear_core::tdp::fast::Access;
use waterbear_core::vendor::Control;
use waterbear_core::{Error, arch::Segment};
use waterbear_hal::Gpa;
use waterbear_proofs::{Rig, Scripted};

use crate::support::Bench;

/// Where there is no memory.
const DEVICE: u64 = 0x5_0000;
/// A linear address of a guest of [`long`] that leads nowhere.
const NOWHERE: u64 = 0x4000_0000;
/// A linear address behind 4 GiB of such a guest, and where it leads.
const HIGH: (u64, u64) = (0x1_0000_0000, 0x2_0000);
/// The last page below it.
const LAST: u64 = 0x3_0000;

fn put(bench: &Bench, at: u64, bytes: &[u8]) {
    let space = SpaceId::NORMAL;
    bench.rig.vm.write_guest(space, Gpa(at), bytes).unwrap();
}

fn get<const N: usize>(bench: &Bench, at: u64) -> [u8; N] {
    let mut bytes = [0; N];
    let space = SpaceId::NORMAL;
    bench.rig.vm.read_guest(space, Gpa(at), &mut bytes).unwrap();
    bytes
}

/// The guest leaves at `code` because of a device.
fn at(bench: &mut Bench, code: &[u8]) {
    put(bench, 0x1000, code);
    let (gpa, access) = (Gpa(DEVICE), Access::default());
    bench.then(Scripted::exit(Exit::Fault { gpa, access }, 0));
}

/// A guest in 64-bit mode: the lowest 2 MiB are mapped to themselves, and there are pages below
/// and above 4 GiB.
fn long(code: &[u8]) -> Bench {
    const TABLE: u64 = 3;
    const PAGE: u64 = 0x63;
    const LARGE: u64 = 0x80;
    let mut bench = Bench::long();
    *bench.guest().control(Control::Cr3) = 0x8000;
    for (at, entry) in [
        (0x8000, 0x9000 | TABLE),
        (0x9000, 0xa000 | TABLE),
        (0xa000, LARGE | PAGE),
        (0x9000 + 3 * 8, 0xb000 | TABLE),
        (0xb000 + 511 * 8, 0xc000 | TABLE),
        (0xc000 + 511 * 8, LAST | PAGE),
        (0x9000 + 4 * 8, 0xd000 | TABLE),
        (0xd000, 0xe000 | TABLE),
        (0xe000, HIGH.1 | PAGE),
    ] {
        put(&bench, at, &u64::to_le_bytes(entry));
    }
    at(&mut bench, code);
    bench
}

#[test]
fn an_operand_across_pages_is_written_as_a_whole_or_not_at_all() {
    // ADD [0], EAX, which has one byte in a page that the owner may not write.
    let mut bench = Bench::new();
    bench.guest().segments[SegmentName::Ds as usize].base = 0x2ffd;
    bench.guest().regs.general[Regs::RAX] = 0x0101_0101;
    put(&bench, 0x2ffd, &[1, 2, 3, 4]);
    let code = [0x66, 0x01, 0x06, 0x00, 0x00];
    let hva = Rig::<true>::hva(3);
    bench.rig.user.protect(hva, 1, false);
    at(&mut bench, &code);
    assert_eq!(bench.try_run(), Err(Error::Fault));
    assert_eq!(get(&bench, 0x2ffd), [1, 2, 3, 4]);
    // When it may, the number is added once.
    bench.rig.user.protect(hva, 1, true);
    at(&mut bench, &code);
    bench.run_to_halt();
    assert_eq!(get(&bench, 0x2ffd), [2, 3, 4, 5]);
}

#[test]
fn an_operand_that_straddles_into_a_device_is_written_to_both() {
    // MOV [0], EAX.
    let mut bench = Bench::new();
    bench.guest().segments[SegmentName::Ds as usize].base = 0x3_ffff;
    bench.guest().regs.general[Regs::RAX] = 0x0403_0201;
    at(&mut bench, &[0x66, 0xa3, 0x00, 0x00]);
    let (gpa, size, write) = (Gpa(0x4_0000), 3, true);
    assert_eq!(bench.run(), Leave::Mmio { gpa, size, write });
    assert_eq!(bench.cpu.data(), [2, 3, 4]);
    assert_eq!(get(&bench, 0x3_ffff), [1]);
    bench.run_to_halt();
}

#[test]
fn in_compatibility_mode_what_is_behind_4_gib_is_page_0() {
    // MOV [0xffffffee], EAX in a segment at 0x10.
    let write = |code_attributes, code: &[u8]| {
        let mut bench = long(code);
        let flat = Segment {
            selector: 16,
            attributes: Attributes::from_bits_retain(0xc93),
            limit: u32::MAX,
            base: 0x10,
        };
        bench.guest().segments[SegmentName::Ds as usize] = flat;
        bench.guest().segments[SegmentName::Cs as usize].attributes =
            Attributes::from_bits_retain(code_attributes);
        bench.guest().regs.general[Regs::RAX] = 0x0403_0201;
        bench.guest().regs.general[Regs::RSI] = 0xffff_fffe;
        bench.run_to_halt();
        assert_eq!(get(&bench, LAST + 0xffe), [1, 2]);
        (get(&bench, 0), get(&bench, HIGH.1))
    };
    let code = [0xa3, 0xee, 0xff, 0xff, 0xff];
    assert_eq!(write(0xc9b, &code), ([3, 4], [0, 0]));
    // MOV [RSI], EAX in 64-bit mode, where there is no segment.
    assert_eq!(write(0xa9b, &[0x89, 0x06]), ([0, 0], [3, 4]));
}

#[test]
fn sixteen_bytes_of_memory_are_not_exchanged_in_two_steps() {
    // LOCK CMPXCHG16B [RSI].
    let code = [0xf0, 0x48, 0x0f, 0xc7, 0x0e];
    let mut bench = long(&code);
    bench.guest().regs.general[Regs::RSI] = 0x2000;
    bench.guest().regs.general[Regs::RBX] = 1;
    assert_eq!(bench.run(), Leave::EmulationFailed);
    assert_eq!(bench.cpu.data()[..5], code);
    assert_eq!(get(&bench, 0x2000), [0; 16]);
    // Nobody else sees half of it without LOCK, or does not expect more; nor at a device.
    let mut bench = long(&code[1..]);
    bench.guest().regs.general[Regs::RSI] = 0x2000;
    bench.guest().regs.general[Regs::RBX] = 1;
    bench.run_to_halt();
    assert_eq!(get(&bench, 0x2000), 1_u128.to_le_bytes());
    let mut bench = long(&code);
    bench.guest().regs.general[Regs::RSI] = DEVICE;
    for (gpa, write) in [(0, false), (8, false), (0, true), (8, true)] {
        let (gpa, size) = (Gpa(DEVICE + gpa), 8);
        assert_eq!(bench.run(), Leave::Mmio { gpa, size, write });
    }
    bench.run_to_halt();
}

#[test]
fn an_instruction_that_is_too_long_is_the_guests_fault() {
    let mut bench = long(&[[0x66; 15].as_slice(), &[0x8b, 0x06]].concat());
    bench.run_to_halt();
    let gp = Event::Exception(Exception::general_protection(0));
    assert_eq!(bench.guest().delivered, [gp]);
    assert_eq!(bench.guest().regs.rip, 0x1000 + 2, "the HLT's");
}

#[test]
fn a_device_is_not_read_for_an_instruction_that_cannot_write_what_it_read() {
    // MOVSB; PUSH [RSI]; POP [RDI]; CALL [RSI].
    for (code, from, to, sp) in [
        (&[0xa4_u8][..], DEVICE, NOWHERE, 0x2000),
        (&[0xff, 0x36], DEVICE, 0, NOWHERE + 0x100),
        (&[0x8f, 0x07], 0, NOWHERE, DEVICE),
        (&[0xff, 0x16], DEVICE, 0, NOWHERE + 0x100),
    ] {
        let mut bench = long(code);
        let general = &mut bench.guest().regs.general;
        general[Regs::RSI] = from;
        general[Regs::RDI] = to;
        general[Regs::RSP] = sp;
        bench.run_to_halt();
        let [Event::Exception(exception)] = bench.guest().delivered[..] else {
            panic!("{code:02x?}: {:?}", bench.guest().delivered);
        };
        assert_eq!(
            (exception.vector, exception.error),
            (Exception::PF, Some(2))
        );
    }
    // Where both cannot be reached, the source is first.
    let mut bench = long(&[0xa4]);
    let general = &mut bench.guest().regs.general;
    general[Regs::RSI] = NOWHERE;
    general[Regs::RDI] = 2 * NOWHERE;
    bench.run_to_halt();
    let source = Exception::page_fault(NOWHERE, 0);
    assert_eq!(bench.guest().delivered, [Event::Exception(source)]);
}
