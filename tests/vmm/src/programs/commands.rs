//! What a guest program asks its host to do to its memory and its other vCPUs.
use std::io;
use std::sync::PoisonError;

use super::machine::{Backing, Machine};

/// Carries a command out and returns its result. The numbers are those of `guest.inc`.
pub fn run(machine: &Machine, command: u32, [a, b, c]: [u32; 3]) -> io::Result<u32> {
    let vm = &machine.vm;
    let slot = || machine.slot(a).ok_or(io::ErrorKind::NotFound);
    let set = |backing: &Backing, gpa: u64, flags| {
        vm.set_slot(backing.slot.id, flags, gpa, &backing.memory)
    };
    let log = || machine.log.lock().unwrap_or_else(PoisonError::into_inner);
    let wanted = || {
        let wanted = machine.wanted.get(a as usize);
        wanted.ok_or(io::ErrorKind::InvalidInput)
    };
    match command {
        1 => vm.delete_slot(a, &slot()?.memory)?,
        2 => set(slot()?, c.into(), b)?,
        3 => set(slot()?, b.into(), slot()?.slot.flags)?,
        // Programs change the flags of slots that they have not moved.
        4 => set(slot()?, slot()?.slot.gpa, b)?,
        5 => {
            let mut log = log();
            log.clear();
            log.resize(slot()?.memory.size().div_ceil(64 << 12), 0);
            vm.dirty_log(a, &mut log)?;
            return Ok(log.iter().map(|word| word.count_ones()).sum());
        }
        6 => {
            let log = log();
            let word = log.get(a as usize / 64);
            let word = word.ok_or(io::ErrorKind::InvalidInput)?;
            return Ok((word >> (a % 64) & 1) as u32);
        }
        13 => return Ok(slot()?.memory.word(b as usize)),
        14 => slot()?.memory.set_word(b as usize, c),
        15 => {
            wanted()?.with(|wishes| wishes.add_interrupt(b as u8));
            wanted()?.tell();
        }
        16 => wanted()?.tell(),
        18 => slot()?.memory.disturb()?,
        20 => {
            wanted()?.with(|wishes| wishes.start = Some(b.into()));
            wanted()?.tell();
        }
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    }
    Ok(0)
}
