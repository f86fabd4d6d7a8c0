//! Loading and unloading, and the news that the kernel has.
use core::ffi::c_int;
use core::panic::PanicInfo;

use waterbear_core::Error;

use crate::errno::errno;
use crate::glue;
use crate::host::log::Line;
use crate::machine;

/// The module is loaded. 0, or an error number; then nothing is left.
#[unsafe(no_mangle)]
extern "C" fn waterbear_init() -> c_int {
    let made = machine::make().map_err(errno).and_then(|()| register());
    let Err(error) = made else {
        return 0;
    };
    // SAFETY: the node does not exist.
    unsafe { machine::unmake() }
    error
}

/// Registers the vendor and makes the node appear.
fn register() -> Result<(), c_int> {
    let machine = machine::get().ok_or(errno(Error::NotFound))?;
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
        Err(error) => Err(errno(error)),
    }
}

/// The module is to go. 0, or the error number for "there is a VM"; then
/// nothing has changed.
#[unsafe(no_mangle)]
extern "C" fn waterbear_exit() -> c_int {
    if let Some(machine) = machine::get()
        && let Err(error) = machine.registry.unregister(|| glue::wb_node_remove())
    {
        return errno(error);
    }
    // SAFETY: the node is gone, and there is no VM.
    unsafe { machine::unmake() }
    0
}

/// The machine goes to sleep. Runs on every CPU, interrupts off.
#[unsafe(no_mangle)]
extern "C" fn waterbear_suspend() {
    if let Some(machine) = machine::get() {
        machine.registry.suspend(glue::wb_cpu());
    }
}

/// The machine woke. Runs on every CPU, interrupts off.
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
fn panic(info: &PanicInfo<'_>) -> ! {
    let line = Line::new(format_args!("{info}"));
    let (text, length) = line.parts();
    // SAFETY: that many bytes are there.
    unsafe { glue::wb_panic(text, length) }
}
