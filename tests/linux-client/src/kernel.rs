//! The module in the kernel: loading, unloading, CPUs, others that use the
//! same hardware, and what the kernel has to say.
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use waterbear_core::abi::kvm::*;

use crate::node::{self, NODE, same};
use crate::sys::{self, Mapping, ioctl};
use crate::{Outcome, cpus, memory, vm};

/// Where the module is.
pub const MODULE: &str = "/waterbear.ko";
pub const NAME: &str = "waterbear";

/// The kernel's log so far.
fn log() -> String {
    let mut text = String::new();
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/kmsg");
    let Ok(mut file) = file else { return text };
    // One record per read; it ends with an error.
    let mut record = [0; 8192];
    while let Ok(length @ 1..) = file.read(&mut record) {
        text += &String::from_utf8_lossy(&record[..length]);
    }
    text
}

/// Fails unless the log has these words.
fn said(words: &str) -> Outcome {
    if log().contains(words) {
        Ok(())
    } else {
        Err(format!("the log does not say {words:?}"))
    }
}

/// The kind of hardware virtualisation that this machine has.
fn vendor() -> &'static str {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    if cpus.split_whitespace().any(|word| word == "vmx") {
        "VMX"
    } else {
        "SVM"
    }
}

pub fn the_module_loads_and_says_so() -> Outcome {
    same("loading", sys::load(MODULE, ""), Ok(()))?;
    said(&format!("waterbear: {}: registered", vendor()))?;
    same("the node is there", Path::new(NODE).exists(), true)
}

pub fn a_second_load_is_refused() -> Outcome {
    same("loading", sys::load(MODULE, ""), Err(libc::EEXIST))
}

pub fn the_module_stays_while_a_vm_is_open() -> Outcome {
    let node = node::open()?;
    let busy = Err(libc::EAGAIN);
    same("with the node open", sys::unload(NAME), busy)?;
    let vm = vm::make()?;
    drop(node);
    same("with a VM open", sys::unload(NAME), busy)?;
    drop(vm);
    node::open().map(drop)
}

pub fn a_vm_goes_with_its_killed_owner() -> Outcome {
    for _ in 0..5 {
        let child = sys::fork(|| {
            let memory = Mapping::new(1 << 20);
            let vms: Vec<_> = (0..10).map_while(|_| vm::make().ok()).collect();
            for vm in &vms {
                let _ = memory::set(vm, (0, 0, 0, 1 << 20, memory.address()));
            }
            loop {
                std::thread::yield_now();
            }
        })
        .map_err(|error| format!("no child: error {error}"))?;
        std::thread::sleep(std::time::Duration::from_millis(50));
        sys::kill(child);
        same(
            "the end of the child",
            sys::wait(child),
            Ok(256 + libc::SIGKILL),
        )?;
    }
    same("with nobody left", sys::unload(NAME), Ok(()))?;
    same("loading again", sys::load(MODULE, ""), Ok(()))
}

pub fn cpus_come_and_go_under_a_vm() -> Outcome {
    for _ in 0..3 {
        let vm = vm::make()?;
        cpus::switch_last(false)?;
        let other = vm::make()?;
        drop(vm);
        cpus::switch_last(true)?;
        let third = vm::make()?;
        drop(other);
        drop(third);
    }
    // Comes while nobody uses it, goes while somebody does.
    cpus::switch_last(false)?;
    cpus::switch_last(true)?;
    vm::make().map(drop)
}

pub fn the_module_unloads_and_the_node_goes() -> Outcome {
    same("unloading", sys::unload(NAME), Ok(()))?;
    said(&format!("waterbear: {}: unregistered", vendor()))?;
    same("the node is there", Path::new(NODE).exists(), false)
}

