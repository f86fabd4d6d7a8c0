//! Model-specific registers, as the interface has them: a count, four bytes of
//! nothing, and that many entries.
use waterbear_hal::Hal;

use super::bytes::{self, Caller, field, set_field};
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
    list_out(caller, argument, MSRS.iter().copied())
}

/// The list of registers that tell what a guest can have.
pub(super) fn feature_list(caller: &impl Caller, argument: u64) -> Answer {
    list_out(caller, argument, FEATURES.iter().map(|(number, _)| *number))
}

/// Reads registers that tell what a guest can have.
pub(super) fn get_features(caller: &impl Caller, argument: u64) -> Answer {
    read(caller, argument, &mut |number| {
        let (_, value) = FEATURES.iter().find(|(known, _)| *known == number)?;
        Some(*value)
    })
}

/// Writes a list, if the caller has room for it: a count, and the numbers. The count always.
fn list_out(
    caller: &impl Caller,
    argument: u64,
    numbers: impl ExactSizeIterator<Item = u32>,
) -> Answer {
    let room = u32::from_le_bytes(bytes::structure(caller, argument)?);
    let count = numbers.len() as u32;
    caller.copy_out(argument, &count.to_le_bytes())?;
    if room < count {
        return Err(Failure::TooBig);
    }
    let mut at = argument.wrapping_add(4);
    for number in numbers {
        caller.copy_out(at, &number.to_le_bytes())?;
        at = at.wrapping_add(4);
    }
    DONE
}

/// How many entries the caller has.
fn count(caller: &impl Caller, argument: u64) -> Result<u32, Failure> {
    let count = u32::from_le_bytes(bytes::structure(caller, argument)?);
    if count >= MAX {
        return Err(Failure::TooBig);
    }
    Ok(count)
}

/// Reads registers until one does not exist; says how many were read.
fn read(
    caller: &impl Caller,
    argument: u64,
    value_of: &mut dyn FnMut(u32) -> Option<u64>,
) -> Answer {
    let count = count(caller, argument)?;
    for done in 0..count {
        let at = place(argument, done);
        let mut entry: [u8; ENTRY] = bytes::structure(caller, at)?;
        let Some(value) = value_of(field!(entry, kvm_msr_entry.index: u32)) else {
            return Ok(Reply::Value(done));
        };
        set_field!(entry, kvm_msr_entry.data = value);
        caller.copy_out(at, &entry)?;
    }
    Ok(Reply::Value(count))
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
        let (caller, vendor) = (context.caller, context.vendor);
        let count = count(caller, context.argument)?;
        for done in 0..count {
            let at = place(context.argument, done);
            let entry: [u8; ENTRY] = bytes::structure(caller, at)?;
            let number = field!(entry, kvm_msr_entry.index: u32);
            let value = field!(entry, kvm_msr_entry.data: u64);
            if number == TSC {
                let offset = context.vm.tsc.offset_for(&context.vm.hal, value);
                self.cpu.set_tsc_offset(vendor, offset);
                continue;
            }
            let vm = context.vm.vm();
            if self.cpu.set_msr(vendor, number, value).is_err()
                && self.cpu.set_clock_msr(vm, number, value).is_none()
            {
                return Ok(Reply::Value(done));
            }
        }
        Ok(Reply::Value(count))
    }
}

/// Where an entry is.
fn place(argument: u64, number: u32) -> u64 {
    argument
        .wrapping_add(ENTRIES)
        .wrapping_add(u64::from(number) * ENTRY as u64)
}
