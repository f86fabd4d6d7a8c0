//! Runs operations on the rig and on the model, and compares.
use waterbear_core::Error;
use waterbear_core::memslot::{Region, SpaceId};
use waterbear_core::tdp::DirtyTracking;
use waterbear_core::tdp::walk::Yielding;
use waterbear_hal::addr::PAGE_SIZE;
use waterbear_hal::{Gfn, Hva, Level, Pfn, ResolveError};
use waterbear_proofs::{Guest, HVA, Reached, Rig};

use crate::check;
use crate::generator::interesting;
use crate::model::{Model, Outcome, Updated};
use crate::op::{Op, Pages, Size, Touch, VCPUS};

/// More exits than any access needs that nobody disturbs.
const ENOUGH: u32 = 40;

pub struct Cpu<'a, const N: bool> {
    guest: Guest<'a, N>,
    pub(crate) space: usize,
    cpu: u32,
}

pub struct World<'a, const N: bool> {
    pub(crate) rig: &'a Rig<N>,
    pub(crate) cpus: Vec<Cpu<'a, N>>,
    pub(crate) model: Model,
    frames: Vec<u64>,
    /// The next operation meets an allocation that fails.
    starved: bool,
    /// Some look-up to come is interrupted.
    interrupted: bool,
    steps: usize,
}

pub fn hva(range: Pages) -> std::ops::Range<Hva> {
    let at = |page| Hva(HVA.0 + page * PAGE_SIZE);
    at(range.first)..at(range.first + range.pages)
}

fn space_id(space: u32) -> SpaceId {
    SpaceId::new(space).expect("there are two")
}

impl<'a, const N: bool> World<'a, N> {
    pub fn new(rig: &'a Rig<N>, dirty: DirtyTracking, size: Size) -> Self {
        let end = rig.vm.mmu().format().end().0;
        let cpus = (0..VCPUS as u32).map(|index| Cpu {
            guest: rig.guest(index),
            space: 0,
            cpu: index,
        });
        Self {
            rig,
            cpus: cpus.collect(),
            model: Model::new(N, dirty, size, end),
            // Miri takes long to look at one.
            frames: interesting(size, end)
                .into_iter()
                .step_by(if cfg!(miri) { 5 } else { 1 })
                .collect(),
            starved: false,
            interrupted: false,
            steps: 0,
        }
    }

    /// One operation, and then every check.
    pub fn step(&mut self, op: &Op) {
        let starves = matches!(op, Op::FailAlloc(_));
        self.apply(op);
        if self.starved && !starves {
            self.rig.host.fail_nth_alloc(0);
            self.starved = false;
        }
        if !self.starved {
            self.check();
        }
    }

    fn check(&mut self) {
        self.steps += 1;
        let mut seen = [false; 2];
        for cpu in &mut self.cpus {
            let tables = !std::mem::replace(&mut seen[cpu.space], true);
            check::guest(
                self.rig,
                &self.model,
                &mut cpu.guest,
                cpu.space,
                &self.frames,
                tables,
            );
        }
        if self.steps.is_multiple_of(16) {
            check::books(self.rig);
        }
    }

