//! The node, the descriptors, and who keeps what alive.
//!
//! ```text
//!  descriptor ──▶ handle ──▶ VM ──▶ token: SVM or VMX is on, the vendor stays
//!                              ──▶ space: the owner's memory
//!       vCPU's descriptor ──▶ VM
//!       vCPU's memory, mapped ──▶ a token of its own, the pages
//! ```
//!
//! The kernel gives a descriptor's handle back with its last reference, however
//! its owner died. It does not hold the module for a descriptor of ours: the
//! token makes unloading fail.
mod region;
mod vcpu;

use core::ffi::{c_int, c_ulong, c_void};

use waterbear_core::Error;
use waterbear_core::abi::{Caller, Failure, Reply, VmFile, kvm, system};
use waterbear_core::mem::{Box, Heap, Shared, boxed};
use waterbear_core::registry::VmToken;
use waterbear_core::tdp::DirtyTracking;

use crate::commands::decoded;
use crate::errno;
use crate::glue::{self, FileStruct, Kind, Number, Signals};
use crate::host::FreeBsd;
use crate::host::lock::Mutex;
use crate::host::user::Space;
use crate::machine;

/// The calling process.
struct Process;

impl Caller for Process {
    fn copy_in(&self, address: u64, into: &mut [u8]) -> Result<(), Error> {
        // SAFETY: the buffer has that many bytes; the kernel checks the rest.
        let copied = unsafe { glue::wb_copy_in(into.as_mut_ptr(), address, into.len()) };
        copied.then_some(()).ok_or(Error::Fault)
    }

    fn copy_out(&self, address: u64, bytes: &[u8]) -> Result<(), Error> {
        // SAFETY: as above.
        let copied = unsafe { glue::wb_copy_out(address, bytes.as_ptr(), bytes.len()) };
        copied.then_some(()).ok_or(Error::Fault)
    }

    type Mask = Signals;

    fn mask_signals(&self, mask: u64) -> Signals {
        let mut before = Signals::default();
        glue::wb_signals_mask(mask, &mut before);
        before
    }

    fn unmask_signals(&self, before: Signals) {
        glue::wb_signals_unmask(&before);
    }
}

/// Unloading is refused as long as there is one.
type Token = VmToken<'static, 'static, FreeBsd>;

/// The rank of `regions` in the lock order: before any lock of the VM's.
const REGIONS: u32 = 42;

/// A VM and what keeps it running. Dropped in the order of the fields.
struct OwnedVm {
    file: VmFile<FreeBsd>,
    /// Held while slots change.
    regions: Mutex,
    _token: Token,
}

/// What a descriptor refers to.
type Handle = Shared<OwnedVm, FreeBsd>;

/// The number that a system call returns.
fn returned(answer: Result<i64, Failure>) -> Number {
    match answer {
        Ok(value) => value,
        Err(failure) => -Number::from(errno::failure(failure)),
    }
}

/// Whether it is asked for statistics, which are files to be read: this port makes none.
fn asks_for_statistics(command: u32, argument: c_ulong) -> bool {
    command == kvm::KVM_CHECK_EXTENSION && argument == kvm::KVM_CAP_BINARY_STATS_FD.into()
}

/// A command for the node.
#[unsafe(no_mangle)]
extern "C" fn waterbear_system_ioctl(command: c_ulong, argument: c_ulong) -> Number {
    let command = decoded(command);
    if asks_for_statistics(command, argument) {
        return returned(Ok(0));
    }
    returned(
        match system::command(&FreeBsd, &machine::cpuid, &Process, command, argument) {
            Ok(Reply::Value(value)) => Ok(value.into()),
            Ok(Reply::NewVm) => new_vm(),
            Ok(Reply::NewVcpu(_) | Reply::NewStats) => Err(Failure::Unknown),
            Err(failure) => Err(failure),
        },
    )
}

/// A descriptor that is promised to the caller, and its file, which refers to
/// nothing yet.
struct Promise {
    file: *mut FileStruct,
    descriptor: c_int,
}

impl Promise {
    /// Reserves a descriptor.
    ///
    /// # Errors
    ///
    /// The kernel's number, negated.
    fn new() -> Result<Self, Number> {
        let (mut descriptor, mut error) = (0, 0);
        // SAFETY: the results are ours.
        let file = unsafe { glue::wb_file_reserve(&raw mut descriptor, &raw mut error) };
        if file.is_null() {
            return Err(-Number::from(error));
        }
        Ok(Self { file, descriptor })
    }

    /// Lets the caller have the descriptor, of that kind and for an object,
    /// which belongs to the file from now on.
    fn keep<T>(self, kind: Kind, object: Box<T, FreeBsd>) -> Number {
        let (object, _heap) = Box::into_raw_with_allocator(object);
        // SAFETY: the functions below take the object as a `T`; the file is
        // ours, and this is its only use.
        unsafe { glue::wb_file_install(self.file, kind, object.cast()) }
        self.descriptor.into()
    }

    /// Takes the promise back.
    fn take_back(self) {
        // SAFETY: both are ours, and this is the only use of them.
        unsafe { glue::wb_file_cancel(self.file, self.descriptor) }
    }
}

/// Makes a VM of the calling process and a descriptor for it. Returns the
/// descriptor, or the kernel's own error, negated.
fn new_vm() -> Result<Number, Failure> {
    let machine = machine::get().ok_or(Error::NotFound)?;
    let token = machine.registry.vm_created()?;
    let format = machine.hardware().entry_format();
    let space = Space::of_caller().map_err(Error::from)?;
    let owned = OwnedVm {
        file: VmFile::new(&FreeBsd, space, format, DirtyTracking::WriteProtect)?,
        regions: Mutex::of_rank(REGIONS).map_err(Error::from)?,
        _token: token,
    };
    let handle: Handle = Shared::new(&FreeBsd, owned)?;
    let handle = boxed(&FreeBsd, handle)?;
    Ok(match Promise::new() {
        Ok(promise) => promise.keep(Kind::Vm, handle),
        Err(error) => error,
    })
}

/// A command for a VM. Only its owner gives any: what it means by an address
/// is in its own memory.
///
/// # Safety
///
/// `handle` belongs to a descriptor of a VM that is open.
#[unsafe(no_mangle)]
unsafe extern "C" fn waterbear_vm_ioctl(
    handle: *mut c_void,
    command: c_ulong,
    argument: c_ulong,
) -> Number {
    // SAFETY: as the caller promises.
    let handle = unsafe { &*handle.cast::<Handle>() };
    if !handle.file.vm().user().is_callers() {
        return returned(Err(Error::Dead.into()));
    }
    let answer = match decoded(command) {
        kvm::KVM_SET_USER_MEMORY_REGION => region::set(handle, argument),
        command if asks_for_statistics(command, argument) => Ok(Reply::Value(0)),
        command => handle.file.command(&Process, command, argument),
    };
    returned(match answer {
        Ok(Reply::Value(value)) => Ok(value.into()),
        Ok(Reply::NewVcpu(index)) => vcpu::make(handle, index),
        Ok(Reply::NewVm | Reply::NewStats) => Err(Failure::Unknown),
        Err(failure) => Err(failure),
    })
}

/// The last reference to a VM's descriptor is gone.
///
/// # Safety
///
/// `handle` belonged to that descriptor and comes here once.
#[unsafe(no_mangle)]
unsafe extern "C" fn waterbear_vm_release(handle: *mut c_void) {
    // SAFETY: `new_vm` made the box over this heap.
    drop(unsafe { Box::<Handle, FreeBsd>::from_raw_in(handle.cast(), Heap(FreeBsd)) });
}
