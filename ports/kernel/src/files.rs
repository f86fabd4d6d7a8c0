//! The node, the descriptors, and who keeps what alive.
//!
//! ```text
//!  descriptor ──▶ handle ──▶ VM ──▶ token: SVM or VMX is on, the vendor stays
//!                              ──▶ space: the owner's memory, and news of its changes
//!       vCPU's descriptor ──▶ VM
//! ```
//!
//! The kernel gives a descriptor's handle back with its last reference, however
//! its owner died. Linux holds the module as long as there is a file; where the
//! kernel does not, the token makes unloading fail.
#[cfg(feature = "statistics")]
mod stats;
mod vcpu;

use core::ffi::{c_int, c_uint, c_ulong, c_void};

use waterbear_core::Error;
use waterbear_core::abi::{Caller, Failure, Reply, VmFile, capability, kvm, system};
use waterbear_core::mem::{Box, Heap, Shared, boxed};
use waterbear_core::registry::VmToken;
use waterbear_core::tdp::DirtyTracking;
use waterbear_core::vm::Vm;

use crate::errno;
use crate::glue::{self, FileStruct, Kind, Number, Signals};
use crate::host::Kernel;
use crate::host::user::Space;
use crate::machine;

/// The calling process.
pub struct Process;

impl Caller for Process {
    #[inline(never)]
    fn copy_in(&self, address: u64, into: &mut [u8]) -> Result<(), Error> {
        // SAFETY: the buffer has that many bytes; the kernel checks the rest.
        let copied = unsafe { glue::wb_copy_in(into.as_mut_ptr(), address, into.len()) };
        copied.then_some(()).ok_or(Error::Fault)
    }

    #[inline(never)]
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

/// A VM that is counted: unloading is refused as long as there is one.
pub type Token = VmToken<'static, 'static, Kernel>;

/// A VM and what keeps it running. Dropped in the order of the fields.
pub struct OwnedVm {
    /// The VM.
    pub file: VmFile<Kernel>,
    _token: Token,
}

impl Drop for OwnedVm {
    /// No news come to a VM that is gone.
    fn drop(&mut self) {
        self.file.vm().user().unwatch();
    }
}

/// What a descriptor refers to.
pub type Handle = Shared<OwnedVm, Kernel>;

/// The number that a system call returns.
pub fn returned(answer: Result<Number, Failure>) -> Number {
    match answer {
        Ok(value) => value,
        Err(failure) => -Number::from(errno::failure(failure, &glue::wb_numbers)),
    }
}

/// What a capability answers. Owners ask a hundred times as they begin.
fn extension(capability: c_ulong) -> Number {
    // Of a port that makes no files of statistics.
    if !cfg!(feature = "statistics") && capability == kvm::KVM_CAP_BINARY_STATS_FD.into() {
        return 0;
    }
    capability::value(&Kernel, capability).into()
}

/// A command for the node.
#[unsafe(no_mangle)]
extern "C" fn waterbear_system_ioctl(command: c_uint, argument: c_ulong) -> Number {
    if command == kvm::KVM_CHECK_EXTENSION {
        return extension(argument);
    }
    returned(
        match system::command(&Kernel, &machine::cpuid, &Process, command, argument) {
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
    kind: Kind,
}

impl Promise {
    /// Reserves a descriptor.
    ///
    /// # Errors
    ///
    /// The kernel's number, negated.
    fn new(kind: Kind) -> Result<Self, Number> {
        let mut descriptor = 0;
        let file = glue::wb_file_reserve(kind, &mut descriptor);
        if file.is_null() {
            return Err(descriptor.into());
        }
        Ok(Self {
            file,
            descriptor,
            kind,
        })
    }

    /// Lets the caller have the descriptor, for an object, which belongs to the
    /// file from now on.
    fn keep<T>(self, object: Box<T, Kernel>) -> Number {
        let (object, _heap) = Box::into_raw_with_allocator(object);
        // SAFETY: what C calls for a file of this kind takes the object as a
        // `T`; the file is ours, and this is its only use.
        unsafe { glue::wb_file_install(self.file, self.descriptor, self.kind, object.cast()) }
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
// Its frame is large, and no other command's business.
#[inline(never)]
fn new_vm() -> Result<Number, Failure> {
    let machine = machine::get().ok_or(Error::NotFound)?;
    let token = machine.registry.vm_created()?;
    let format = machine.hardware().entry_format();
    let space = Space::of_caller().map_err(Error::from)?;
    let owned = OwnedVm {
        file: VmFile::new(&Kernel, space, format, DirtyTracking::WriteProtect)?,
        _token: token,
    };
    let handle: Handle = Shared::new(&Kernel, owned)?;
    let vm: *const Vm<Kernel> = handle.file.vm();
    // SAFETY: the VM does not move any more, and is not gone before `unwatch`.
    if let Err(error) = unsafe { handle.file.vm().user().watch(vm.cast()) } {
        return Ok(error.into());
    }
    let handle = boxed(&Kernel, handle)?;
    Ok(match Promise::new(Kind::Vm) {
        Ok(promise) => promise.keep(handle),
        Err(error) => error,
    })
}

/// The VM of a descriptor, for a command. Only its owner gives any: what it
/// means by an address is in its own memory.
///
/// # Errors
///
/// [`Error::Dead`] for others.
///
/// # Safety
///
/// `handle` belongs to a descriptor of a VM that is open.
pub unsafe fn of_caller<'a>(handle: *mut c_void) -> Result<&'a Handle, Failure> {
    // SAFETY: as the caller promises.
    let handle = unsafe { &*handle.cast::<Handle>() };
    if handle.file.vm().user().is_callers() {
        Ok(handle)
    } else {
        Err(Error::Dead.into())
    }
}

/// A command for a VM.
///
/// # Safety
///
/// As [`of_caller`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn waterbear_vm_ioctl(
    handle: *mut c_void,
    command: c_uint,
    argument: c_ulong,
) -> Number {
    // SAFETY: as the caller promises.
    match unsafe { of_caller(handle) } {
        Ok(_) if command == kvm::KVM_CHECK_EXTENSION => extension(argument),
        Ok(vm) => returned(vm_command(vm, command, argument)),
        Err(failure) => returned(Err(failure)),
    }
}

/// Any other command.
#[inline(never)]
fn vm_command(vm: &Handle, command: c_uint, argument: c_ulong) -> Result<Number, Failure> {
    match vm.file.command(&Process, command, argument)? {
        Reply::Value(value) => Ok(value.into()),
        Reply::NewVcpu(index) => vcpu::make(vm, index),
        #[cfg(feature = "statistics")]
        Reply::NewStats => stats::make(vm, vm.file.stats()),
        _ => Err(Failure::Unknown),
    }
}

/// Frees the object of a file.
///
/// # Safety
///
/// `Promise::keep` made a file of such an object, and its last reference is gone.
unsafe fn release<T>(object: *mut c_void) {
    // SAFETY: boxed over this heap; the rest is the caller's promise.
    drop(unsafe { Box::<T, Kernel>::from_raw_in(object.cast(), Heap(Kernel)) });
}

/// The last reference to a VM's descriptor is gone.
///
/// # Safety
///
/// `handle` belonged to that descriptor and comes here once.
#[unsafe(no_mangle)]
unsafe extern "C" fn waterbear_vm_release(handle: *mut c_void) {
    // SAFETY: from `new_vm`.
    unsafe { release::<Handle>(handle) }
}
