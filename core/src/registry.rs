//! Which vendor's hardware virtualisation is used, and by how many VMs.
//!
//! A module brings the parts for several vendors and registers the one that
//! this machine has. Registering is a sequence of looks, then of changes that
//! cannot fail but for the last, so the wrong vendor leaves no trace (VR-2):
//!
//! 1. vendor lock, held to the end and used for nothing else (VR-1): the CPU
//!    calls below take the host's CPU-hotplug lock, and a lock that others
//!    take *under* that one could not be held around it;
//! 2. nobody is registered, or "exists";
//! 3. every online CPU is able, or "not supported", and no CPU is in use by
//!    somebody else, or "busy" (VR-3, VR-5), while no CPU comes or goes;
//! 4. VMs may be created;
//! 5. the device node appears (VR-3).
//!
//! Unregistering goes backwards and is refused while there is a VM.
//!
//! CPUs that come online between 3 and the first VM are looked at when the
//! first VM switches them on.
use waterbear_hal::cpu::CpusHeld;
use waterbear_hal::sync::atomic::{AtomicUsize, Ordering};
use waterbear_hal::sync::twin::{Part, removed};
use waterbear_hal::{CpuId, Hal, Word};

use crate::Error;
use crate::hardware::{Switch, check_here, for_all};
use crate::lock::Mutex;
use crate::lock_order::{VENDOR, VM_LIST};
use crate::vendor::{EnableError, Hardware, Trouble};

/// No vendor is registered.
const NONE: usize = usize::MAX;

/// The registry: one per module.
pub struct Registry<'v, H: Hal> {
    hal: H,
    /// The vendors that can be registered, by number.
    vendors: &'v [&'v dyn Hardware],
    /// Held across registration and unregistration.
    lock: Mutex<H, ()>,
    /// The number of the registered vendor, or [`NONE`]. Written under `lock`;
    /// read anywhere.
    current: AtomicUsize,
    vms: Mutex<H, Vms>,
    switch: Switch<H>,
}

/// What [`VM_LIST`] protects.
struct Vms {
    /// Whether more may come. Then a vendor is registered.
    open: bool,
    count: usize,
}

