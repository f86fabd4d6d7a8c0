//! The memory of a VM's slots: charged to its owner, because every page of it may come to be
//! pinned, and kept the same across a fork.
use core::ffi::{c_ulong, c_void};
use core::mem::offset_of;

use waterbear_core::Error;
use waterbear_core::abi::kvm::{self, kvm_userspace_memory_region};
use waterbear_core::abi::{Answer, Caller};
use waterbear_core::memslot::SpaceId;
use waterbear_kernel::files::{self, OwnedVm, Process};
use waterbear_kernel::glue::{Number, Signals, SpaceStruct};

use crate::commands::decoded;

unsafe extern "C" {
    fn wb_space_lock(space: *mut SpaceStruct);
    fn wb_space_unlock(space: *mut SpaceStruct);
    fn wb_space_charge(space: *mut SpaceStruct, pages: c_ulong) -> bool;
    safe fn wb_share_with_children(start: c_ulong, size: c_ulong);
}

const SIZE: usize = size_of::<kvm_userspace_memory_region>();

/// The caller, whose region has been copied: the core sees the same one as this port.
struct Copied {
    address: u64,
    region: [u8; SIZE],
}

impl Copied {
    fn word(&self, offset: usize) -> u64 {
        let bytes = self
            .region
            .get(offset..)
            .and_then(|rest| rest.first_chunk());
        u64::from_le_bytes(bytes.copied().unwrap_or_default())
    }
}

impl Caller for Copied {
    fn copy_in(&self, address: u64, into: &mut [u8]) -> Result<(), Error> {
        if address != self.address || into.len() != SIZE {
            return Process.copy_in(address, into);
        }
        into.copy_from_slice(&self.region);
        Ok(())
    }

    fn copy_out(&self, address: u64, bytes: &[u8]) -> Result<(), Error> {
        Process.copy_out(address, bytes)
    }

    type Mask = Signals;

    fn mask_signals(&self, mask: u64) -> Signals {
        Process.mask_signals(mask)
    }

    fn unmask_signals(&self, before: Signals) {
        Process.unmask_signals(before);
    }
}

/// How many pages the slots have.
fn pages(owned: &OwnedVm) -> u64 {
    let slots = owned.file.vm().memslots().read();
    let of = |space| slots.set(space).iter().map(|slot| slot.npages).sum::<u64>();
    SpaceId::ALL.into_iter().map(of).sum()
}

/// Carries out KVM_SET_USER_MEMORY_REGION.
///
/// # Errors
///
/// As the interface says; [`Error::NoMemory`] also when the owner has no right to that much pinned
/// memory.
fn set(owned: &OwnedVm, address: u64) -> Answer {
    let mut copied = Copied {
        address,
        region: [0; SIZE],
    };
    Process.copy_in(address, &mut copied.region)?;
    let space = owned.file.vm().user().as_ptr();
    // SAFETY: the VM has it.
    unsafe { wb_space_lock(space) }
    let answer = set_locked(owned, space, &mut copied);
    // SAFETY: locked above.
    unsafe { wb_space_unlock(space) }
    answer
}

fn set_locked(owned: &OwnedVm, space: *mut SpaceStruct, copied: &mut Copied) -> Answer {
    let command = |copied: &Copied| {
        let command = kvm::KVM_SET_USER_MEMORY_REGION;
        owned.file.command(copied, command, copied.address)
    };
    const START: usize = offset_of!(kvm_userspace_memory_region, userspace_addr);
    const LENGTH: usize = offset_of!(kvm_userspace_memory_region, memory_size);
    let reply = command(copied)?;
    // SAFETY: the VM has it.
    if unsafe { wb_space_charge(space, pages(owned)) } {
        wb_share_with_children(copied.word(START), copied.word(LENGTH));
        return Ok(reply);
    }
    // Only a new slot makes the total grow, so this takes it away again.
    for byte in copied.region.iter_mut().skip(LENGTH).take(8) {
        *byte = 0;
    }
    command(copied)?;
    Err(Error::NoMemory.into())
}

/// A command for a VM, from its owner.
///
/// # Safety
///
/// `handle` belongs to a descriptor of a VM that is open.
#[unsafe(no_mangle)]
unsafe extern "C" fn waterbear_vm_command(
    handle: *mut c_void,
    command: c_ulong,
    argument: c_ulong,
) -> Number {
    let command = decoded(command);
    if command != kvm::KVM_SET_USER_MEMORY_REGION {
        // SAFETY: as the caller promises.
        return unsafe { files::waterbear_vm_ioctl(handle, command, argument) };
    }
    // SAFETY: as the caller promises.
    let answer = unsafe { files::of_caller(handle) }.and_then(|vm| set(vm, argument));
    files::returned(answer.map(|_| 0))
}
