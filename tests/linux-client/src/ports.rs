//! Ports that a process may use itself, beside guests on the same CPU.
//!
//! An exit of a VMX guest cuts off the host's bitmap of permitted ports. The kernel has to know,
//! or these processes lose their permission.
use std::arch::asm;
use std::fs::File;
use std::io::{Read, Write};

use waterbear_core::abi::kvm::*;

use crate::Outcome;
use crate::node::same;
use crate::sys;
use crate::vcpu::Guest;

/// A port that nobody minds: firmware writes its progress there. And the one behind it.
const PERMITTED: u16 = 0x80;
const FORBIDDEN: u16 = 0x81;
/// How a process ends that uses a port without permission. Without a handler the kernel would note
/// that in its log.
const FAULT: i32 = 99;

extern "C" fn fault(_signal: i32) {
    // SAFETY: ends this process without running anything of the parent's.
    unsafe { libc::_exit(FAULT) }
}

/// Writes to a port; without permission the process ends.
fn write(port: u16) {
    // SAFETY: nothing listens there that changes memory.
    unsafe { asm!("out dx, al", in("dx") port, in("al") 0_u8, options(nomem, nostack)) }
}

/// Permits this process to use the port, or all ports.
fn permit(all: bool) -> bool {
    let answer = if all {
        // SAFETY: no memory is involved.
        unsafe { libc::iopl(3) }
    } else {
        // SAFETY: as above.
        unsafe { libc::ioperm(PERMITTED.into(), 1, 1) }
    };
    answer == 0
}

/// A guest that writes to its owner for ever.
fn guest() -> Result<Guest, String> {
    // out 1, al; jmp back
    Guest::new(&[0xe6, 0x01, 0xeb, 0xfc])
}

/// Runs the guest once.
fn run(guest: &Guest) -> bool {
    guest.run() == Ok(KVM_EXIT_IO)
}

/// Both ends of a pipe: for reading, for writing.
fn pipe() -> Result<(File, File), String> {
    let mut ends = [0; 2];
    // SAFETY: the ends are ours.
    if unsafe { libc::pipe(ends.as_mut_ptr()) } != 0 {
        return Err(format!("no pipe: error {}", sys::errno()));
    }
    Ok((sys::owned(ends[0]).into(), sys::owned(ends[1]).into()))
}

/// Two processes take turns: another one uses the port, then the guest of this one runs. Returns
/// how the other one ended.
fn taking_turns(permitted: bool) -> Result<Result<i32, i32>, String> {
    const ROUNDS: u32 = 20;
    let guest = guest()?;
    let (mut our_turn, mut others_end) = pipe()?;
    let (mut others_turn, mut our_end) = pipe()?;
    let child = sys::fork(move || {
        sys::on_signal(libc::SIGSEGV, fault);
        if permitted && !permit(false) {
            return 1;
        }
        let mut turn = [0];
        for _ in 0..ROUNDS {
            write(PERMITTED);
            if others_end.write_all(&turn).is_err() || others_turn.read_exact(&mut turn).is_err() {
                return 2;
            }
        }
        write(PERMITTED);
        0
    });
    let child = child.map_err(|error| format!("no child: error {error}"))?;
    let mut turn = [0];
    let well = (0..ROUNDS).all(|_| {
        our_turn.read_exact(&mut turn).is_ok() && run(&guest) && our_end.write_all(&turn).is_ok()
    });
    if !well {
        sys::kill(child);
    }
    Ok(sys::wait(child))
}

pub fn an_owner_keeps_its_ports_after_its_guest_ran() -> Outcome {
    let owner = |all: bool, last: u16| {
        let child = sys::fork(|| {
            sys::on_signal(libc::SIGSEGV, fault);
            let Ok(guest) = guest() else { return 1 };
            if !permit(all) {
                return 2;
            }
            for _ in 0..20 {
                if !run(&guest) {
                    return 3;
                }
                write(PERMITTED);
            }
            write(last);
            0
        });
        child.and_then(sys::wait)
    };
    same("with permission", owner(false, PERMITTED), Ok(0))?;
    same("another port", owner(false, FORBIDDEN), Ok(FAULT))?;
    same("with all permissions", owner(true, FORBIDDEN), Ok(0))
}

pub fn others_keep_their_ports_while_guests_run_on_their_cpu() -> Outcome {
    sys::stay_on_cpus(1)?;
    let outcomes = [true, false].map(taking_turns);
    sys::stay_on_cpus(!0)?;
    let [with, without] = outcomes;
    same("with permission", with?, Ok(0))?;
    same("without permission", without?, Ok(FAULT))
}
