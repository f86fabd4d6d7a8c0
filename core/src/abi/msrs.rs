//! Model-specific registers, as the interface has them: a count, four bytes of
//! nothing, and that many entries.
use waterbear_hal::Hal;

use super::bytes::{Caller, field, set_field, tell_count, word};
use super::kvm::kvm_msr_entry;
use super::vcpu::{Context, State};
use super::{Answer, DONE, Failure, Reply};
use crate::run::msr::index::TSC;
use crate::run::msr::{FEATURES, MSRS};
use crate::vendor::Vendor;

const ENTRY: usize = size_of::<kvm_msr_entry>();
/// Where the entries begin.
const ENTRIES: u64 = 8;
/// More than that at a time are refused.
const MAX: u32 = 256;

/// The list of registers that owners save and restore.
pub(super) fn list(caller: &impl Caller, argument: u64) -> Answer {
    list_out(caller, argument, MSRS)
}

/// The list of registers that tell what a guest can have.
pub(super) fn feature_list(caller: &impl Caller, argument: u64) -> Answer {
    list_out(caller, argument, &FEATURES.map(|(number, _)| number))
}

/// Reads registers that tell what a guest can have.
pub(super) fn get_features(caller: &impl Caller, argument: u64) -> Answer {
    read(caller, argument, &mut |number| {
        let (_, value) = FEATURES.iter().find(|(known, _)| *known == number)?;
        Some(*value)
    })
}

/// Writes a list: a count, and the numbers.
#[inline(never)]
fn list_out(caller: &impl Caller, argument: u64, numbers: &[u32]) -> Answer {
    tell_count(caller, argument, numbers.len())?;
    let mut at = argument.wrapping_add(4);
    for number in numbers {
        caller.copy_out(at, &number.to_le_bytes())?;
        at = at.wrapping_add(4);
    }
    DONE
}

/// Copies one entry after another, and acts on each: its number, and its value. What changes of
/// them is copied out again if they are read. Stops where `act` does not want one; says how many
/// it wanted.
fn each(
    caller: &impl Caller,
    argument: u64,
    read: bool,
    act: &mut dyn FnMut(u32, &mut u64) -> bool,
) -> Answer {
    let count = word(caller, argument)?;
    if count >= MAX {
        return Err(Failure::TooBig);
    }
    let mut at = argument.wrapping_add(ENTRIES);
    for done in 0..count {
        let mut entry = [0; ENTRY];
        caller.copy_in(at, &mut entry)?;
        let number = field!(entry, kvm_msr_entry.index: u32);
        let mut value = field!(entry, kvm_msr_entry.data: u64);
        if !act(number, &mut value) {
            return Ok(Reply::Value(done));
        }
        if read {
            set_field!(entry, kvm_msr_entry.data = value);
            caller.copy_out(at, &entry)?;
        }
        at = at.wrapping_add(ENTRY as u64);
    }
    Ok(Reply::Value(count))
}

/// Reads registers until one does not exist; says how many were read.
fn read(
    caller: &impl Caller,
    argument: u64,
    value_of: &mut dyn FnMut(u32) -> Option<u64>,
) -> Answer {
    each(caller, argument, true, &mut |number, value| {
        let read = value_of(number);
        *value = read.unwrap_or(0);
        read.is_some()
    })
}

impl<H: Hal, V: Vendor> State<H, V> {
    /// Reads registers until one does not exist; says how many were read.
    pub(super) fn get_msrs<C: Caller>(&mut self, context: &Context<'_, H, V, C>) -> Answer {
        let vm = context.vm.vm();
        read(context.caller, context.argument, &mut |number| {
            let value = self.cpu.msr(context.vendor, number).ok();
            value.or_else(|| self.cpu.clock_msr(vm, number))
        })
    }

    /// Sets registers until one does not exist or does not take its value; says
    /// how many were set.
    pub(super) fn set_msrs<C: Caller>(&mut self, context: &Context<'_, H, V, C>) -> Answer {
        let (vm, vendor) = (context.vm, context.vendor);
        let act = &mut |number, value: &mut u64| {
            if number == TSC {
                let offset = vm.tsc.offset_for(&vm.hal, *value);
                self.cpu.set_tsc_offset(vendor, offset);
                return true;
            }
            self.cpu.set_msr(vendor, number, *value).is_ok()
                || self.cpu.set_clock_msr(vm.vm(), number, *value).is_some()
        };
        each(context.caller, context.argument, false, act)
    }
}
