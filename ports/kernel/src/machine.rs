//! Which vendor this machine has, and the registry.
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use waterbear_core::Error;
use waterbear_core::mem::{Box, Heap, boxed};
use waterbear_core::registry::Registry;
use waterbear_core::vendor::{Either, Hardware};
use waterbear_svm::svm::Svm;
use waterbear_vmx::vmx::Vmx;

use crate::glue;
use crate::host::Kernel;

/// The vendor whose CPU this is: AMD or Intel.
pub type Vendor = Either<Svm<Kernel>, Vmx<Kernel>>;

/// Both look; at most one of them finds its CPU. The log says why a CPU is refused.
fn find() -> Result<Vendor, Error> {
    let cpus = glue::wb_cpu_count();
    match Svm::new(&Kernel, cpus) {
        Ok(svm) => Ok(Either::A(svm)),
        Err(Error::NotSupported) => Ok(Either::B(Vmx::new(&Kernel, cpus)?)),
        Err(error) => Err(error),
    }
}

/// What there is from loading to unloading.
///
/// # Invariants
///
/// `registry` and `list` refer to `vendor` and `list` behind the same box, so
/// they are dropped in the order of the fields.
pub struct Machine {
    /// Who uses the vendor.
    pub registry: Registry<'static, Kernel>,
    list: Box<[&'static dyn Hardware; 1], Kernel>,
    /// The only vendor: number 0.
    pub vendor: Box<Vendor, Kernel>,
}

/// The machine, while the module is loaded.
static MACHINE: AtomicPtr<Machine> = AtomicPtr::new(ptr::null_mut());

/// Makes the machine. Once, when the module is loaded.
///
/// # Errors
///
/// [`Error::NotSupported`] when no vendor finds its CPU, [`Error::NoMemory`].
pub(crate) fn make() -> Result<(), Error> {
    let vendor = boxed(&Kernel, find()?)?;
    // SAFETY: the box is dropped after whoever refers to it (the invariant),
    // and its content does not move.
    let lent: &'static Vendor = unsafe { &*ptr::from_ref(&*vendor) };
    let list = boxed(&Kernel, [lent.hardware()])?;
    // SAFETY: as above.
    let vendors: &'static [&'static dyn Hardware; 1] = unsafe { &*ptr::from_ref(&*list) };
    let machine = Machine {
        registry: Registry::new(&Kernel, vendors)?,
        list,
        vendor,
    };
    let (machine, _heap) = Box::into_raw_with_allocator(boxed(&Kernel, machine)?);
    // Release: who sees the pointer sees the machine. Pairs with `get`.
    MACHINE.store(machine, Ordering::Release);
    Ok(())
}

/// The machine. There is one while anything of the module can be called.
pub fn get() -> Option<&'static Machine> {
    // SAFETY: `unmake` is called when nothing of the module can be called any
    // more, so it outlives every use.
    unsafe { MACHINE.load(Ordering::Acquire).as_ref() }
}

/// Ends the machine.
///
/// # Safety
///
/// Nobody uses it, nor what came from it, now or later.
pub(crate) unsafe fn unmake() {
    let machine = MACHINE.swap(ptr::null_mut(), Ordering::Acquire);
    if !machine.is_null() {
        // SAFETY: from `make`, over this heap; nobody else has it.
        drop(unsafe { Box::from_raw_in(machine, Heap(Kernel)) });
    }
}

impl Machine {
    /// What every host needs to know before anything runs.
    pub fn hardware(&self) -> &'static dyn Hardware {
        self.list[0]
    }
}

/// The machine's CPUID, as far as guests can have what it says.
pub(crate) fn cpuid(leaf: u32, index: u32) -> [u32; 4] {
    let answer = core::arch::x86_64::__cpuid_count(leaf, index);
    let answer = [answer.eax, answer.ebx, answer.ecx, answer.edx];
    get().map_or(answer, |machine| {
        machine.hardware().limit_cpuid(leaf, index, answer)
    })
}