pub fn a_second_node_appears_when_asked_for() -> Outcome {
    same("loading", sys::load(MODULE, "kvm_node=1"), Ok(()))?;
    let node = node::open_at("/dev/kvm")?;
    same("version", ioctl(&node, KVM_GET_API_VERSION, 0), Ok(12))?;
    same("unloading", sys::unload(NAME), Err(libc::EAGAIN))?;
    drop(node);
    same("unloading", sys::unload(NAME), Ok(()))?;
    same("it is there", Path::new("/dev/kvm").exists(), false)
}

/// Loads the kernel's own KVM.
pub fn load_stock() -> Outcome {
    for module in ["rng-core", "irqbypass", "kvm", "ccp", "kvm-amd"] {
        // Newer kernels have the hardware in use for as long as KVM is loaded, unless they are
        // told otherwise; older ones do not know the parameter, and do not mind.
        let parameters = if module == "kvm" {
            "enable_virt_at_load=0"
        } else {
            ""
        };
        let loaded = sys::load(&format!("/{module}.ko"), parameters);
        // Some are part of some kernels.
        if loaded != Err(libc::ENOENT) {
            same(module, loaded, Ok(()))?;
        }
    }
    Ok(())
}

pub fn stock_kvm_and_the_module_keep_apart() -> Outcome {
    // With its first VM stock KVM has the scheduler's code patched, which QEMU's emulation does not
    // always survive on a second CPU: it stops at the breakpoint of a patch that is complete.
    cpus::alone(keep_apart)
}

fn keep_apart() -> Outcome {
    const BUSY: Result<(), i32> = Err(libc::EBUSY);
    load_stock()?;
    let stock = node::open_at("/dev/kvm")?;
    let make = || ioctl(&stock, KVM_CREATE_VM, 0).map(sys::owned);
    let guest = make().map_err(|error| format!("stock KVM: error {error}"))?;
    // It has the hardware.
    same("loading", sys::load(MODULE, ""), BUSY)?;
    said("has hardware virtualisation in use by somebody else")?;
    drop(guest);
    // It has not, but it has the name.
    same("loading", sys::load(MODULE, "kvm_node=1"), Ok(()))?;
    said("waterbear: /dev/kvm is somebody else's")?;
    let guest = make().map_err(|error| format!("stock KVM: error {error}"))?;
    let node = node::open()?;
    let answer = ioctl(&node, KVM_CREATE_VM, 0);
    same("a VM beside a stock one", answer, Err(libc::EBUSY))?;
    drop(guest);
    // Now we have the hardware.
    let vm = vm::make()?;
    // Newer kernels do not say why.
    let refused = matches!(make().map(drop), Err(libc::EBUSY | libc::EIO));
    same("a stock VM beside ours is refused", refused, true)?;
    drop(vm);
    make().map_err(|error| format!("stock KVM after us: error {error}"))?;
    drop(node);
    same("unloading", sys::unload(NAME), Ok(()))
}

pub fn a_cpu_without_virtualisation_is_refused_in_words() -> Outcome {
    same("loading", sys::load(MODULE, ""), Err(libc::EOPNOTSUPP))?;
    let words = "this CPU has no hardware virtualisation of this kind";
    said(&format!("waterbear: SVM: {words}"))?;
    said(&format!("waterbear: VMX: {words}"))?;
    same("the node is there", Path::new(NODE).exists(), false)
}

pub fn the_kernel_has_nothing_to_complain_about() -> Outcome {
    const COMPLAINTS: [&str; 13] = [
        "WARNING:",
        "BUG:",
        "Oops",
        "Call Trace",
        "unchecked MSR",
        // Its own: those of processes go on with another word.
        "general protection fault,",
        "general protection fault:",
        "scheduling while atomic",
        "sleeping function",
        "stall",
        "INFO: task",
        "Bad page",
        "use-after-free",
    ];
    let log = log();
    match log
        .lines()
        .find(|line| COMPLAINTS.iter().any(|words| line.contains(words)))
    {
        Some(line) => Err(line.to_owned()),
        None => Ok(()),
    }
}
