//! A VM that has nothing but slots, and hooks that record.
use std::cell::RefCell;

use waterbear_core::Error;
use waterbear_core::memslot::{
    Change, Generation, Memslots, Region, Slot, SlotHooks, SlotSet, SpaceId,
};
use waterbear_hal::{Gfn, Hva};
use waterbear_mock::{Mock, MockConfig, MockHost};

/// Where the frames of these VMs end: 46 bits of address.
pub const GFN_END: Gfn = Gfn(1 << 34);
pub const LOG_DIRTY: u32 = 1;
pub const READONLY: u32 = 2;

/// A region in frames; `hva` in pages.
pub fn region(space: u32, id: u32, gfn: u64, npages: u64, hva: u64, flags: u32) -> Region {
    Region {
        space,
        id,
        flags,
        guest_phys_addr: gfn << 12,
        memory_size: npages << 12,
        userspace_addr: hva << 12,
    }
}

/// A region that deletes a slot.
pub fn gone(space: u32, id: u32) -> Region {
    region(space, id, 0, 0, 0, 0)
}

/// A slot in words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SlotDump {
    pub id: u32,
    pub base: u64,
    pub npages: u64,
    pub hva: u64,
    pub flags: u32,
    pub invalid: bool,
    /// Which arch data and which bitmap: their addresses.
    pub arch: usize,
    pub dirty: usize,
}

impl SlotDump {
    pub fn of(slot: &Slot<MockHost>) -> Self {
        Self {
            id: slot.id,
            base: slot.base.0,
            npages: slot.npages,
            hva: slot.hva.0 >> 12,
            flags: slot.flags.bits(),
            invalid: slot.invalid,
            arch: std::ptr::from_ref(&*slot.arch).addr(),
            dirty: slot
                .dirty
                .as_ref()
                .map_or(0, |dirty| std::ptr::from_ref(&**dirty).addr()),
        }
    }
}

/// Everything that can be seen of a VM's slots but the generations.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dump {
    pub slots: [Vec<SlotDump>; 2],
    pub total_pages: u64,
    pub track_active: bool,
}

/// A VM that has nothing but slots.
pub struct Vm {
    // Before the host, so that the slots go first.
    pub slots: Memslots<MockHost>,
    pub host: MockHost,
}

/// A machine without page tables: slots need none, and making them takes long
/// under Miri.
pub fn machine<const NOTIFIER: bool>() -> Mock<NOTIFIER> {
    Mock::with(MockConfig::new().tables(1))
}

impl Vm {
    pub fn new() -> Self {
        let host = machine();
        let slots = Memslots::new(&host, GFN_END).expect("memory");
        Self { slots, host }
    }

    /// Makes a request, with hooks that do nothing.
    pub fn set(&self, region: Region) -> Result<(), Error> {
        self.slots.set_region(&Hooks::default(), region)
    }

    /// Makes a request and says what the hooks saw.
    pub fn events(&self, region: Region) -> (Result<(), Error>, Vec<Event>) {
        let hooks = Hooks::default();
        let result = self.slots.set_region(&hooks, region);
        (result, hooks.events.into_inner())
    }

    pub fn generation(&self, space: SpaceId) -> Generation {
        self.slots.read().set(space).generation()
    }

    /// The slots of both spaces, after checking that every index agrees.
    pub fn dump(&self) -> Dump {
        let total_pages = self.slots.lock().total_pages();
        let read = self.slots.read();
        let slots = SpaceId::ALL.map(|space| {
            let set = read.set(space);
            check_indexes(set);
            set.iter().map(|slot| SlotDump::of(slot)).collect()
        });
        Dump {
            slots,
            total_pages,
            track_active: self.slots.track_active(),
        }
    }

    /// Drops the VM and looks for leaks.
    pub fn finish(self) {
        let Self { slots, host } = self;
        drop(slots);
        host.assert_no_leaks();
    }
}

/// Panics unless every slot is found by every index.
fn check_indexes(set: &SlotSet<MockHost>) {
    assert_eq!(set.len(), set.iter().count());
    let mut end = Gfn(0);
    for slot in set.iter() {
        assert!(end <= slot.base, "slots are in order and do not overlap");
        end = slot.end();
        let found = [
            set.by_id(slot.id),
            set.by_gfn(slot.base),
            set.by_gfn(Gfn(slot.end().0 - 1)),
            set.by_hva(slot.hva..slot.hva_end())
                .find(|hit| hit.id == slot.id),
            set.overlapping(slot.base..slot.end()).next(),
        ];
        for found in found {
            let found = found.expect("the slot is found");
            assert!(std::ptr::eq(&raw const **found, &raw const **slot));
        }
    }
}

/// What a hook was told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    Zap(SlotDump),
    Committed {
        kind: &'static str,
        old: Option<SlotDump>,
        new: Option<SlotDump>,
    },
    Wrapped(SpaceId),
}

type Callback<'a, T> = RefCell<Box<dyn FnMut(T) + 'a>>;

/// Hooks that record what they are told and run a test's code.
pub struct Hooks<'a> {
    pub events: RefCell<Vec<Event>>,
    pub on_zap: Callback<'a, SlotDump>,
    pub on_commit: Callback<'a, &'static str>,
    pub on_wrap: Callback<'a, SpaceId>,
    pub move_allowed: bool,
    pub dirty_log_starts_set: bool,
}

impl Default for Hooks<'_> {
    fn default() -> Self {
        Self {
            events: RefCell::default(),
            on_zap: RefCell::new(Box::new(|_| {})),
            on_commit: RefCell::new(Box::new(|_| {})),
            on_wrap: RefCell::new(Box::new(|_| {})),
            move_allowed: true,
            dirty_log_starts_set: false,
        }
    }
}

impl SlotHooks<MockHost> for Hooks<'_> {
    fn zap_slot(&self, slot: &Slot<MockHost>) {
        let slot = SlotDump::of(slot);
        self.events.borrow_mut().push(Event::Zap(slot.clone()));
        (self.on_zap.borrow_mut())(slot);
    }

    fn committed(&self, change: &Change<'_, MockHost>) {
        let kind = match change {
            Change::Create { .. } => "create",
            Change::Delete { .. } => "delete",
            Change::Move { .. } => "move",
            Change::Flags { .. } => "flags",
        };
        self.events.borrow_mut().push(Event::Committed {
            kind,
            old: change.before().map(|slot| SlotDump::of(slot)),
            new: change.after().map(|slot| SlotDump::of(slot)),
        });
        (self.on_commit.borrow_mut())(kind);
    }

    fn mmio_generation_wrapped(&self, space: SpaceId) {
        self.events.borrow_mut().push(Event::Wrapped(space));
        (self.on_wrap.borrow_mut())(space);
    }

    fn move_allowed(&self) -> bool {
        self.move_allowed
    }

    fn dirty_log_starts_set(&self) -> bool {
        self.dirty_log_starts_set
    }
}

/// Ids of the slots that have a byte in a range of pages, sorted.
pub fn hva_ids(set: &SlotSet<MockHost>, pages: std::ops::Range<u64>) -> Vec<u32> {
    let range = Hva(pages.start << 12)..Hva(pages.end << 12);
    let mut ids: Vec<_> = set.by_hva(range).map(|slot| slot.id).collect();
    ids.sort_unstable();
    ids
}
