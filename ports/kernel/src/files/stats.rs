//! A descriptor of which statistics are read.
use core::ffi::{c_ulong, c_void};

use waterbear_core::abi::{Failure, StatsFile};
use waterbear_core::mem::boxed;

use super::{Handle, Process, Promise, release, returned};
use crate::glue::{Kind, Number};
use crate::host::Kernel;

/// Statistics, and the VM that they keep.
struct OwnedStats {
    file: StatsFile<Kernel>,
    vm: Handle,
}

/// Makes a descriptor. Returns it, or the kernel's own error, negated.
pub fn make(vm: &Handle, file: StatsFile<Kernel>) -> Result<Number, Failure> {
    let owned = OwnedStats {
        file,
        vm: vm.clone(),
    };
    let owned = boxed(&Kernel, owned)?;
    Ok(match Promise::new(Kind::Stats) {
        Ok(promise) => promise.keep(owned),
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
    offset: u64,
) -> Number {
    // SAFETY: as the caller promises.
    let owned = unsafe { &*stats.cast::<OwnedStats>() };
    let vm = owned.vm.file.vm();
    let read = owned.file.read(vm, &Process, offset, to, size);
    returned(read.map(|done| done as Number).map_err(Failure::from))
}

/// The last reference to a descriptor is gone.
///
/// # Safety
///
/// `stats` belonged to that descriptor and comes here once.
#[unsafe(no_mangle)]
unsafe extern "C" fn waterbear_stats_release(stats: *mut c_void) {
    // SAFETY: from `make`.
    unsafe { release::<OwnedStats>(stats) }
}
