//! Errors that an owner reports to its guest.
use std::sync::{Arc, Mutex};

use waterbear_core::Error;
use waterbear_core::abi::{Answer, Reply, kvm};
use waterbear_core::arch::{Event, Exception};
use waterbear_core::exit::Exit;
use waterbear_proofs::{Scripted, ScriptedVcpu};

use crate::support::{DONE, HERE, Monitor, refused};

const VALID: u64 = 1 << 63;
const OVERFLOW: u64 = 1 << 62;
const UNCORRECTED: u64 = 1 << 61;
const GLOBAL: u64 = 5;
/// IA32_MCG_STATUS, IA32_MCG_CTL, and the first register of the third bank.
const MCG_STATUS: u64 = 0x17a;
const MCG_CTL: u64 = 0x17b;
const BANK: u64 = 0x400 + 4 * 2;

/// Ten banks that can be switched off, and a vCPU that has machine checks on and halts twice; what
/// is delivered to it.
fn owner() -> (Monitor, Arc<Mutex<Vec<Event>>>) {
    let events = Arc::new(Mutex::new(Vec::new()));
    let script = (0..2).map(|_| {
        let see = Arc::clone(&events);
        let look = move |vcpu: &mut ScriptedVcpu| see.lock().unwrap().append(&mut vcpu.delivered);
        Scripted::exit(Exit::Halt, 1).after(look)
    });
    let owner = Monitor::with(script.collect::<Vec<_>>());
    owner.put(0, &0x10a_u64.to_le_bytes());
    assert_eq!(owner.vcpu(kvm::KVM_X86_SETUP_MCE, HERE), DONE);
    set_cr4(&owner, 1 << 6);
    (owner, events)
}

fn set_cr4(owner: &Monitor, cr4: u64) {
    assert_eq!(owner.vcpu(kvm::KVM_GET_SREGS, HERE), DONE);
    let at = std::mem::offset_of!(kvm::kvm_sregs, cr4) as u64;
    owner.put(at, &cr4.to_le_bytes());
    assert_eq!(owner.vcpu(kvm::KVM_SET_SREGS, HERE), DONE);
}

fn report(owner: &Monitor, bank: u64, status: u64) -> Answer {
    let words = [status, 0x1111, 0x2222, GLOBAL, bank, 0, 0, 0];
    owner.put(0, &words.map(u64::to_le_bytes).concat());
    owner.vcpu(kvm::KVM_X86_SET_MCE, HERE)
}

fn msr(owner: &Monitor, index: u64) -> u64 {
    owner.put(0, &[1, index, 0].map(u64::to_le_bytes).concat());
    assert_eq!(owner.vcpu(kvm::KVM_GET_MSRS, HERE), Ok(Reply::Value(1)));
    owner.word(16)
}

fn set_msr(owner: &Monitor, index: u64, value: u64) {
    owner.put(0, &[1, index, value].map(u64::to_le_bytes).concat());
    assert_eq!(owner.vcpu(kvm::KVM_SET_MSRS, HERE), Ok(Reply::Value(1)));
}

/// Status, address and miscellaneous of the third bank, and the global status.
fn bank(owner: &Monitor) -> [u64; 4] {
    [BANK + 1, BANK + 2, BANK + 3, MCG_STATUS].map(|index| msr(owner, index))
}

