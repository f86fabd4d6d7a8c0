//! Instructions whose length the CPU does not tell, and moves to and from devices, in 64-bit code:
//! at an ordinary place, and at the end of a page, where they take the long way.
use waterbear_core::arch::{Attributes, Event, Exception, Rflags, SegmentName};
use waterbear_core::exit::Exit;
use waterbear_core::memslot::{Region, SlotFlags, SpaceId};
use waterbear_core::regs::Regs;
use waterbear_core::run::Leave;
use waterbear_core::stats::Count;
use waterbear_core::tdp::fast::Access;
use waterbear_core::vendor::Control;
use waterbear_hal::Gpa;
use waterbear_mock::MapOptions;
use waterbear_proofs::{Rig, Scripted};

use crate::support::{Bench, PAGES};

/// Where the page tables are.
const TABLES: u64 = 0x8000;
/// Where there is no memory.
const DEVICE: u64 = PAGES << 12;
/// An ordinary place for code.
const MIDDLE: u64 = 0x1000;
/// The most bytes of an instruction.
const LONGEST: u64 = 15;

fn put(bench: &Bench, at: u64, bytes: &[u8]) {
    let space = SpaceId::NORMAL;
    bench.rig.vm.write_guest(space, Gpa(at), bytes).unwrap();
}

/// A guest in 64-bit mode whose addresses are physical ones, with `code` at `rip`.
fn guest(code: &[u8], rip: u64) -> Bench {
    let mut bench = Bench::long();
    put(&bench, TABLES, &((TABLES + 0x1000) | 0x27).to_le_bytes());
    put(
        &bench,
        TABLES + 0x1000,
        &((TABLES + 0x2000) | 0x27).to_le_bytes(),
    );
    put(&bench, TABLES + 0x2000, &0xe7_u64.to_le_bytes());
    *bench.guest().control(Control::Cr3) = TABLES;
    put(&bench, rip, code);
    bench.guest().regs.rip = rip;
    bench
}

/// Where code of that length is read in two pieces.
fn end(code: &[u8]) -> u64 {
    MIDDLE + 0x1000 - code.len() as u64
}

#[test]
fn a_cpuid_of_unknown_length_is_answered_in_guest_mode() {
    let mut bench = guest(&[0x0f, 0xa2, 0x0f, 0xa2, 0xf4], MIDDLE);
    for _ in 0..2 {
        bench.then(Scripted::exit(Exit::Cpuid, 0).after(|guest| {
            guest.regs.general[Regs::RAX] = 0;
        }));
    }
    bench.then(Scripted::exit(Exit::Halt, 0));
    assert_eq!(bench.run(), Leave::Halted);
    assert_eq!(bench.guest().ways_in, 1, "one way in for all of them");
    let regs = &bench.guest().regs;
    assert_eq!(regs.general[Regs::RDX] as u32, u32::from_le_bytes(*b"enti"));
    assert_eq!(regs.rip, MIDDLE + 5);
}

#[test]
fn instructions_of_unknown_length_are_skipped_wherever_they_are() {
    // Each with a prefix too, which only the decoder knows.
    let codes: [(&[u8], Exit); 8] = [
        (&[0x0f, 0xa2], Exit::Cpuid),
        (&[0x66, 0x0f, 0xa2], Exit::Cpuid),
        (&[0xf4], Exit::Halt),
        (&[0x48, 0xf4], Exit::Halt),
        (&[0x0f, 0x32], Exit::ReadMsr),
        (&[0x0f, 0x30], Exit::WriteMsr),
        (&[0x0f, 0x09], Exit::Wbinvd),
        (&[0xf3, 0x0f, 0x09], Exit::Wbinvd),
    ];
    for (code, exit) in codes {
        for rip in [MIDDLE, end(code), MIDDLE + 0xfff] {
            for marked in [true, false] {
                let mut bench = guest(code, rip);
                // STAR.
                bench.guest().regs.general[Regs::RCX] = 0xc000_0081;
                if !marked {
                    // Not used before: the walk has something to mark.
                    put(&bench, TABLES + 0x2000, &0xc7_u64.to_le_bytes());
                }
                bench.then(Scripted::exit(exit, 0));
                bench.then(Scripted::exit(Exit::Shutdown, 0));
                let halts = exit == Exit::Halt;
                let expected = if halts {
                    Leave::Halted
                } else {
                    Leave::Shutdown
                };
                assert_eq!(bench.run(), expected, "{code:x?}");
                let next = rip + code.len() as u64;
                assert_eq!(bench.guest().regs.rip, next, "{code:x?} at {rip:x}");
            }
        }
    }
}

