//! Memory slots and the dirty log.
use std::os::fd::{AsRawFd, OwnedFd};

use waterbear_core::abi::kvm::*;

use crate::node::same;
use crate::sys::{self, Mapping, ioctl, ioctl_with};
use crate::{Outcome, vm};

const PAGE: u64 = 4096;
const LOG: u32 = KVM_MEM_LOG_DIRTY_PAGES;
const READONLY: u32 = KVM_MEM_READONLY;

/// A slot: number, flags, guest address, size, address here.
pub type Slot = (u32, u32, u64, u64, u64);

/// Calls SET_USER_MEMORY_REGION.
pub fn set(vm: &impl AsRawFd, (slot, flags, guest, size, here): Slot) -> Result<i32, i32> {
    let region = kvm_userspace_memory_region {
        slot,
        flags,
        guest_phys_addr: guest,
        memory_size: size,
        userspace_addr: here,
    };
    ioctl_with(vm, KVM_SET_USER_MEMORY_REGION, &region)
}

pub fn slots_are_made_moved_and_deleted() -> Outcome {
    let vm = vm::make()?;
    let memory = Mapping::new(64 << 12);
    let here = memory.address();
    for slot in [
        (0, 0, 0, 16 * PAGE, here),
        // The same again.
        (0, 0, 0, 16 * PAGE, here),
        // Moved.
        (0, 0, 64 * PAGE, 16 * PAGE, here),
        // With a log, and without.
        (0, LOG, 64 * PAGE, 16 * PAGE, here),
        (0, 0, 64 * PAGE, 16 * PAGE, here),
        (1, READONLY, 0, PAGE, here + 32 * PAGE),
        // The other address space.
        (1 << 16, 0, 0, PAGE, here),
        (0, 0, 0, 0, 0),
        (1, 0, 0, 0, 0),
        (1 << 16, 0, 0, 0, 0),
    ] {
        same(&format!("{slot:x?}"), set(&vm, slot), Ok(0))?;
    }
    Ok(())
}

pub fn wrong_slots_are_refused() -> Outcome {
    let vm = vm::make()?;
    let memory = Mapping::new(64 << 12);
    let here = memory.address();
    let good = (3, 0, 16 * PAGE, 16 * PAGE, here);
    same("a good one", set(&vm, good), Ok(0))?;
    for (slot, wanted) in [
        ((3, 4, 16 * PAGE, 16 * PAGE, here), libc::EINVAL),
        ((3, READONLY, 16 * PAGE, 16 * PAGE, here), libc::EINVAL),
        ((3, 0, 16 * PAGE, 17 * PAGE, here), libc::EINVAL),
        ((3, 0, 16 * PAGE, 16 * PAGE, here + PAGE), libc::EINVAL),
        ((4, 0, 0, 0, 0), libc::EINVAL),
        ((4, 0, 1, PAGE, here), libc::EINVAL),
        ((4, 0, 0, 1, here), libc::EINVAL),
        ((4, 0, 0, PAGE, here + 1), libc::EINVAL),
        ((4, 0, 31 * PAGE, PAGE, here), libc::EEXIST),
        ((4, 0, 0, 17 * PAGE, here), libc::EEXIST),
        ((32764, 0, 0, PAGE, here), libc::EINVAL),
        ((2 << 16, 0, 0, PAGE, here), libc::EINVAL),
    ] {
        same(&format!("{slot:x?}"), set(&vm, slot), Err(wanted))?;
    }
    same("the good one again", set(&vm, good), Ok(0))
}

pub fn hostile_slots_are_refused() -> Outcome {
    let vm = vm::make()?;
    for slot in [
        (u32::MAX, 0, 0, PAGE, 0),
        (0, u32::MAX, 0, PAGE, 0),
        (0, 0, !(PAGE - 1), 2 * PAGE, 0),
        (0, 0, 0, !(PAGE - 1), 0),
        (0, 0, 0, 2 * PAGE, !(PAGE - 1)),
        (0, 0, 1 << 52, PAGE, 0),
        (0, 0, 0, 1 << 43, 0),
        (0, 0, 0, PAGE, 0xffff_8880_0000_0000),
    ] {
        same(&format!("{slot:x?}"), set(&vm, slot), Err(libc::EINVAL))?;
    }
    for address in [0, 8, 1 << 47, 0xffff_8880_0000_0000, u64::MAX] {
        let answer = ioctl(&vm, KVM_SET_USER_MEMORY_REGION, address);
        same(
            &format!("an argument at {address:#x}"),
            answer,
            Err(libc::EFAULT),
        )?;
    }
    // Half of it is there.
    let memory = Mapping::new(2 << 12);
    // SAFETY: the second page of our own mapping.
    unsafe { libc::munmap((memory.address() + PAGE) as *mut _, PAGE as usize) };
    let answer = ioctl(
        &vm,
        KVM_SET_USER_MEMORY_REGION,
        memory.address() + PAGE - 16,
    );
    same("an argument that ends too early", answer, Err(libc::EFAULT))
}

