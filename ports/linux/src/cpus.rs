//! CPUs that come and go.
use core::ffi::{c_int, c_uint};

use waterbear_kernel::{errno::errno, glue::wb_numbers, machine};

/// A CPU comes online. An error keeps it offline.
#[unsafe(no_mangle)]
extern "C" fn waterbear_cpu_online(cpu: c_uint) -> c_int {
    let online = machine::get().map_or(Ok(()), |machine| machine.registry.cpu_online(cpu));
    online.map_or_else(|error| -errno(error, &wb_numbers), |()| 0)
}

/// A CPU goes offline.
#[unsafe(no_mangle)]
extern "C" fn waterbear_cpu_offline(cpu: c_uint) -> c_int {
    if let Some(machine) = machine::get() {
        machine.registry.cpu_offline(cpu);
    }
    0
}
