//! A vCPU's state, as its owner saves and restores it.
use std::mem::offset_of;
use std::sync::{Arc, Mutex};

use waterbear_core::Error;
use waterbear_core::abi::kvm::{self, kvm_sregs, kvm_sregs2};
use waterbear_core::abi::{Failure, Reply};
use waterbear_core::exit::Exit;
use waterbear_proofs::{Scripted, ScriptedVcpu};

use crate::support::{DONE, HERE, Monitor, PAGES, refused};

const CR0: u64 = offset_of!(kvm_sregs2, cr0) as u64;
const CR3: u64 = offset_of!(kvm_sregs2, cr3) as u64;
const CR4: u64 = offset_of!(kvm_sregs2, cr4) as u64;
const EFER: u64 = offset_of!(kvm_sregs2, efer) as u64;
const APIC_BASE: u64 = offset_of!(kvm_sregs2, apic_base) as u64;
const FLAGS: u64 = offset_of!(kvm_sregs2, flags) as u64;
const POINTERS: u64 = offset_of!(kvm_sregs2, pdptrs) as u64;
const SIZE: u64 = size_of::<kvm_sregs2>() as u64;

const PG: u64 = 0x8000_0000;
const PE: u64 = 1;
const PAE: u64 = 0x20;

/// Registers of a guest in PAE mode.
fn pae(monitor: &Monitor) {
    assert_eq!(monitor.vcpu(kvm::KVM_GET_SREGS2, HERE), DONE);
    for (at, value) in [(CR0, PG | PE | 0x10), (CR3, 0x2000), (CR4, PAE), (EFER, 0)] {
        monitor.put(at, &value.to_le_bytes());
    }
}

/// A vCPU that runs once, and the page-directory pointers that its CPU had then.
fn watched() -> (Monitor, Arc<Mutex<Option<[u64; 4]>>>) {
    let seen = Arc::new(Mutex::new(None));
    let see = Arc::clone(&seen);
    let look = move |vcpu: &mut ScriptedVcpu| *see.lock().unwrap() = vcpu.page_directories;
    (
        Monitor::with([Scripted::exit(Exit::Halt, 1).after(look)]),
        seen,
    )
}

/// The structure at the argument.
fn structure(monitor: &Monitor) -> Vec<u64> {
    (0..SIZE).step_by(8).map(|at| monitor.word(at)).collect()
}

#[test]
fn both_structures_of_special_registers_tell_the_same() {
    let monitor = Monitor::new();
    pae(&monitor);
    let before = structure(&monitor);
    assert_eq!(monitor.vcpu(kvm::KVM_SET_SREGS, HERE), DONE);
    monitor.put(0, &[0xa5; SIZE as usize]);
    assert_eq!(monitor.vcpu(kvm::KVM_GET_SREGS, HERE), DONE);
    let common = offset_of!(kvm_sregs, interrupt_bitmap) / 8;
    assert_eq!(structure(&monitor)[..common], before[..common]);
    assert_eq!(monitor.vcpu(kvm::KVM_GET_SREGS2, HERE), DONE);
    assert_eq!(structure(&monitor)[..common], before[..common]);
}

#[test]
fn page_directory_pointers_come_from_memory_in_pae_mode_only() {
    const VALUES: [u64; 4] = [0x3001, 0x4001, 0, 0x5001];
    let (monitor, seen) = watched();
    assert_eq!(monitor.vcpu(kvm::KVM_GET_SREGS2, HERE), DONE);
    assert_eq!(monitor.word(FLAGS), 0, "in real mode");
    monitor.guest_write(0x2000, VALUES.map(u64::to_le_bytes).as_flattened());
    pae(&monitor);
    assert_eq!(monitor.vcpu(kvm::KVM_SET_SREGS2, HERE), DONE);
    assert_eq!(monitor.vcpu(kvm::KVM_RUN, 0), DONE);
    assert_eq!(*seen.lock().unwrap(), Some(VALUES));
    assert_eq!(monitor.vcpu(kvm::KVM_GET_SREGS2, HERE), DONE);
    assert_eq!(monitor.word(FLAGS), 1);
    let told = [0, 8, 16, 24].map(|at| monitor.word(POINTERS + at));
    assert_eq!(told, VALUES);
    // In long mode there are none, and where there is no memory neither.
    for (at, value) in [(EFER, 0x500), (CR3, PAGES * 4096)] {
        pae(&monitor);
        monitor.put(FLAGS, &[0; 8]);
        monitor.put(at, &u64::to_le_bytes(value));
        assert_eq!(monitor.vcpu(kvm::KVM_SET_SREGS2, HERE), DONE);
        assert_eq!(monitor.vcpu(kvm::KVM_GET_SREGS2, HERE), DONE);
        assert_eq!(monitor.word(FLAGS), 0, "{value:#x}");
    }
}

