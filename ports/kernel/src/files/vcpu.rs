//! A vCPU's descriptor.
use core::ffi::{c_uint, c_ulong, c_void};
use core::ptr::NonNull;
use core::sync::atomic::AtomicU64;

use waterbear_core::Error;
use waterbear_core::abi::area::AREA_SIZE;
use waterbear_core::abi::{Failure, Reply, RunArea, VcpuFile};
use waterbear_core::mem::boxed;
use waterbear_hal::addr::PAGE_SIZE;
use waterbear_hal::{AllocError, Memory, Pfn};

use super::{Handle, Process, Promise, release, returned};
use crate::glue::{Kind, Number};
use crate::host::Kernel;
use crate::machine::{self, Vendor};

/// How many pages a vCPU shares with its owner.
const PAGES: usize = AREA_SIZE / PAGE_SIZE as usize;

/// The pages that a vCPU shares with its owner.
struct SharedPages(Pfn);

impl SharedPages {
    fn new() -> Result<Self, AllocError> {
        Ok(Self(Kernel.alloc_pages(PAGES)?))
    }
}

impl RunArea for SharedPages {
    /// The owner uses them at the same time.
    #[inline]
    fn words(&self) -> &[AtomicU64] {
        // SAFETY: this value's until it is dropped.
        let start: NonNull<u8> = unsafe { Kernel.pages(self.0) };
        let count = AREA_SIZE / size_of::<AtomicU64>();
        // SAFETY: so many initialised words at the beginning of a page, which
        // the kernel uses as atomics only.
        unsafe { core::slice::from_raw_parts(start.as_ptr().cast(), count) }
    }
}

impl Drop for SharedPages {
    fn drop(&mut self) {
        // SAFETY: the file is gone; a page that is mapped, or that somebody
        // else still refers to, stays until that is over.
        unsafe { Kernel.free_pages(self.0, PAGES) }
    }
}

/// A vCPU, and the VM that it keeps.
struct OwnedVcpu {
    vcpu: VcpuFile<Kernel, Vendor, SharedPages>,
    vm: Handle,
}

/// Makes a vCPU and a descriptor for it. Returns the descriptor, or the
/// kernel's own error, negated.
// A vCPU is large and is built on the stack: the other commands must not have
// that in their frames.
#[inline(never)]
pub fn make(vm: &Handle, index: u32) -> Result<Number, Failure> {
    let machine = machine::get().ok_or(Error::NotFound)?;
    let pages = SharedPages::new().map_err(Error::from)?;
    let file = &vm.file;
    let owned = OwnedVcpu {
        vcpu: VcpuFile::new(file, &*machine.vendor, &machine::cpuid, index, pages)?,
        vm: vm.clone(),
    };
    let owned = boxed(&Kernel, owned)?;
    let promise = match Promise::new(Kind::Vcpu) {
        Ok(promise) => promise,
        Err(error) => return Ok(error),
    };
    // Nothing can fail behind this.
    match file.add_vcpu(index) {
        Ok(()) => Ok(promise.keep(owned)),
        Err(error) => {
            promise.take_back();
            Err(error.into())
        }
    }
}

/// The vCPU of a descriptor.
///
/// # Safety
///
/// `vcpu` belongs to a descriptor of a vCPU that is open.
unsafe fn opened<'a>(vcpu: *mut c_void) -> &'a OwnedVcpu {
    // SAFETY: as the caller promises.
    unsafe { &*vcpu.cast() }
}

/// A command for a vCPU, from its owner.
///
/// # Safety
///
/// As [`opened`].
#[unsafe(no_mangle)]
unsafe extern "C" fn waterbear_vcpu_ioctl(
    vcpu: *mut c_void,
    command: c_uint,
    argument: c_ulong,
) -> Number {
    // SAFETY: as the caller promises.
    returned(command_for(unsafe { opened(vcpu) }, command, argument))
}

fn command_for(owned: &OwnedVcpu, command: u32, argument: u64) -> Result<Number, Failure> {
    let vm = &owned.vm.file;
    if !vm.vm().user().is_callers() {
        return Err(Error::Dead.into());
    }
    let vendor = &*machine::get().ok_or(Error::Dead)?.vendor;
    match owned
        .vcpu
        .command(vm, vendor, &Process, command, argument)?
    {
        Reply::Value(value) => Ok(value.into()),
        #[cfg(feature = "statistics")]
        Reply::NewStats => super::stats::make(&owned.vm, owned.vcpu.stats()),
        _ => Err(Failure::Unknown),
    }
}

/// The frame of a page of the memory that a vCPU shares, or 0 beyond its end:
/// behind its own comes the VM's.
///
/// # Safety
///
/// As [`opened`].
#[unsafe(no_mangle)]
unsafe extern "C" fn waterbear_vcpu_page(vcpu: *mut c_void, page: c_ulong) -> c_ulong {
    // SAFETY: as the caller promises.
    let owned = unsafe { opened(vcpu) };
    match page.checked_sub(PAGES as u64) {
        None => owned.vcpu.area().0.add(page).0,
        Some(0) => owned.vm.file.vm().bus().page().0,
        Some(_) => 0,
    }
}

/// The last reference to a vCPU's descriptor is gone.
///
/// # Safety
///
/// `vcpu` belonged to that descriptor and comes here once.
#[unsafe(no_mangle)]
unsafe extern "C" fn waterbear_vcpu_release(vcpu: *mut c_void) {
    // SAFETY: from `make`.
    unsafe { release::<OwnedVcpu>(vcpu) }
}