impl<'v, H: Hal> Registry<'v, H> {
    /// A registry of `vendors`, none of them registered. May sleep.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`].
    pub fn new(hal: &H, vendors: &'v [&'v dyn Hardware]) -> Result<Self, Error> {
        let vms = Vms {
            open: false,
            count: 0,
        };
        Ok(Self {
            hal: hal.clone(),
            vendors,
            lock: Mutex::new(hal, &VENDOR, ())?,
            current: AtomicUsize::new(NONE),
            vms: Mutex::new(hal, &VM_LIST, vms)?,
            switch: Switch::new(hal)?,
        })
    }

    /// The number of the registered vendor.
    pub fn current(&self) -> Option<usize> {
        // Acquire: pairs with the stores in `register` and `unregister`.
        let current = self.current.load(Ordering::Acquire);
        (current < self.vendors.len()).then_some(current)
    }

    #[inline(never)]
    fn current_vendor(&self) -> Option<&'v dyn Hardware> {
        self.vendors.get(self.current()?).copied()
    }

    /// Registers `vendor`. `publish_node` makes the device node appear; it may
    /// sleep and must not register or unregister. May sleep; no lock held.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when there is no such vendor, [`Error::Exists`] when
    /// one is registered, [`Error::NotSupported`] when an online CPU cannot
    /// host guests, [`Error::Busy`] when somebody else uses hardware
    /// virtualisation, any error of `publish_node`. The log says which CPU and
    /// why. Nothing has changed.
    pub fn register(
        &self,
        vendor: usize,
        publish_node: impl FnOnce() -> Result<(), Error>,
    ) -> Result<(), Error> {
        let candidate = self.vendors.get(vendor).copied().ok_or(Error::Invalid)?;
        let _lock = (!removed(Part::VendorLock)).then(|| self.lock.lock());
        if self.current().is_some() {
            return Err(Error::Exists);
        }
        {
            let _held = CpusHeld::new(&self.hal);
            for_all(&self.hal, candidate, &|cpu| check_here(candidate, cpu))?;
            for_all(&self.hal, candidate, &|cpu| probe_here(candidate, cpu))?;
            // Release: whoever sees the vendor sees what was found out about
            // it. Pairs with `current`.
            self.current.store(vendor, Ordering::Release);
        }
        self.vms.lock().open = true;
        if let Err(error) = publish_node() {
            self.close();
            return Err(error);
        }
        self.say(candidate, "registered");
        Ok(())
    }

    /// Takes the vendor out. `remove_node` makes the device node disappear
    /// before anything else changes. May sleep; no lock held.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when no vendor is registered, [`Error::Busy`] while
    /// there is a VM. Nothing has changed.
    pub fn unregister(&self, remove_node: impl FnOnce()) -> Result<(), Error> {
        let _lock = (!removed(Part::VendorLock)).then(|| self.lock.lock());
        let vendor = self.current_vendor().ok_or(Error::NotFound)?;
        {
            // From here on no VM can be created, so none appears while the
            // node goes.
            let mut vms = self.vms.lock();
            if vms.count != 0 {
                return Err(Error::Busy);
            }
            vms.open = false;
        }
        remove_node();
        self.close();
        self.say(vendor, "unregistered");
        Ok(())
    }

    #[cold]
    fn say(&self, vendor: &dyn Hardware, what: &'static str) {
        let name = vendor.name();
        self.hal
            .info(&[Word::Text(name), Word::Text(": "), Word::Text(what)]);
    }

    /// No vendor and no new VMs. The caller holds the vendor lock.
    fn close(&self) {
        let mut vms = self.vms.lock();
        vms.open = false;
        if vms.count != 0 {
            // Only who has the node can create a VM, and there was none.
            self.hal.bug("a VM was created without the device node");
            return;
        }
        // Release: pairs with `current`.
        self.current.store(NONE, Ordering::Release);
    }

    /// Says that a VM is about to exist, and switches hardware virtualisation
    /// on for it. It exists until the token is dropped. May sleep; no lock
    /// held.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when no vendor is registered, [`Error::Busy`] and
    /// [`Error::NotSupported`] when a CPU cannot be switched on.
    pub fn vm_created(&self) -> Result<VmToken<'_, 'v, H>, Error> {
        let number = {
            let mut vms = self.vms.lock();
            if !vms.open {
                return Err(Error::NotFound);
            }
            vms.count += 1;
            // From here on the vendor stays: unregistering is refused.
            self.current()
        };
        let vendor = number.and_then(|number| self.vendors.get(number));
        let result = match (number, vendor) {
            (Some(number), Some(&vendor)) => self.switch.acquire(vendor).map(|()| (number, vendor)),
            _ => Err(Error::NotFound),
        };
        match result {
            Ok((number, vendor)) => Ok(VmToken {
                registry: self,
                number,
                vendor,
            }),
            Err(error) => {
                self.vms.lock().count -= 1;
                Err(error)
            }
        }
    }

    /// How many VMs there are. A look.
    pub fn vm_count(&self) -> usize {
        self.vms.lock().count
    }

    /// A CPU comes online. The port calls this on that CPU, in process
    /// context, on the writing side of the host's CPU-hotplug lock. After an
    /// error the CPU must not come online.
    ///
    /// # Errors
    ///
    /// [`Error::NotSupported`] or [`Error::Busy`] when there are VMs and the
    /// CPU cannot be enabled. The log says why.
    pub fn cpu_online(&self, cpu: CpuId) -> Result<(), Error> {
        match self.current_vendor() {
            Some(vendor) => self.switch.cpu_online(vendor, cpu),
            None => Ok(()),
        }
    }

    /// A CPU goes offline. The port calls this on that CPU, on the writing
    /// side of the host's CPU-hotplug lock; interrupts may be off.
    pub fn cpu_offline(&self, cpu: CpuId) {
        if let Some(vendor) = self.current_vendor() {
            self.switch.cpu_offline(vendor, cpu);
        }
    }

    /// The machine goes to sleep. The port calls this on the last CPU that is
    /// online, when nothing else runs; interrupts may be off.
    pub fn suspend(&self, cpu: CpuId) {
        self.cpu_offline(cpu);
    }

    /// The machine woke. The port calls this where it called
    /// [`suspend`](Registry::suspend).
    ///
    /// # Errors
    ///
    /// [`Error::NotSupported`] or [`Error::Busy`] when there are VMs and the
    /// CPU cannot be enabled any more: then no vCPU may enter on it.
    pub fn resume(&self, cpu: CpuId) -> Result<(), Error> {
        match self.current_vendor() {
            Some(vendor) => self.switch.resume(vendor, cpu),
            None => Ok(()),
        }
    }

    /// The machine reboots without asking. The port calls this on every CPU,
    /// in whatever context it can still reach it (an NMI, say). Takes no lock.
    /// The CPU is off afterwards and none is switched on any more.
    pub fn emergency_off(&self, cpu: CpuId) {
        self.switch.emergency();
        if let Some(vendor) = self.current_vendor() {
            self.switch.emergency_off(vendor, cpu);
        }
    }
}

/// Looks whether somebody else uses this CPU, which has interrupts off.
fn probe_here(vendor: &dyn Hardware, cpu: CpuId) -> Result<(), Trouble> {
    if vendor.is_enabled(cpu) {
        return Err(EnableError::Busy.into());
    }
    Ok(())
}

/// A VM exists: hardware virtualisation is on and the vendor stays.
#[must_use = "the VM exists only as long as its token"]
pub struct VmToken<'r, 'v, H: Hal> {
    registry: &'r Registry<'v, H>,
    number: usize,
    vendor: &'v dyn Hardware,
}

impl<H: Hal> VmToken<'_, '_, H> {
    /// The number of the vendor that the VM runs on.
    pub fn vendor(&self) -> usize {
        self.number
    }
}

impl<H: Hal> Drop for VmToken<'_, '_, H> {
    fn drop(&mut self) {
        self.registry.switch.release(self.vendor);
        // Last: as long as the VM counts, the vendor stays.
        self.registry.vms.lock().count -= 1;
    }
}
