//! Time-stamp counters: how fast they are, and that those of a VM agree.
use waterbear_core::Error;
use waterbear_core::abi::kvm;
use waterbear_core::abi::{Answer, Reply};
use waterbear_hal::Cpu;

use crate::support::{DONE, HERE, Monitor, Vcpu, refused};

/// What the mock's counters count, in kHz.
const KHZ: u32 = 2_000_000;
/// A second.
const SECOND: u64 = KHZ as u64 * 1000;
/// The mock's counter goes on when it is looked at; so much at most in a test.
const LITTLE: u64 = 1_000_000;
const TSC: u64 = 0x10;
const TSC_ADJUST: u64 = 0x3b;

fn get(monitor: &Monitor, vcpu: &Vcpu, msr: u64) -> u64 {
    monitor.put(0, &[1, msr, 0].map(u64::to_le_bytes).concat());
    let answer = monitor.command(vcpu, kvm::KVM_GET_MSRS, HERE);
    assert_eq!(answer, Ok(Reply::Value(1)));
    monitor.word(16)
}

fn set(monitor: &Monitor, vcpu: &Vcpu, msr: u64, value: u64) {
    monitor.put(0, &[1, msr, value].map(u64::to_le_bytes).concat());
    let answer = monitor.command(vcpu, kvm::KVM_SET_MSRS, HERE);
    assert_eq!(answer, Ok(Reply::Value(1)));
}

/// How far two counters are apart.
#[track_caller]
fn agree(monitor: &Monitor, one: &Vcpu, other: &Vcpu) {
    let (first, second) = (get(monitor, one, TSC), get(monitor, other, TSC));
    assert!(
        second.wrapping_sub(first) < LITTLE,
        "{first:#x} {second:#x}"
    );
}

#[test]
fn counters_begin_at_0_with_the_vm_and_agree() {
    let monitor = Monitor::new();
    assert!(get(&monitor, &monitor.vcpu, TSC) < LITTLE);
    monitor.host.set_tsc(9 * SECOND);
    let later = Monitor::add_vcpu(&monitor.vm, &monitor.vendor, 1);
    agree(&monitor, &monitor.vcpu, &later);
    assert!(get(&monitor, &later, TSC) >= 9 * SECOND);
}

#[test]
fn counters_that_are_set_one_after_another_agree() {
    let monitor = Monitor::new();
    let other = Monitor::add_vcpu(&monitor.vm, &monitor.vendor, 1);
    for value in [1 << 40, 1 << 62, u64::MAX - SECOND, 77 * SECOND] {
        set(&monitor, &monitor.vcpu, TSC, value);
        let seen = get(&monitor, &monitor.vcpu, TSC);
        assert!(seen.wrapping_sub(value) < LITTLE, "{value:#x}");
        // Half a second passes before the other's turn.
        monitor.host.set_tsc(monitor.host.tsc() + SECOND / 2);
        set(&monitor, &other, TSC, value);
        agree(&monitor, &monitor.vcpu, &other);
    }
    // 0 is what a CPU has after its reset: it comes to the others.
    set(&monitor, &other, TSC, 0);
    agree(&monitor, &monitor.vcpu, &other);
}

#[test]
fn counters_that_are_meant_to_be_apart_are() {
    let monitor = Monitor::new();
    let other = Monitor::add_vcpu(&monitor.vm, &monitor.vendor, 1);
    for value in [3 * SECOND, 1 << 50] {
        set(&monitor, &monitor.vcpu, TSC, value);
        set(&monitor, &other, TSC, value - 2 * SECOND);
        let seen = get(&monitor, &other, TSC);
        assert!(seen.wrapping_sub(value - 2 * SECOND) < LITTLE);
    }
    // What the owner sets is no adjustment, and an adjustment of the owner's moves nothing.
    assert_eq!(get(&monitor, &other, TSC_ADJUST), 0);
    let before = get(&monitor, &other, TSC);
    set(&monitor, &other, TSC_ADJUST, 1 << 45);
    assert!(get(&monitor, &other, TSC) - before < LITTLE);
    assert_eq!(get(&monitor, &other, TSC_ADJUST), 1 << 45);
}

#[test]
fn a_frequency_is_taken_that_needs_no_scaling() {
    let monitor = Monitor::new();
    let khz = |khz: u32| Ok(Reply::Value(khz));
    type Command<'a> = &'a dyn Fn(u32, u64) -> Answer;
    let vcpu: Command<'_> = &|command, argument| monitor.vcpu(command, argument);
    let vm: Command<'_> = &|command, argument| monitor.vm(command, argument);
    for command in [vcpu, vm] {
        assert_eq!(command(kvm::KVM_GET_TSC_KHZ, 0), khz(KHZ));
        for good in [KHZ, KHZ - KHZ / 4000, KHZ + KHZ / 4000] {
            assert_eq!(command(kvm::KVM_SET_TSC_KHZ, good.into()), DONE);
            assert_eq!(command(kvm::KVM_GET_TSC_KHZ, 0), khz(good));
        }
        for bad in [
            1,
            KHZ / 2,
            KHZ - KHZ / 4000 - 1,
            KHZ + KHZ / 4000 + 1,
            u32::MAX,
        ] {
            let answer = command(kvm::KVM_SET_TSC_KHZ, bad.into());
            assert_eq!(answer, refused(Error::Invalid), "{bad}");
        }
        assert_eq!(command(kvm::KVM_GET_TSC_KHZ, 0), khz(KHZ + KHZ / 4000));
    }
    // The VM's is that of vCPUs to come, and 0 is the host's.
    let other = Monitor::add_vcpu(&monitor.vm, &monitor.vendor, 1);
    let seen = monitor.command(&other, kvm::KVM_GET_TSC_KHZ, 0);
    assert_eq!(seen, khz(KHZ + KHZ / 4000));
    for command in [vcpu, vm] {
        assert_eq!(command(kvm::KVM_SET_TSC_KHZ, 0), DONE);
        assert_eq!(command(kvm::KVM_GET_TSC_KHZ, 0), khz(KHZ));
    }
}

#[test]
fn a_host_that_does_not_know_its_frequency_scales_nothing() {
    let monitor = Monitor::new();
    monitor.host.set_tsc_khz(0);
    assert_eq!(monitor.vcpu(kvm::KVM_SET_TSC_KHZ, 0), DONE);
    let answer = monitor.vcpu(kvm::KVM_SET_TSC_KHZ, 1);
    assert_eq!(answer, refused(Error::Invalid));
    // Only 0 is taken for what the others have.
    set(&monitor, &monitor.vcpu, TSC, 5 * SECOND);
    assert!(get(&monitor, &monitor.vcpu, TSC) - 5 * SECOND < LITTLE);
}
