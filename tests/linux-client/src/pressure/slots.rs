//! Slots come, go and move, and writes are logged, while four vCPUs check memory.
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use waterbear_core::abi::kvm::*;

use super::checked::Checked;
use super::checker::{BASE, SLOT, STEP};
use super::map::{LARGE, PAGE, Place};
use crate::Outcome;
use crate::memory::{clear_log, get_log, set};
use crate::node::same;
use crate::sys::ioctl_with;

const VCPUS: usize = 4;
const SIZE: usize = LARGE / 4;
/// What no guest writes.
const POISON: u32 = 0x0bad_0bad;

/// Copies the words that are checked, and leaves poison behind.
fn carry(from: &Place, to: &Place) {
    for at in (0..SIZE).step_by(STEP) {
        to.set_word(at, from.word(at));
        from.set_word(at, POISON);
    }
}

/// Fails if a guest still writes there.
fn is_left_alone(place: &Place) -> Outcome {
    for at in (0..SIZE).step_by(STEP) {
        same("a word behind a slot that is gone", place.word(at), POISON)?;
    }
    Ok(())
}

/// While there is no slot the owner does the guest's accesses, in the place where memory is then.
/// What was behind the slot is poison at once: a vCPU that still reached it would find that, or
/// change it.
pub fn slots_come_and_go_under_vcpus_that_write() -> Outcome {
    let (one, two) = (Place::fresh(SIZE)?, Place::fresh(SIZE)?);
    let now = Mutex::new(&one);
    let device = |address: u64, value: Option<u32>| {
        let offset = (address - BASE) as usize;
        let now = now.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = value {
            now.set_word(offset, value);
        }
        now.word(offset)
    };
    let carry_over = |from, to| {
        let mut now = now.lock().unwrap_or_else(PoisonError::into_inner);
        carry(from, to);
        *now = to;
    };
    let checked = Checked::new(VCPUS, &one)?;
    let slot = |place: &Place, at: u64| (SLOT, 0, at, SIZE as u64, place.address());
    let change = |what: &str, slot| same(what, set(&checked.vm, slot), Ok(0));
    let pause = || thread::sleep(Duration::from_millis(2));
    checked.meanwhile_with(&device, || {
        for round in 0..30 {
            let (from, to) = if round % 2 == 0 {
                (&one, &two)
            } else {
                (&two, &one)
            };
            if round % 3 == 0 {
                // Moved far away, and back.
                const FAR: u64 = 7 << 30;
                change("moving", slot(from, FAR))?;
                carry_over(from, to);
                pause();
                is_left_alone(from)?;
                carry_over(to, from);
                change("moving back", slot(from, BASE))?;
                pause();
            }
            change("deleting", (SLOT, 0, 0, 0, 0))?;
            carry_over(from, to);
            pause();
            is_left_alone(from)?;
            change("adding", slot(to, BASE))?;
            checked.rounds()?;
            is_left_alone(from)?;
        }
        Ok(())
    })
}

fn bits(pages: &[u64]) -> impl Iterator<Item = usize> {
    let set = |at: usize| pages[at / 64] >> (at % 64) & 1 != 0;
    (0..pages.len() * 64).filter(move |at| set(*at))
}

/// Copies memory as a migration does: again and again what the log says, and the rest when the
/// guest has stopped. The copy must be complete then.
fn migrate(manual: Option<u32>) -> Outcome {
    let (memory, copy) = (Place::fresh(SIZE)?, Place::fresh(SIZE)?);
    let checked = Checked::new(VCPUS, &memory)?;
    if let Some(how) = manual {
        // SAFETY: integers.
        let mut enable: kvm_enable_cap = unsafe { std::mem::zeroed() };
        enable.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2;
        enable.args[0] = how.into();
        let answer = ioctl_with(&checked.vm, KVM_ENABLE_CAP, &enable);
        same("the mode of the log", answer, Ok(0))?;
    }
    let log = |on: bool| {
        let flags = if on { KVM_MEM_LOG_DIRTY_PAGES } else { 0 };
        let slot = (SLOT, flags, BASE, SIZE as u64, memory.address());
        same("the log", set(&checked.vm, slot), Ok(0))
    };
    let copy_dirty = || -> Result<usize, String> {
        let mut dirty = [0_u64; SIZE / PAGE / 64];
        let at = dirty.as_mut_ptr() as u64;
        same("reading the log", get_log(&checked.vm, SLOT, at), Ok(0))?;
        // SAFETY: the kernel wrote to it.
        let dirty = unsafe { (&raw const dirty).read_volatile() };
        if manual.is_some() {
            // In two parts: all of it, bit by bit, is only cleared once.
            let half = (SIZE / PAGE / 2) as u32;
            for part in 0..2_u32 {
                let at = dirty[(part * half / 64) as usize..].as_ptr() as u64;
                let range = (u64::from(part * half), half);
                same("clearing", clear_log(&checked.vm, SLOT, range, at), Ok(0))?;
            }
        }
        let mut count = 0;
        for page in bits(&dirty) {
            for at in (page * PAGE..(page + 1) * PAGE).step_by(STEP) {
                copy.set_word(at, memory.word(at));
            }
            count += 1;
        }
        Ok(count)
    };
    for start in 0..10 {
        checked.meanwhile_cut_short(|| {
            if start > 0 {
                log(false)?;
                checked.rounds()?;
            }
            log(true)?;
            // What was written before is not in the log.
            for at in (0..SIZE).step_by(STEP) {
                copy.set_word(at, memory.word(at));
            }
            checked.rounds()?;
            same("some pages are dirty", copy_dirty()? > 0, true)?;
            for _ in 0..start {
                copy_dirty()?;
            }
            // What is written from here on is only found if the vCPUs that stayed in their guests
            // have forgotten that they may write.
            thread::sleep(Duration::from_micros(200 * start));
            Ok(())
        })?;
        copy_dirty()?;
        for at in (0..SIZE).step_by(STEP) {
            same(
                &format!("the copy of {at:#x}"),
                copy.word(at),
                memory.word(at),
            )?;
        }
        same("dirty pages when nobody writes", copy_dirty()?, 0)?;
    }
    Ok(())
}

pub fn no_write_is_lost_by_a_log_that_clears_itself() -> Outcome {
    migrate(None)
}

pub fn no_write_is_lost_by_a_log_that_is_cleared() -> Outcome {
    migrate(Some(KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE))
}
