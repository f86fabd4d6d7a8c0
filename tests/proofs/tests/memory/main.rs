//! Guest memory as bytes, one test per sentence.
#![cfg(not(loom))]

mod bytes;
mod exchange;
mod races;
mod refused;
mod seen;

use waterbear_core::memslot::{Region, SlotFlags, SpaceId};
use waterbear_core::tdp::DirtyTracking::WriteProtect;
use waterbear_hal::addr::PAGE_SIZE;
use waterbear_hal::{Hva, User};
use waterbear_mock::MapOptions;
use waterbear_proofs::{HVA, Paging, Rig};

/// The usual address space.
const NORMAL: SpaceId = SpaceId::NORMAL;

/// Frames of each slot of [`rig`].
const FRAMES: u64 = 4;

/// Where the process has the memory of slot `id`.
fn place(id: u64) -> Hva {
    // Neither in the slots' order nor next to each other.
    Hva(HVA.0 + (8 - id) * 0x10_0000)
}

/// Three slots of four frames, from frame 1 on; the process has their memory at
/// [`place`].
fn rig<const NOTIFIER: bool>(flags: SlotFlags) -> Rig<NOTIFIER> {
    let rig = Rig::new(Paging::Ept, WriteProtect);
    for id in 0..3 {
        rig.user.map(place(id), FRAMES, MapOptions::WRITABLE);
        slot(&rig, id, flags);
    }
    rig
}

/// Creates or changes a slot of [`rig`].
fn slot<const NOTIFIER: bool>(rig: &Rig<NOTIFIER>, id: u64, flags: SlotFlags) {
    rig.vm
        .set_region(Region {
            space: 0,
            id: id as u32,
            flags: flags.bits(),
            guest_phys_addr: (1 + id * FRAMES) * PAGE_SIZE,
            memory_size: FRAMES * PAGE_SIZE,
            userspace_addr: place(id).0,
        })
        .expect("the slot is fine");
}

/// The first address behind the memory of [`rig`].
const END: u64 = (1 + 3 * FRAMES) * PAGE_SIZE;

/// All memory of [`rig`], as the process sees it, in the order of the guest's
/// addresses.
fn contents<const NOTIFIER: bool>(rig: &Rig<NOTIFIER>) -> Vec<u8> {
    let size = (FRAMES * PAGE_SIZE) as usize;
    let mut all = vec![0; 3 * size];
    for (id, part) in all.chunks_mut(size).enumerate() {
        rig.host
            .read(&rig.user, place(id as u64), part)
            .expect("the process has the memory");
    }
    all
}
