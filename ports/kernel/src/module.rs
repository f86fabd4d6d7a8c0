//! Loading and unloading, and the news that the kernel has.
use core::arch::asm;
use core::ffi::{c_int, c_uint};
use core::panic::PanicInfo;

use waterbear_core::Error;

use crate::errno::errno;
use crate::glue;
use crate::machine;

/// The number that the kernel wants of `error`.
fn number(error: Error) -> c_int {
    -errno(error, &glue::wb_numbers)
}

/// The module is loaded. 0, or an error number, negated; then nothing is left.
// Linux forgets the code in this section then; others keep it as any code.
#[unsafe(link_section = ".init.text")]
#[unsafe(no_mangle)]
extern "C" fn waterbear_init() -> c_int {
    let Err(error) = machine::make().map_err(number).and_then(|()| start()) else {
        return 0;
    };
    // SAFETY: the node does not exist, and no CPU is watched.
    unsafe { machine::unmake() }
    error
}

/// Watches the CPUs and makes the node appear, or neither.
fn start() -> Result<(), c_int> {
    match glue::wb_watch_cpus() {
        0 => register().inspect_err(|_| glue::wb_unwatch_cpus()),
        error => Err(error),
    }
}

/// Registers the vendor and makes the node appear.
fn register() -> Result<(), c_int> {
    let machine = machine::get().ok_or(number(Error::NotFound))?;
    let mut refused = 0;
    let registered = machine.registry.register(0, || {
        refused = glue::wb_node_add();
        if refused == 0 {
            Ok(())
        } else {
            Err(Error::Busy)
        }
    });
    match registered {
        Ok(()) => Ok(()),
        Err(_) if refused != 0 => Err(refused),
        Err(error) => Err(number(error)),
    }
}

/// The module is to go. 0, or the error number for "there is a VM", negated;
/// then nothing has changed.
#[unsafe(no_mangle)]
extern "C" fn waterbear_exit() -> c_int {
    if let Some(machine) = machine::get()
        && let Err(error) = machine.registry.unregister(|| glue::wb_node_remove())
    {
        return number(error);
    }
    glue::wb_unwatch_cpus();
    // SAFETY: the node is gone, there is no VM, and no CPU is watched.
    unsafe { machine::unmake() }
    0
}

/// A CPU comes online. 0, or an error, negated, which keeps it offline.
#[unsafe(no_mangle)]
extern "C" fn waterbear_cpu_online(cpu: c_uint) -> c_int {
    let online = machine::get().map_or(Ok(()), |machine| machine.registry.cpu_online(cpu));
    online.map_or_else(number, |()| 0)
}

/// A CPU goes offline.
#[unsafe(no_mangle)]
extern "C" fn waterbear_cpu_offline(cpu: c_uint) -> c_int {
    if let Some(machine) = machine::get() {
        machine.registry.cpu_offline(cpu);
    }
    0
}

/// The machine goes to sleep. Runs on every CPU that is left, interrupts off.
#[unsafe(no_mangle)]
extern "C" fn waterbear_suspend() {
    if let Some(machine) = machine::get() {
        machine.registry.suspend(glue::wb_cpu());
    }
}

/// The machine woke. As [`waterbear_suspend`].
#[unsafe(no_mangle)]
extern "C" fn waterbear_resume() {
    if let Some(machine) = machine::get() {
        // The log says what is wrong; the vCPUs fail when they enter.
        let _ = machine.registry.resume(glue::wb_cpu());
    }
}

/// The machine reboots or powers off. Runs on every CPU, interrupts off.
#[unsafe(no_mangle)]
extern "C" fn waterbear_shutdown() {
    if let Some(machine) = machine::get() {
        machine.registry.emergency_off(glue::wb_cpu());
    }
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    // Never reached where a panic aborts at once, as in the modules. Not a call that never returns:
    // Linux's objtool knows those of the kernel only.
    // SAFETY: an invalid instruction; the kernel ends this thread, or stops.
    unsafe { asm!("ud2", options(noreturn, nomem, nostack)) }
}
