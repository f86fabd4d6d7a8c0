//! Requests: what others want a vCPU to do before it enters the guest again.
//!
//! A request is a bit in the vCPU's set and a few flags that say how the vCPU
//! is to be told. Whoever makes one does so through
//! [`Vcpu::make_request`](crate::vcpu::Vcpu::make_request) or, for all vCPUs
//! of a VM, [`Vcpus::make_request_all`](crate::vcpu::Vcpus::make_request_all);
//! both set the bit and kick (KR-7). The vCPU takes requests up in
//! [`Vcpu::check_requests`](crate::vcpu::Vcpu::check_requests).
use waterbear_hal::sync::atomic::{AtomicU64, Ordering};

bitflags::bitflags! {
    /// How a vCPU is told about a request.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct RequestFlags: u8 {
        /// The sender waits until the vCPU has left guest mode, or has stopped
        /// reading page tables (KR-4).
        const WAIT = 1 << 0;
        /// A sleeping vCPU sleeps on; it finds the request when something else
        /// wakes it (KR-5).
        const NO_WAKEUP = 1 << 1;
        /// There is nothing to do but to leave guest mode: no bit is set
        /// (KR-5).
        const NO_ACTION = 1 << 2;
    }
}

/// A kind of request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    number: u8,
    flags: RequestFlags,
}

impl Request {
    /// The VM is dead: the vCPU never runs again. Never cleared (KR-6). Sent
    /// to all vCPUs it also reaches those that are added later.
    pub const VM_DEAD: Request = Request::new(0, RequestFlags::WAIT);
    /// The root page table is obsolete: get another one. A sleeping vCPU has
    /// no use for a root yet.
    pub const MMU_RELOAD: Request =
        Request::new(1, RequestFlags::WAIT.union(RequestFlags::NO_WAKEUP));
    /// Second-level translations were removed: flush the TLB. A sleeping vCPU
    /// uses none.
    pub const TLB_FLUSH: Request =
        Request::new(2, RequestFlags::WAIT.union(RequestFlags::NO_WAKEUP));
    /// Something waits to be injected: an interrupt, an NMI, an exception.
    pub const EVENT: Request = Request::new(3, RequestFlags::empty());
    /// A halted vCPU stops sleeping, runnable or not.
    pub const UNBLOCK: Request = Request::new(4, RequestFlags::empty());
    /// Leave guest mode once; nothing is to be done outside.
    pub const OUTSIDE_GUEST_MODE: Request = Request::new(5, RequestFlags::all());

    /// The guest's clock was set: write the record of it anew. A sleeping vCPU does not look at it.
    pub const CLOCK: Request = Request::new(6, RequestFlags::NO_WAKEUP);

    /// The requests that have a bit, in the order in which a vCPU takes them
    /// up: a new root comes before the flush that it may call for anyway.
    pub const ALL: [Request; 6] = [
        Request::VM_DEAD,
        Request::MMU_RELOAD,
        Request::TLB_FLUSH,
        Request::EVENT,
        Request::UNBLOCK,
        Request::CLOCK,
    ];

    const fn new(number: u8, flags: RequestFlags) -> Self {
        assert!(number < 64, "a request is a bit of a 64-bit set");
        Self { number, flags }
    }

    /// How a vCPU is told about it.
    pub const fn flags(self) -> RequestFlags {
        self.flags
    }

    const fn bit(self) -> u64 {
        if self.flags.contains(RequestFlags::NO_ACTION) {
            0
        } else {
            1 << self.number
        }
    }

    pub(crate) const fn waits(self) -> bool {
        self.flags.contains(RequestFlags::WAIT)
    }

    pub(crate) const fn wakes(self) -> bool {
        !self.flags.contains(RequestFlags::NO_WAKEUP)
    }
}

/// The requests that one vCPU has not taken up yet.
///
/// Any thread makes requests; only the vCPU's own thread checks them.
pub struct Requests {
    pending: AtomicU64,
}

impl Requests {
    /// No requests.
    pub fn new() -> Self {
        Self {
            pending: AtomicU64::new(0),
        }
    }

    /// Adds a request, and tells nobody: right for the vCPU's own thread, and
    /// otherwise one half of what
    /// [`Vcpu::make_request`](crate::vcpu::Vcpu::make_request) does. Any
    /// context.
    pub fn make(&self, request: Request) {
        if request.bit() != 0 {
            // Release: whoever takes the request up sees what the sender did
            // before. Pairs with `Requests::check`.
            self.pending.fetch_or(request.bit(), Ordering::Release);
        }
    }

    /// Whether the request is pending. A look, which orders nothing.
    pub fn test(&self, request: Request) -> bool {
        self.pending.load(Ordering::Relaxed) & request.bit() != 0
    }

    /// Whether any request is pending. A look; the caller has put a barrier
    /// before it where it needs one.
    pub fn any(&self) -> bool {
        self.pending.load(Ordering::Relaxed) != 0
    }

    /// Whether the request was pending; it is not afterwards, unless it is
    /// [`Request::VM_DEAD`]. What the caller reads afterwards is at least as
    /// new as what the sender saw when it made the request (KR-6).
    ///
    /// A request that is made after the bit was cleared sets the bit again,
    /// and one made before is seen here: every change of the set is a
    /// read-modify-write, so each is on one side of the clearing.
    pub fn check(&self, request: Request) -> bool {
        if !self.test(request) {
            return false;
        }
        let keep = if request == Request::VM_DEAD {
            u64::MAX
        } else {
            !request.bit()
        };
        // Acquire: pairs with `Requests::make`.
        self.pending.fetch_and(keep, Ordering::Acquire) & request.bit() != 0
    }
}

impl Default for Requests {
    fn default() -> Self {
        Self::new()
    }
}
