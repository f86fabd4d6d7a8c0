//! String instructions: against this CPU, and what is left when they are interrupted.
use waterbear_core::arch::{Exception, Rflags};
use waterbear_core::emulate::{Access, Done, Stop};
use waterbear_core::regs::Regs;
#[cfg(target_arch = "x86_64")]
use waterbear_proofs::random::Random;

use crate::flat::{Call, Flat};
#[cfg(target_arch = "x86_64")]
use crate::{
    form::{Case, state},
    host::Host,
    oracle::compare,
};

#[cfg(target_arch = "x86_64")]
const DF: u64 = Rflags::DF.bits();
const ZF: u64 = Rflags::ZF.bits();

#[cfg(target_arch = "x86_64")]
#[test]
fn strings_do_what_this_cpu_does() {
    let host = Host::new();
    let mut random = Random::new(0x5eed_0003);
    for opcode in [0xa4_u8, 0xa6, 0xaa, 0xac, 0xae] {
        for prefix in [None, Some(0xf2), Some(0xf3)] {
            for _ in 0..400 {
                let (mut regs, mut memory) = state(&mut random, host.data());
                // Runs of the same bytes, so that comparisons go on for a while.
                for byte in &mut memory {
                    *byte = u8::from(*byte < 20);
                }
                regs.general[Regs::RAX] = u64::from(random.percent(20));
                regs.general[Regs::RCX] = random.below(60);
                regs.general[Regs::RSI] = host.data() + 2000 + random.below(4000);
                regs.general[Regs::RDI] = host.data() + 2000 + random.below(4000);
                regs.rflags |= if random.percent(50) { DF } else { 0 };
                let mut bytes = Vec::from_iter(prefix);
                if random.percent(20) {
                    bytes.push(0x67);
                }
                let size = random.below(4);
                if size == 1 {
                    bytes.push(0x66);
                }
                if size == 2 {
                    bytes.push(0x48);
                }
                bytes.push(opcode | u8::from(size != 3));
                assert!(compare(
                    &host,
                    &Case {
                        bytes,
                        regs,
                        memory,
                        undefined: 0
                    }
                ));
            }
        }
    }
}

/// 64-bit mode with memory from 0x1000 to 0x3000.
fn machine() -> Flat {
    let mut flat = Flat::long(0x1000, 0x2000);
    flat.regs.rip = 0x100;
    flat.regs.general[Regs::RSI] = 0x1800;
    flat.regs.general[Regs::RDI] = 0x2000;
    flat.regs.general[Regs::RCX] = 4;
    for (index, byte) in flat.memory.iter_mut().enumerate() {
        *byte = index as u8;
    }
    flat
}

#[test]
fn a_repeated_string_can_be_interrupted_after_each_iteration_and_goes_on() {
    let mut flat = machine();
    for left in [3, 2, 1] {
        assert_eq!(flat.execute(&[0xf3, 0xa4]), Ok(Done::Repeats));
        assert_eq!(flat.regs.general[Regs::RCX], left);
        assert_eq!(flat.regs.general[Regs::RSI], 0x1804 - left);
        assert_eq!(flat.regs.general[Regs::RDI], 0x2004 - left);
        assert_eq!(flat.regs.rip, 0x100);
    }
    flat.regs.rflags |= Rflags::RF.bits();
    assert_eq!(flat.execute(&[0xf3, 0xa4]), Ok(Done::Retired));
    assert_eq!((flat.regs.general[Regs::RCX], flat.regs.rip), (0, 0x102));
    assert_eq!(flat.regs.rflags & Rflags::RF.bits(), 0);
    assert_eq!(flat.memory[0x1000..0x1004], [0, 1, 2, 3]);
}

#[test]
fn a_repeated_string_of_no_iterations_touches_nothing() {
    let mut flat = machine();
    flat.regs.general[Regs::RCX] = 0;
    flat.regs.general[Regs::RDI] = 0xdead_0000_0000;
    assert_eq!(flat.execute(&[0xf3, 0xab]), Ok(Done::Retired));
    assert_eq!((flat.regs.rip, flat.log.len()), (0x102, 0));
}

