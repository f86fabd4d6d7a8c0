//! The lock order, in one table.
//!
//! A thread takes locks from the top of this table to the bottom. The ranks
//! are what the mock host enforces in every test.
//!
//! | rank | lock | kind | protects | may sleep inside | taken under |
//! |---|---|---|---|---|---|
//! | 10 | [`VENDOR`] | mutex | registration and unregistration of the vendor | yes | nothing |
//! | 20 | host's CPU-hotplug lock | the host's | the set of online CPUs | yes | vendor |
//! | 30 | [`USAGE`] | mutex | the count of users of hardware virtualisation | yes | vendor, hotplug |
//! | 40 | [`VM_LIST`] | mutex | how many VMs there are and whether more may come | yes | vendor, hotplug |
//! | 43 | [`VCPU`] | mutex | a vCPU's state; one thread runs it at a time | yes | nothing |
//! | 44 | [`BUS`] | mutex | which writes to devices the kernel takes | yes | nothing |
//! | 45 | [`TRACKERS`] | mutex | which outside users see the guest's writes | yes | nothing |
//! | 46 | [`CLOCK`] | mutex | whether the vCPUs' time-stamp counters agree | yes | a vCPU's |
//! | 48 | [`WRITE_LOG`] | mutex | the page of writes that wait for the owner | yes | a vCPU's, a bus read section |
//! | 50 | [`SLOTS`] | mutex | whole updates of memory slots | yes | trackers |
//! | 55 | what an outside user's callbacks take | the user's | what it knows of guest memory | yes | slots, a tracker read section |
//! | 60 | [`SLOTS_ARCH`] | mutex | "read the set, prepare, publish"; lazy activation | yes | slots, an outside user's, a slot read section |
//! | 70 | [`MMU`] | spinning reader-writer lock | roots, invalidation state, page-track counts | no | slots, an outside user's, a slot read section |
//!
//! Read sections are not locks but have a place: a slot read section (it may
//! sleep) is opened before `slots_arch_lock` and `mmu_lock`, never waited for
//! under `slots_arch_lock`; a tracker read section (it may sleep, and callbacks
//! run in it) is opened under `slots_lock` or on its own, never in a slot read
//! section, and is waited for under `trackers_lock`; an RCU section (it may not sleep) is opened under
//! `mmu_lock` or on its own, and nothing is locked inside it.
use waterbear_hal::{LockClass, LockKind};

macro_rules! class {
    ($(#[$doc:meta])* $const:ident, $name:literal, $rank:literal, $kind:ident) => {
        $(#[$doc])*
        pub static $const: LockClass = LockClass { name: $name, rank: $rank, kind: LockKind::$kind };
    };
}

class! {
    /// Held across the whole of a vendor's registration or unregistration, and
    /// used for nothing else.
    VENDOR, "vendor_lock", 10, Sleeping
}
class! {
    /// Counts who needs hardware virtualisation switched on.
    USAGE, "usage_lock", 30, Sleeping
}
class! {
    /// How many VMs there are and whether more may come.
    VM_LIST, "vm_list_lock", 40, Sleeping
}
class! {
    /// Held while a vCPU runs or its state is looked at.
    VCPU, "vcpu_lock", 43, Sleeping
}
class! {
    /// Serialises changes of what the bus takes.
    BUS, "bus_lock", 44, Sleeping
}
class! {
    /// Whether the vCPUs' time-stamp counters agree.
    CLOCK, "clock_lock", 46, Sleeping
}
class! {
    /// One vCPU at a time appends to the page of writes that wait.
    WRITE_LOG, "write_log_lock", 48, Sleeping
}
class! {
    /// Serialises the attaching and detaching of outside users.
    TRACKERS, "trackers_lock", 45, Sleeping
}
class! {
    /// Serialises whole updates of memory slots.
    SLOTS, "slots_lock", 50, Sleeping
}
class! {
    /// Covers "read the current set, prepare the new slot, publish".
    SLOTS_ARCH, "slots_arch_lock", 60, Sleeping
}
class! {
    /// Page-table structure: faults hold it for reading, whoever removes roots
    /// or changes page-track counts for writing.
    MMU, "mmu_lock", 70, Spinning
}
