//! Instructions that are executed here: to devices and to memory.
use waterbear_core::arch::{Event, Exception, Rflags, Shadow};
use waterbear_core::exit::Exit;
use waterbear_core::memslot::{SlotFlags, SpaceId};
use waterbear_core::regs::Regs;
use waterbear_core::run::Leave;
use waterbear_core::tdp::fast::Access;
use waterbear_hal::Gpa;
use waterbear_mock::MapOptions;
use waterbear_proofs::Scripted;

use crate::support::Bench;

/// Where there is no memory.
const DEVICE: u64 = 0x5_0000;

/// A guest whose next instruction is `code`, and leaves because of an access at `gpa`.
fn executing(code: &[u8], gpa: u64, write: bool) -> Bench {
    let mut bench = Bench::new();
    put(&bench, 0x1000, code);
    // Real mode, with a segment that reaches the device.
    let ds = waterbear_core::arch::SegmentName::Ds as usize;
    bench.guest().segments[ds].base = 0x5_0000;
    bench.guest().segments[ds].selector = 0x5000;
    leave(&mut bench, gpa, write);
    bench
}

fn leave(bench: &mut Bench, gpa: u64, write: bool) {
    let access = Access {
        write,
        ..Access::default()
    };
    bench.then(Scripted::exit(
        Exit::Fault {
            gpa: Gpa(gpa),
            access,
        },
        0,
    ));
}

fn put(bench: &Bench, at: u64, bytes: &[u8]) {
    let space = SpaceId::NORMAL;
    bench.rig.vm.write_guest(space, Gpa(at), bytes).unwrap();
}

fn mmio(gpa: u64, size: u8, write: bool) -> Leave {
    Leave::Mmio {
        gpa: Gpa(gpa),
        size,
        write,
    }
}

#[test]
fn a_read_from_a_device_is_answered_by_the_owner() {
    // MOV AX, [0x10].
    let mut bench = executing(&[0xa1, 0x10, 0x00], DEVICE + 0x10, false);
    bench.guest().regs.general[Regs::RAX] = u64::MAX;
    assert_eq!(bench.run(), mmio(DEVICE + 0x10, 2, false));
    assert_eq!(bench.cpu.data(), [0, 0]);
    assert_eq!(bench.guest().regs.rip, 0x1000);
    bench.cpu.data().copy_from_slice(&[0x34, 0x12]);
    bench.run_to_halt();
    assert_eq!(bench.guest().regs.general[Regs::RAX], 0xffff_ffff_ffff_1234);
    assert_eq!(bench.guest().regs.rip, 0x1005);
}

#[test]
fn a_write_to_a_device_goes_to_the_owner() {
    // MOV [0x10], AL.
    let mut bench = executing(&[0xa2, 0x10, 0x00], DEVICE + 0x10, true);
    bench.guest().regs.general[Regs::RAX] = 0x5a;
    assert_eq!(bench.run(), mmio(DEVICE + 0x10, 1, true));
    assert_eq!(bench.cpu.data(), [0x5a]);
    bench.run_to_halt();
    assert_eq!(bench.guest().regs.rip, 0x1005);
}

#[test]
fn a_read_and_a_write_are_two_turns_of_the_owner() {
    // INC BYTE [0x10].
    let mut bench = executing(&[0xfe, 0x06, 0x10, 0x00], DEVICE + 0x10, true);
    assert_eq!(bench.run(), mmio(DEVICE + 0x10, 1, false));
    bench.cpu.data()[0] = 0x41;
    bench.cpu.come_back_at_once(true);
    assert_eq!(
        bench.run(),
        mmio(DEVICE + 0x10, 1, true),
        "before it comes back"
    );
    assert_eq!(bench.cpu.data(), [0x42]);
    assert_eq!(bench.run(), Leave::Interrupted);
    bench.cpu.come_back_at_once(false);
    assert_eq!(bench.guest().entries, 1);
    bench.run_to_halt();
    assert_eq!(bench.guest().regs.rip, 0x1006);
}

#[test]
fn an_instruction_with_two_operands_in_memory_does_not_take_one_for_the_other() {
    // POP [0x10], from a stack that has the same offset in its page.
    let mut bench = executing(&[0x8f, 0x06, 0x10, 0x00], DEVICE + 0x10, true);
    put(&bench, 0x2010, &[0xcd, 0xab]);
    bench.guest().regs.general[Regs::RSP] = 0x2010;
    assert_eq!(bench.run(), mmio(DEVICE + 0x10, 2, true));
    assert_eq!(bench.cpu.data(), [0xcd, 0xab]);
    bench.run_to_halt();
    assert_eq!(bench.guest().regs.general[Regs::RSP], 0x2012);
}

