//! Commands of a VM's descriptor.
use waterbear_hal::Hal;
use waterbear_hal::addr::PAGE_SIZE;
use waterbear_hal::sync::atomic::{AtomicBool, Ordering};

use super::bytes::{self, Caller, Structure, field};
use super::stats::StatsFile;
use super::tsc::VmTsc;
use super::{Answer, DONE, Failure, Reply, capability, kvm, no_argument};
use crate::Error;
use crate::memslot::Region;
use crate::spte::EntryFormat;
use crate::tdp::DirtyTracking;
use crate::vcpu::MAX_VCPUS;
use crate::vm::Vm;

/// A VM behind a descriptor.
pub struct VmFile<H: Hal> {
    /// `[I]` the host.
    pub(super) hal: H,
    /// `[I]` the VM.
    vm: Vm<H>,
    /// `[a]` reading the dirty log leaves it as it is, and clearing is a
    /// command of its own.
    pub(super) manual_log: AtomicBool,
    /// Its time-stamp counters.
    pub(super) tsc: VmTsc,
}

/// The last byte below 4 GiB at which three pages for a task state segment can
/// begin.
const TSS_ADDRESS_END: u64 = (1 << 32) - 3 * PAGE_SIZE;

/// The commands whose argument points to a structure.
const WITH_STRUCTURE: [u32; 10] = [
    kvm::KVM_SET_USER_MEMORY_REGION,
    kvm::KVM_GET_DIRTY_LOG,
    kvm::KVM_CLEAR_DIRTY_LOG,
    kvm::KVM_ENABLE_CAP,
    kvm::KVM_SET_IDENTITY_MAP_ADDR,
    kvm::KVM_REGISTER_COALESCED_MMIO,
    kvm::KVM_UNREGISTER_COALESCED_MMIO,
    kvm::KVM_IOEVENTFD,
    kvm::KVM_GET_CLOCK,
    kvm::KVM_SET_CLOCK,
];

impl<H: Hal> VmFile<H> {
    /// A VM without memory. May sleep.
    ///
    /// # Errors
    ///
    /// As [`Vm::new`].
    pub fn new(
        hal: &H,
        user: H::Space,
        format: EntryFormat,
        dirty: DirtyTracking,
    ) -> Result<Self, Error> {
        Ok(Self {
            hal: hal.clone(),
            vm: Vm::new(hal, user, format, dirty)?,
            manual_log: AtomicBool::new(false),
            tsc: VmTsc::new(hal),
        })
    }

    /// The VM.
    pub fn vm(&self) -> &Vm<H> {
        &self.vm
    }

    /// What its statistics are read from.
    pub fn stats(&self) -> StatsFile<H> {
        StatsFile::of_vm()
    }

    /// Puts a vCPU among the VM's: there is no way back. May sleep.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`], [`Error::Invalid`], [`Error::NoMemory`].
    pub fn add_vcpu(&self, index: u32) -> Result<(), Error> {
        self.vm.vcpus().add(index).map(drop)
    }

    /// Carries out a command of a thread of the owner's. May sleep; no lock
    /// held.
    ///
    /// # Errors
    ///
    /// As the interface says for each.
    #[inline]
    pub fn command(&self, caller: &impl Caller, command: u32, argument: u64) -> Answer {
        // Owners ask this a hundred times as they begin, and need nothing of what the others need.
        if command == kvm::KVM_CHECK_EXTENSION {
            return Ok(Reply::Value(capability::value(&self.hal, argument)));
        }
        self.carry_out(caller, command, argument)
    }

    #[inline(never)]
    fn carry_out(&self, caller: &impl Caller, command: u32, argument: u64) -> Answer {
        match command {
            // Both are for CPUs that need pages of the guest's memory to run
            // it in real mode. Such CPUs are refused, so there is nothing to
            // put there.
            kvm::KVM_SET_TSS_ADDR if argument <= TSS_ADDRESS_END => DONE,
            kvm::KVM_SET_TSS_ADDR | kvm::KVM_SET_GSI_ROUTING => Err(Error::Invalid.into()),
            kvm::KVM_GET_TSC_KHZ => self.tsc.get(),
            kvm::KVM_SET_TSC_KHZ => self.tsc.set(&self.hal, argument),
            kvm::KVM_GET_STATS_FD => {
                no_argument(argument)?;
                Ok(Reply::NewStats)
            }
            kvm::KVM_CREATE_VCPU => self.may_create_vcpu(argument),
            kvm::KVM_IOEVENTFD if !H::HAS_BELLS => Err(Failure::Unknown),
            _ if WITH_STRUCTURE.contains(&command) => self.exchange(caller, command, argument),
            _ => Err(Failure::Unknown),
        }
    }

    /// Carries out a command whose argument points to a structure.
    #[inline(never)]
    fn exchange(&self, caller: &impl Caller, command: u32, argument: u64) -> Answer {
        let mut structure = [0; _];
        bytes::take(caller, command, argument, &mut structure)?;
        match command {
            kvm::KVM_SET_USER_MEMORY_REGION => self.set_region(&structure),
            kvm::KVM_GET_DIRTY_LOG => self.get_dirty_log(caller, &structure),
            kvm::KVM_CLEAR_DIRTY_LOG => self.clear_dirty_log(caller, &structure),
            kvm::KVM_ENABLE_CAP => self.enable(&structure),
            kvm::KVM_REGISTER_COALESCED_MMIO => self.add_zone(&structure),
            kvm::KVM_UNREGISTER_COALESCED_MMIO => self.remove_zones(&structure),
            kvm::KVM_IOEVENTFD => self.listen(&structure),
            kvm::KVM_GET_CLOCK => {
                self.get_clock(&mut structure);
                Ok(())
            }
            kvm::KVM_SET_CLOCK => self.set_clock(&structure),
            // KVM_SET_IDENTITY_MAP_ADDR, see above.
            _ => Ok(()),
        }?;
        bytes::give(caller, command, argument, &structure)?;
        DONE
    }

    /// Whether there can be a vCPU of that index.
    fn may_create_vcpu(&self, index: u64) -> Answer {
        let index = u32::try_from(index).map_err(|_| Error::Invalid)?;
        if index as usize >= MAX_VCPUS {
            return Err(Error::Invalid.into());
        }
        if self.vm.vcpus().get(index).is_some() {
            return Err(Error::Exists.into());
        }
        Ok(Reply::NewVcpu(index))
    }

    #[inline(never)]
    fn set_region(&self, sent: &Structure) -> Result<(), Error> {
        self.vm.set_region(Region::named(
            field!(sent, kvm_userspace_memory_region.slot: u32),
            field!(sent, kvm_userspace_memory_region.flags: u32),
            field!(sent, kvm_userspace_memory_region.guest_phys_addr: u64),
            field!(sent, kvm_userspace_memory_region.memory_size: u64),
            field!(sent, kvm_userspace_memory_region.userspace_addr: u64),
        ))
    }

    fn enable(&self, sent: &Structure) -> Result<(), Error> {
        let capability = field!(sent, kvm_enable_cap.cap: u32);
        let flags = field!(sent, kvm_enable_cap.flags: u32);
        let value = field!(sent, kvm_enable_cap.args: u64);
        if capability != kvm::KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2
            || flags != 0
            || value & !capability::MANUAL_LOG != 0
        {
            return Err(Error::Invalid);
        }
        // Relaxed: whoever is told in user space that it is on is told
        // after it is.
        self.manual_log.store(value != 0, Ordering::Relaxed);
        Ok(())
    }
}