#[test]
fn a_repeated_string_that_faults_keeps_the_iterations_before() {
    let mut flat = machine();
    flat.again = usize::MAX;
    flat.regs.general[Regs::RDI] = 0x2ffe;
    let fault = Exception::page_fault(0x3000, 2);
    assert_eq!(flat.execute(&[0xf3, 0xa4]), Err(Stop::Exception(fault)));
    assert_eq!(flat.regs.general[Regs::RCX], 2);
    assert_eq!(flat.regs.general[Regs::RSI], 0x1802);
    assert_eq!(flat.regs.general[Regs::RDI], 0x3000);
    assert_eq!(flat.regs.rip, 0x100);
}

#[test]
fn one_call_executes_a_bounded_number_of_iterations() {
    let mut flat = machine();
    flat.again = usize::MAX;
    flat.regs.general[Regs::RCX] = u64::MAX;
    assert_eq!(flat.execute(&[0xf3, 0xac]), Ok(Done::Repeats));
    assert!(u64::MAX - flat.regs.general[Regs::RCX] <= 1024);
    assert_eq!(flat.regs.rip, 0x100);
    // Going on leads to the end of memory, and RIP is at the instruction still.
    while flat.execute(&[0xf3, 0xac]) == Ok(Done::Repeats) {}
    assert_eq!(flat.regs.general[Regs::RSI], 0x3000);
    assert_eq!(flat.regs.rip, 0x100);
}

#[test]
fn comparisons_end_when_they_differ_or_are_equal() {
    let mut flat = machine();
    flat.again = usize::MAX;
    flat.memory[0x800..0x804].copy_from_slice(&[7, 7, 9, 7]);
    flat.memory[0x1000..0x1004].copy_from_slice(&[7, 7, 8, 7]);
    assert_eq!(flat.execute(&[0xf3, 0xa6]), Ok(Done::Retired));
    assert_eq!(flat.regs.general[Regs::RCX], 1);
    assert_eq!(flat.regs.rflags & ZF, 0);
    assert_eq!(flat.execute(&[0xf2, 0xa6]), Ok(Done::Retired));
    assert_eq!(flat.regs.general[Regs::RCX], 0);
    assert_eq!(flat.regs.rflags & ZF, ZF);
}

#[test]
fn input_strings_check_that_they_may_write_before_they_read_the_port() {
    let mut flat = machine();
    flat.regs.general[Regs::RDX] = 0x3f8;
    assert_eq!(flat.execute(&[0x6d]), Ok(Done::Retired));
    let data = flat.ports.to_le_bytes()[..4].to_vec();
    assert_eq!(
        flat.log,
        [
            Call::Read(0x2000, 4, Access::Probe),
            Call::In(0x3f8, 4),
            Call::Write(0x2000, data)
        ]
    );
    let mut flat = machine();
    flat.regs.general[Regs::RDI] = 0x3000;
    assert!(flat.execute(&[0x6c]).is_err());
    assert_eq!(flat.log, [Call::Read(0x3000, 1, Access::Probe)]);
}

#[test]
fn output_strings_read_memory_and_then_write_the_port() {
    let mut flat = machine();
    flat.regs.general[Regs::RDX] = 0x80;
    assert_eq!(flat.execute(&[0x66, 0x6f]), Ok(Done::Retired));
    assert_eq!(
        flat.log,
        [
            Call::Read(0x1800, 2, Access::Read),
            Call::Out(0x80, vec![0, 1])
        ]
    );
    assert_eq!(flat.regs.general[Regs::RSI], 0x1802);
}

#[test]
fn registers_count_in_the_address_size() {
    // 32-bit addresses in 64-bit mode clear the upper halves.
    let mut flat = machine();
    flat.regs.general[Regs::RSI] |= 0xabcd_0000_0000;
    flat.regs.general[Regs::RDI] |= 0xabcd_0000_0000;
    flat.regs.general[Regs::RCX] = 0xabcd_0000_0001;
    assert_eq!(flat.execute(&[0xf3, 0x67, 0xa4]), Ok(Done::Retired));
    assert_eq!(flat.regs.general[Regs::RSI], 0x1801);
    assert_eq!(flat.regs.general[Regs::RCX], 0);

    // 16-bit ones wrap and leave the upper half alone.
    let mut flat = Flat::real(0, 0x1_0000);
    flat.regs.general[Regs::RDI] = 0x1234_ffff;
    flat.regs.general[Regs::RAX] = 0x5a;
    assert_eq!(flat.execute(&[0xaa]), Ok(Done::Retired));
    assert_eq!(flat.regs.general[Regs::RDI], 0x1234_0000);
    assert_eq!(flat.memory[0xffff], 0x5a);
}
