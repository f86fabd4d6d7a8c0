//! The node, the descriptors, and who keeps what alive.
//!
//! ```text
//!  descriptor ──▶ handle ──▶ VM ──▶ token: SVM or VMX is on, the vendor stays
//!                              ──▶ notifier ──▶ the owner's memory
//!       vCPU's descriptor ──▶ VM
//!       file ──▶ module
//! ```
//!
//! The kernel holds the module as long as there is a file, and gives a
//! descriptor's handle back with its last reference, however its owner died.
mod stats;
mod vcpu;

use core::ffi::{c_int, c_long, c_uint, c_ulong, c_void};
use core::ops::Range;

use waterbear_core::Error;
use waterbear_core::abi::{Caller, Failure, Reply, VmFile, capability, kvm, system};
use waterbear_core::mem::{Box, Heap, Shared, boxed};
use waterbear_core::registry::VmToken;
use waterbear_core::tdp::DirtyTracking;
use waterbear_core::tdp::walk::Yielding;
use waterbear_core::vm::Vm;
use waterbear_hal::Hva;

use crate::errno;
use crate::glue::{self, FileStruct, Kind};
use crate::host::Linux;
use crate::host::user::{Mm, Notifier};
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

    /// The kernel keeps the mask that is put aside.
    type Mask = ();

    fn mask_signals(&self, mask: u64) {
        glue::wb_signals_mask(mask);
    }

    fn unmask_signals(&self, (): ()) {
        glue::wb_signals_unmask();
    }
}

/// A VM and what keeps it running. Dropped in the order of the fields: no
/// notification comes to a VM that is gone.
struct OwnedVm {
    notifier: Notifier,
    file: VmFile<Linux>,
    _token: VmToken<'static, 'static, Linux>,
}

/// What a descriptor refers to.
type Handle = Shared<OwnedVm, Linux>;

/// The number that a system call returns.
fn returned(answer: Result<i64, Failure>) -> c_long {
    match answer {
        Ok(value) => value,
        Err(failure) => -c_long::from(errno::failure(failure)),
    }
}

/// A command for the node.
#[unsafe(no_mangle)]
extern "C" fn waterbear_system_ioctl(command: c_uint, argument: c_ulong) -> c_long {
    returned(
        match system::command(&Linux, &machine::cpuid, &Process, command, argument) {
            Ok(Reply::Value(value)) => Ok(value.into()),
            Ok(Reply::NewVm) => new_vm(),
            Ok(Reply::NewVcpu(_) | Reply::NewStats) => Err(Failure::Unknown),
            Err(failure) => Err(failure),
        },
    )
}

/// A descriptor that is promised to the caller, and the file that it will refer
/// to. The file owns the object.
struct Promise {
    file: *mut FileStruct,
    descriptor: c_int,
}

impl Promise {
    /// Makes a file of that kind for an object.
    ///
    /// # Errors
    ///
    /// The kernel's number; the object is gone.
    fn new<T>(kind: Kind, object: Box<T, Linux>) -> Result<Self, c_long> {
        let (object, heap) = Box::into_raw_with_allocator(object);
        let mut descriptor = 0;
        // SAFETY: the functions below take the object as a `T`.
        let file = unsafe { glue::wb_file_new(kind, object.cast(), &raw mut descriptor) };
        if file.is_null() {
            // SAFETY: nobody else has seen it.
            drop(unsafe { Box::from_raw_in(object, heap) });
            return Err(descriptor.into());
        }
        Ok(Self { file, descriptor })
    }

    /// Lets the caller have the descriptor.
    fn keep(self) -> c_long {
        // SAFETY: both are ours, and this is the only use of them.
        unsafe { glue::wb_file_install(self.file, self.descriptor) }
        self.descriptor.into()
    }

    /// Takes the promise back; the file's object goes with it.
    fn take_back(self) {
        // SAFETY: as above.
        unsafe { glue::wb_file_drop(self.file, self.descriptor) }
    }
}

