//! What must be refused, with the error that says why.
use core::mem::size_of;

use waterbear_core::abi::kvm::*;
use waterbear_hal::addr::PAGE_SIZE;

use super::calls::Errno;
use super::kvm::{Node, encoded};
use super::{Host, Verdict, must, must_be};

const ENOMEM: Errno = Errno(12);
const EFAULT: Errno = Errno(14);
const EMFILE: Errno = Errno(24);
const ENOTTY: Errno = Errno(25);

pub fn the_numbers_of_linux_are_refused(host: &Host) -> Verdict {
    let calls = host.calls;
    host.with_process(|process| {
        let node = Node::open(calls)?;
        let vm = node.vm()?;
        let vcpu = vm.vcpu(&node, 0, 0)?;
        let memory = calls.mmap(-1, PAGE_SIZE, 0)?;
        for (descriptor, command) in [
            (node.fd, KVM_GET_API_VERSION),
            (node.fd, KVM_CREATE_VM),
            (node.fd, KVM_GET_MSR_INDEX_LIST),
            (vm.fd, KVM_CREATE_VCPU),
            (vm.fd, KVM_SET_USER_MEMORY_REGION),
            (vm.fd, KVM_GET_DIRTY_LOG),
            (vcpu.fd, KVM_RUN),
            (vcpu.fd, KVM_GET_REGS),
            (vcpu.fd, KVM_SET_REGS),
            (vcpu.fd, KVM_GET_MSRS),
        ] {
            let result = calls.ioctl(descriptor, command.into(), memory);
            must_be(result, ENOTTY, "a number of Linux's is taken")?;
            // Another descriptor's.
            let result = calls.ioctl(descriptor, encoded(KVM_GET_NR_MMU_PAGES), memory);
            must_be(result, ENOTTY, "a command is taken that is not served")?;
        }
        let result = calls.mmap(vm.fd, PAGE_SIZE, 0);
        must_be(result, Errno(19), "a VM has no memory to map")?;
        let result = calls.mmap(vcpu.fd, 4 * PAGE_SIZE, 0);
        must_be(result, Errno(22), "a vCPU has three pages")?;
        calls.exit(process);
        Ok(())
    })
}

pub fn every_other_encoding_is_refused(host: &Host) -> Verdict {
    const COPY_IN: u64 = 0x8000_0000;
    const COPY_OUT: u64 = 0x4000_0000;
    const NOTHING: u64 = 0x2000_0000;
    const INT: u64 = 4 << 16;
    let calls = host.calls;
    host.with_process(|process| {
        let node = Node::open(calls)?;
        let vm = node.vm()?;
        let vcpu = vm.vcpu(&node, 0, 0)?;
        let memory = calls.mmap(-1, PAGE_SIZE, 0)?;
        for (descriptor, command) in [
            (node.fd, KVM_CREATE_VM),
            (vm.fd, KVM_CREATE_VCPU),
            (vm.fd, KVM_GET_CLOCK),
            (vcpu.fd, KVM_RUN),
            (vcpu.fd, KVM_SET_REGS),
        ] {
            let right = encoded(command);
            let bare = right & !NOTHING;
            for wrong in [
                bare,
                bare | COPY_IN,
                bare | COPY_IN | INT,
                bare | COPY_OUT | INT,
                bare | COPY_IN | COPY_OUT | INT,
                right | INT,
                right | 8 << 16,
                // Another group, and another number.
                right ^ 0x10 << 8,
                right | 0x80,
            ] {
                if wrong != right {
                    let result = calls.ioctl(descriptor, wrong, memory);
                    must_be(result, ENOTTY, "a wrong number is taken")?;
                }
            }
        }
        // What fcntl(2) asks of every file, with FreeBSD's numbers.
        for descriptor in [node.fd, vm.fd, vcpu.fd] {
            for (letter, number) in [(b'f', 126), (b'f', 125)] {
                let command = COPY_IN | INT | u64::from(letter) << 8 | number;
                calls.ioctl(descriptor, command, memory)?;
            }
        }
        calls.exit(process);
        Ok(())
    })
}

