//! Everything that may fail does, from the first time on, then from the second, and so on.
use waterbear_hal::addr::PAGE_SIZE;

use super::calls::{Calls, Errno, Outcome};
use super::kvm::Node;
use super::{Host, Verdict, must};

const ENOMEM: Errno = Errno(12);
const ENFILE: Errno = Errno(23);

/// `mov [0x1800], al; hlt`.
const CODE: &[u8] = &[0xa2, 0x00, 0x18, 0xf4];

/// Opens, makes a VM and a vCPU, and runs it.
fn everything(calls: Calls) -> Outcome<()> {
    let node = Node::open(calls)?;
    let vm = node.vm()?;
    let memory = calls.mmap(-1, 8 * PAGE_SIZE, 0)?;
    calls.poke(memory + 0x1000, CODE)?;
    vm.set_slot(0, 0, 0, (memory, 4 * PAGE_SIZE))?;
    vm.set_slot(1, 1, 0x10_0000, (memory + 4 * PAGE_SIZE, 4 * PAGE_SIZE))?;
    let vcpu = vm.vcpu(&node, 0, 0x1000)?;
    vcpu.run()?;
    vm.dirty_log(1, memory)?;
    vm.set_slot(1, 0, 0, (memory, 0))
}

pub fn whatever_fails_is_undone(host: &Host) -> Verdict {
    let calls = host.calls;
    host.load()?;
    let before = calls.counts();
    for successes in 0.. {
        let process = calls.process();
        calls.enter(process);
        calls.fail_after(Some(successes));
        let result = everything(calls);
        let failed = calls.attempts() > successes.into();
        calls.fail_after(None);
        let refused = matches!(result, Err(ENOMEM | ENFILE));
        let worked = result.is_ok();
        if !refused && !worked {
            result?;
        }
        // With memory again, everything works in the same process.
        if refused {
            everything(calls)?;
        }
        calls.exit(process);
        must(calls.counts() == before, "something is left")?;
        if !failed {
            must(worked, "it fails without a reason")?;
            must(successes > 10, "more than that may fail")?;
            break;
        }
    }
    host.unload()?;
    Ok(())
}