#[test]
fn code_that_nobody_may_fetch_is_not_glanced_at() {
    let mut bench = guest(&[0x0f, 0xa2], MIDDLE);
    // The page of the code is for data only: something has changed since.
    *bench.guest().control(Control::Efer) |= 1 << 11;
    put(&bench, TABLES + 0x2000, &(1_u64 << 63 | 0xe7).to_le_bytes());
    bench.then(Scripted::exit(Exit::Cpuid, 0));
    bench.then(Scripted::exit(Exit::Shutdown, 0));
    assert_eq!(bench.run(), Leave::Shutdown);
    assert_eq!(bench.guest().regs.rip, MIDDLE, "the guest tries it again");
}

/// Registers that are told apart, with RBX at the device.
fn registers(bench: &mut Bench) {
    let regs = &mut bench.guest().regs;
    for (number, register) in regs.general.iter_mut().enumerate() {
        *register = 0x8182_8384_8586_8700 | number as u64;
    }
    regs.general[Regs::RBX] = DEVICE + 0x20;
    regs.general[Regs::RSI] = 2;
    regs.general[12] = DEVICE;
}

/// The exit for an access to the device, where the CPU says whether it writes, and where not.
fn touch(offset: u64, write: Option<bool>) -> Exit {
    let gpa = Gpa(DEVICE + offset);
    match write {
        Some(write) => Exit::Fault {
            gpa,
            access: Access {
                write,
                ..Access::default()
            },
        },
        None => Exit::Mmio { gpa, access: None },
    }
}

/// What the owner saw, and the registers afterwards.
fn outcome(
    code: &[u8],
    rip: u64,
    offset: u64,
    write: Option<bool>,
    flags: u64,
) -> (Vec<Leave>, Vec<u8>, Regs) {
    let mut bench = guest(code, rip);
    registers(&mut bench);
    bench.guest().regs.rflags |= flags;
    bench.then(Scripted::exit(touch(offset, write), 0));
    bench.then(Scripted::exit(Exit::Shutdown, 0));
    let (mut leaves, mut data) = (Vec::new(), Vec::new());
    loop {
        let leave = bench.run();
        leaves.push(leave);
        match leave {
            Leave::Mmio { write: true, .. } => data.extend_from_slice(bench.cpu.data()),
            Leave::Mmio { .. } => {
                for (byte, value) in bench.cpu.data().iter_mut().zip(0xf1..) {
                    *byte = value;
                }
            }
            _ => break,
        }
    }
    let mut regs = bench.guest().regs;
    regs.rip = regs.rip.wrapping_sub(rip);
    (leaves, data, regs)
}

#[test]
fn plain_moves_are_what_they_are_when_they_are_executed_in_full() {
    // Each with the offset that it accesses.
    let loads: [(&[u8], u64); 17] = [
        (&[0x8b, 0x03], 0x20),                      // mov eax, [rbx]
        (&[0x48, 0x8b, 0x4b, 0x08], 0x28),          // mov rcx, [rbx + 8]
        (&[0x66, 0x8b, 0x4b, 0x02], 0x22),          // mov cx, [rbx + 2]
        (&[0x8a, 0x4b, 0xff], 0x1f),                // mov cl, [rbx - 1]
        (&[0x8a, 0x6b, 0x01], 0x21),                // mov ch, [rbx + 1]
        (&[0x40, 0x8a, 0x6b, 0x01], 0x21),          // mov bpl, [rbx + 1]
        (&[0x44, 0x8a, 0x0b], 0x20),                // mov r9b, [rbx]
        (&[0x4d, 0x8b, 0x2c, 0xf4], 0x10),          // mov r13, [r12 + rsi * 8]
        (&[0x8b, 0x04, 0x25, 0x40, 0, 4, 0], 0x40), // mov eax, [0x40040]
        (&[0x0f, 0xb6, 0x0b], 0x20),                // movzx ecx, byte [rbx]
        (&[0x66, 0x0f, 0xb6, 0x0b], 0x20),          // movzx cx, byte [rbx]
        (&[0x48, 0x0f, 0xb7, 0x2b], 0x20),          // movzx rbp, word [rbx]
        (&[0x0f, 0xbe, 0x23], 0x20),                // movsx esp, byte [rbx]
        (&[0x48, 0x0f, 0xbe, 0x3b], 0x20),          // movsx rdi, byte [rbx]
        (&[0x66, 0x0f, 0xbe, 0x3b], 0x20),          // movsx di, byte [rbx]
        (&[0x0f, 0xbf, 0x3b], 0x20),                // movsx edi, word [rbx]
        (&[0x64, 0x8b, 0x03], 0x20),                // mov eax, fs:[rbx]
    ];
    let stores: [(&[u8], u64); 11] = [
        (&[0x89, 0x03], 0x20),                      // mov [rbx], eax
        (&[0x4c, 0x89, 0x4b, 0x08], 0x28),          // mov [rbx + 8], r9
        (&[0x66, 0x89, 0x0b], 0x20),                // mov [rbx], cx
        (&[0x88, 0x0b], 0x20),                      // mov [rbx], cl
        (&[0x88, 0x2b], 0x20),                      // mov [rbx], ch
        (&[0x40, 0x88, 0x2b], 0x20),                // mov [rbx], bpl
        (&[0xc6, 0x03, 0x99], 0x20),                // mov byte [rbx], 0x99
        (&[0xc7, 0x03, 1, 2, 3, 0x84], 0x20),       // mov dword [rbx], 0x84030201
        (&[0x48, 0xc7, 0x03, 1, 2, 3, 0x84], 0x20), // mov qword [rbx], -0x7bfcfdff
        (&[0x66, 0xc7, 0x03, 1, 0x82], 0x20),       // mov word [rbx], 0x8201
        (&[0x89, 0x05, 0x10, 0, 0, 0], 0),          // mov [rip + 0x10], eax: see below
    ];
    for (code, offset, write) in loads
        .map(|(code, offset)| (code, offset, false))
        .into_iter()
        .chain(stores.map(|(code, offset)| (code, offset, true)))
    {
        for flags in [0, Rflags::TF.bits(), Rflags::RF.bits()] {
            let told = Some(write);
            let mut code = code.to_vec();
            let mut short = outcome(&code, MIDDLE, offset, told, flags);
            if code[..2] == [0x89, 0x05] {
                // The distance depends on the place.
                let distance = DEVICE.wrapping_sub(MIDDLE + 6) as u32;
                code[2..6].copy_from_slice(&distance.to_le_bytes());
                short = outcome(&code, MIDDLE, offset, told, flags);
            }
            let untold = outcome(&code, MIDDLE, offset, None, flags);
            assert_eq!(short, untold, "{code:x?}");
            if code[..2] == [0x89, 0x05] {
                let distance = DEVICE.wrapping_sub(end(&code) + 6) as u32;
                code[2..6].copy_from_slice(&distance.to_le_bytes());
            }
            let long = outcome(&code, end(&code), offset, told, flags);
            assert_eq!(short, long, "{code:x?}");
            assert!(matches!(short.0[..], [Leave::Mmio { .. }, Leave::Shutdown]));
        }
    }
    assert!(end(&[0]) + LONGEST > MIDDLE + 0x1000);
}

