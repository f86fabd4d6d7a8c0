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

    /// Whether an entry on `cpu`, whose these are, can use what the vCPU holds, and its
    /// translations.
    #[inline]
    pub fn still_good(&self, cpu: CpuId, held: &Held) -> bool {
        self.next.load(Ordering::Relaxed) != 0
            && held.cpu == cpu
            && held.generation == self.generation.load(Ordering::Relaxed)
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
        let kept = self.still_good(cpu, &held);
        if kept && !flush {
            return (held, Forget::Nothing);
        }
        if kept && by_asid {
            return (held, Forget::Own);
        }
        let generation = self.generation.load(Ordering::Relaxed);
        let next = self.next.load(Ordering::Relaxed);
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

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// ASIDs 1 to 3 are for guests.
    const COUNT: u32 = 4;

    /// One entry of a vCPU on CPU 0; what had to be forgotten.
    fn enter(asids: &Asids, held: &mut Held, flush: bool, by_asid: bool) -> Forget {
        let (now, forget) = asids.assign(0, *held, COUNT, flush, by_asid);
        *held = now;
        forget
    }

    #[test]
    fn the_first_entry_on_a_cpu_forgets_everything() {
        let (asids, mut one) = (Asids::default(), Held::default());
        assert_eq!(enter(&asids, &mut one, false, true), Forget::All);
        assert_eq!(one.asid(), 1);
        asids.restart();
        assert_eq!(enter(&asids, &mut one, false, true), Forget::All);
    }

    #[test]
    fn a_vcpu_that_stays_keeps_its_translations() {
        let (asids, mut one, mut two) = (Asids::default(), Held::default(), Held::default());
        enter(&asids, &mut one, true, true);
        enter(&asids, &mut two, true, true);
        assert_eq!(enter(&asids, &mut one, false, true), Forget::Nothing);
        assert_eq!((one.asid(), two.asid()), (1, 2));
    }

    #[test]
    fn a_flush_forgets_the_asid_or_leaves_it() {
        let (asids, mut one) = (Asids::default(), Held::default());
        enter(&asids, &mut one, true, true);
        assert_eq!(enter(&asids, &mut one, true, true), Forget::Own);
        assert_eq!(one.asid(), 1);
        assert_eq!(enter(&asids, &mut one, true, false), Forget::Nothing);
        assert_eq!(one.asid(), 2);
    }

    #[test]
    fn a_new_generation_forgets_everything_and_takes_the_old_asids_away() {
        let asids = Asids::default();
        let mut four = [Held::default(); 4];
        for held in &mut four[..3] {
            enter(&asids, held, true, true);
        }
        assert_eq!(enter(&asids, &mut four[3], true, true), Forget::All);
        assert_eq!(four[3].asid(), 1);
        // The first one had this ASID before.
        assert_eq!(enter(&asids, &mut four[0], false, true), Forget::Nothing);
        assert_eq!(four[0].asid(), 2);
        assert!(four[0].same_generation(&four[3]));
    }

    #[test]
    fn a_vcpu_that_ran_elsewhere_does_not_come_back_to_its_old_translations() {
        let (here, there) = (Asids::default(), Asids::default());
        let (first, _) = here.assign(0, Held::default(), COUNT, true, true);
        let (second, _) = there.assign(1, first, COUNT, false, true);
        assert!(!second.same_generation(&first));
        let (third, _) = here.assign(0, second, COUNT, false, true);
        assert_ne!(third.asid(), first.asid());
    }

    #[test]
    fn no_two_vcpus_share_an_asid_within_a_generation() {
        const VCPUS: usize = 7;
        let asids = Asids::default();
        let mut held = [Held::default(); VCPUS];
        // The vCPU that the TLB holds translations of, by ASID.
        let mut owner = [None; COUNT as usize];
        let mut random = 12345_u32;
        for _ in 0..2000 {
            random = random.wrapping_mul(1_103_515_245).wrapping_add(12345);
            let vcpu = (random >> 16) as usize % VCPUS;
            let flush = random >> 28 == 0;
            let forget = enter(&asids, &mut held[vcpu], flush, random & 1 << 8 != 0);
            let asid = held[vcpu].asid() as usize;
            assert!((1..COUNT as usize).contains(&asid));
            match forget {
                Forget::All => owner = [None; COUNT as usize],
                Forget::Own => owner[asid] = None,
                Forget::Nothing => {}
            }
            let stale = owner[asid].is_some_and(|it| it != vcpu || flush);
            assert!(!stale, "vCPU {vcpu} finds translations under ASID {asid}");
            owner[asid] = Some(vcpu);
        }
    }
}