pub fn many_slots_can_be_made() -> Outcome {
    const MANY: u32 = 1000;
    let vm = vm::make()?;
    let memory = Mapping::new(1 << 12);
    for id in 0..MANY {
        let slot = (id, 0, u64::from(id) * PAGE, PAGE, memory.address());
        same(&format!("slot {id}"), set(&vm, slot), Ok(0))?;
    }
    let twice = (MANY, 0, 0, PAGE, memory.address());
    same("on top of another", set(&vm, twice), Err(libc::EEXIST))?;
    for id in (0..MANY).step_by(2) {
        same(&format!("deleting {id}"), set(&vm, (id, 0, 0, 0, 0)), Ok(0))?;
    }
    Ok(())
}

/// Calls GET_DIRTY_LOG.
pub fn get_log(vm: &OwnedFd, slot: u32, bitmap: u64) -> Result<i32, i32> {
    let log = kvm_dirty_log {
        slot,
        padding1: 0,
        __bindgen_anon_1: kvm_dirty_log__bindgen_ty_1 { padding2: bitmap },
    };
    ioctl_with(vm, KVM_GET_DIRTY_LOG, &log)
}

/// Calls CLEAR_DIRTY_LOG.
pub fn clear_log(vm: &OwnedFd, slot: u32, range: (u64, u32), bitmap: u64) -> Result<i32, i32> {
    let log = kvm_clear_dirty_log {
        slot,
        num_pages: range.1,
        first_page: range.0,
        __bindgen_anon_1: kvm_clear_dirty_log__bindgen_ty_1 { padding2: bitmap },
    };
    ioctl_with(vm, KVM_CLEAR_DIRTY_LOG, &log)
}

pub fn a_log_is_read_and_cleared() -> Outcome {
    let vm = vm::make()?;
    let memory = Mapping::new(100 << 12);
    let slot = (7, LOG, 0, 100 * PAGE, memory.address());
    same("the slot", set(&vm, slot), Ok(0))?;
    let log = [u64::MAX; 3];
    same("reading", get_log(&vm, 7, log.as_ptr() as u64), Ok(0))?;
    // SAFETY: the kernel wrote to it.
    let seen = unsafe { (&raw const log).read_volatile() };
    same("a log of 100 pages", seen, [0, 0, u64::MAX])?;
    let bits = log.as_ptr() as u64;
    same("all", clear_log(&vm, 7, (0, 100), bits), Ok(0))?;
    same("a part", clear_log(&vm, 7, (64, 36), bits), Ok(0))?;
    same("nothing", clear_log(&vm, 7, (64, 0), bits), Ok(0))
}

pub fn wrong_logs_are_refused() -> Outcome {
    let vm = vm::make()?;
    let memory = Mapping::new(300 << 12);
    let here = memory.address();
    same("with a log", set(&vm, (0, LOG, 0, 100 * PAGE, here)), Ok(0))?;
    let plain = (1, 0, 100 * PAGE, 100 * PAGE, here);
    same("without", set(&vm, plain), Ok(0))?;
    let log = [0_u64; 2];
    let bits = log.as_ptr() as u64;
    for (slot, bitmap, wanted) in [
        (1, bits, libc::ENOENT),
        (2, bits, libc::ENOENT),
        (32764, bits, libc::EINVAL),
        (2 << 16, bits, libc::EINVAL),
        (0, 8, libc::EFAULT),
        (0, u64::MAX, libc::EFAULT),
    ] {
        let answer = get_log(&vm, slot, bitmap);
        same(
            &format!("reading {slot:#x} to {bitmap:#x}"),
            answer,
            Err(wanted),
        )?;
    }
    for (slot, range, bitmap, wanted) in [
        (1, (0, 64), bits, libc::ENOENT),
        (2 << 16, (0, 64), bits, libc::EINVAL),
        (0, (1, 64), bits, libc::EINVAL),
        (0, (0, 63), bits, libc::EINVAL),
        (0, (64, 64), bits, libc::EINVAL),
        (0, (0, u32::MAX), bits, libc::EINVAL),
        (0, (!63, 64), bits, libc::EINVAL),
        (0, (0, 64), 8, libc::EFAULT),
    ] {
        let answer = clear_log(&vm, slot, range, bitmap);
        same(
            &format!("clearing {slot:#x} {range:x?}"),
            answer,
            Err(wanted),
        )?;
    }
    Ok(())
}

pub fn owners_memory_comes_and_goes() -> Outcome {
    let vm = vm::make()?;
    let memory = Mapping::new(4 << 20);
    let slot = (0, 0, 0, 4 << 20, memory.address());
    same("the slot", set(&vm, slot), Ok(0))?;
    for round in 0..8 {
        memory.touch(round);
        let advice = memory.advise(libc::MADV_DONTNEED);
        same("giving it back", advice, Ok(()))?;
        let rights = memory.protect(libc::PROT_READ);
        same("read-only", rights, Ok(()))?;
        let rights = memory.protect(libc::PROT_READ | libc::PROT_WRITE);
        same("writable again", rights, Ok(()))?;
        let child = sys::fork(|| 0);
        same("a child", child.and_then(sys::wait), Ok(0))?;
    }
    drop(memory);
    same("deleting", set(&vm, (0, 0, 0, 0, 0)), Ok(0))
}