#[test]
fn a_move_that_does_not_fit_what_the_cpu_said_is_executed_in_full() {
    // mov [rbx], eax while the CPU speaks of another offset; across the end of a page; as a read.
    for (offset, write) in [(0x24, true), (0xffe, true), (0x20, false)] {
        let code = [0x89, 0x03];
        let mut bench = guest(&code, MIDDLE);
        registers(&mut bench);
        bench.guest().regs.general[Regs::RBX] = (DEVICE + (offset | 0x20)) & !0x4;
        let gpa = Gpa(DEVICE + offset);
        let access = Access {
            write,
            ..Access::default()
        };
        bench.then(Scripted::exit(Exit::Fault { gpa, access }, 0));
        let first = match bench.run() {
            Leave::Mmio {
                gpa, write: true, ..
            } => gpa.0,
            other => panic!("{other:?}"),
        };
        assert_eq!(first, bench.guest().regs.general[Regs::RBX]);
    }
}

#[test]
fn a_move_of_which_the_cpu_does_not_say_that_it_writes_is_plain_where_the_guest_may_write() {
    // mov [rbx], eax; the guest's page is writable, or not, or another by now.
    for (leaf, plain) in [(0xe7_u64, true), (0xe5, false), (0x20_00e7, false)] {
        let mut bench = guest(&[0x89, 0x03], MIDDLE);
        registers(&mut bench);
        *bench.guest().control(Control::Cr0) |= 1 << 16;
        if leaf >> 21 != 0 {
            // The code stays where it is.
            bench.guest().regs.general[Regs::RBX] = (1 << 21) + 0x20;
            put(&bench, TABLES + 0x2008, &leaf.to_le_bytes());
        } else {
            put(&bench, TABLES + 0x2000, &leaf.to_le_bytes());
        }
        bench.then(Scripted::exit(touch(0x20, None), 0));
        bench.then(Scripted::exit(Exit::Shutdown, 0));
        let leave = bench.run();
        let (size, write) = (4, true);
        let gpa = Gpa(if plain {
            DEVICE + 0x20
        } else {
            (1 << 21) + 0x20
        });
        if leaf & 2 == 0 {
            assert_eq!(leave, Leave::Shutdown);
            let [Event::Exception(exception)] = bench.guest().delivered[..] else {
                panic!("{:?}", bench.guest().delivered);
            };
            let why = (exception.vector, exception.error);
            assert_eq!(why, (Exception::PF, Some(3)));
        } else {
            assert_eq!(leave, Leave::Mmio { gpa, size, write });
            assert_eq!(bench.run(), Leave::Shutdown);
            assert_eq!(bench.guest().regs.rip, MIDDLE + 2);
        }
        let emulated = bench.cpu.stats().get(Count::Emulation);
        assert_eq!(emulated, u64::from(!plain), "{leaf:x}");
    }
}

