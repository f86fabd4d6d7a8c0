//! What happens to guests while they run.
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use waterbear_core::abi::kvm::*;

use crate::node::same;
use crate::sys::{self, Mapping, ioctl};
use crate::vcpu::{FOREVER, Guest};
use crate::{Outcome, cpus, memory};

/// Starts a process that runs a guest that never ends.
pub fn spin() -> Result<i32, String> {
    let child = sys::fork(|| {
        let Ok(guest) = Guest::new(FOREVER) else {
            return 1;
        };
        loop {
            let _ = guest.run();
        }
    });
    child.map_err(|error| format!("no child: error {error}"))
}

/// Kills a process that runs a guest, and waits for its end.
fn stop(child: i32) -> Outcome {
    sys::kill(child);
    let killed = Ok(256 + libc::SIGKILL);
    same("the end of a child", sys::wait(child), killed)
}

pub fn a_killed_owner_takes_its_running_guest_along() -> Outcome {
    for moment in 0..12 {
        let children = [spin()?, spin()?, spin()?];
        thread::sleep(Duration::from_millis(7 * moment));
        for child in children {
            stop(child)?;
        }
    }
    Ok(())
}

pub fn cpus_go_while_guests_run_on_them() -> Outcome {
    let children = [spin()?, spin()?, spin()?];
    let mut result = Ok(());
    for _ in 0..4 {
        thread::sleep(Duration::from_millis(50));
        result = result.and_then(|()| cpus::switch_last(false));
        thread::sleep(Duration::from_millis(50));
        result = result.and_then(|()| cpus::switch_last(true));
    }
    for child in children {
        stop(child)?;
    }
    result
}

/// In real mode: xmm0 := eax; again and again ebx := xmm0, and HLT unless it is eax; OUT now and
/// then.
const KEEPS_XMM0: &[u8] = &[
    0x66, 0x0f, 0x6e, 0xc0, 0xb9, 0xff, 0x7f, 0x66, 0x0f, 0x7e, 0xc3, 0x66, 0x39, 0xc3, 0x75, 0x06,
    0xe2, 0xf5, 0xe6, 0x01, 0xeb, 0xee, 0xf4,
];

/// Runs a guest that keeps a number of its own in xmm0.
fn keeps(number: u32) -> Outcome {
    let guest = Guest::new(KEEPS_XMM0)?;
    let mut sregs: kvm_sregs = guest.get(KVM_GET_SREGS)?;
    // OSFXSR.
    sregs.cr4 |= 1 << 9;
    guest.set(KVM_SET_SREGS, &sregs)?;
    let mut regs: kvm_regs = guest.get(KVM_GET_REGS)?;
    regs.rax = number.into();
    guest.set(KVM_SET_REGS, &regs)?;
    for _ in 0..40 {
        same("its number is in xmm0", guest.run()?, KVM_EXIT_IO)?;
    }
    let fpu: kvm_fpu = guest.get(KVM_GET_FPU)?;
    same(
        "xmm0 as the owner sees it",
        &fpu.xmm[0][..4],
        &number.to_le_bytes()[..],
    )
}

pub fn guests_keep_their_fpu_apart_on_shared_cpus() -> Outcome {
    let start = |number: u32| sys::fork(move || i32::from(keeps(number).is_err()));
    let children = [0x1111_1111, 0x2222_2222, 0x3333_3333].map(start);
    keeps(0x4444_4444)?;
    for child in children {
        same("a child's guest", child.and_then(sys::wait), Ok(0))?;
    }
    Ok(())
}

pub fn the_fpu_comes_back_as_it_was_set() -> Outcome {
    let guest = Guest::new(FOREVER)?;
    let mut fpu: kvm_fpu = guest.get(KVM_GET_FPU)?;
    same("the control word of a new one", fpu.fcw, 0x37f)?;
    same("the other control word", fpu.mxcsr, 0x1f80)?;
    fpu.xmm[3] = [0xa5; 16];
    fpu.fpr[2] = [0x5a; 16];
    fpu.fcw = 0x27f;
    guest.set(KVM_SET_FPU, &fpu)?;
    let seen: kvm_fpu = guest.get(KVM_GET_FPU)?;
    same("xmm3", seen.xmm[3], [0xa5; 16])?;
    same("st2", &seen.fpr[2][..10], &[0x5a; 10][..])?;
    same("the control word", seen.fcw, 0x27f)?;
    fpu.mxcsr = u32::MAX;
    let answer = sys::ioctl_with(&guest.vcpu, KVM_SET_FPU, &fpu);
    same("bits that no CPU has", answer, Err(libc::EINVAL))?;
    let area: [u32; 1024] = guest.get(KVM_GET_XSAVE)?;
    same("xmm3 in the area", area[(160 + 48) / 4], 0xa5a5_a5a5)?;
    guest.set(KVM_SET_XSAVE, &area)?;
    let xcrs: kvm_xcrs = guest.get(KVM_GET_XCRS)?;
    same("XCR0", (xcrs.nr_xcrs, xcrs.xcrs[0].value), (1, 1))
}