/// Makes a VM of the calling process and a descriptor for it. Returns the
/// descriptor, or the kernel's own error, negated.
// Its frame is large, and no other command's business.
#[inline(never)]
fn new_vm() -> Result<c_long, Failure> {
    let machine = machine::get().ok_or(Error::NotFound)?;
    let token = machine.registry.vm_created()?;
    let format = machine.hardware().entry_format();
    let space = Mm::of_caller().map_err(Error::from)?;
    let owned = OwnedVm {
        notifier: Notifier::new().map_err(Error::from)?,
        file: VmFile::new(&Linux, space, format, DirtyTracking::WriteProtect)?,
        _token: token,
    };
    let handle: Handle = Shared::new(&Linux, owned)?;
    let vm: *const Vm<Linux> = handle.file.vm();
    // SAFETY: the notifier goes before the VM, and neither moves any more.
    if let Err(error) = unsafe { handle.notifier.start(vm.cast()) } {
        return Ok(error.into());
    }
    Ok(match Promise::new(Kind::Vm, boxed(&Linux, handle)?) {
        Ok(promise) => promise.keep(),
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
    command: c_uint,
    argument: c_ulong,
) -> c_long {
    // SAFETY: as the caller promises.
    let handle = unsafe { &*handle.cast::<Handle>() };
    if !handle.file.vm().user().is_callers() {
        return returned(Err(Error::Dead.into()));
    }
    // Owners ask this a hundred times as they begin.
    if command == kvm::KVM_CHECK_EXTENSION {
        return capability::value(&Linux, argument).into();
    }
    vm_command(handle, command, argument)
}

/// Any other command.
#[inline(never)]
fn vm_command(handle: &Handle, command: u32, argument: u64) -> c_long {
    returned(match handle.file.command(&Process, command, argument) {
        Ok(Reply::Value(value)) => Ok(value.into()),
        Ok(Reply::NewVcpu(index)) => vcpu::make(handle, index),
        Ok(Reply::NewStats) => stats::make(handle, handle.file.stats()),
        Ok(Reply::NewVm) => Err(Failure::Unknown),
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
    drop(unsafe { Box::<Handle, Linux>::from_raw_in(handle.cast(), Heap(Linux)) });
}

/// The VM that a notifier was started with.
///
/// # Safety
///
/// It is there until the notifier is dropped, which waits for notifications.
unsafe fn notified<'a>(vm: *const c_void) -> &'a Vm<Linux> {
    // SAFETY: as the caller promises.
    unsafe { &*vm.cast() }
}

fn addresses(start: c_ulong, end: c_ulong) -> Range<Hva> {
    Hva(start)..Hva(end)
}

/// The kernel is about to change the owner's memory.
#[unsafe(no_mangle)]
unsafe extern "C" fn waterbear_change_begin(
    vm: *const c_void,
    start: c_ulong,
    end: c_ulong,
    may_sleep: bool,
) {
    let yielding = if may_sleep {
        Yielding::Allowed
    } else {
        Yielding::Forbidden
    };
    // SAFETY: a notification.
    unsafe { notified(vm) }.invalidate_begin(addresses(start, end), yielding);
}

/// The kernel has changed the owner's memory.
#[unsafe(no_mangle)]
unsafe extern "C" fn waterbear_change_end(vm: *const c_void, start: c_ulong, end: c_ulong) {
    // SAFETY: a notification.
    unsafe { notified(vm) }.invalidate_end(addresses(start, end));
}

/// The kernel looks for pages to reclaim.
#[unsafe(no_mangle)]
unsafe extern "C" fn waterbear_age(vm: *const c_void, start: c_ulong, end: c_ulong) -> bool {
    // SAFETY: a notification.
    unsafe { notified(vm) }.age(addresses(start, end))
}

/// The kernel asks whether a page is in use.
#[unsafe(no_mangle)]
unsafe extern "C" fn waterbear_is_young(vm: *const c_void, start: c_ulong, end: c_ulong) -> bool {
    // SAFETY: a notification.
    unsafe { notified(vm) }.is_young(addresses(start, end))
}
