//! Random sequences of operations, compared with a naive model step by step.
//!
//! [`generator`] makes sequences as plain data, [`world`] runs them on the rig and on
//! the [`model`], and after each step [`check`] asks the model about every
//! mapping that page tables and TLBs hold of the frames that matter. A
//! sequence that fails is cut ([`shrink`]) and printed. `WATERBEAR_SEED` runs
//! one seed alone, `WATERBEAR_OPERATIONS` as many operations per test as it
//! says.
#![cfg(not(loom))]

mod check;
mod found;
mod generator;
mod host;
mod log;
mod model;
mod op;
mod region;
mod shrink;
mod world;

use std::mem::ManuallyDrop;

use waterbear_core::tdp::DirtyTracking::{self, DirtyBit, WriteProtect};
use waterbear_hal::Level;
use waterbear_mock::MockConfig;
use waterbear_proofs::{Paging, Rig};

use generator::Generator;
use op::{Op, Size};
use world::World;

/// What a sequence runs on.
#[derive(Clone, Copy, Debug)]
struct Setup {
    paging: Paging,
    dirty: DirtyTracking,
    root: Level,
    size: Size,
}

fn run_ops<const N: bool>(setup: Setup, ops: &[Op]) {
    let config = MockConfig::new().tables(if cfg!(miri) { 128 } else { 4096 });
    // What has failed is not taken apart: that would hide why.
    let rig = Rig::<N>::with(config, setup.paging, setup.root, setup.dirty);
    let rig = ManuallyDrop::new(rig);
    let mut world = ManuallyDrop::new(World::new(&*rig, setup.dirty, setup.size));
    for op in ops {
        world.step(op);
    }
    drop(ManuallyDrop::into_inner(world));
    ManuallyDrop::into_inner(rig).finish();
}

/// Runs sequences with as many operations as `total` says.
fn agree<const N: bool>(paging: Paging, dirty: DirtyTracking, size: Size, total: u64) {
    let length = if cfg!(miri) { 15 } else { 150 };
    let number = |name| {
        let text = std::env::var(name).ok()?;
        Some(text.parse::<u64>().expect("it is a number"))
    };
    let total = if cfg!(miri) { length } else { total };
    let total = number("WATERBEAR_OPERATIONS").unwrap_or(total);
    let seeds = match number("WATERBEAR_SEED") {
        Some(seed) => seed..seed + 1,
        None => 1..1 + total.div_ceil(length),
    };
    let notifier = if N { "with" } else { "without" };
    let what = format!("{paging:?}, {dirty:?}, {notifier} notifications");
    println!("{what}: seeds {seeds:?}, {length} operations each");
    for seed in seeds {
        let root = [Level::L4, Level::L5][seed as usize % 2];
        let setup = Setup {
            paging,
            dirty,
            root,
            size,
        };
        let end = paging.format(root).end().0;
        let mixed = seed ^ (paging as u64) << 32 ^ (dirty as u64) << 36 ^ u64::from(N) << 40;
        let ops = Generator::new(mixed, size, end).ops(length as usize);
        shrink::run(&what, seed, ops, |ops| run_ops::<N>(setup, ops));
    }
}

/// Each of these runs so many operations.
const SMALL: u64 = 20_000;
const GIANT: u64 = 1_500;

/// Proves TDP-4, TDP-6, TDP-11, TDP-13.
#[test]
fn ept_agrees_with_the_model_under_write_protection() {
    agree::<true>(Paging::Ept, WriteProtect, Size::Small, SMALL);
}

/// Proves TDP-4, TDP-6, TDP-10, TDP-13.
#[test]
#[cfg_attr(miri, ignore = "one of each kind of table is enough for unsafe code")]
fn ept_agrees_with_the_model_under_dirty_bits() {
    agree::<true>(Paging::Ept, DirtyBit, Size::Small, SMALL);
}

/// Proves TDP-4, TDP-6, TDP-11, TDP-13, TDP-14.
#[test]
#[cfg_attr(miri, ignore = "one of each kind of table is enough for unsafe code")]
fn ept_without_accessed_bits_agrees_with_the_model() {
    agree::<true>(Paging::EptPlain, WriteProtect, Size::Small, SMALL);
}

/// Proves TDP-4, TDP-6, TDP-11, TDP-13, TDP-15.
#[test]
#[cfg_attr(miri, ignore = "one of each kind of table is enough for unsafe code")]
fn npt_agrees_with_the_model_under_write_protection() {
    agree::<true>(Paging::Npt, WriteProtect, Size::Small, SMALL);
}

/// Proves TDP-4, TDP-6, TDP-10, TDP-13, TDP-15.
#[test]
fn npt_agrees_with_the_model_under_dirty_bits() {
    agree::<true>(Paging::Npt, DirtyBit, Size::Small, SMALL);
}

/// Proves TDP-6, TDP-13, TDP-14.
#[test]
#[cfg_attr(miri, ignore = "one of each kind of table is enough for unsafe code")]
fn ept_agrees_with_the_model_on_pinned_pages() {
    agree::<false>(Paging::Ept, WriteProtect, Size::Small, SMALL);
}

/// Proves TDP-6, TDP-13, TDP-14.
#[test]
#[cfg_attr(miri, ignore = "one of each kind of table is enough for unsafe code")]
fn ept_agrees_with_the_model_on_pinned_pages_under_dirty_bits() {
    agree::<false>(Paging::Ept, DirtyBit, Size::Small, SMALL);
}

/// Proves TDP-6, TDP-13, TDP-14.
#[test]
fn ept_without_accessed_bits_agrees_with_the_model_on_pinned_pages() {
    agree::<false>(Paging::EptPlain, WriteProtect, Size::Small, SMALL);
}

/// Proves TDP-6, TDP-13, TDP-14.
#[test]
#[cfg_attr(miri, ignore = "one of each kind of table is enough for unsafe code")]
fn npt_agrees_with_the_model_on_pinned_pages() {
    agree::<false>(Paging::Npt, WriteProtect, Size::Small, SMALL);
}

/// Proves TDP-6, TDP-13, TDP-14.
#[test]
#[cfg_attr(miri, ignore = "one of each kind of table is enough for unsafe code")]
fn npt_agrees_with_the_model_on_pinned_pages_under_dirty_bits() {
    agree::<false>(Paging::Npt, DirtyBit, Size::Small, SMALL);
}

/// Proves TDP-12, TDP-13.
#[test]
#[cfg_attr(miri, ignore = "gigabytes of user memory")]
fn ept_agrees_with_the_model_about_mappings_of_1_gib() {
    agree::<true>(Paging::Ept, WriteProtect, Size::Giant, GIANT);
}

/// Proves TDP-12, TDP-13.
#[test]
#[cfg_attr(miri, ignore = "gigabytes of user memory")]
fn npt_agrees_with_the_model_about_mappings_of_1_gib() {
    agree::<true>(Paging::Npt, DirtyBit, Size::Giant, GIANT);
}
