//! Memory slots: which guest frames are memory, and where the owner has it.
//!
//! A VM has [`ADDRESS_SPACES`] address spaces, each with a set of slots.
//! Readers (faults, ioctls, notifications) look slots up inside a read
//! section, [`Memslots::read`]; a writer builds a new set, publishes it and
//! waits for the readers of the old one. Sets and slots never change once they
//! are published.
//!
//! | file | idea |
//! |---|---|
//! | [`region`] | what user space asks for, checked |
//! | [`slot`] | one slot |
//! | [`arch`] | counts that belong to a slot: huge mappings, tracked pages |
//! | [`dirty`] | the dirty bitmap of a slot |
//! | [`set`] | all slots of one address space, with three indexes |
//! | [`hva`] | the index by host address |
//! | [`ids`] | the index by id, which owns the slots |
//! | [`generation`] | the number of a set, and what an MMIO entry keeps of it |
//! | [`gate`] | unmap notifications against publishing |
//! | [`update`] | the two locks, the order of steps, undoing a failure |
//! | [`hooks`] | what the rest of the VM does during an update |
//!
//! # The race that two locks exist for
//!
//! Page-track counts are allocated when the first tracker comes, by a thread
//! that cannot take `slots_lock`. Without `slots_arch_lock`:
//!
//! ```text
//! installer                      activator                    reader
//! flag is off: no counts
//!                                counts for every slot
//!                                flag := on
//! publish the slot, no counts
//!                                                             flag is on
//!                                                             slot has no counts
//! ```
//!
//! So "is the flag on, prepare, publish" is one critical section, and so is
//! "counts for every slot, flag := on" (MS-6).
pub mod arch;
pub mod dirty;
pub mod gate;
pub mod generation;
pub mod hooks;
pub mod hva;
pub mod ids;
pub mod region;
pub mod set;
pub mod slot;
pub mod update;

pub use arch::SlotArch;
pub use dirty::DirtyBitmap;
pub use gate::Gate;
pub use generation::{Generation, MMIO_GENERATION_BITS};
pub use hooks::{Change, SlotHooks};
pub use region::{MAX_PAGES, Region};
pub use set::{MAX_SLOTS, SlotSet};
pub use slot::{ADDRESS_SPACES, Slot, SlotFlags, SpaceId};
pub use update::{Memslots, SlotsGuard, SlotsRead};