#[test]
fn pointers_that_the_owner_sends_count_and_not_those_in_memory() {
    const VALUES: [u64; 4] = [0x7001, 0, 0x8001, 0];
    let (monitor, seen) = watched();
    pae(&monitor);
    monitor.put(FLAGS, &1_u64.to_le_bytes());
    monitor.put(POINTERS, VALUES.map(u64::to_le_bytes).as_flattened());
    assert_eq!(monitor.vcpu(kvm::KVM_SET_SREGS2, HERE), DONE);
    assert_eq!(monitor.vcpu(kvm::KVM_RUN, 0), DONE);
    assert_eq!(*seen.lock().unwrap(), Some(VALUES));
}

#[test]
fn wrong_special_registers_change_nothing() {
    let monitor = Monitor::new();
    assert_eq!(monitor.vcpu(kvm::KVM_GET_SREGS2, HERE), DONE);
    let before = structure(&monitor);
    // Pointers without PAE mode; a flag, a task priority, an APIC base and control registers that
    // no CPU has.
    for (at, value) in [
        (FLAGS, 1),
        (FLAGS, 2),
        (FLAGS, u64::MAX),
        (offset_of!(kvm_sregs2, cr8) as u64, 16),
        (APIC_BASE, 0xfee0_0c00),
        (CR0, PG),
        (CR4, 1 << 40),
        (EFER, 1 << 40),
    ] {
        pae(&monitor);
        let mode = if at == FLAGS {
            [0; 8]
        } else {
            PAE.to_le_bytes()
        };
        monitor.put(CR4, &mode);
        monitor.put(APIC_BASE, &0xfee1_0800_u64.to_le_bytes());
        monitor.put(at, &value.to_le_bytes());
        let answer = monitor.vcpu(kvm::KVM_SET_SREGS2, HERE);
        assert_eq!(answer, refused(Error::Invalid), "{at} {value:#x}");
        assert_eq!(monitor.vcpu(kvm::KVM_GET_SREGS2, HERE), DONE);
        assert_eq!(structure(&monitor), before, "{at} {value:#x}");
    }
}

#[test]
fn the_size_of_the_xsave_area_is_what_both_commands_exchange() {
    let monitor = Monitor::new();
    let size = monitor.vm(kvm::KVM_CHECK_EXTENSION, kvm::KVM_CAP_XSAVE2.into());
    assert_eq!(size, Ok(Reply::Value(4096)));
    for command in [kvm::KVM_GET_XSAVE, kvm::KVM_GET_XSAVE2] {
        monitor.put(0, &[0xa5; 4096 + 8]);
        assert_eq!(monitor.vcpu(command, HERE), DONE);
        assert_eq!(monitor.word(4088), 0);
        assert_eq!(monitor.word(4096), 0xa5a5_a5a5_a5a5_a5a5);
        // No room for the last byte.
        let at = HERE + 0x1_0000 - 4095;
        assert_eq!(monitor.vcpu(command, at), refused(Error::Fault));
    }
    monitor.put(160, &[0x5a; 16]);
    assert_eq!(monitor.vcpu(kvm::KVM_SET_XSAVE, HERE), DONE);
    monitor.put(0, &[0; 4096]);
    assert_eq!(monitor.vcpu(kvm::KVM_GET_XSAVE2, HERE), DONE);
    assert_eq!(monitor.word(160), 0x5a5a_5a5a_5a5a_5a5a);
}

