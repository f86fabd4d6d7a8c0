//! A virtual machine: its slots, its page tables, its vCPUs.
//!
//! | file | idea |
//! |---|---|
//! | [`fault`] | the guest touched memory that is not mapped for it |
//! | [`memory`] | guest memory as bytes, for whoever acts in a vCPU's place |
//! | [`tables`] | the page tables of a guest, in its memory |
//! | [`slots`] | slots come and go: what the page tables do about it |
//! | [`host`] | the host changes or asks about the owner's memory |
//! | [`dirty`] | the dirty log, as user space reads it |
//! | [`track`] | which pages' writes are seen, and by whom |
pub mod dirty;
pub mod fault;
pub mod host;
pub mod memory;
pub mod slots;
pub mod tables;
pub mod track;

use waterbear_hal::{Gfn, Hal, Level};

use crate::Error;
use crate::bus::Bus;
use crate::clock::Clock;
use crate::memslot::{Memslots, Slot, SlotSet};
use crate::page_track::Trackers;
use crate::request::Request;
use crate::spte::EntryFormat;
use crate::tdp::{DirtyLog, DirtyTracking, Mmu, Tlb};
use crate::vcpu::Vcpus;

pub use fault::{Outcome, VcpuMmu};
pub(crate) use memory::is_there;
pub use tables::GuestTables;
pub use track::Registration;

/// A virtual machine.
pub struct Vm<H: Hal> {
    /// `[I]` the host.
    pub(crate) hal: H,
    /// `[I]` the address space of the owner.
    pub(crate) user: H::Space,
    /// Which guest frames are memory.
    pub(crate) memslots: Memslots<H>,
    /// What is mapped of it.
    pub(crate) mmu: Mmu<H>,
    /// Who uses the mappings.
    pub(crate) vcpus: Vcpus<H>,
    /// Who is told what the guest writes.
    pub(crate) trackers: Trackers<H>,
    /// What is done about its writes to devices.
    bus: Bus<H>,
    /// What time it is for the guest.
    clock: Clock<H>,
}

impl<H: Hal> Vm<H> {
    /// A VM without memory and vCPUs, for memory of `user`. May sleep.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`]; [`Error::NotSupported`] for dirty bits that the
    /// format does not have.
    pub fn new(
        hal: &H,
        user: H::Space,
        format: EntryFormat,
        dirty: DirtyTracking,
    ) -> Result<Self, Error> {
        Ok(Self {
            hal: hal.clone(),
            user,
            memslots: Memslots::new(hal, format.end())?,
            mmu: Mmu::new(hal, format, dirty)?,
            vcpus: Vcpus::new(hal),
            trackers: Trackers::new(hal)?,
            bus: Bus::new(hal)?,
            clock: Clock::new(hal)?,
        })
    }

    /// The address space of the owner.
    pub fn user(&self) -> &H::Space {
        &self.user
    }

    /// The memory slots.
    pub fn memslots(&self) -> &Memslots<H> {
        &self.memslots
    }

    /// The second-level page tables.
    pub fn mmu(&self) -> &Mmu<H> {
        &self.mmu
    }

    /// What is done about writes to devices.
    pub fn bus(&self) -> &Bus<H> {
        &self.bus
    }

    /// What time it is for the guest.
    pub fn clock(&self) -> &Clock<H> {
        &self.clock
    }

    /// The vCPUs.
    pub fn vcpus(&self) -> &Vcpus<H> {
        &self.vcpus
    }
}

impl<H: Hal> Drop for Vm<H> {
    /// Removes every mapping and waits for the tables: on hosts without
    /// notifications this gives the pages back. May sleep. No vCPU runs any
    /// more.
    fn drop(&mut self) {
        self.mmu.invalidate_roots(&self.vcpus, [&(), &()]);
        self.hal.rcu_barrier();
    }
}

impl<H: Hal> Tlb for Vcpus<H> {
    /// No CPU can flush a range of guest-physical addresses, so the range goes
    /// unused.
    fn flush(&self, _start: Gfn, _end: Gfn) {
        self.flush_tlbs();
    }

    fn reload_roots(&self) {
        self.make_request_all(Request::MMU_RELOAD);
    }
}

impl<H: Hal> DirtyLog for Slot<H> {
    fn mark(&self, gfn: Gfn, level: Level) {
        for page in 0..level.pages() {
            self.mark_dirty(gfn.add(page));
        }
    }

    fn kept(&self) -> Option<&dyn DirtyLog> {
        match self.dirty {
            Some(_) => Some(self),
            None => None,
        }
    }
}

impl<H: Hal> DirtyLog for SlotSet<H> {
    fn mark(&self, gfn: Gfn, level: Level) {
        // A large mapping lies inside one slot (TDP-12).
        if let Some(slot) = self.by_gfn(gfn) {
            DirtyLog::mark(&**slot, gfn, level);
        }
    }
}
