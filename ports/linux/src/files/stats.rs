//! A descriptor of which statistics are read.
use core::ffi::{c_long, c_ulong, c_ulonglong, c_void};

use waterbear_core::abi::{Failure, StatsFile};
use waterbear_core::mem::{Box, Heap, boxed};

use super::{Handle, Process, Promise, returned};
use crate::glue::Kind;
use crate::host::Linux;

/// Statistics, and the VM that they keep.
struct OwnedStats {
    file: StatsFile<Linux>,
    vm: Handle,
}

/// Makes a descriptor. Returns it, or the kernel's own error, negated.
pub fn make(vm: &Handle, file: StatsFile<Linux>) -> Result<c_long, Failure> {
    let owned = OwnedStats {
        file,
        vm: vm.clone(),
    };
    Ok(match Promise::new(Kind::Stats, boxed(&Linux, owned)?) {
        Ok(promise) => promise.keep(),
        Err(error) => error,
    })
}

/// Reads from a descriptor. Anybody may who has it: there are only numbers.
///
/// # Safety
///
/// `stats` belongs to a descriptor of [`make`]'s that is open.
#[unsafe(no_mangle)]
unsafe extern "C" fn waterbear_stats_read(
    stats: *mut c_void,
    to: c_ulong,
    size: usize,
    offset: c_ulonglong,
) -> c_long {
    // SAFETY: as the caller promises.
    let owned = unsafe { &*stats.cast::<OwnedStats>() };
    let vm = owned.vm.file.vm();
    let read = owned.file.read(vm, &Process, offset, to, size);
    returned(read.map(|done| done as c_long).map_err(Failure::from))
}

/// The last reference to a descriptor is gone.
///
/// # Safety
///
/// `stats` belonged to that descriptor and comes here once.
#[unsafe(no_mangle)]
unsafe extern "C" fn waterbear_stats_release(stats: *mut c_void) {
    // SAFETY: `make` made the box over this heap.
    drop(unsafe { Box::<OwnedStats, Linux>::from_raw_in(stats.cast(), Heap(Linux)) });
}
