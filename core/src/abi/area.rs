//! The memory that a vCPU's descriptor shares with its owner, and what KVM_RUN
//! says in it.
//!
//! The owner can write there at any time, so every word is read once, and
//! nothing that was written is believed when it is read back. Everything is
//! read and written in words of 64 bits, which costs least.
use core::mem::offset_of;

use waterbear_hal::Hal;
use waterbear_hal::sync::atomic::{AtomicU64, Ordering};

use super::kvm::{self, kvm_run};
use crate::run::{GuestCpu, Leave};
use crate::vendor::Vendor;

/// Where the data of port accesses are: in the second page.
pub const IO_DATA: usize = 4096;

/// The size of the shared memory: the page of `kvm_run`, and one for the data
/// of port accesses.
pub const AREA_SIZE: usize = 2 * 4096;

/// The shared memory: [`AREA_SIZE`] bytes, zero at first. A port provides it,
/// because a port maps it.
pub trait RunArea: Send + Sync {
    /// All of it.
    fn words(&self) -> &[AtomicU64];
}

/// The places of `kvm_run` that are used, by word.
mod place {
    use super::{kvm_run, offset_of};

    /// What the owner asks for: bytes.
    pub(super) const REQUESTS: usize = 0;
    pub(super) const IMMEDIATE_EXIT: u32 = 8 * offset_of!(kvm_run, immediate_exit) as u32;
    /// Why the vCPU came back, and what the owner is told of interrupts.
    pub(super) const REASON: usize = offset_of!(kvm_run, exit_reason) / 8;
    pub(super) const READY: u32 =
        8 * (offset_of!(kvm_run, ready_for_interrupt_injection) - 8 * REASON) as u32;
    pub(super) const IF_FLAG: u32 = 8 * (offset_of!(kvm_run, if_flag) - 8 * REASON) as u32;
    pub(super) const CR8: usize = offset_of!(kvm_run, cr8) / 8;
    pub(super) const APIC_BASE: usize = offset_of!(kvm_run, apic_base) / 8;
    /// More about the reason.
    pub(super) const DETAILS: usize = offset_of!(kvm_run, __bindgen_anon_1) / 8;
    /// The bytes of an MMIO access.
    pub(super) const MMIO_DATA: usize = DETAILS + 1;

    // The layout that the words below have.
    const _: () = assert!(
        offset_of!(kvm_run, request_interrupt_window) == 0
            && offset_of!(kvm_run, immediate_exit) < 8
            && offset_of!(kvm_run, exit_reason) == 8 * REASON
            && offset_of!(kvm_run, if_flag) < 8 * REASON + 8
            && offset_of!(kvm_run, ready_for_interrupt_injection) >= 8 * REASON + 4
            && offset_of!(kvm_run, cr8) == 8 * CR8
            && offset_of!(kvm_run, apic_base) == 8 * APIC_BASE
            && offset_of!(kvm_run, __bindgen_anon_1) == 8 * DETAILS
    );
    const _: () = {
        use crate::abi::kvm::{
            kvm_run__bindgen_ty_1__bindgen_ty_4 as Io, kvm_run__bindgen_ty_1__bindgen_ty_6 as Mmio,
        };
        assert!(
            offset_of!(Io, direction) == 0
                && offset_of!(Io, size) == 1
                && offset_of!(Io, port) == 2
                && offset_of!(Io, count) == 4
                && offset_of!(Io, data_offset) == 8
                && offset_of!(Mmio, phys_addr) == 0
                && offset_of!(Mmio, data) == 8
                && offset_of!(Mmio, len) == 16
                && offset_of!(Mmio, is_write) == 20
        );
    };
}

#[inline(always)]
fn load(area: &[AtomicU64], word: usize) -> u64 {
    let word = area.get(word);
    word.map_or(0, |word| word.load(Ordering::Relaxed))
}

