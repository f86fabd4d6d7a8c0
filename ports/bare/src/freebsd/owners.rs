//! Processes that share, lose and leave what they have.
use core::sync::atomic::{AtomicU32, Ordering};

use waterbear_core::abi::kvm::*;
use waterbear_hal::CpuSet;
use waterbear_hal::addr::PAGE_SIZE;

use super::calls::{Errno, Process};
use super::kvm::{Exit, Node, Vcpu, Vm};
use super::{Host, Verdict, must, must_be};
use crate::host::wait;
use crate::smp;

const EIO: Errno = Errno(5);

/// Guest code for real mode, and where it is.
const AT: u64 = 0x1000;
/// `inc byte [0x1800]; jmp 0`.
const SPIN: &[u8] = &[0xfe, 0x06, 0x00, 0x18, 0xeb, 0xfa];
/// Where both programs have their first byte.
const BYTE: u64 = 0x1800;
/// `mov al, [0x1800]; mov [0x1801], al; hlt; jmp 0`.
pub const COPY: &[u8] = &[0xa0, 0x00, 0x18, 0xa2, 0x01, 0x18, 0xf4, 0xeb, 0xf7];

/// A VM with one vCPU, which runs this code, and where the process has its memory.
pub fn guest(node: &Node, code: &[u8]) -> Result<(Vm, Vcpu, u64), Errno> {
    let calls = node.calls;
    let vm = node.vm()?;
    let memory = calls.mmap(-1, 2 * PAGE_SIZE, 0)?;
    vm.set_slot(0, 0, 0, (memory, 2 * PAGE_SIZE))?;
    calls.poke(memory + AT, code)?;
    let vcpu = vm.vcpu(node, 0, AT)?;
    Ok((vm, vcpu, memory))
}

pub fn descriptors_are_closed_in_every_order(host: &Host) -> Verdict {
    let calls = host.calls;
    for order in 0..24 {
        host.with_process(|process| {
            let node = Node::open(calls)?;
            let (vm, vcpu, memory) = guest(&node, COPY)?;
            vcpu.run()?;
            let mut left = [0, 1, 2, 3];
            let mut choice = order;
            for count in (1..=4).rev() {
                let index = choice % count;
                choice /= count;
                let what = left[index];
                left.copy_within(index + 1.., index);
                match what {
                    0 => calls.close(node.fd)?,
                    1 => calls.close(vm.fd)?,
                    2 => calls.close(vcpu.fd)?,
                    _ => calls.munmap(vcpu.area)?,
                }
            }
            calls.munmap(memory)?;
            must(calls.counts().wired == 0, "a page stays pinned")?;
            calls.exit(process);
            Ok(())
        })?;
    }
    Ok(())
}

pub fn another_process_gives_no_commands(host: &Host) -> Verdict {
    let calls = host.calls;
    host.with_process(|process| {
        let node = Node::open(calls)?;
        let (vm, vcpu, _) = guest(&node, COPY)?;
        let child = calls.fork(process);
        calls.enter(child);
        for (descriptor, command) in [(vm, KVM_CREATE_VCPU), (vm, KVM_CHECK_EXTENSION)] {
            let result = descriptor.command(command, 1);
            must_be(result, EIO, "a VM takes commands from a child")?;
        }
        for command in [KVM_RUN, KVM_GET_MP_STATE] {
            must_be(
                vcpu.command(command, vcpu.area),
                EIO,
                "a vCPU takes commands from a child",
            )?;
        }
        // The child makes one of its own, and goes.
        let own = Node::open(calls)?;
        guest(&own, COPY)?.1.run()?;
        calls.exit(child);
        calls.enter(process);
        vcpu.run()?;
        calls.exec(process);
        let result = vm.command(KVM_CREATE_VCPU, 1);
        must_be(result, EIO, "another program gives commands")?;
        calls.exit(process);
        Ok(())
    })
}