pub fn memory_changes_under_a_running_guest() -> Outcome {
    // mov cx, 1000; inc word [0x4000]; inc word [0x5000]; loop; out 1, al; jmp back
    let guest = Guest::new(&[
        0xb9, 0xe8, 0x03, 0xff, 0x06, 0x00, 0x40, 0xff, 0x06, 0x00, 0x50, 0xe2, 0xf6, 0xe6, 0x01,
        0xeb, 0xef,
    ])?;
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let runs = scope.spawn(|| -> Outcome {
            while !over.load(Ordering::Relaxed) {
                same("reason", guest.run()?, KVM_EXIT_IO)?;
            }
            Ok(())
        });
        let change = || -> Result<(), i32> {
            let page = guest.memory.part(0x4000, 0x2000);
            for round in 0..150 {
                page.advise(libc::MADV_DONTNEED)?;
                page.protect(libc::PROT_READ | libc::PROT_WRITE)?;
                let size = guest.memory.size() as u64;
                let flags = if round % 2 == 0 {
                    KVM_MEM_LOG_DIRTY_PAGES
                } else {
                    0
                };
                let slot = (0, flags, 0, size, guest.memory.address());
                memory::set(&guest.vm, slot)?;
                let mut log = [0_u64; 4];
                let at = log.as_mut_ptr() as u64;
                let _ = memory::get_log(&guest.vm, 0, at);
            }
            Ok(())
        };
        let changed = change();
        over.store(true, Ordering::Relaxed);
        runs.join().map_err(|_| "the thread failed".to_owned())??;
        same("changes", changed, Ok(()))
    })
}

pub fn the_shared_memory_is_not_believed() -> Outcome {
    // in al, 1; jmp back
    let guest = Guest::new(&[0xe4, 0x01, 0xeb, 0xfc])?;
    for round in 0..50_u8 {
        same("reason", guest.run()?, KVM_EXIT_IO)?;
        // Everything that the kernel wrote is overwritten.
        guest.share(8, &[0xff; 4]);
        guest.share(24, &[round | 0x80; 1000]);
        guest.share(4096, &[round]);
    }
    let regs: kvm_regs = guest.get(KVM_GET_REGS)?;
    same("al", regs.rax & 0xff, 48)?;
    guest.share(16, &u64::MAX.to_le_bytes());
    let answer = ioctl(&guest.vcpu, KVM_RUN, 0);
    same("a CR8 that no CPU has", answer, Err(libc::EINVAL))
}

pub fn hostile_states_of_a_vcpu_harm_nobody() -> Outcome {
    let junk = Mapping::new(1 << 16);
    let mut seed = 0x1234_5678_9abc_def1_u64;
    for _ in 0..40 {
        let guest = Guest::new(FOREVER)?;
        for command in [
            KVM_SET_SREGS,
            KVM_SET_REGS,
            KVM_SET_FPU,
            KVM_SET_XSAVE,
            KVM_SET_XCRS,
            KVM_SET_CPUID2,
            KVM_SET_MSRS,
            KVM_INTERRUPT,
        ] {
            for at in (0..4096).step_by(8) {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                // Mostly small numbers: others are refused early.
                let value = if seed & 3 == 0 { seed } else { seed & 0x11 };
                junk.write(at, &value.to_le_bytes());
            }
            let _ = ioctl(&guest.vcpu, command, junk.address());
        }
        let mut sregs: kvm_sregs = guest.get(KVM_GET_SREGS)?;
        sregs.cs.type_ = seed as u8;
        sregs.cs.l = (seed >> 8) as u8 & 1;
        sregs.ss.dpl = (seed >> 16) as u8 & 3;
        sregs.tr.unusable = 1;
        let _ = sys::ioctl_with(&guest.vcpu, KVM_SET_SREGS, &sregs);
        sys::alarm_in(20);
        let _ = ioctl(&guest.vcpu, KVM_RUN, 0);
        // No signal later, when something else could be interrupted.
        sys::alarm_in(0);
    }
    Ok(())
}
