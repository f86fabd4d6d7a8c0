//! Loading and unloading, and the news that the kernel has.
use core::arch::asm;
use core::ffi::{c_int, c_uint};
use core::panic::PanicInfo;

use waterbear_core::Error;

use crate::errno::errno;
use crate::glue;
use crate::machine;

/// The number that the kernel wants of an initialisation.
fn number(result: Result<(), Error>) -> c_int {
    match result {
        Ok(()) => 0,
        Err(error) => -errno(error),
    }
}

/// The module is loaded. 0, or an error number, negated; then nothing is left.
#[unsafe(no_mangle)]
extern "C" fn waterbear_init() -> c_int {
    if let Err(error) = machine::make() {
        return -errno(error);
    }
    let error = match glue::wb_watch_cpus() {
        0 => match register() {
            Ok(()) => return 0,
            Err(error) => {
                glue::wb_unwatch_cpus();
                error
            }
        },
        error => error,
    };
    // SAFETY: the node does not exist, and no CPU is watched.
    unsafe { machine::unmake() }
    error
}

/// Registers the vendor and makes the node appear.
fn register() -> Result<(), c_int> {
    let machine = machine::get().ok_or(-errno(Error::NotFound))?;
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
        Err(error) => Err(-errno(error)),
    }
}

/// The module goes. The kernel knows that no file of ours is open.
#[unsafe(no_mangle)]
extern "C" fn waterbear_exit() {
    if let Some(machine) = machine::get() {
        // Without a file there is no VM, so it is not refused.
        let _ = machine.registry.unregister(|| glue::wb_node_remove());
    }
    glue::wb_unwatch_cpus();
    // SAFETY: the node is gone and no CPU is watched.
    unsafe { machine::unmake() }
}

/// A CPU comes online. An error keeps it offline.
#[unsafe(no_mangle)]
extern "C" fn waterbear_cpu_online(cpu: c_uint) -> c_int {
    number(machine::get().map_or(Ok(()), |machine| machine.registry.cpu_online(cpu)))
}

/// A CPU goes offline.
#[unsafe(no_mangle)]
extern "C" fn waterbear_cpu_offline(cpu: c_uint) -> c_int {
    if let Some(machine) = machine::get() {
        machine.registry.cpu_offline(cpu);
    }
    0
}

/// The machine goes to sleep; only this CPU is left.
#[unsafe(no_mangle)]
extern "C" fn waterbear_suspend() -> c_int {
    if let Some(machine) = machine::get() {
        machine.registry.suspend(glue::wb_cpu());
    }
    0
}

/// The machine woke.
#[unsafe(no_mangle)]
extern "C" fn waterbear_resume() {
    if let Some(machine) = machine::get() {
        // The log says what is wrong; the vCPUs fail when they enter.
        let _ = machine.registry.resume(glue::wb_cpu());
    }
}

/// The machine reboots or powers off. Runs on every CPU, interrupts off.
#[unsafe(no_mangle)]
extern "C" fn waterbear_shutdown(cpu: c_uint) {
    if let Some(machine) = machine::get() {
        machine.registry.emergency_off(cpu);
    }
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    // Never reached where a panic aborts at once, as in the module. Not a call that never returns:
    // objtool knows those of the kernel only.
    // SAFETY: an invalid instruction; the kernel ends this thread.
    unsafe { asm!("ud2", options(noreturn, nomem, nostack)) }
}
