//! Loading and unloading.
use core::sync::atomic::{AtomicU32, Ordering};

use x86::msr::{IA32_EFER, rdmsr};

use super::calls::Errno;
use super::kvm::{Exit, Node};
use super::owners::{COPY, guest};
use super::{Host, Verdict, must, must_be};
use crate::host;

const EBUSY: Errno = Errno(16);

pub fn the_module_loads_opens_and_unloads(host: &Host) -> Verdict {
    host.with_process(|process| {
        let node = Node::open(host.calls)?;
        node.vm()?;
        host.calls.exit(process);
        Ok(())
    })
}

pub fn unloading_is_refused_while_there_is_a_vm(host: &Host) -> Verdict {
    let calls = host.calls;
    host.with_process(|process| {
        let node = Node::open(calls)?;
        let vm = node.vm()?;
        must_be(host.unload(), EBUSY, "there is a VM")?;
        let vcpu = vm.vcpu(&node, 0, 0)?;
        calls.close(vm.fd)?;
        must_be(host.unload(), EBUSY, "a vCPU keeps its VM")?;
        calls.close(vcpu.fd)?;
        must_be(host.unload(), EBUSY, "a vCPU's memory is mapped")?;
        calls.munmap(vcpu.area)?;
        // An open node keeps nothing.
        host.unload()?;
        must(
            node.vm().is_err(),
            "a node works without the module behind it",
        )?;
        calls.exit(process);
        Ok(host.load()?)
    })
}

pub fn a_load_that_fails_leaves_nothing(host: &Host) -> Verdict {
    let calls = host.calls;
    let before = calls.counts();
    for successes in 0.. {
        calls.fail_after(Some(successes));
        let loaded = host.load();
        let failed = calls.attempts() > successes.into();
        calls.fail_after(None);
        if loaded.is_ok() {
            host.unload()?;
        }
        must(calls.counts() == before, "something is left")?;
        if !failed {
            must(successes > 5, "a load needs more than that")?;
            break;
        }
    }
    Ok(())
}

pub fn another_hypervisor_keeps_what_it_has(host: &Host) -> Verdict {
    host.calls.rival(true);
    let loaded = host.load();
    let stayed = host.calls.rival(false);
    must_be(loaded, EBUSY, "there is room for one hypervisor")?;
    must(stayed, "the other one hears of nothing any more")
}

/// On how many CPUs SVM is on.
fn on() -> u32 {
    const SVM_ON: u64 = 1 << 12;
    let on = AtomicU32::new(0);
    host::run_on_all(|_| {
        // SAFETY: every CPU with SVM has the register.
        if unsafe { rdmsr(IA32_EFER) } & SVM_ON != 0 {
            on.fetch_add(1, Ordering::Relaxed);
        }
    });
    on.into_inner()
}

pub fn the_hardware_is_off_when_the_machine_goes_down(host: &Host) -> Verdict {
    host.with_process(|process| {
        let node = Node::open(host.calls)?;
        let vm = node.vm()?;
        must(on() == host::count(), "SVM is off while there is a VM")?;
        host.calls.shut_down()?;
        must(on() == 0, "SVM stays on")?;
        host.calls.close(vm.fd)?;
        host.calls.exit(process);
        Ok(())
    })
}

pub fn guests_go_on_when_the_machine_has_slept(host: &Host) -> Verdict {
    let calls = host.calls;
    host.with_process(|process| {
        let node = Node::open(calls)?;
        let (_, vcpu, _) = guest(&node, COPY)?;
        vcpu.run()?;
        for _ in 0..2 {
            calls.suspend(true);
            must(on() == 0, "SVM stays on in sleep")?;
            calls.suspend(false);
            must(on() == host::count(), "SVM stays off")?;
            must(matches!(vcpu.run()?, Exit::Halt), "the guest is lost")?;
        }
        calls.exit(process);
        Ok(())
    })
}
