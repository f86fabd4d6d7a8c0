//! The owner changes its mappings while the guest checks what is in them.
use std::thread;
use std::time::Duration;

use super::checked::Checked;
use super::checker::STEP;
use super::map::{BOTH, LARGE, PAGE, Place};
use crate::node::same;
use crate::random::Random;
use crate::{Outcome, sys};

const SIZE: usize = LARGE / 2;
const ROUNDS: usize = 8;

/// A part of the memory: some pages anywhere.
fn some_part(random: &mut Random) -> (usize, usize) {
    let pages = SIZE / PAGE;
    let first = random.below(pages);
    let count = 1 + random.below((pages - first).min(80));
    (first * PAGE, count * PAGE)
}

/// Two vCPUs, fresh memory, and something that is done to parts of it.
fn changed(change: impl Fn(&Checked, &Place, usize, usize) -> Outcome) -> Outcome {
    let memory = Place::fresh(SIZE)?;
    let checked = Checked::new(2, &memory)?;
    let mut random = Random::new("parts");
    checked.meanwhile(|| {
        for _ in 0..ROUNDS {
            let (offset, size) = some_part(&mut random);
            change(&checked, &memory, offset, size)
                .and_then(|()| checked.all_is_seen(&memory))
                .map_err(|why| format!("{size:#x} bytes at {offset:#x}: {why}"))?;
        }
        Ok(())
    })
}

/// Fails if a vCPU still writes to a part that it cannot reach any more.
fn nobody_writes(memory: &Place, offset: usize, size: usize) -> Outcome {
    let words = || -> Vec<_> {
        let all = (offset..offset + size).step_by(STEP);
        all.map(|at| memory.word(at)).collect()
    };
    let before = words();
    for _ in 0..5 {
        thread::sleep(Duration::from_millis(1));
        same("nothing is written", words() == before, true)?;
    }
    Ok(())
}

pub fn a_guest_finds_zeros_where_memory_was_given_back() -> Outcome {
    changed(|checked, memory, offset, size| {
        checked.zeros(true);
        for _ in 0..5 {
            memory.advise(offset, size, libc::MADV_DONTNEED)?;
        }
        Ok(())
    })
}

pub fn a_guest_waits_where_memory_is_protected() -> Outcome {
    changed(|checked, memory, offset, size| {
        checked.faults(true);
        memory.protect(offset, size, libc::PROT_NONE)?;
        checked.a_fault()?;
        memory.protect(offset, size, libc::PROT_READ)?;
        nobody_writes(memory, offset, size)?;
        checked.a_fault()?;
        memory.protect(offset, size, BOTH)?;
        checked.rounds()?;
        checked.faults(false);
        Ok(())
    })
}

pub fn a_guest_waits_where_memory_is_unmapped() -> Outcome {
    changed(|checked, memory, offset, size| {
        checked.faults(true);
        memory.unmap(offset, size)?;
        checked.a_fault()?;
        checked.zeros(true);
        memory.refresh(offset, size)?;
        checked.rounds()?;
        checked.faults(false);
        Ok(())
    })
}

pub fn a_guest_finds_its_memory_again_that_was_moved_away() -> Outcome {
    let aside = Place::fresh(SIZE)?;
    changed(|checked, memory, offset, size| {
        checked.faults(true);
        memory.move_to(&aside, offset, size, false)?;
        nobody_writes(&aside, offset, size)?;
        checked.a_fault()?;
        aside.move_to(memory, offset, size, false)?;
        checked.rounds()?;
        checked.faults(false);
        Ok(())
    })
}

pub fn a_guest_finds_zeros_where_memory_was_moved_and_left() -> Outcome {
    let aside = Place::fresh(SIZE)?;
    changed(|checked, memory, offset, size| {
        checked.zeros(true);
        memory.move_to(&aside, offset, size, true)?;
        nobody_writes(&aside, offset, size)
    })
}

pub fn a_child_keeps_what_the_guest_had_when_it_was_born() -> Outcome {
    changed(|checked, memory, offset, size| {
        let child = sys::fork(|| {
            let sum = || {
                let words = (offset..offset + size)
                    .step_by(STEP)
                    .map(|at| memory.word(at));
                words.fold(0_u32, |sum, word| sum.rotate_left(5).wrapping_add(word))
            };
            let before = sum();
            for _ in 0..5 {
                thread::sleep(Duration::from_millis(2));
                if sum() != before {
                    return 1;
                }
            }
            // And what it writes is its own.
            for at in (offset..offset + size).step_by(STEP) {
                memory.set_word(at, 0x5555_5555);
            }
            0
        });
        checked.rounds()?;
        same("the child", child.and_then(sys::wait), Ok(0))
    })
}