#[test]
fn what_is_offered_can_be_set_up_and_nothing_else() {
    let owner = Monitor::new();
    let banks = owner.node(kvm::KVM_CHECK_EXTENSION, kvm::KVM_CAP_MCE.into());
    assert_eq!(banks, Ok(Reply::Value(32)));
    let command = kvm::KVM_X86_GET_MCE_CAP_SUPPORTED;
    assert_eq!(owner.node(command, HERE), DONE);
    let offered = owner.word(0);
    assert_eq!(offered, 1 << 24 | 1 << 8);
    assert_eq!(owner.node(command, 8), refused(Error::Fault));
    let set_up = |cap: u64| {
        owner.put(0, &cap.to_le_bytes());
        owner.vcpu(kvm::KVM_X86_SETUP_MCE, HERE)
    };
    for good in [1, 10, 32, offered | 32, 0xff_0000 | 1] {
        assert_eq!(set_up(good), DONE, "{good:#x}");
    }
    for bad in [0, 33, 0xff, offered, 1 | 1 << 9, 1 | 1 << 27, 1 | 1 << 63] {
        assert_eq!(set_up(bad), refused(Error::Invalid), "{bad:#x}");
    }
    assert_eq!(msr(&owner, 0x179), 0xff_0000 | 1, "the last good one");
    let nowhere = owner.vcpu(kvm::KVM_X86_SETUP_MCE, 8);
    assert_eq!(nowhere, refused(Error::Fault));
}

#[test]
fn an_uncorrected_error_interrupts_the_guest() {
    let (owner, events) = owner();
    assert_eq!(report(&owner, 2, VALID | UNCORRECTED | 7), DONE);
    assert_eq!(
        bank(&owner),
        [VALID | UNCORRECTED | 7, 0x1111, 0x2222, GLOBAL]
    );
    assert_eq!(owner.vcpu(kvm::KVM_RUN, 0), DONE);
    let wanted = [Event::Exception(Exception::plain(Exception::MC))];
    assert_eq!(*events.lock().unwrap(), wanted);
}

#[test]
fn a_corrected_error_waits_until_the_guest_looks_and_does_not_hide_a_worse_one() {
    let (owner, events) = owner();
    assert_eq!(report(&owner, 2, VALID | 1), DONE);
    assert_eq!(bank(&owner), [VALID | 1, 0x1111, 0x2222, 0]);
    assert_eq!(report(&owner, 2, VALID | 2), DONE);
    assert_eq!(bank(&owner)[0], VALID | OVERFLOW | 2);
    assert_eq!(owner.vcpu(kvm::KVM_RUN, 0), DONE);
    assert_eq!(*events.lock().unwrap(), []);
    set_msr(&owner, BANK + 1, VALID | UNCORRECTED | 3);
    assert_eq!(report(&owner, 2, VALID | 4), DONE);
    assert_eq!(bank(&owner)[0], VALID | OVERFLOW | UNCORRECTED | 3);
}

#[test]
fn what_is_switched_off_is_not_reported() {
    for register in [MCG_CTL, BANK] {
        let (owner, events) = owner();
        set_msr(&owner, register, 0);
        assert_eq!(report(&owner, 2, VALID | UNCORRECTED), DONE);
        assert_eq!(bank(&owner), [0; 4], "{register:#x}");
        assert_eq!(owner.vcpu(kvm::KVM_RUN, 0), DONE);
        assert_eq!(*events.lock().unwrap(), []);
    }
}

#[test]
fn an_error_that_the_guest_cannot_take_shuts_it_down() {
    for (cr4, global) in [(0, 0), (1 << 6, 4)] {
        let (owner, events) = owner();
        set_cr4(&owner, cr4);
        set_msr(&owner, MCG_STATUS, global);
        assert_eq!(report(&owner, 2, VALID | UNCORRECTED), DONE);
        assert_eq!(owner.vcpu(kvm::KVM_RUN, 0), DONE);
        assert_eq!(owner.reason(), kvm::KVM_EXIT_SHUTDOWN);
        assert_eq!(*events.lock().unwrap(), []);
    }
}

#[test]
fn reports_of_nothing_and_of_banks_that_are_not_there_are_refused() {
    let (owner, _) = owner();
    for (number, status) in [(2, 0), (2, !VALID), (10, VALID), (255, VALID)] {
        let answer = report(&owner, number, status);
        assert_eq!(answer, refused(Error::Invalid), "{number} {status:#x}");
        assert_eq!(bank(&owner), [0; 4]);
    }
    for at in [8, HERE + 0x1_0000 - 63] {
        let answer = owner.vcpu(kvm::KVM_X86_SET_MCE, at);
        assert_eq!(answer, refused(Error::Fault));
    }
}