#[test]
fn a_user_with_alignment_checks_gets_them() {
    // mov [rbx + 1], eax.
    let mut bench = guest(&[0x89, 0x43, 0x01], MIDDLE);
    registers(&mut bench);
    bench.set_cpl(3);
    bench.guest().regs.rflags |= Rflags::AC.bits();
    *bench.guest().control(Control::Cr0) |= 1 << 18;
    let (gpa, access) = (
        Gpa(DEVICE + 0x21),
        Access {
            write: true,
            ..Access::default()
        },
    );
    bench.then(Scripted::exit(Exit::Fault { gpa, access }, 0));
    bench.then(Scripted::exit(Exit::Shutdown, 0));
    assert_eq!(bench.run(), Leave::Shutdown);
    assert_eq!(bench.guest().delivered.len(), 1);
    assert_eq!(bench.guest().regs.rip, MIDDLE);
}

#[test]
fn compatibility_mode_takes_the_long_way() {
    let mut bench = guest(&[0x0f, 0xa2], MIDDLE);
    let cs = &mut bench.guest().segments[SegmentName::Cs as usize];
    cs.attributes = Attributes::from_bits_retain(0xc9b);
    cs.base = 0x100;
    put(&bench, MIDDLE + 0x100, &[0x66, 0x66, 0x0f, 0xa2]);
    bench.then(Scripted::exit(Exit::Cpuid, 0));
    bench.then(Scripted::exit(Exit::Shutdown, 0));
    assert_eq!(bench.run(), Leave::Shutdown);
    assert_eq!(bench.guest().regs.rip, MIDDLE + 4);
}

#[test]
fn a_way_that_was_walked_before_is_looked_at_again() {
    let short = [0x0f, 0xa2, 0xf4];
    let long = [0x66, 0x0f, 0xa2, 0xf4];
    let mut bench = guest(&short, MIDDLE);
    // 4 KiB pages: this one, and another in its place.
    let (table, entry) = (TABLES + 0x3000, TABLES + 0x3000 + (MIDDLE >> 12) * 8);
    let leaf = |page: u64| (page | 0x67).to_le_bytes();
    put(&bench, TABLES + 0x2000, &(table | 0x67).to_le_bytes());
    put(&bench, entry, &leaf(MIDDLE));
    put(&bench, 0x5000, &long);
    let go = |bench: &mut Bench, length: u64| {
        bench.guest().regs.rip = MIDDLE;
        for _ in 0..2 {
            bench.then(Scripted::exit(Exit::Cpuid, 0).after(|guest| {
                guest.regs.rip = MIDDLE;
                guest.regs.general[Regs::RAX] = 0;
            }));
        }
        bench.then(Scripted::exit(Exit::Halt, 0));
        assert_eq!(bench.run(), Leave::Halted);
        assert_eq!(bench.guest().regs.rip, MIDDLE + length + 1);
    };
    go(&mut bench, 2);
    // The entry leads elsewhere; and back.
    put(&bench, entry, &leaf(0x5000));
    go(&mut bench, 3);
    put(&bench, entry, &leaf(MIDDLE));
    go(&mut bench, 2);
    // The code is another.
    put(&bench, MIDDLE, &long);
    go(&mut bench, 3);
    put(&bench, MIDDLE, &short);
    go(&mut bench, 2);
    // The tables are others.
    put(&bench, 0x6000, &((TABLES + 0x1000) | 0x27).to_le_bytes());
    *bench.guest().control(Control::Cr3) = 0x6000;
    go(&mut bench, 2);
    put(&bench, 0x6000, &0x7027_u64.to_le_bytes());
    put(&bench, 0x7000, &((TABLES + 0x2000) | 0x27).to_le_bytes());
    go(&mut bench, 2);
    // The memory is another.
    let rig = &bench.rig;
    rig.slot(0, 0, 0, SlotFlags::empty()).unwrap();
    rig.back(PAGES, PAGES, MapOptions::WRITABLE);
    let region = Region {
        space: 0,
        id: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: PAGES << 12,
        userspace_addr: Rig::<true>::hva(PAGES).0,
    };
    rig.vm.set_region(region).unwrap();
    for (at, word) in [
        (0x6000, 0x7027),
        (0x7000, (TABLES + 0x2000) | 0x27),
        (TABLES + 0x2000, table | 0x67),
        (entry, MIDDLE | 0x67),
    ] {
        put(&bench, at, &word.to_le_bytes());
    }
    put(&bench, MIDDLE, &long);
    go(&mut bench, 3);
}
