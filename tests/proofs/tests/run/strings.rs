//! REP INS and REP OUTS: as many accesses in one turn of the owner's as fit into a page.
use waterbear_core::arch::{Attributes, Event, Exception, Rflags, SegmentName};
use waterbear_core::exit::{Exit, IoExit};
use waterbear_core::memslot::{SlotFlags, SpaceId};
use waterbear_core::regs::Regs;
use waterbear_core::run::Leave;
use waterbear_core::vendor::Control;
use waterbear_core::{Error, MemoryError};
use waterbear_hal::Gpa;
use waterbear_proofs::{Rig, Scripted};

use crate::support::{Bench, PAGES};

/// A guest that executes `code` in real mode, with `count` iterations to go: from 0x2000 on to a
/// port, or from there to 0x3000 on.
fn string(code: &[u8], count: u64) -> Bench {
    let mut bench = Bench::new();
    put(&bench, 0x1000, code);
    let regs = &mut bench.guest().regs;
    regs.general[Regs::RSI] = 0x2000;
    regs.general[Regs::RDI] = 0x3000;
    regs.general[Regs::RCX] = count;
    regs.general[Regs::RDX] = 0x3f8;
    bench
}

const REP_OUTSB: &[u8] = &[0xf3, 0x6e];
const REP_OUTSW: &[u8] = &[0xf3, 0x6f];
const REP_INSB: &[u8] = &[0xf3, 0x6c];
const REP_INSW: &[u8] = &[0xf3, 0x6d];
const REP_INSD: &[u8] = &[0xf3, 0x66, 0x6d];

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

fn leave(bench: &mut Bench) {
    // What the exit says of the access is not needed.
    let exit = Exit::Io(IoExit {
        port: 0x3f8,
        size: 1,
        input: true,
        string: true,
        repeat: true,
    });
    bench.then(Scripted::exit(exit, 0));
}

/// Runs to the next accesses and says how many there are, of this size and in this direction.
#[track_caller]
fn accesses(bench: &mut Bench, expected_size: u8, is_input: bool) -> u32 {
    leave(bench);
    match bench.run() {
        Leave::Io {
            port: 0x3f8,
            size,
            input,
            count,
        } if (size, input) == (expected_size, is_input) => {
            assert_eq!(bench.cpu.data().len(), usize::from(size) * count as usize);
            count
        }
        other => panic!("{other:?}"),
    }
}

/// RSI, RDI, RCX, RIP.
fn registers(bench: &mut Bench) -> [u64; 4] {
    let regs = &bench.guest().regs;
    let of = |number: usize| regs.general[number];
    [of(Regs::RSI), of(Regs::RDI), of(Regs::RCX), regs.rip]
}

fn down(bench: &mut Bench) {
    bench.guest().regs.rflags |= Rflags::DF.bits();
}

#[test]
fn what_is_in_one_page_goes_out_together() {
    let mut bench = string(REP_OUTSB, 3);
    put(&bench, 0x2000, b"abc");
    assert_eq!(accesses(&mut bench, 1, false), 3);
    assert_eq!(bench.cpu.data(), b"abc");
    assert_eq!(registers(&mut bench), [0x2000, 0x3000, 3, 0x1000]);
    bench.run_to_halt();
    assert_eq!(registers(&mut bench), [0x2003, 0x3000, 0, 0x1004]);
}

#[test]
fn what_is_in_one_page_comes_in_together() {
    let mut bench = string(REP_INSW, 3);
    put(&bench, 0x3000, &[9; 8]);
    assert_eq!(accesses(&mut bench, 2, true), 3);
    assert_eq!(bench.cpu.data(), [0; 6], "nothing old");
    bench.cpu.data().copy_from_slice(b"uvwxyz");
    bench.cpu.come_back_at_once(true);
    assert_eq!(bench.run(), Leave::Interrupted);
    assert_eq!(&get(&bench, 0x3000), b"uvwxyz\x09\x09");
    assert_eq!(registers(&mut bench), [0x2000, 0x3006, 0, 0x1002]);
}

#[test]
fn a_string_is_cut_where_pages_are() {
    let mut bench = string(REP_OUTSW, 4000);
    bench.guest().regs.general[Regs::RSI] = 0x1ffc;
    for (count, at, left) in [(2, 0x2000, 3998), (2048, 0x3000, 1950), (1950, 0x3f3c, 0)] {
        assert_eq!(accesses(&mut bench, 2, false), count);
        bench.cpu.come_back_at_once(true);
        assert_eq!(bench.run(), Leave::Interrupted);
        bench.cpu.come_back_at_once(false);
        let [rsi, _, rcx, rip] = registers(&mut bench);
        assert_eq!((rsi, rcx, rip == 0x1002), (at, left, left == 0));
    }
    // An operand that is across is alone.
    let mut bench = string(REP_INSD, 4);
    bench.guest().regs.general[Regs::RDI] = 0x2ff6;
    for (count, letters) in [(2, &b"abcdefgh"[..]), (1, b"ijkl"), (1, b"mnop")] {
        assert_eq!(accesses(&mut bench, 4, true), count);
        bench.cpu.data().copy_from_slice(letters);
    }
    bench.run_to_halt();
    assert_eq!(&get(&bench, 0x2ff6), b"abcdefghijklmnop");
    assert_eq!(registers(&mut bench), [0x2000, 0x3006, 0, 0x1005]);
}

