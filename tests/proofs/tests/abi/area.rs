//! What a vCPU and its owner tell each other in the memory that they share, at the places that the
//! public header gives each field.
use std::mem::offset_of;

use waterbear_core::abi::kvm::{self, kvm_run};
use waterbear_core::arch::SegmentName;
use waterbear_core::exit::{Exit, IoExit};
use waterbear_core::memslot::SpaceId;
use waterbear_core::regs::Regs;
use waterbear_core::tdp::fast::Access;
use waterbear_hal::Gpa;
use waterbear_proofs::Scripted;

use crate::support::{DONE, HERE, Monitor, PAGES, refused};

macro_rules! field {
    ($monitor:expr, $($field:ident).+ : $type:ty) => {
        <$type>::from_le_bytes($monitor.vcpu.area().get(offset_of!(kvm_run, $($field).+)))
    };
}

/// A port of one byte or more, accessed by an instruction of two.
fn port(size: u8, input: bool) -> Scripted {
    let io = IoExit {
        port: 0x3f8,
        size,
        input,
        string: false,
        repeat: false,
    };
    Scripted::exit(Exit::Io(io), 2).after(|guest| {
        guest.regs.general[Regs::RAX] = 0xaabb_ccdd;
    })
}

fn halt() -> Scripted {
    Scripted::exit(Exit::Halt, 1)
}

#[test]
fn a_port_is_told_field_by_field_and_its_answer_taken() {
    let monitor = Monitor::with([port(2, false), port(4, true), halt()]);
    assert_eq!(monitor.vcpu(kvm::KVM_RUN, 0), DONE);
    assert_eq!(field!(monitor, exit_reason: u32), kvm::KVM_EXIT_IO);
    assert_eq!(field!(monitor, __bindgen_anon_1.io.direction: u8), 1);
    assert_eq!(field!(monitor, __bindgen_anon_1.io.size: u8), 2);
    assert_eq!(field!(monitor, __bindgen_anon_1.io.port: u16), 0x3f8);
    assert_eq!(field!(monitor, __bindgen_anon_1.io.count: u32), 1);
    let data = field!(monitor, __bindgen_anon_1.io.data_offset: u64) as usize;
    assert_eq!(monitor.vcpu.area().get(data), [0xdd, 0xcc]);

    assert_eq!(monitor.vcpu(kvm::KVM_RUN, 0), DONE);
    assert_eq!(field!(monitor, __bindgen_anon_1.io.direction: u8), 0);
    assert_eq!(field!(monitor, __bindgen_anon_1.io.size: u8), 4);
    for (at, byte) in [0x78, 0x56, 0x34, 0x12].into_iter().enumerate() {
        monitor.vcpu.area().put(data + at, byte);
    }
    assert_eq!(monitor.vcpu(kvm::KVM_RUN, 0), DONE);
    assert_eq!(field!(monitor, exit_reason: u32), kvm::KVM_EXIT_HLT);
    assert_eq!(monitor.vcpu(kvm::KVM_GET_REGS, HERE), DONE);
    assert_eq!(monitor.word(0), 0x1234_5678);
}

#[test]
fn a_device_in_memory_is_told_field_by_field() {
    let (gpa, access) = (
        Gpa(PAGES * 4096 + 0x14),
        Access {
            write: true,
            ..Access::default()
        },
    );
    // MOV [DI], AX, in real mode with a segment that reaches the device.
    let store = Scripted::exit(Exit::Fault { gpa, access }, 0).after(move |guest| {
        guest.regs.general[Regs::RAX] = 0xaabb_ccdd;
        guest.regs.rip = 0x1000;
        guest.segments[SegmentName::Ds as usize].base = gpa.0;
    });
    let monitor = Monitor::with([store]);
    let vm = monitor.vm.vm();
    let written = vm.write_guest(SpaceId::NORMAL, Gpa(0x1000), &[0x89, 0x05]);
    written.expect("memory");
    assert_eq!(monitor.vcpu(kvm::KVM_RUN, 0), DONE);
    assert_eq!(field!(monitor, exit_reason: u32), kvm::KVM_EXIT_MMIO);
    assert_eq!(field!(monitor, __bindgen_anon_1.mmio.phys_addr: u64), gpa.0);
    assert_eq!(field!(monitor, __bindgen_anon_1.mmio.len: u32), 2);
    assert_eq!(field!(monitor, __bindgen_anon_1.mmio.is_write: u8), 1);
    let at = offset_of!(kvm_run, __bindgen_anon_1.mmio.data);
    assert_eq!(monitor.vcpu.area().get(at), [0xdd, 0xcc, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn the_state_is_told_and_the_owners_wishes_are_heard() {
    let monitor = Monitor::with([halt()]);
    let area = monitor.vcpu.area();
    area.put(offset_of!(kvm_run, immediate_exit), 1);
    area.put(offset_of!(kvm_run, cr8), 5);
    // What the owner leaves there is not believed.
    area.put(offset_of!(kvm_run, apic_base), 0xff);
    area.put(offset_of!(kvm_run, if_flag), 0xff);
    let interrupted = refused(waterbear_core::Error::Interrupted);
    assert_eq!(monitor.vcpu(kvm::KVM_RUN, 0), interrupted);
    assert_eq!(field!(monitor, exit_reason: u32), kvm::KVM_EXIT_INTR);
    assert_eq!(field!(monitor, cr8: u64), 5);
    assert_eq!(field!(monitor, if_flag: u8), 0);
    assert_eq!(field!(monitor, ready_for_interrupt_injection: u8), 0);
    assert_eq!(field!(monitor, apic_base: u64), 0xfee0_0800);
    assert_eq!(field!(monitor, immediate_exit: u8), 1, "it is the owner's");

    area.put(offset_of!(kvm_run, immediate_exit), 0);
    area.put(offset_of!(kvm_run, cr8), 16);
    let invalid = refused(waterbear_core::Error::Invalid);
    assert_eq!(monitor.vcpu(kvm::KVM_RUN, 0), invalid);
    area.put(offset_of!(kvm_run, cr8), 0);
    area.put(offset_of!(kvm_run, request_interrupt_window), 1);
    // RFLAGS.IF; the rest is 0.
    monitor.put(17 * 8, &0x202_u64.to_le_bytes());
    assert_eq!(monitor.vcpu(kvm::KVM_SET_REGS, HERE), DONE);
    assert_eq!(monitor.vcpu(kvm::KVM_RUN, 0), DONE);
    let window = kvm::KVM_EXIT_IRQ_WINDOW_OPEN;
    assert_eq!(field!(monitor, exit_reason: u32), window);
    assert_eq!(field!(monitor, if_flag: u8), 1);
    assert_eq!(field!(monitor, ready_for_interrupt_injection: u8), 1);
}