#[test]
fn without_an_interrupt_controller_a_vcpu_is_always_runnable() {
    let monitor = Monitor::new();
    monitor.put(0, &[0xff; 8]);
    assert_eq!(monitor.vcpu(kvm::KVM_GET_MP_STATE, HERE), DONE);
    assert_eq!(monitor.word(0), 0xffff_ffff_0000_0000, "four bytes");
    assert_eq!(monitor.vcpu(kvm::KVM_SET_MP_STATE, HERE), DONE);
    for state in [1_u32, 3, 4, 10, u32::MAX] {
        monitor.put(0, &state.to_le_bytes());
        let answer = monitor.vcpu(kvm::KVM_SET_MP_STATE, HERE);
        assert_eq!(answer, refused(Error::Invalid), "{state}");
    }
    for command in [kvm::KVM_GET_MP_STATE, kvm::KVM_SET_MP_STATE] {
        assert_eq!(monitor.vcpu(command, 8), refused(Error::Fault));
    }
}

#[test]
fn a_vcpu_has_no_capability_to_enable() {
    let monitor = Monitor::new();
    for cap in [
        0,
        kvm::KVM_CAP_SPLIT_IRQCHIP,
        kvm::KVM_CAP_HYPERV_SYNIC,
        u32::MAX,
    ] {
        monitor.put(0, &[0; 104]);
        monitor.put(0, &cap.to_le_bytes());
        for answer in [
            monitor.vcpu(kvm::KVM_ENABLE_CAP, HERE),
            monitor.vm(kvm::KVM_ENABLE_CAP, HERE),
        ] {
            assert_eq!(answer, refused(Error::Invalid), "{cap}");
        }
    }
    let nowhere = monitor.vcpu(kvm::KVM_ENABLE_CAP, 8);
    assert_eq!(nowhere, refused(Error::Fault));
}

/// The registers that tell what a guest can have: their numbers.
fn features(monitor: &Monitor) -> Vec<u32> {
    let list = kvm::KVM_GET_MSR_FEATURE_INDEX_LIST;
    monitor.put(0, &100_u32.to_le_bytes());
    assert_eq!(monitor.node(list, HERE), DONE);
    let count = monitor.word(0) as u32;
    (1..=u64::from(count))
        .map(|n| monitor.word(n * 4) as u32)
        .collect()
}

#[test]
fn registers_that_tell_what_a_guest_can_have_are_read_at_the_node() {
    let monitor = Monitor::new();
    let numbers = features(&monitor);
    assert!(numbers.contains(&0x10a), "IA32_ARCH_CAPABILITIES");
    assert!(numbers.contains(&0x8b), "the microcode's revision");
    monitor.put(0, &(numbers.len() as u64).to_le_bytes());
    for (n, number) in (0..).zip(&numbers) {
        monitor.put(8 + n * 16, &u64::from(*number).to_le_bytes());
        monitor.put(16 + n * 16, &[0xff; 8]);
    }
    let read = |count| Ok(Reply::Value(count));
    assert_eq!(
        monitor.node(kvm::KVM_GET_MSRS, HERE),
        read(numbers.len() as u32)
    );
    for (n, number) in (0..).zip(&numbers) {
        assert_eq!(monitor.word(8 + n * 16) as u32, *number);
        let wanted = if *number == 0x8b { 1 << 32 } else { 0 };
        assert_eq!(monitor.word(16 + n * 16), wanted, "{number:#x}");
    }
    // It stops at the first that is none.
    monitor.put(8 + 16, &0x10_u64.to_le_bytes());
    assert_eq!(monitor.node(kvm::KVM_GET_MSRS, HERE), read(1));
    monitor.put(0, &256_u32.to_le_bytes());
    assert_eq!(monitor.node(kvm::KVM_GET_MSRS, HERE), Err(Failure::TooBig));
    for at in [8, HERE + 0xfffc] {
        monitor.put(0xfffc, &1_u32.to_le_bytes());
        assert_eq!(monitor.node(kvm::KVM_GET_MSRS, at), refused(Error::Fault));
    }
}