    fn apply(&mut self, op: &Op) {
        let vm = &self.rig.vm;
        match *op {
            Op::Slot(region) => self.set_region(&region),
            Op::Touch(touch) => self.touch(touch),
            Op::Host {
                range,
                change,
                other,
                before,
                after,
            } => self.host(range, change, other, before, after),
            Op::ChangePages(range) => {
                vm.change_pages(hva(range));
                self.model.zapped_behind(range);
            }
            Op::Zap {
                space,
                first,
                pages,
            } => {
                let space = space_id(space);
                let slots = vm.memslots().read();
                let frames = Gfn(first)..Gfn(first + pages);
                let log = slots.set(space);
                vm.mmu()
                    .zap(vm.vcpus(), log, space, frames, Yielding::Allowed);
                self.model.unmapped(space.index(), &(first..first + pages));
            }
            Op::ReadLog {
                space,
                id,
                clear,
                short,
            } => self.read_log(space, id, clear, short),
            Op::ClearLog {
                space,
                id,
                first,
                npages,
                mask,
            } => self.clear_log(space, id, first, npages, mask),
            Op::Split {
                space,
                first,
                pages,
            } => {
                let frames = Gfn(first)..Gfn(first + pages);
                let split = vm
                    .mmu()
                    .split_range(vm.vcpus(), &(), space_id(space), frames);
                self.agree(split, &[Ok(())]);
            }
            Op::Prefault { vcpu, gfn } => self.prefault(vcpu, gfn),
            Op::Age(range) => {
                let young = vm.age(hva(range));
                self.judge_age(young, range, true);
            }
            Op::IsYoung(range) => {
                let young = vm.is_young(hva(range));
                self.judge_age(young, range, false);
            }
            Op::Track { space, gfn, add } => {
                let (id, frame) = (space_id(space), Gfn(gfn));
                let got = if add {
                    vm.track_page(id, frame)
                } else {
                    vm.untrack_page(id, frame)
                };
                let expected = self.model.track(space as usize, gfn, add, got.is_ok());
                self.agree(got, &[expected]);
            }
            Op::InvalidateRoots => {
                let _turn = vm.memslots().lock();
                let slots = vm.memslots().read();
                let logs = SpaceId::ALL.map(|space| slots.set(space));
                vm.mmu().invalidate_roots(vm.vcpus(), logs);
                self.model.everything_unmapped();
            }
            Op::Switch { vcpu, space } => {
                let cpu = &mut self.cpus[vcpu];
                cpu.guest.switch_space(space_id(space));
                cpu.space = space as usize;
            }
            Op::Migrate { vcpu, cpu } => self.cpus[vcpu].cpu = cpu,
            Op::FailAlloc(n) => {
                self.rig.host.fail_nth_alloc(n);
                self.starved = true;
            }
            Op::FailResolve => {
                self.rig.user.fail_next_resolve(ResolveError::Interrupted);
                self.interrupted = true;
            }
            Op::Contend(n) => self.rig.host.contend_every(n),
        }
    }

    /// Panics unless `got` is expected, or due to a failure that was injected.
    #[track_caller]
    fn agree<T: PartialEq + std::fmt::Debug>(
        &mut self,
        got: Result<T, Error>,
        expected: &[Result<T, Error>],
    ) {
        if expected.contains(&got) {
            return;
        }
        match got {
            Err(Error::NoMemory) if self.starved && self.rig.host.injection_fired() => {}
            Err(Error::Interrupted) if self.interrupted => self.interrupted = false,
            _ => panic!("the result is {got:?}, and should be one of {expected:?}"),
        }
    }

    fn set_region(&mut self, region: &Region) {
        let got = self.rig.vm.set_region(*region);
        let expected = self.model.set_region(region, true).map(|_| ());
        self.agree(got, &[expected]);
        // A wrap of the generation removes every mapping.
        if got.is_ok() || self.starved {
            self.model.perhaps_unmapped();
        }
        if got.is_err() {
            return;
        }
        let space = region.space as usize;
        match self.model.set_region(region, false) {
            Ok(Updated::Deleted(frames) | Updated::Moved(frames)) => {
                self.model.unmapped(space, &frames);
            }
            Ok(Updated::Flags { log_stops: true }) => self.collapsed(region),
            Ok(_) => {}
            Err(_) => unreachable!("the dry run succeeded"),
        }
    }

    /// Large mappings are built again, as if the pages had been used; without
    /// notifications the page behind any frame may be mapped now.
    fn collapsed(&mut self, region: &Region) {
        let space = region.space as usize;
        let Some(slot) = self
            .model
            .slot_at(space, region.guest_phys_addr / PAGE_SIZE)
        else {
            return;
        };
        let frames = slot.frames();
        let tables = frames.clone().step_by(Level::L2.pages() as usize);
        let last = frames.end - 1;
        let firsts = tables
            .map(|gfn| gfn / Level::L2.pages() * Level::L2.pages())
            .map(|gfn| gfn.max(frames.start));
        let probes: Vec<u64> = firsts.chain([last]).collect();
        for gfn in probes {
            self.model.collapsed(space, gfn);
        }
    }

    /// What an access of the guest may come to now.
    fn outcomes(&self, space: usize, touch: Touch) -> Vec<Outcome> {
        let mut all = vec![self.model.faulting(space, touch.gfn, touch.access)];
        let slot = self.model.slot_at(space, touch.gfn);
        let refused = slot.is_some_and(|slot| {
            touch.access.write && (slot.read_only() || slot.is_tracked(touch.gfn))
        });
        if let Some(pfn) = self.model.held(space, touch.gfn)
            && slot.is_some()
            && !refused
        {
            all.push(Ok(Reached::Page(pfn)));
        }
        all
    }

