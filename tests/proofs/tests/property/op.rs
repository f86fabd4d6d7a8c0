//! Operations as plain data: a sequence of them can be printed, cut and run
//! again.
use waterbear_core::memslot::Region;
use waterbear_hal::Level;
use waterbear_mock::hw::Access;

/// How many vCPUs there are.
pub const VCPUS: usize = 3;
/// How many pages of user memory there are, if it is not large.
pub const WINDOW: u64 = 4096;
/// The names of slots are below it, in good requests.
pub const SLOTS: u64 = 5;

/// One access of one guest.
#[derive(Clone, Copy, Debug)]
pub struct Touch {
    pub vcpu: usize,
    pub gfn: u64,
    pub access: Access,
}

/// What the host does to user memory.
#[derive(Clone, Copy, Debug)]
pub enum Change {
    Map { writable: bool, level: Level },
    Unmap,
    Protect { writable: bool },
    Limit { level: Level },
    Poison,
}

/// A range of user pages, from `HVA` on.
#[derive(Clone, Copy, Debug)]
pub struct Pages {
    pub first: u64,
    pub pages: u64,
}

impl Pages {
    pub fn contains(&self, page: u64) -> bool {
        (self.first..self.first + self.pages).contains(&page)
    }
}

/// One operation.
#[derive(Clone, Copy, Debug)]
pub enum Op {
    Slot(Region),
    Touch(Touch),
    /// A change of the host's, with accesses while it is announced, and
    /// perhaps while another is announced too.
    Host {
        range: Pages,
        change: Change,
        other: Option<Pages>,
        before: Option<Touch>,
        after: Option<Touch>,
    },
    ChangePages(Pages),
    Zap {
        space: u32,
        first: u64,
        pages: u64,
    },
    ReadLog {
        space: u32,
        id: u32,
        clear: bool,
        short: bool,
    },
    ClearLog {
        space: u32,
        id: u32,
        first: u64,
        npages: u64,
        mask: u64,
    },
    Split {
        space: u32,
        first: u64,
        pages: u64,
    },
    Prefault {
        vcpu: usize,
        gfn: u64,
    },
    Age(Pages),
    IsYoung(Pages),
    Track {
        space: u32,
        gfn: u64,
        add: bool,
    },
    InvalidateRoots,
    Switch {
        vcpu: usize,
        space: u32,
    },
    Migrate {
        vcpu: usize,
        cpu: u32,
    },
    /// The n-th allocation of the next operation fails.
    FailAlloc(u64),
    /// The next look-up of a page is interrupted.
    FailResolve,
    Contend(u64),
}

/// How large things are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Size {
    /// A few mappings of 2 MiB.
    Small,
    /// Two mappings of 1 GiB.
    Giant,
}

impl Size {
    /// How many pages of user memory there are.
    pub fn window(self) -> u64 {
        match self {
            Size::Small => WINDOW,
            Size::Giant => 2 * Level::L3.pages(),
        }
    }

    /// The largest mapping that there can be.
    pub fn granule(self) -> u64 {
        match self {
            Size::Small => Level::L2.pages(),
            Size::Giant => Level::L3.pages(),
        }
    }
}
