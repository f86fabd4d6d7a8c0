//! A vCPU's descriptor.
use core::ffi::{c_ulong, c_void};
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU8, Ordering};

use waterbear_core::Error;
use waterbear_core::abi::area::AREA_SIZE;
use waterbear_core::abi::{Answer, Failure, Reply, RunArea, VcpuFile};
use waterbear_core::mem::{Box, Heap, boxed};
use waterbear_hal::addr::PAGE_SIZE;
use waterbear_hal::{AllocError, Memory, Pfn};
use waterbear_svm::svm::Svm;
use waterbear_vmx::vmx::Vmx;

use super::{Handle, Process, Promise, Token, returned};
use crate::commands::decoded;
use crate::glue::{Kind, Number};
use crate::host::FreeBsd;
use crate::machine::{self, Vendor};

/// How many pages a vCPU shares with its owner.
const PAGES: usize = AREA_SIZE / PAGE_SIZE as usize;

/// The pages that a vCPU shares with its owner.
struct SharedPages(Pfn);

impl SharedPages {
    fn new() -> Result<Self, AllocError> {
        Ok(Self(FreeBsd.alloc_pages(PAGES)?))
    }

    /// The bytes. The owner uses them at the same time.
    fn bytes(&self) -> &[AtomicU8] {
        // SAFETY: this value's until it is dropped.
        let start: NonNull<u8> = unsafe { FreeBsd.pages(self.0) };
        // SAFETY: so many initialised bytes, which the kernel uses as atomics
        // only.
        unsafe { core::slice::from_raw_parts(start.as_ptr().cast(), AREA_SIZE) }
    }
}

impl RunArea for SharedPages {
    fn read(&self, offset: usize, into: &mut [u8]) {
        for (to, from) in into.iter_mut().zip(self.bytes().iter().skip(offset)) {
            *to = from.load(Ordering::Relaxed);
        }
    }

    fn write(&self, offset: usize, bytes: &[u8]) {
        for (to, from) in self.bytes().iter().skip(offset).zip(bytes) {
            to.store(*from, Ordering::Relaxed);
        }
    }
}

impl Drop for SharedPages {
    fn drop(&mut self) {
        // SAFETY: the file is gone; a page that is mapped stays until that is
        // over.
        unsafe { FreeBsd.free_pages(self.0, PAGES) }
    }
}

/// A vCPU on the vendor that there is.
enum AnyVcpu {
    Svm(VcpuFile<FreeBsd, Svm<FreeBsd>, SharedPages>),
    Vmx(VcpuFile<FreeBsd, Vmx<FreeBsd>, SharedPages>),
}

/// A vCPU, and the VM that it keeps.
struct OwnedVcpu {
    vcpu: AnyVcpu,
    vm: Handle,
}

/// Makes a vCPU and a descriptor for it. Returns the descriptor, or the
/// kernel's own error, negated.
pub fn make(vm: &Handle, index: u32) -> Result<Number, Failure> {
    let machine = machine::get().ok_or(Error::NotFound)?;
    let pages = SharedPages::new().map_err(Error::from)?;
    let (file, host) = (&vm.file, &machine::cpuid);
    let vcpu = match &*machine.vendor {
        Vendor::Svm(svm) => AnyVcpu::Svm(VcpuFile::new(file, svm, host, index, pages)?),
        Vendor::Vmx(vmx) => AnyVcpu::Vmx(VcpuFile::new(file, vmx, host, index, pages)?),
    };
    let owned = OwnedVcpu {
        vcpu,
        vm: vm.clone(),
    };
    let owned = boxed(&FreeBsd, owned)?;
    let promise = match Promise::new() {
        Ok(promise) => promise,
        Err(error) => return Ok(error),
    };
    // Nothing can fail behind this.
    match file.add_vcpu(index) {
        Ok(()) => Ok(promise.keep(Kind::Vcpu, owned)),
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
    command: c_ulong,
    argument: c_ulong,
) -> Number {
    // SAFETY: as the caller promises.
    let owned = unsafe { opened(vcpu) };
    let vm = &owned.vm.file;
    if !vm.vm().user().is_callers() {
        return returned(Err(Error::Dead.into()));
    }
    let Some(machine) = machine::get() else {
        return returned(Err(Error::Dead.into()));
    };
    let command = decoded(command);
    let answer: Answer = match (&owned.vcpu, &*machine.vendor) {
        (AnyVcpu::Svm(vcpu), Vendor::Svm(svm)) => {
            vcpu.command(vm, svm, &Process, command, argument)
        }
        (AnyVcpu::Vmx(vcpu), Vendor::Vmx(vmx)) => {
            vcpu.command(vm, vmx, &Process, command, argument)
        }
        _ => Err(Error::Dead.into()),
    };
    returned(match answer {
        Ok(Reply::Value(value)) => Ok(value.into()),
        Ok(_) => Err(Failure::Unknown),
        Err(failure) => Err(failure),
    })
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
    let area = match &owned.vcpu {
        AnyVcpu::Svm(vcpu) => vcpu.area(),
        AnyVcpu::Vmx(vcpu) => vcpu.area(),
    };
    match page.checked_sub(PAGES as u64) {
        None => area.0.add(page).0,
        Some(0) => owned.vm.file.vm().bus().page().0,
        Some(_) => 0,
    }
}

/// Memory of a vCPU is about to be mapped. The mapping may outlive the VM, and
/// the kernel calls the module when it ends: so it counts as a VM, and this is
/// its token. Null if there is none to be had.
#[unsafe(no_mangle)]
extern "C" fn waterbear_mapping_begin() -> *mut c_void {
    let token = machine::get().and_then(|machine| machine.registry.vm_created().ok());
    let token = token.and_then(|token| boxed(&FreeBsd, token).ok());
    token.map_or(ptr::null_mut(), |token| {
        Box::into_raw_with_allocator(token).0.cast()
    })
}

/// The mapping is gone.
///
/// # Safety
///
/// `token` came from `waterbear_mapping_begin` and comes here once.
#[unsafe(no_mangle)]
unsafe extern "C" fn waterbear_mapping_end(token: *mut c_void) {
    // SAFETY: as the caller promises.
    drop(unsafe { Box::<Token, FreeBsd>::from_raw_in(token.cast(), Heap(FreeBsd)) });
}

/// The last reference to a vCPU's descriptor is gone.
///
/// # Safety
///
/// `vcpu` belonged to that descriptor and comes here once.
#[unsafe(no_mangle)]
unsafe extern "C" fn waterbear_vcpu_release(vcpu: *mut c_void) {
    // SAFETY: `make` made the box over this heap.
    drop(unsafe { Box::<OwnedVcpu, FreeBsd>::from_raw_in(vcpu.cast(), Heap(FreeBsd)) });
}
