//! Signals: which are blocked while a vCPU runs, and those that end a process.
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::thread;

use waterbear_core::Error;
use waterbear_core::abi::{Failure, Reply, kvm};
use waterbear_core::exit::Exit;
use waterbear_proofs::Scripted;

use crate::support::{DONE, HERE, Monitor, refused};

/// Sets a mask of `len` bytes.
fn set(monitor: &Monitor, len: u32, mask: u64) -> Result<Reply, Failure> {
    monitor.put(0, &len.to_le_bytes());
    monitor.put(4, &mask.to_le_bytes());
    monitor.vcpu(kvm::KVM_SET_SIGNAL_MASK, HERE)
}

#[test]
fn a_mask_counts_while_the_vcpu_runs_and_no_longer() {
    const MASK: u64 = 0x8000_0000_0001_0200;
    let mut monitor = Monitor::with((0..2).map(|_| Scripted::exit(Exit::Halt, 1)));
    let seen = Arc::new(AtomicU64::new(1));
    let see = Arc::clone(&seen);
    monitor.on_mask(move |mask| see.store(mask, Relaxed));
    *monitor.thread.blocked.lock().unwrap() = 7;
    assert_eq!(set(&monitor, 8, MASK), DONE);
    assert_eq!(*monitor.thread.blocked.lock().unwrap(), 7, "not yet");
    assert_eq!(monitor.vcpu(kvm::KVM_RUN, 0), DONE);
    assert_eq!(seen.swap(1, Relaxed), MASK);
    assert_eq!(*monitor.thread.blocked.lock().unwrap(), 7, "no longer");
    // Without a mask everything stays as it is.
    assert_eq!(monitor.vcpu(kvm::KVM_SET_SIGNAL_MASK, 0), DONE);
    assert_eq!(monitor.vcpu(kvm::KVM_RUN, 0), DONE);
    assert_eq!(seen.load(Relaxed), 1);
}

#[test]
fn a_signal_that_only_the_mask_lets_through_ends_the_run_and_waits() {
    let mut monitor = Monitor::new();
    let host = monitor.host.clone();
    // It waits for a thread that blocks nothing.
    monitor.on_mask(move |mask| host.set_signal(mask == 0));
    *monitor.thread.blocked.lock().unwrap() = 1 << 9;
    assert_eq!(set(&monitor, 8, 0), DONE);
    let answer = monitor.vcpu(kvm::KVM_RUN, 0);
    assert_eq!(answer, refused(Error::Interrupted));
    assert_eq!(*monitor.thread.blocked.lock().unwrap(), 1 << 9);
}

#[test]
fn a_mask_of_another_size_or_from_nowhere_is_refused_and_changes_nothing() {
    let mut monitor = Monitor::with([Scripted::exit(Exit::Halt, 1)]);
    let seen = Arc::new(AtomicU64::new(0));
    let see = Arc::clone(&seen);
    monitor.on_mask(move |mask| see.store(mask, Relaxed));
    assert_eq!(set(&monitor, 8, 5), DONE);
    for len in [0, 4, 7, 9, 16, u32::MAX] {
        assert_eq!(set(&monitor, len, 0), refused(Error::Invalid), "{len}");
    }
    monitor.put(0xfffc, &8_u32.to_le_bytes());
    // Nowhere; and half of it, where the mask itself would be nowhere.
    for at in [8, HERE - 1, HERE + 0xfffc, u64::MAX, u64::MAX - 3] {
        let answer = monitor.vcpu(kvm::KVM_SET_SIGNAL_MASK, at);
        assert_eq!(answer, refused(Error::Fault), "{at:#x}");
    }
    assert_eq!(monitor.vcpu(kvm::KVM_RUN, 0), DONE);
    assert_eq!(seen.load(Relaxed), 5, "the mask from before");
}

#[test]
fn who_waits_for_a_vcpu_that_runs_can_be_killed() {
    let inside = Arc::new(Barrier::new(2));
    let (leave, left) = mpsc::channel::<()>();
    let there = Arc::clone(&inside);
    let monitor = Monitor::with([Scripted::exit(Exit::Halt, 1).after(move |_| {
        there.wait();
        left.recv().unwrap();
    })]);
    thread::scope(|scope| {
        let runs = scope.spawn(|| monitor.vcpu(kvm::KVM_RUN, 0));
        inside.wait();
        monitor.host.set_dying(true);
        let answer = monitor.vcpu(kvm::KVM_GET_REGS, HERE);
        assert_eq!(answer, refused(Error::Interrupted));
        // Alive it waits for the vCPU, and gets it.
        monitor.host.set_dying(false);
        let waits = scope.spawn(|| monitor.vcpu(kvm::KVM_GET_REGS, HERE));
        leave.send(()).unwrap();
        assert_eq!(runs.join().unwrap(), DONE);
        assert_eq!(waits.join().unwrap(), DONE);
    });
}
