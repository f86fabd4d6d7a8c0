//! What a guest program asks its host to do to its memory and its other vCPUs.
use core::sync::atomic::Ordering;

use super::machine::{Backing, Machine};
use crate::freebsd::calls::{Errno, Outcome};

const INVALID: Errno = Errno(22);

/// Carries a command out and returns its result. The numbers are those of `guest.inc`.
pub fn run(machine: &Machine, command: u32, [a, b, c]: [u32; 3]) -> Outcome<u32> {
    let vm = &machine.vm;
    let calls = machine.node.calls;
    let slot = || machine.slot(a).ok_or(INVALID);
    let set = |backing: Backing, gpa: u64, flags| {
        vm.set_slot(backing.slot.id, flags, gpa, (backing.at, backing.slot.size))
    };
    let reach = || machine.reach.get(a as usize).ok_or(INVALID);
    let word = |at: u64| {
        let mut bytes = [0; 8];
        calls.peek(at, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    };
    match command {
        1 => vm.set_slot(a, 0, 0, (slot()?.at, 0))?,
        2 => set(slot()?, c.into(), b)?,
        3 => set(slot()?, b.into(), slot()?.slot.flags)?,
        // Programs change the flags of slots that they have not moved.
        4 => set(slot()?, slot()?.slot.gpa, b)?,
        5 => {
            vm.dirty_log(a, machine.log)?;
            let words = slot()?.slot.size.div_ceil(64 << 12);
            let mut dirty = 0;
            for index in 0..words {
                dirty += word(machine.log + 8 * index)?.count_ones();
            }
            return Ok(dirty);
        }
        6 => {
            let word = word(machine.log + u64::from(a / 64) * 8)?;
            return Ok((word >> (a % 64) & 1) as u32);
        }
        13 => {
            let at = slot()?.word(b.into()).ok_or(INVALID)?;
            let mut bytes = [0; 4];
            calls.peek(at, &mut bytes)?;
            return Ok(u32::from_le_bytes(bytes));
        }
        14 => {
            let at = slot()?.word(b.into()).ok_or(INVALID)?;
            calls.poke(at, &c.to_le_bytes())?;
        }
        15 => {
            reach()?.wanted.add_interrupt(b as u8);
            machine.tell(a as usize);
        }
        16 => {
            reach()?.look.store(true, Ordering::SeqCst);
            machine.tell(a as usize);
        }
        // Changes of the owner's mappings do not reach the guest on FreeBSD.
        18 => {}
        20 => {
            reach()?.wanted.start_at(b.into());
            machine.tell(a as usize);
        }
        _ => return Err(INVALID),
    }
    Ok(0)
}
