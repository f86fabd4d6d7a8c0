//! What processes keep while guests run on their CPU, those of the guests' owners included.
//!
//! An exit of a VMX guest cuts off the host's bitmap of permitted ports, and leaves other limits and
//! selectors than there were. That VMX is on stands in a register of which the kernel keeps a copy,
//! and which it writes when a process follows that may not read the clock.
use std::arch::asm;
use std::fs::File;
use std::io::{Read, Write};

use waterbear_core::abi::kvm::*;

use crate::node::same;
use crate::sys::{self, Mapping};
use crate::vcpu::Guest;
use crate::{Outcome, cpus};

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

/// Two processes take turns: another one does something, first of all `prepare`, then the guest of
/// this one runs. Returns how the other one ended.
fn taking_turns(
    prepare: impl FnOnce() -> bool,
    act: impl Fn(),
) -> Result<Result<i32, i32>, String> {
    const ROUNDS: u32 = 20;
    let guest = guest()?;
    let (mut our_turn, mut others_end) = pipe()?;
    let (mut others_turn, mut our_end) = pipe()?;
    let child = sys::fork(move || {
        sys::on_signal(libc::SIGSEGV, fault);
        if !prepare() {
            return 1;
        }
        let mut turn = [0];
        for _ in 0..ROUNDS {
            act();
            if others_end.write_all(&turn).is_err() || others_turn.read_exact(&mut turn).is_err() {
                return 2;
            }
        }
        act();
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
    let with = cpus::on_one(|| taking_turns(|| permit(false), || write(PERMITTED)))?;
    same("with permission", with?, Ok(0))?;
    let without = cpus::on_one(|| taking_turns(|| true, || write(PERMITTED)))?;
    same("without permission", without?, Ok(FAULT))
}

pub fn others_without_a_clock_run_on_a_cpu_with_guests() -> Outcome {
    let stop_clock = || {
        // SAFETY: no memory is involved.
        unsafe { libc::prctl(libc::PR_SET_TSC, libc::PR_TSC_SIGSEGV) == 0 }
    };
    let ended = cpus::on_one(|| taking_turns(stop_clock, || ()))?;
    same("without a clock", ended?, Ok(0))?;
    let read_clock = || {
        // SAFETY: it may end this process.
        unsafe { std::arch::x86_64::_rdtsc() };
    };
    let ended = cpus::on_one(|| taking_turns(stop_clock, read_clock))?;
    same("with a look at the clock", ended?, Ok(FAULT))
}

/// An entry of the local descriptor table, in the kernel's words.
#[repr(C)]
struct Entry {
    number: u32,
    base: u32,
    limit: u32,
    flags: u32,
}

/// Loads GS with a selector.
fn load_gs(selector: u16) {
    // SAFETY: nothing of this program is behind GS.
    unsafe { asm!("mov gs, {0:x}", in(reg) selector, options(nomem, nostack)) }
}

/// What is behind GS, and its selector.
fn behind_gs() -> (u32, u16) {
    let (value, selector): (u32, u16);
    // SAFETY: the caller has put memory there.
    unsafe {
        asm!("mov {0:e}, gs:[0]", "mov {1:x}, gs", out(reg) value, out(reg) selector,
            options(nostack, readonly));
    }
    (value, selector)
}

pub fn an_owners_segments_come_back_after_its_guest_ran() -> Outcome {
    const WRITABLE_32_BIT: u32 = 1 | 1 << 6;
    /// The first entry of the local table, for user space.
    const LOCAL: u16 = 7;
    const ARCH_SET_GS: i32 = 0x1001;
    let child = sys::fork(|| {
        let (Ok(guest), Some(low)) = (guest(), Mapping::low(4096)) else {
            return 1;
        };
        low.write(0, &0x1234_5678_u32.to_le_bytes());
        let entry = Entry {
            number: 0,
            base: low.address() as u32,
            limit: 4095,
            flags: WRITABLE_32_BIT,
        };
        let size = size_of::<Entry>();
        // SAFETY: the kernel reads the entry.
        if unsafe { libc::syscall(libc::SYS_modify_ldt, 1, &raw const entry, size) } != 0 {
            return 2;
        }
        load_gs(LOCAL);
        if !(0..20).all(|_| run(&guest) && behind_gs() == (0x1234_5678, LOCAL)) {
            return 3;
        }
        load_gs(0);
        let high = Mapping::new(4096);
        high.write(0, &0x8765_4321_u32.to_le_bytes());
        // SAFETY: nothing of this program is behind GS.
        if unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_SET_GS, high.address()) } != 0 {
            return 4;
        }
        if !(0..20).all(|_| run(&guest) && behind_gs() == (0x8765_4321, 0)) {
            return 5;
        }
        0
    });
    same("the owner", child.and_then(sys::wait), Ok(0))
}
