//! Which translations of a CPU's TLB are a vCPU's: address-space identifiers.
//!
//! Each CPU hands out its ASIDs in turn and never twice within a *generation*. When it has none
//! left it forgets its whole TLB and begins the next generation, so an ASID of an older one means
//! nothing any more. A vCPU remembers the CPU, generation and ASID of its last run: if all still
//! hold, its translations are good, because whatever made any of them stale since then has asked
//! for a flush. A vCPU that has run elsewhere meanwhile gets a new ASID when it comes back.
//!
//! A flush is a new ASID too, unless the CPU can forget one ASID's translations.
//!
//! Source: AMD APM volume 2, "TLB Control".
use core::sync::atomic::{AtomicU64, Ordering};

use waterbear_hal::CpuId;

/// What of the TLB an entry must forget first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Forget {
    /// Nothing.
    Nothing,
    /// What has the ASID of the entry.
    Own,
    /// Everything.
    All,
}

/// The ASID of a vCPU's last run. The default is that of one that has not run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Held {
    cpu: CpuId,
    /// 0 before the first run; generations begin at 1.
    generation: u64,
    asid: u32,
}

impl Held {
    /// The ASID.
    pub fn asid(&self) -> u32 {
        self.asid
    }

    /// Whether both are of one CPU and generation.
    pub fn same_generation(&self, other: &Held) -> bool {
        self.cpu == other.cpu && self.generation == other.generation
    }
}

/// A CPU's ASIDs. Used on that CPU only, with interrupts off: atomics because others may look.
#[derive(Debug, Default)]
pub struct Asids {
    generation: AtomicU64,
    /// The next one to hand out; 0 when a new generation is due.
    next: AtomicU64,
}

impl Asids {
    /// Makes every ASID that was handed out void; the next entry forgets the whole TLB.
    pub fn restart(&self) {
        self.next.store(0, Ordering::Relaxed);
    }

    /// Finds the ASID for an entry on `cpu`, whose these are, for a vCPU that last ran with
    /// `held`. `count` is the number of ASIDs that the CPU has, the host's included; `flush` says
    /// that the vCPU's translations are stale, `by_asid` that the CPU can forget those of one
    /// ASID.
    ///
    /// Returns what the vCPU holds now and what has to be forgotten.
    pub fn assign(
        &self,
        cpu: CpuId,
        held: Held,
        count: u32,
        flush: bool,
        by_asid: bool,
    ) -> (Held, Forget) {
        let generation = self.generation.load(Ordering::Relaxed);
        let next = self.next.load(Ordering::Relaxed);
        let kept = next != 0 && held.cpu == cpu && held.generation == generation;
        if kept && !flush {
            return (held, Forget::Nothing);
        }
        if kept && by_asid {
            return (held, Forget::Own);
        }
        let exhausted = next == 0 || next >= u64::from(count);
        let (generation, asid, forget) = if exhausted {
            (generation.wrapping_add(1), 1, Forget::All)
        } else {
            (generation, next, Forget::Nothing)
        };
        self.generation.store(generation, Ordering::Relaxed);
        self.next.store(asid.wrapping_add(1), Ordering::Relaxed);
        let held = Held {
            cpu,
            generation,
            asid: asid as u32,
        };
        (held, forget)
    }
}