#[test]
fn an_operand_that_straddles_into_a_device_is_put_together() {
    // MOV EAX, [0]: the last two bytes of memory, the first two of the device.
    let mut bench = executing(&[0x66, 0xa1, 0x00, 0x00], 0x4_0000, false);
    let ds = waterbear_core::arch::SegmentName::Ds as usize;
    bench.guest().segments[ds].base = 0x3_fffe;
    put(&bench, 0x3_fffe, &[1, 2]);
    assert_eq!(bench.run(), mmio(0x4_0000, 2, false));
    bench.cpu.data().copy_from_slice(&[3, 4]);
    bench.run_to_halt();
    assert_eq!(bench.guest().regs.general[Regs::RAX], 0x0403_0201);
}

#[test]
fn a_write_to_read_only_memory_goes_to_the_owner_and_a_read_does_not() {
    // MOV [0x10], AL, where a slot that may be read is.
    let mut bench = executing(&[0xa2, 0x10, 0x00], DEVICE + 0x10, true);
    bench.rig.back(0x50, 1, MapOptions::WRITABLE);
    bench.rig.slot(7, 0x50, 1, SlotFlags::READONLY).unwrap();
    assert_eq!(bench.run(), mmio(DEVICE + 0x10, 1, true));
    bench.run_to_halt();
    assert_eq!(bench.guest().regs.rip, 0x1005);
}

#[test]
fn an_instruction_that_nobody_knows_goes_to_the_owner_with_its_bytes() {
    // FNSAVE [0x10].
    let code = [0xdd, 0x36, 0x10, 0x00];
    let mut bench = executing(&code, DEVICE + 0x10, true);
    assert_eq!(bench.run(), Leave::EmulationFailed);
    assert_eq!(bench.cpu.data()[..4], code);
    assert_eq!(bench.guest().regs.rip, 0x1000);
}

#[test]
fn an_event_whose_delivery_needs_a_device_goes_to_the_owner() {
    let mut bench = executing(&[0x90], DEVICE, true);
    bench.cpu.raise(Exception::invalid_opcode());
    let guest = bench.guest();
    assert_eq!(guest.left(), 1);
    // The same exit once more, with the delivery cut short.
    let mut bench = Bench::new();
    bench.cpu.raise(Exception::invalid_opcode());
    let access = Access::default();
    let exit = Exit::Fault {
        gpa: Gpa(DEVICE),
        access,
    };
    bench.then(Scripted::exit(exit, 0).cut_short());
    assert_eq!(bench.run(), Leave::EmulationFailed);
}

#[test]
fn an_executed_instruction_ends_its_shadow_and_single_steps() {
    let mut bench = executing(&[0xa2, 0x10, 0x00], DEVICE + 0x10, true);
    bench.guest().regs.rflags |= Rflags::TF.bits();
    bench.run();
    bench.guest().shadow = Shadow::empty();
    bench.exit(Exit::Shutdown);
    bench.run();
    let [Event::Exception(exception)] = bench.guest().delivered[..] else {
        panic!("{:?}", bench.guest().delivered);
    };
    assert_eq!(exception.vector, Exception::DB);
    assert_eq!(bench.guest().regs.rip, 0x1003);
}

#[test]
fn an_access_beyond_its_segment_is_the_guests_fault() {
    // MOV EAX, [0xfffe].
    let mut bench = executing(&[0x66, 0xa1, 0xfe, 0xff], DEVICE + 0xfffe, false);
    bench.run_to_halt();
    let gp = Event::Exception(Exception::plain(Exception::GP));
    assert_eq!(bench.guest().delivered, [gp]);
}

#[test]
fn a_string_in_memory_that_is_written_here_is_done_in_one_go() {
    // REP STOSB to a page whose writes go to the owner is one write at a time.
    let mut bench = executing(&[0xf3, 0xaa], DEVICE, true);
    let es = waterbear_core::arch::SegmentName::Es as usize;
    bench.guest().segments[es].base = DEVICE;
    let regs = &mut bench.guest().regs;
    regs.general[Regs::RAX] = 0x77;
    regs.general[Regs::RCX] = 2;
    assert_eq!(bench.run(), mmio(DEVICE, 1, true));
    leave(&mut bench, DEVICE + 1, true);
    assert_eq!(bench.run(), mmio(DEVICE + 1, 1, true));
    bench.run_to_halt();
    assert_eq!(bench.guest().regs.rip, 0x1004);
    // The same in memory, because the page is there by now.
    let mut bench = executing(&[0xf3, 0xaa], DEVICE, true);
    bench.guest().segments[es].base = 0x2000;
    let regs = &mut bench.guest().regs;
    regs.general[Regs::RAX] = 0x77;
    regs.general[Regs::RCX] = 300;
    bench.run_to_halt();
    assert_eq!(bench.guest().regs.general[Regs::RCX], 0);
    let mut bytes = [0; 301];
    let vm = &bench.rig.vm;
    vm.read_guest(SpaceId::NORMAL, Gpa(0x2000), &mut bytes)
        .unwrap();
    assert!(bytes[..300].iter().all(|&byte| byte == 0x77));
    assert_eq!(bytes[300], 0);
}
