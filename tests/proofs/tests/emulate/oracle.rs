//! This CPU as the judge of an instruction.
use waterbear_core::arch::Exception;
use waterbear_core::emulate::{Done, Stop};
use waterbear_proofs::random::Random;

use crate::flat::{Call, Flat};
use crate::form::{Case, Form, STATUS, case};
use crate::host::{DATA, Host};

pub const SEED: u64 = 0x5eed_0002;
/// Cases per form.
pub const TIMES: usize = 600;

/// Executes the case here and there. Says whether it was executed, as opposed to refused with #DE.
pub fn compare(host: &Host, case: &Case) -> bool {
    let mut ours = Flat::long(host.data(), 0);
    ours.memory = case.memory.clone();
    ours.regs = case.regs;
    ours.regs.rip = host.rip();
    ours.again = usize::MAX;
    for (number, vector) in ours.vectors.iter_mut().enumerate() {
        *vector = [case.regs.general[number], case.regs.general[15 - number]];
    }
    let mut vectors = ours.vectors;
    let shown = format!("{:02x?} with {:x?}", case.bytes, case.regs);
    match ours.execute(&case.bytes) {
        Ok(done) => assert_eq!(done, Done::Retired, "{shown}"),
        Err(Stop::Exception(exception)) if exception.vector == Exception::DE => {
            assert_eq!(ours.memory, case.memory);
            return false;
        }
        Err(stop) => panic!("{stop:?}: {shown}"),
    }
    let mut regs = case.regs;
    let mut memory = case.memory.clone();
    host.execute(&case.bytes, &mut regs, &mut vectors, &mut memory);
    for number in 0..16 {
        let (ours, theirs) = (ours.regs.general[number], regs.general[number]);
        assert_eq!(
            ours, theirs,
            "register {number}: {ours:#x} {theirs:#x} {shown}"
        );
    }
    let flags = STATUS & !case.undefined;
    let (f, g) = (ours.regs.rflags & flags, regs.rflags & flags);
    assert_eq!(f, g, "flags {f:#x}, not {g:#x}: {shown}");
    assert_eq!(ours.vectors, vectors, "{shown}");
    assert_eq!(
        ours.regs.rip,
        host.rip() + case.bytes.len() as u64,
        "{shown}"
    );
    if let Some(at) = (0..DATA).find(|&at| ours.memory[at] != memory[at]) {
        let (o, t) = (&ours.memory[at..], &memory[at..]);
        panic!(
            "memory at {at:#x}: {:02x?}, not {:02x?}: {shown}",
            &o[..16],
            &t[..16]
        );
    }
    // Reads come first, and then one write.
    let is_write = |call: &Call| !matches!(call, Call::Read(..));
    let writes = ours.log.iter().filter(|call| is_write(call)).count();
    assert!(
        writes <= 1 || case.bytes.iter().any(|b| matches!(b, 0xf2 | 0xf3)),
        "{shown}"
    );
    true
}

pub fn run(forms: &[Form]) {
    let host = Host::new();
    let mut random = Random::new(SEED);
    println!("seed {SEED:#x}");
    for form in forms {
        let mut executed = 0;
        for _ in 0..TIMES {
            let case = case(form, &mut random, host.data(), host.rip());
            executed += usize::from(case.is_some_and(|case| compare(&host, &case)));
        }
        assert!(
            executed > TIMES / 10,
            "{form:x?} was executed {executed} times"
        );
    }
}