#[test]
fn a_string_that_goes_down_comes_in_the_order_of_its_accesses() {
    let mut bench = string(REP_OUTSW, 3);
    put(&bench, 0x2000, &[1, 2, 3, 4, 5, 6]);
    bench.guest().regs.general[Regs::RSI] = 0x2004;
    down(&mut bench);
    assert_eq!(accesses(&mut bench, 2, false), 3);
    assert_eq!(bench.cpu.data(), [5, 6, 3, 4, 1, 2]);
    bench.run_to_halt();
    assert_eq!(registers(&mut bench), [0x1ffe, 0x3000, 0, 0x1004]);
    // Down to the first byte of a page and beyond.
    let mut bench = string(REP_INSB, 3);
    bench.guest().regs.general[Regs::RDI] = 0x3001;
    down(&mut bench);
    assert_eq!(accesses(&mut bench, 1, true), 2);
    bench.cpu.data().copy_from_slice(b"ab");
    assert_eq!(accesses(&mut bench, 1, true), 1);
    bench.cpu.data().copy_from_slice(b"c");
    bench.run_to_halt();
    assert_eq!(&get(&bench, 0x2fff), b"cba");
    assert_eq!(registers(&mut bench), [0x2000, 0x2ffe, 0, 0x1004]);
}

#[test]
fn a_string_ends_where_addresses_wrap() {
    // SI wraps in the middle of a page, because the segment does not begin with one.
    let mut bench = string(REP_OUTSB, 8);
    bench.guest().segments[SegmentName::Ds as usize].base = 0x8;
    bench.guest().regs.general[Regs::RSI] = 0xfffc;
    assert_eq!(accesses(&mut bench, 1, false), 4);
    assert_eq!(accesses(&mut bench, 1, false), 4);
    bench.run_to_halt();
    assert_eq!(bench.guest().regs.general[Regs::RSI], 4);
    let mut bench = string(REP_OUTSB, 8);
    bench.guest().segments[SegmentName::Ds as usize].base = 0x8;
    bench.guest().regs.general[Regs::RSI] = 3;
    down(&mut bench);
    assert_eq!(accesses(&mut bench, 1, false), 4);
    assert_eq!(accesses(&mut bench, 1, false), 4);
    bench.run_to_halt();
    assert_eq!(bench.guest().regs.general[Regs::RSI], 0xfffb);
}

#[test]
fn a_string_goes_as_far_as_its_segment() {
    let mut bench = string(REP_OUTSB, 8);
    bench.guest().segments[SegmentName::Ds as usize].limit = 0x2003;
    for _ in 0..4 {
        assert_eq!(accesses(&mut bench, 1, false), 1);
    }
    leave(&mut bench);
    bench.run_to_halt();
    let gp = Event::Exception(Exception::plain(Exception::GP));
    assert_eq!(bench.guest().delivered, [gp]);
    assert_eq!(bench.guest().regs.general[Regs::RCX], 4);
}

#[test]
fn who_may_not_use_the_port_gets_a_fault() {
    let mut bench = string(&[0xf3, 0x6e], 8);
    *bench.guest().control(Control::Cr0) = 1;
    bench.set_cpl(3);
    let ds = &mut bench.guest().segments[SegmentName::Ds as usize];
    ds.attributes = Attributes::from_bits_retain(0x93);
    leave(&mut bench);
    bench.exit(Exit::Shutdown);
    assert_eq!(bench.run(), Leave::Shutdown);
    let gp = Event::Exception(Exception::general_protection(0));
    assert_eq!(bench.guest().delivered, [gp]);
}

#[test]
fn a_string_that_single_steps_goes_one_by_one() {
    let mut bench = string(REP_OUTSB, 2);
    bench.guest().regs.rflags |= Rflags::TF.bits();
    assert_eq!(accesses(&mut bench, 1, false), 1);
    assert_eq!(bench.guest().regs.general[Regs::RCX], 1);
}

#[test]
fn what_was_read_is_kept_until_it_can_be_written() {
    let mut bench = string(REP_INSB, 3);
    down(&mut bench);
    bench.guest().regs.general[Regs::RDI] = 0x3002;
    assert_eq!(accesses(&mut bench, 1, true), 3);
    bench.cpu.data().copy_from_slice(b"abc");
    let hva = Rig::<true>::hva(3);
    bench.rig.user.protect(hva, 1, false);
    assert_eq!(bench.try_run(), Err(Error::Fault));
    assert_eq!(registers(&mut bench), [0x2000, 0x3002, 3, 0x1000]);
    bench.rig.user.protect(hva, 1, true);
    bench.run_to_halt();
    assert_eq!(&get(&bench, 0x3000), b"cba");
    // Where it cannot from the beginning the owner is not asked.
    let mut bench = string(REP_INSB, 3);
    bench.rig.user.protect(hva, 1, false);
    leave(&mut bench);
    assert_eq!(bench.try_run(), Err(Error::Fault));
}

#[test]
fn what_is_for_memory_that_is_gone_is_lost() {
    let mut bench = string(REP_INSB, 3);
    assert_eq!(accesses(&mut bench, 1, true), 3);
    bench.rig.slot(0, 0, 0, SlotFlags::empty()).unwrap();
    bench.run_to_halt();
    assert_eq!(bench.guest().regs.general[Regs::RCX], 0);
    bench.rig.slot(0, 0, PAGES, SlotFlags::empty()).unwrap();
    assert_eq!(get(&bench, 0x3000), [0; 3]);
    let space = SpaceId::NORMAL;
    let nothing = bench.rig.vm.probe_guest(space, Gpa(PAGES << 12), 1);
    assert_eq!(nothing, Err(MemoryError::Missing(Gpa(PAGES << 12))));
}
