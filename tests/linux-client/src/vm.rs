//! A VM's descriptor.
use std::os::fd::{AsRawFd, OwnedFd};

use waterbear_core::abi::kvm::*;

use crate::Outcome;
use crate::node::{self, same};
use crate::sys::{self, ioctl, ioctl_with};

/// Makes a VM.
pub fn make() -> Result<OwnedFd, String> {
    let node = node::open()?;
    match ioctl(&node, KVM_CREATE_VM, 0) {
        Ok(fd) => Ok(sys::owned(fd)),
        Err(error) => Err(format!("no VM: error {error}")),
    }
}

pub fn a_vm_is_made_and_only_of_type_0() -> Outcome {
    let node = node::open()?;
    same("type 1", ioctl(&node, KVM_CREATE_VM, 1), Err(libc::EINVAL))?;
    let far = ioctl(&node, KVM_CREATE_VM, 1 << 32);
    same("a type of more than 32 bits", far, Err(libc::EINVAL))?;
    let vms: Vec<_> = (0..20).map(|_| make()).collect::<Result<_, _>>()?;
    for vm in &vms {
        // SAFETY: no memory is involved.
        let flags = unsafe { libc::fcntl(vm.as_raw_fd(), libc::F_GETFD) };
        same("flags of the descriptor", flags, libc::FD_CLOEXEC)?;
    }
    Ok(())
}

pub fn what_a_vm_does_not_know_is_enotty() -> Outcome {
    let vm = make()?;
    for command in [0, KVM_GET_API_VERSION, KVM_CREATE_VM, KVM_RUN, u32::MAX] {
        let answer = ioctl(&vm, command, 0);
        same(&format!("{command:#x}"), answer, Err(libc::ENOTTY))?;
    }
    let slots = ioctl(&vm, KVM_CHECK_EXTENSION, KVM_CAP_NR_MEMSLOTS.into());
    same("slots", slots, Ok(32764))
}

pub fn nothing_but_the_owner_commands_a_vm() -> Outcome {
    let vm = make()?;
    let child = sys::fork(|| {
        let answer = ioctl(&vm, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY.into());
        i32::from(answer != Err(libc::EIO))
    });
    let status = child.and_then(sys::wait);
    same("a child's call", status, Ok(0))?;
    let answer = ioctl(&vm, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY.into());
    same("the owner's call", answer, Ok(1))
}

/// An argument of ENABLE_CAP.
fn enable(cap: u32, flags: u32, value: u64) -> kvm_enable_cap {
    kvm_enable_cap {
        cap,
        flags,
        args: [value, 0, 0, 0],
        pad: [0; 64],
    }
}

pub fn capabilities_are_enabled_that_work() -> Outcome {
    const LOG: u32 = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2;
    let vm = make()?;
    for (cap, flags, value, wanted) in [
        (LOG, 0, 1, Ok(0)),
        (LOG, 0, 0, Ok(0)),
        (LOG, 1, 1, Err(libc::EINVAL)),
        (LOG, 0, 2, Err(libc::EINVAL)),
        (LOG, 0, u64::MAX, Err(libc::EINVAL)),
        (KVM_CAP_SPLIT_IRQCHIP, 0, 24, Err(libc::EINVAL)),
        (u32::MAX, 0, 0, Err(libc::EINVAL)),
    ] {
        let answer = ioctl_with(&vm, KVM_ENABLE_CAP, &enable(cap, flags, value));
        same(&format!("{cap}, {flags:#x}, {value:#x}"), answer, wanted)?;
    }
    let nowhere = ioctl(&vm, KVM_ENABLE_CAP, 8);
    same("an argument that is nowhere", nowhere, Err(libc::EFAULT))
}

pub fn addresses_for_old_cpus_are_taken_and_checked() -> Outcome {
    let vm = make()?;
    let good = ioctl(&vm, KVM_SET_TSS_ADDR, 0xfffb_d000);
    same("a task state segment", good, Ok(0))?;
    let high = ioctl(&vm, KVM_SET_TSS_ADDR, 0xffff_e000);
    same("one that ends above 4 GiB", high, Err(libc::EINVAL))?;
    let far = ioctl(&vm, KVM_SET_TSS_ADDR, u64::MAX);
    same("one that begins above 4 GiB", far, Err(libc::EINVAL))?;
    let map = 0xfffb_c000_u64;
    let good = ioctl_with(&vm, KVM_SET_IDENTITY_MAP_ADDR, &map);
    same("an identity map", good, Ok(0))?;
    let nowhere = ioctl(&vm, KVM_SET_IDENTITY_MAP_ADDR, u64::MAX);
    same("one that is nowhere", nowhere, Err(libc::EFAULT))
}
