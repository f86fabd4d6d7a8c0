//! What a guest program asks its host to do to its memory and its other vCPUs.
use waterbear_core::Error;
use waterbear_core::memslot::SpaceId;
use waterbear_core::request::Request;
use waterbear_core::tdp::walk::Yielding;
use waterbear_core::vendor::Vendor;
use waterbear_core::vm::Registration;
use waterbear_hal::{Gfn, Hva, Level};

use super::machine::{Machine, VCPUS};
use super::memory::Backing;
use super::tracker::Told;

/// Carries a command out and returns its result. The numbers are those of `guest.inc`.
pub fn run<V: Vendor>(
    machine: &Machine<'_, V>,
    command: u32,
    [a, b, c]: [u32; 3],
) -> Result<u32, Error> {
    let vm = &machine.vm;
    let slot = || machine.slot(a).ok_or(Error::NotFound);
    let set = |slot: &Backing, gpa: u64, flags| slot.set(vm, gpa, flags, slot.slot.size);
    let frame = Gfn(a.into());
    match command {
        1 => slot()?.set(vm, 0, 0, 0)?,
        2 => set(slot()?, c.into(), b)?,
        3 => {
            let slot = slot()?;
            set(slot, b.into(), slot.slot.flags)?;
        }
        // Where the slot is now only the core knows; programs change the flags of slots that they
        // have not moved.
        4 => {
            let slot = slot()?;
            set(slot, slot.slot.gpa, b)?;
        }
        5 => {
            let mut log = machine.log.lock();
            log.fill(0);
            vm.read_dirty_log(SpaceId::NORMAL, a, &mut log, true)?;
            return Ok(log.iter().map(|word| word.count_ones()).sum());
        }
        6 => {
            let log = machine.log.lock();
            let word = log.get(a as usize / 64).ok_or(Error::Invalid)?;
            return Ok((word >> (a % 64) & 1) as u32);
        }
        7 => {
            let mut registration = machine.registration.lock();
            if registration.is_none() {
                Told::forget();
                *registration = Some(Registration::new(vm, &machine.told)?);
            }
            vm.track_page(SpaceId::NORMAL, frame)?;
        }
        8 => vm.untrack_page(SpaceId::NORMAL, frame)?,
        9 => return Ok(Told::writes()),
        10 => return Ok(Told::address()),
        11 => return Ok(Told::bytes()),
        12 => return Ok(Told::length()),
        13 => {
            let word = slot()?.word(b.into()).ok_or(Error::Invalid)?;
            // SAFETY: inside the slot's memory, which the guest shares and nobody else uses.
            return Ok(unsafe { word.read_volatile() });
        }
        14 => {
            let word = slot()?.word(b.into()).ok_or(Error::Invalid)?;
            // SAFETY: as above.
            unsafe { word.write_volatile(c) }
        }
        15 => {
            let wanted = machine.wanted.get(a as usize).ok_or(Error::Invalid)?;
            wanted.add_interrupt(b as u8);
            machine.tell(a as usize);
        }
        16 => {
            let vcpu = vm.vcpus().get(a).ok_or(Error::Invalid)?;
            vcpu.make_request(Request::OUTSIDE_GUEST_MODE);
        }
        17 => {
            let level = match a {
                1 => Level::L1,
                2 => Level::L2,
                _ => Level::L3,
            };
            return Ok(vm.mmu().mapped(level) as u32);
        }
        18 => {
            let slot = slot()?;
            let range = Hva(slot.hva())..Hva(slot.hva() + slot.slot.size);
            vm.invalidate_begin(range.clone(), Yielding::Allowed);
            vm.invalidate_end(range);
        }
        19 => {
            let mask = [u64::MAX; 64];
            vm.clear_dirty_log(SpaceId::NORMAL, a, b.into(), c.into(), &mask)?;
        }
        20 if (a as usize) < VCPUS => {
            machine.wanted[a as usize].start_at(b.into());
            machine.tell(a as usize);
        }
        21 => return Ok(Told::sum()),
        _ => return Err(Error::Invalid),
    }
    Ok(0)
}
