//! The host's changes, and accesses while they are announced.
use waterbear_core::tdp::walk::Yielding;
use waterbear_hal::Pfn;
use waterbear_mock::MapOptions;
use waterbear_proofs::Reached;

use crate::op::{Change, Pages, Touch};
use crate::world::{World, hva};

impl<const N: bool> World<'_, N> {
    pub fn host(
        &mut self,
        range: Pages,
        change: Change,
        other: Option<Pages>,
        before: Option<Touch>,
        after: Option<Touch>,
    ) {
        let announced: Vec<Pages> = [Some(range), other].into_iter().flatten().collect();
        if N {
            for &range in &announced {
                self.rig.vm.invalidate_begin(hva(range), Yielding::Allowed);
                self.model.zapped_behind(range);
            }
        }
        before
            .into_iter()
            .for_each(|t| self.touch_inside(t, &announced));
        let fresh = self.change(range, change);
        self.model.change(range, change, fresh);
        after
            .into_iter()
            .for_each(|t| self.touch_inside(t, &announced));
        if N {
            for &range in &announced {
                self.rig.vm.invalidate_end(hva(range));
            }
        }
    }

    /// An access while changes are announced: to a page that is changing it
    /// comes to nothing until the end, elsewhere it may.
    fn touch_inside(&mut self, touch: Touch, announced: &[Pages]) {
        if !N {
            return self.touch(touch);
        }
        let was_cached = self.is_cached(touch);
        let space = self.cpus[touch.vcpu].space;
        let changing = self.model.slot_at(space, touch.gfn).is_some_and(|slot| {
            let behind = |&range| self.model.is_behind(slot, touch.gfn, range);
            announced.iter().any(behind)
        });
        match self.attempt(touch, 8) {
            Some(Ok(Reached::Page(pfn))) if changing => {
                panic!("reached {pfn:?} while the host changes what is there")
            }
            Some(got) => self.touched(touch, got, was_cached),
            None => {
                let expected = self.model.faulting(space, touch.gfn, touch.access);
                assert!(matches!(expected, Ok(Reached::Page(_))), "no progress");
            }
        }
    }

    fn change(&mut self, range: Pages, change: Change) -> Option<Pfn> {
        let user = &self.rig.user;
        let (at, pages) = (hva(range).start, range.pages);
        match change {
            Change::Map { writable, level } => {
                return Some(user.map(
                    at,
                    pages,
                    MapOptions {
                        writable,
                        level,
                        uncached: false,
                    },
                ));
            }
            Change::Unmap => user.unmap(at, pages),
            Change::Protect { writable } => user.protect(at, pages, writable),
            Change::Limit { level } => user.limit_level(at, pages, level),
            Change::Poison => user.poison(at, pages),
        }
        None
    }
}