pub fn a_child_shares_the_guests_memory(host: &Host) -> Verdict {
    let calls = host.calls;
    host.with_process(|process| {
        let node = Node::open(calls)?;
        let (_, vcpu, memory) = guest(&node, COPY)?;
        let copied = |value: u8| {
            calls.poke(memory + 0x1800, &[value])?;
            let halted = matches!(vcpu.run()?, Exit::Halt);
            let mut seen = [0];
            calls.peek(memory + 0x1801, &mut seen)?;
            Ok::<_, Errno>(halted && seen == [value])
        };
        must(copied(1)?, "the guest does not run")?;
        let child = calls.fork(process);
        must(copied(2)?, "the parent has other memory than its guest")?;
        calls.exit(child);
        must(copied(3)?, "the child took the memory with it")?;
        calls.exit(process);
        Ok(())
    })
}

/// Runs a vCPU with [`SPIN`] on CPU 1 for `process`, and `meanwhile` here; then a signal ends it.
fn while_it_runs(
    host: &Host,
    process: Process,
    (vcpu, memory): (Vcpu, u64),
    meanwhile: impl Fn() + Sync,
) -> Verdict {
    let calls = host.calls;
    let result = AtomicU32::new(0);
    let has_ended = || result.load(Ordering::Acquire) != 0;
    let mut cpus = CpuSet::new();
    cpus.insert(0);
    cpus.insert(1);
    smp::run_on(&cpus, &|cpu| {
        if cpu == 1 {
            calls.enter(process);
            let exit = vcpu.run();
            let interrupted = matches!(exit, Ok(Exit::Interrupted));
            result.store(1 + u32::from(interrupted), Ordering::Release);
            wait::wake(0);
        } else {
            let mut byte = [0];
            while byte == [0] && !has_ended() && calls.peek(memory + BYTE, &mut byte).is_ok() {
                core::hint::spin_loop();
            }
            meanwhile();
            calls.signal(1);
            wait::until(false, has_ended);
        }
    });
    must(
        result.into_inner() == 2,
        "the guest did not end with a signal",
    )
}

pub fn a_process_dies_while_its_guest_runs(host: &Host) -> Verdict {
    let calls = host.calls;
    host.with_process(|process| {
        let node = Node::open(calls)?;
        let (_, vcpu, memory) = guest(&node, SPIN)?;
        // Its threads are ended first, then its descriptors are closed, then its memory goes.
        while_it_runs(host, process, (vcpu, memory), || {})?;
        calls.exit(process);
        Ok(())
    })
}

pub fn a_descriptor_is_closed_under_a_guest_that_runs(host: &Host) -> Verdict {
    let calls = host.calls;
    host.with_process(|process| {
        let node = Node::open(calls)?;
        let (vm, vcpu, memory) = guest(&node, SPIN)?;
        while_it_runs(host, process, (vcpu, memory), || {
            for descriptor in [vcpu.fd, vm.fd, node.fd] {
                // They are open, so it works.
                let _ = calls.close(descriptor);
            }
            let _ = calls.munmap(memory);
        })?;
        must(calls.counts().files == 0, "a descriptor stays open")?;
        must(calls.counts().wired == 0, "a page stays pinned")?;
        calls.exit(process);
        Ok(())
    })
}

/// Its pages are not the kernel's to pin: who gives them back would give back somebody else's.
pub fn a_vcpus_own_memory_is_no_guest_memory(host: &Host) -> Verdict {
    let calls = host.calls;
    host.with_process(|process| {
        let node = Node::open(calls)?;
        let (vm, vcpu, _) = guest(&node, COPY)?;
        let area = calls.mmap(vcpu.fd, 2 * PAGE_SIZE, PAGE_SIZE)?;
        vm.set_slot(0, 0, 0, (area, 0))?;
        vm.set_slot(0, 0, 0, (area, 2 * PAGE_SIZE))?;
        must(vcpu.run().is_err(), "the guest runs on the vCPU's pages")?;
        vm.set_slot(0, 0, 0, (area, 0))?;
        must(calls.counts().wired == 0, "a page stays pinned")?;
        calls.exit(process);
        Ok(())
    })
}