    /// Lets the guest try its access `tries` times.
    pub(crate) fn attempt(&mut self, touch: Touch, tries: u32) -> Option<Outcome> {
        let Cpu { guest, cpu, .. } = &mut self.cpus[touch.vcpu];
        for _ in 0..tries {
            let step = |guest: &mut Guest<'_, N>| guest.step(touch.gfn, touch.access);
            match self.rig.host.run_on(*cpu, || step(guest)) {
                Ok(None) => {}
                Ok(Some(reached)) => return Some(Ok(reached)),
                Err(error) => return Some(Err(error)),
            }
        }
        None
    }

    pub(crate) fn touch(&mut self, touch: Touch) {
        let was_cached = self.is_cached(touch);
        let Some(got) = self.attempt(touch, ENOUGH) else {
            panic!("the access makes no progress");
        };
        self.touched(touch, got, was_cached);
    }

    pub(crate) fn is_cached(&mut self, touch: Touch) -> bool {
        let guest = &mut self.cpus[touch.vcpu].guest;
        let Some(root) = guest.mmu.root().map(|root| root.pfn()) else {
            return true;
        };
        guest.tlb().peek(root, Gfn(touch.gfn).gpa()).is_some()
    }

    /// Compares what an access came to.
    pub(crate) fn touched(&mut self, touch: Touch, got: Outcome, was_cached: bool) {
        let space = self.cpus[touch.vcpu].space;
        self.agree(got, &self.outcomes(space, touch));
        if let Ok(Reached::Page(pfn)) = got {
            self.model.mapped(space, touch.gfn, pfn);
            if !was_cached {
                self.model.used(space, touch.gfn);
            }
            if touch.access.write {
                self.model.written(space, touch.gfn);
            }
        }
    }

    fn prefault(&mut self, vcpu: usize, gfn: u64) {
        let Cpu { guest, space, .. } = &mut self.cpus[vcpu];
        let space = *space;
        let got = self.rig.vm.prefault(&mut guest.mmu, Gfn(gfn).gpa());
        let expected = match self
            .model
            .faulting(space, gfn, waterbear_mock::hw::Access::READ)
        {
            Ok(Reached::Page(pfn)) => Ok(pfn),
            Ok(_) => Err(Error::NotFound),
            Err(error) => Err(error),
        };
        match (got, expected) {
            (Ok(level), Ok(pfn)) => {
                // Under the log as well: a large mapping that was there stays,
                // without W, until a write splits it.
                assert!(
                    level == Level::L1 || self.model.may_be_large(space, gfn, level.pages()),
                    "mapped at {level:?}"
                );
                self.model.mapped(space, gfn, pfn);
            }
            (got, expected) => {
                self.agree(got.map(|_| Pfn(0)), &[expected]);
            }
        }
    }

    fn judge_age(&mut self, young: bool, range: Pages, clear: bool) {
        let (may, must) = self.model.age(range, clear);
        assert!(young || !must, "a page that was used looks old");
        assert!(!young || may, "pages that nobody used look young");
    }

    fn read_log(&mut self, space: u32, id: u32, clear: bool, short: bool) {
        let slot = self.model.slot(space, id);
        let pages = slot.as_ref().map_or(1, |slot| slot.npages);
        let expected = match slot {
            Some(slot) if slot.logs() && short => Err(Error::Invalid),
            Some(slot) if slot.logs() => Ok(()),
            _ => Err(Error::NotFound),
        };
        let mut words = vec![0; pages.div_ceil(64) as usize - usize::from(short)];
        let got = self
            .rig
            .vm
            .read_dirty_log(space_id(space), id, &mut words, clear);
        self.agree(got, &[expected]);
        if got.is_ok() {
            self.model.read_log(space, id, &words, clear);
        }
    }

    fn clear_log(&mut self, space: u32, id: u32, first: u64, npages: u64, mask: u64) {
        let words = vec![mask; npages.div_ceil(64) as usize];
        let got = self
            .rig
            .vm
            .clear_dirty_log(space_id(space), id, first, npages, &words);
        let expected = self.model.clear_log(space, id, first, npages, mask);
        self.agree(got, &[expected]);
    }
}
