//! Signals while a vCPU runs.
use std::thread;
use std::time::Duration;

use waterbear_core::abi::kvm::*;

use crate::Outcome;
use crate::node::same;
use crate::sys::{self, ioctl, ioctl_with};
use crate::vcpu::{FOREVER, Guest};

/// A signal mask as the interface has it.
#[repr(C, packed)]
struct SignalMask {
    len: u32,
    mask: u64,
}

fn set(guest: &Guest, len: u32, mask: u64) -> Result<i32, i32> {
    ioctl_with(&guest.vcpu, KVM_SET_SIGNAL_MASK, &SignalMask { len, mask })
}

/// The bit of a signal.
fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

pub fn masks_of_other_sizes_are_refused() -> Outcome {
    let guest = Guest::new(FOREVER)?;
    for len in [0, 4, 7, 9, 16, 128, u32::MAX] {
        let answer = set(&guest, len, 0);
        same(&format!("{len} bytes"), answer, Err(libc::EINVAL))?;
    }
    for at in [8, 1 << 47, 0xffff_8880_0000_0000, u64::MAX - 3] {
        let answer = ioctl(&guest.vcpu, KVM_SET_SIGNAL_MASK, at);
        same(&format!("a mask at {at:#x}"), answer, Err(libc::EFAULT))?;
    }
    same("a mask", set(&guest, 8, u64::MAX), Ok(0))?;
    let none = ioctl(&guest.vcpu, KVM_SET_SIGNAL_MASK, 0);
    same("no mask", none, Ok(0))
}

pub fn a_signal_that_only_the_mask_lets_through_ends_a_run_and_waits() -> Outcome {
    let guest = Guest::new(FOREVER)?;
    // Nobody handles the second one, so it would be dropped if it were not blocked.
    for signal in [libc::SIGUSR1, libc::SIGCHLD] {
        let before = sys::block_signals(bit(signal));
        same("a mask", set(&guest, 8, 0), Ok(0))?;
        for _ in 0..3 {
            sys::raise(signal);
            let answer = ioctl(&guest.vcpu, KVM_RUN, 0);
            same("a run", answer, Err(libc::EINTR))?;
            same("reason", guest.reason(), KVM_EXIT_INTR)?;
            let waits = sys::waiting_signals() & bit(signal);
            same("it waits", waits, bit(signal))?;
            same("it is taken", sys::take_signal(bit(signal)), Ok(signal))?;
        }
        let during = sys::block_signals(before);
        same("what is blocked afterwards", during, bit(signal))?;
    }
    Ok(())
}

pub fn a_signal_that_the_mask_blocks_does_not_end_a_run() -> Outcome {
    // mov ecx, 3000000; again: dec ecx; jnz again; out 1, al; jmp back
    let guest = Guest::new(&[
        0x66, 0xb9, 0xc0, 0xc6, 0x2d, 0x00, 0x66, 0x49, 0x75, 0xfc, 0xe6, 0x01, 0xeb, 0xf2,
    ])?;
    same("a mask", set(&guest, 8, bit(libc::SIGALRM)), Ok(0))?;
    let before = sys::block_signals(0);
    for _ in 0..5 {
        sys::alarm_in(3);
        same("reason", guest.run()?, KVM_EXIT_IO)?;
    }
    sys::alarm_in(0);
    same("what is blocked", sys::block_signals(before), 0)?;
    // The signal that ends everything cannot be blocked.
    let child = sys::fork(|| {
        let Ok(guest) = Guest::new(FOREVER) else {
            return 1;
        };
        let _ = set(&guest, 8, u64::MAX);
        loop {
            let _ = guest.run();
        }
    });
    let child = child.map_err(|error| format!("no child: error {error}"))?;
    thread::sleep(Duration::from_millis(100));
    sys::kill(child);
    let killed = Ok(256 + libc::SIGKILL);
    same("the end of a child", sys::wait(child), killed)
}

pub fn who_waits_for_a_running_vcpu_can_be_killed() -> Outcome {
    let child = sys::fork(|| {
        let Ok(guest) = Guest::new(FOREVER) else {
            return 1;
        };
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    loop {
                        let _ = guest.run();
                        let _: Result<kvm_regs, _> = guest.get(KVM_GET_REGS);
                    }
                });
            }
        });
        0
    });
    let child = child.map_err(|error| format!("no child: error {error}"))?;
    thread::sleep(Duration::from_millis(100));
    sys::kill(child);
    let killed = Ok(256 + libc::SIGKILL);
    same("the end of a child", sys::wait(child), killed)
}