pub fn without_descriptors_nothing_is_made(host: &Host) -> Verdict {
    let calls = host.calls;
    host.with_process(|process| {
        let node = Node::open(calls)?;
        let vm = node.vm()?;
        let before = calls.counts();
        let mut last = Err(EMFILE);
        while let Ok(descriptor) = calls.open(c"waterbear") {
            last = Ok(descriptor);
        }
        let full = calls.counts();
        must_be(node.vm(), EMFILE, "a VM has no descriptor")?;
        must_be(vm.command(KVM_CREATE_VCPU, 0), EMFILE, "nor has a vCPU")?;
        must(calls.counts() == full, "something is left")?;
        calls.close(last?)?;
        // The number is free still.
        vm.command(KVM_CREATE_VCPU, 0)?;
        must(calls.counts().files > before.files, "all were closed")?;
        calls.exit(process);
        Ok(())
    })
}

pub fn user_pointers_to_nowhere_are_faults(host: &Host) -> Verdict {
    let calls = host.calls;
    host.with_process(|process| {
        let node = Node::open(calls)?;
        let vm = node.vm()?;
        let vcpu = vm.vcpu(&node, 0, 0)?;
        let memory = calls.mmap(-1, PAGE_SIZE, 0)?;
        let read_only = calls.mmap_read_only(PAGE_SIZE)?;
        let kernel = (&raw const *host) as u64;
        // Nowhere, at both ends of the addresses, in the kernel, and not all of it.
        let nowhere = [
            0,
            PAGE_SIZE,
            memory - 1,
            memory + PAGE_SIZE,
            memory + PAGE_SIZE - 3,
            kernel,
            0xffff_f800_0010_0000,
            0xffff_ffff_a000_0000,
            0x8000_0000_0000_0000,
            u64::MAX,
            u64::MAX - 7,
        ];
        for (descriptor, command) in [
            (node.fd, KVM_GET_SUPPORTED_CPUID),
            (node.fd, KVM_GET_MSR_INDEX_LIST),
            (vm.fd, KVM_SET_USER_MEMORY_REGION),
            (vm.fd, KVM_GET_DIRTY_LOG),
            (vm.fd, KVM_GET_CLOCK),
            (vcpu.fd, KVM_GET_REGS),
            (vcpu.fd, KVM_SET_REGS),
            (vcpu.fd, KVM_GET_SREGS),
            (vcpu.fd, KVM_SET_SREGS),
            (vcpu.fd, KVM_GET_FPU),
            (vcpu.fd, KVM_SET_FPU),
            (vcpu.fd, KVM_GET_XSAVE),
            (vcpu.fd, KVM_SET_XSAVE),
            (vcpu.fd, KVM_GET_VCPU_EVENTS),
            (vcpu.fd, KVM_SET_CPUID2),
            (vcpu.fd, KVM_GET_MSRS),
        ] {
            for address in nowhere {
                let result = calls.ioctl(descriptor, encoded(command), address);
                must_be(result, EFAULT, "a pointer to nowhere is taken")?;
            }
        }
        for command in [KVM_GET_REGS, KVM_GET_SREGS, KVM_GET_VCPU_EVENTS] {
            let result = vcpu.command(command, read_only);
            must_be(result, EFAULT, "memory is written that may not be")?;
        }
        // A structure that ends where the memory does.
        let last = memory + PAGE_SIZE - size_of::<kvm_regs>() as u64;
        vcpu.command(KVM_GET_REGS, last)?;
        calls.exit(process);
        Ok(())
    })
}

pub fn slots_count_against_the_limit_of_locked_memory(host: &Host) -> Verdict {
    let calls = host.calls;
    host.with_process(|process| {
        let node = Node::open(calls)?;
        let (one, other) = (node.vm()?, node.vm()?);
        let memory = calls.mmap(-1, 8 * PAGE_SIZE, 0)?;
        calls.limit(process, 5 * PAGE_SIZE);
        one.set_slot(0, 0, 0, (memory, 4 * PAGE_SIZE))?;
        let next = (memory + 4 * PAGE_SIZE, 2 * PAGE_SIZE);
        for vm in [one, other] {
            let result = vm.set_slot(1, 0, 0x10_0000, next);
            must_be(result, ENOMEM, "more is pinned than may be")?;
        }
        one.set_slot(0, 0, 0, (memory, 0))?;
        other.set_slot(1, 0, 0x10_0000, next)?;
        one.set_slot(0, 0, 0, (memory, 3 * PAGE_SIZE))?;
        calls.close(other.fd)?;
        one.set_slot(1, 0, 0x10_0000, next)?;
        calls.exit(process);
        Ok(())
    })
}
