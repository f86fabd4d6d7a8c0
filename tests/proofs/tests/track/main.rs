//! Page write tracking, one test per sentence.
#![cfg(not(loom))]

mod counts;
mod pages;
mod told;
mod users;

use std::sync::{Arc, Mutex};

use waterbear_core::memslot::SpaceId;
use waterbear_core::page_track::{self, Tracker, TrackerRef};
use waterbear_core::tdp::DirtyTracking::{self, DirtyBit, WriteProtect};
use waterbear_hal::{Gfn, Gpa, Level};
use waterbear_mock::Mock;
use waterbear_proofs::{Paging, Rig};

/// Every kind of paging with every way to find writes that it has; for an
/// interpreter, which looks for other things, one.
const KINDS: &[(Paging, DirtyTracking)] = if cfg!(miri) {
    &[(Paging::Ept, DirtyBit)]
} else {
    &[
        (Paging::Ept, WriteProtect),
        (Paging::Ept, DirtyBit),
        (Paging::EptPlain, WriteProtect),
        (Paging::Npt, WriteProtect),
        (Paging::Npt, DirtyBit),
    ]
};

/// The usual address space.
const NORMAL: SpaceId = SpaceId::NORMAL;

/// A rig whose kind of paging does not matter, with 16 frames of memory.
fn rig<const NOTIFIER: bool>() -> Rig<NOTIFIER> {
    let rig = Rig::new(Paging::Ept, WriteProtect);
    rig.memory(0, 0, 16, Level::L1);
    rig
}

/// What a tracker was told.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Told {
    Write(SpaceId, Gpa, Vec<u8>),
    Removed(SpaceId, Gfn, u64),
}

/// Writes down what a tracker is told.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Vec<Told>>>);

impl Notes {
    /// Takes what was told so far.
    fn take(&self) -> Vec<Told> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    /// A tracker that writes here.
    fn tracker<const NOTIFIER: bool>(&self, host: &Mock<NOTIFIER>) -> TrackerRef<Mock<NOTIFIER>> {
        page_track::shared(host, self.clone()).expect("memory does not run out")
    }
}

impl Tracker for Notes {
    fn track_write(&self, space: SpaceId, gpa: Gpa, bytes: &[u8]) {
        let told = Told::Write(space, gpa, bytes.to_vec());
        self.0.lock().unwrap().push(told);
    }

    fn track_remove_region(&self, space: SpaceId, gfn: Gfn, npages: u64) {
        let told = Told::Removed(space, gfn, npages);
        self.0.lock().unwrap().push(told);
    }
}
