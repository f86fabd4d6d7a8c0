//! The memory that a vCPU's descriptor shares with its owner, and what KVM_RUN
//! says in it.
//!
//! The owner can write there at any time, so every field is read once, and
//! nothing that was written is believed when it is read back.
use core::mem::offset_of;

use super::bytes::{self, set_field};
use super::kvm::{self, kvm_run};
use crate::run::Leave;

/// Where the data of port accesses are: in the second page.
pub const IO_DATA: usize = 4096;

/// The size of the shared memory: the page of `kvm_run`, and one for the data
/// of port accesses.
pub const AREA_SIZE: usize = 2 * 4096;

/// The shared memory: [`AREA_SIZE`] bytes, zero at first. A port provides it,
/// because a port maps it.
pub trait RunArea: Send + Sync {
    /// Reads bytes from `offset` on, each of them once. Bytes beyond the end
    /// read as 0.
    fn read(&self, offset: usize, into: &mut [u8]);

    /// Writes bytes from `offset` on. Those beyond the end are dropped.
    fn write(&self, offset: usize, bytes: &[u8]);
}

/// What the owner wants of a run.
pub(super) struct Wish {
    /// Come back when the guest can take an interrupt.
    pub(super) window: bool,
    /// Come back at once.
    pub(super) at_once: bool,
    /// CR8.
    pub(super) cr8: u64,
}

/// Reads what the owner wants.
pub(super) fn wish(area: &impl RunArea) -> Wish {
    const END: usize = offset_of!(kvm_run, apic_base);
    let mut head = [0; END];
    area.read(0, &mut head);
    Wish {
        window: bytes::field!(head, kvm_run.request_interrupt_window: u8) != 0,
        at_once: bytes::field!(head, kvm_run.immediate_exit: u8) != 0,
        cr8: bytes::field!(head, kvm_run.cr8: u64),
    }
}

/// What the owner is told whatever happened.
pub(super) struct State {
    /// An interrupt would be taken at once.
    pub(super) ready: bool,
    /// RFLAGS.IF.
    pub(super) interrupts_on: bool,
    /// CR8.
    pub(super) cr8: u64,
    /// IA32_APIC_BASE.
    pub(super) apic_base: u64,
}

/// Tells the owner the state.
pub(super) fn tell_state(area: &impl RunArea, state: &State) {
    const FROM: usize = offset_of!(kvm_run, ready_for_interrupt_injection);
    const TO: usize = offset_of!(kvm_run, __bindgen_anon_1);
    let mut head = [0; TO];
    set_field!(
        head,
        kvm_run.ready_for_interrupt_injection = u8::from(state.ready)
    );
    set_field!(head, kvm_run.if_flag = u8::from(state.interrupts_on));
    set_field!(head, kvm_run.cr8 = state.cr8);
    set_field!(head, kvm_run.apic_base = state.apic_base);
    if let Some(part) = head.get(FROM..) {
        area.write(FROM, part);
    }
}

/// Where the bytes that a device answers will be, and how many.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    pub(super) offset: usize,
    pub(super) len: usize,
}

/// Tells the owner why the vCPU came back; `data` are the vCPU's. Returns where
/// the answer is expected, if one is.
pub(super) fn tell_leave(area: &impl RunArea, leave: &Leave, data: &[u8]) -> Option<Wanted> {
    const FROM: usize = offset_of!(kvm_run, __bindgen_anon_1);
    const MMIO_DATA: usize = offset_of!(kvm_run, __bindgen_anon_1.mmio.data);
    // The largest of the structures that are filled in here.
    let mut bytes = [0; FROM + 32];
    let mut wanted = None;
    let reason = match *leave {
        Leave::Io {
            port,
            size,
            input,
            count,
        } => {
            const OUT: u8 = 1;
            let direction = if input { 0 } else { OUT };
            set_field!(bytes, kvm_run.__bindgen_anon_1.io.direction = direction);
            set_field!(bytes, kvm_run.__bindgen_anon_1.io.size = size);
            set_field!(bytes, kvm_run.__bindgen_anon_1.io.port = port);
            set_field!(bytes, kvm_run.__bindgen_anon_1.io.count = count);
            set_field!(
                bytes,
                kvm_run.__bindgen_anon_1.io.data_offset = IO_DATA as u64
            );
            if input {
                wanted = Some(Wanted {
                    offset: IO_DATA,
                    len: data.len(),
                });
            }
            area.write(IO_DATA, data);
            kvm::KVM_EXIT_IO
        }
        Leave::Mmio { gpa, size, write } => {
            set_field!(bytes, kvm_run.__bindgen_anon_1.mmio.phys_addr = gpa.0);
            set_field!(bytes, kvm_run.__bindgen_anon_1.mmio.len = u32::from(size));
            set_field!(
                bytes,
                kvm_run.__bindgen_anon_1.mmio.is_write = u8::from(write)
            );
            bytes::put(&mut bytes, MMIO_DATA, data.get(..8).unwrap_or(data));
            if !write {
                wanted = Some(Wanted {
                    offset: MMIO_DATA,
                    len: data.len().min(8),
                });
            }
            kvm::KVM_EXIT_MMIO
        }
        Leave::Halted => kvm::KVM_EXIT_HLT,
        Leave::Shutdown => kvm::KVM_EXIT_SHUTDOWN,
        Leave::Interrupted => kvm::KVM_EXIT_INTR,
        Leave::InterruptWindow => kvm::KVM_EXIT_IRQ_WINDOW_OPEN,
        Leave::TaskPriority => kvm::KVM_EXIT_SET_TPR,
        Leave::EntryFailed(why) => {
            set_field!(
                bytes,
                kvm_run
                    .__bindgen_anon_1
                    .fail_entry
                    .hardware_entry_failure_reason = why
            );
            kvm::KVM_EXIT_FAIL_ENTRY
        }
        Leave::Unknown(why) => {
            set_field!(
                bytes,
                kvm_run.__bindgen_anon_1.hw.hardware_exit_reason = why
            );
            kvm::KVM_EXIT_UNKNOWN
        }
        Leave::EmulationFailed => {
            let why = kvm::KVM_INTERNAL_ERROR_EMULATION;
            set_field!(bytes, kvm_run.__bindgen_anon_1.internal.suberror = why);
            kvm::KVM_EXIT_INTERNAL_ERROR
        }
    };
    if let Some(part) = bytes.get(FROM..) {
        area.write(FROM, part);
    }
    area.write(offset_of!(kvm_run, exit_reason), &reason.to_le_bytes());
    wanted
}