#[inline(always)]
fn store(area: &[AtomicU64], word: usize, value: u64) {
    if let Some(word) = area.get(word) {
        word.store(value, Ordering::Relaxed);
    }
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
#[inline]
pub(super) fn wish(area: &[AtomicU64]) -> Wish {
    let requests = load(area, place::REQUESTS);
    Wish {
        window: requests & 0xff != 0,
        at_once: requests >> place::IMMEDIATE_EXIT & 0xff != 0,
        cr8: load(area, place::CR8),
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

/// Tells the owner the state, and why the vCPU came back unless the run failed.
#[inline]
pub(super) fn tell_state(area: &[AtomicU64], reason: Option<u32>, state: &State) {
    let reason = reason.unwrap_or_else(|| load(area, place::REASON) as u32);
    let word = u64::from(reason)
        | u64::from(state.ready) << place::READY
        | u64::from(state.interrupts_on) << place::IF_FLAG;
    store(area, place::REASON, word);
    store(area, place::CR8, state.cr8);
    store(area, place::APIC_BASE, state.apic_base);
}

/// The first word of where the bytes that a device answers will be.
#[derive(Clone, Copy)]
pub(super) struct Wanted(usize);

/// Reads what a device has answered, into the vCPU's data.
#[inline]
pub(super) fn take_answer<H: Hal, V: Vendor>(
    area: &[AtomicU64],
    wanted: Wanted,
    cpu: &mut GuestCpu<H, V>,
) {
    for (at, word) in (wanted.0..).zip(cpu.words()) {
        *word = load(area, at).to_le_bytes();
    }
}

/// What is told of a leave: its reason, and where its answer is expected, if
/// one is.
pub(super) struct Told {
    pub(super) reason: u32,
    pub(super) wanted: Option<Wanted>,
}

/// Tells the owner the details of why the vCPU came back, and its data.
#[inline]
pub(super) fn tell_leave<H: Hal, V: Vendor>(
    area: &[AtomicU64],
    leave: &Leave,
    cpu: &mut GuestCpu<H, V>,
) -> Told {
    let mut wanted = None;
    let mut details = [0; 3];
    if *leave == Leave::Interrupted {
        // There are no details.
        return Told {
            reason: kvm::KVM_EXIT_INTR,
            wanted,
        };
    }
    let reason = match *leave {
        Leave::Io {
            port,
            size,
            input,
            count,
        } => {
            const OUT: u64 = 1;
            let direction = if input { 0 } else { OUT };
            let access = direction | u64::from(size) << 8 | u64::from(port) << 16;
            details = [access | u64::from(count) << 32, IO_DATA as u64, 0];
            const FIRST: usize = IO_DATA / 8;
            for (at, word) in (FIRST..).zip(cpu.words()) {
                store(area, at, u64::from_le_bytes(*word));
            }
            if input {
                wanted = Some(Wanted(FIRST));
            }
            kvm::KVM_EXIT_IO
        }
        Leave::Mmio { gpa, size, write } => {
            details = [gpa.0, cpu.word(), u64::from(size) | u64::from(write) << 32];
            if !write {
                wanted = Some(Wanted(place::MMIO_DATA));
            }
            kvm::KVM_EXIT_MMIO
        }
        Leave::Halted => kvm::KVM_EXIT_HLT,
        Leave::Shutdown => kvm::KVM_EXIT_SHUTDOWN,
        Leave::Interrupted => kvm::KVM_EXIT_INTR,
        Leave::InterruptWindow => kvm::KVM_EXIT_IRQ_WINDOW_OPEN,
        Leave::TaskPriority => kvm::KVM_EXIT_SET_TPR,
        // The number of the hardware comes first in both.
        Leave::EntryFailed(why) => {
            details[0] = why;
            kvm::KVM_EXIT_FAIL_ENTRY
        }
        Leave::Unknown(why) => {
            details[0] = why;
            kvm::KVM_EXIT_UNKNOWN
        }
        Leave::EmulationFailed => {
            details[0] = kvm::KVM_INTERNAL_ERROR_EMULATION.into();
            kvm::KVM_EXIT_INTERNAL_ERROR
        }
    };
    let [first, second, third] = details;
    store(area, place::DETAILS, first);
    store(area, place::DETAILS + 1, second);
    store(area, place::DETAILS + 2, third);
    Told { reason, wanted }
}
