//! Model-specific registers, as the interface has them: a count, four bytes of
//! nothing, and that many entries.
use waterbear_hal::Hal;

use super::bytes::{self, Caller, field, set_field};
use super::kvm::kvm_msr_entry;
use super::vcpu::{Context, State};
use super::{Answer, DONE, Failure, Reply};
use crate::run::msr::MSRS;
use crate::vendor::Vendor;

const ENTRY: usize = size_of::<kvm_msr_entry>();
/// Where the entries begin.
const ENTRIES: u64 = 8;
/// More than that at a time are refused.
const MAX: u32 = 256;

/// The list of registers that owners save and restore: a count, and their
/// numbers.
pub(super) fn list(caller: &impl Caller, argument: u64) -> Answer {
    let room = u32::from_le_bytes(bytes::structure(caller, argument)?);
    let count = MSRS.len() as u32;
    caller.copy_out(argument, &count.to_le_bytes())?;
    if room < count {
        return Err(Failure::TooBig);
    }
    let mut at = argument.wrapping_add(4);
    for number in MSRS {
        caller.copy_out(at, &number.to_le_bytes())?;
        at = at.wrapping_add(4);
    }
    DONE
}

impl<H: Hal, V: Vendor> State<H, V> {
    /// How many entries the caller has.
    fn count<C: Caller>(context: &Context<'_, H, V, C>) -> Result<u32, Failure> {
        let count = u32::from_le_bytes(bytes::structure(context.caller, context.argument)?);
        if count >= MAX {
            return Err(Failure::TooBig);
        }
        Ok(count)
    }

    /// Reads registers until one does not exist; says how many were read.
    pub(super) fn get_msrs<C: Caller>(&mut self, context: &Context<'_, H, V, C>) -> Answer {
        let count = Self::count(context)?;
        for done in 0..count {
            let at = place(context.argument, done);
            let mut entry: [u8; ENTRY] = bytes::structure(context.caller, at)?;
            let number = field!(entry, kvm_msr_entry.index: u32);
            let value = match self.cpu.msr(context.vendor, number) {
                Ok(value) => value,
                Err(_) => match self.cpu.clock_msr(context.vm.vm(), number) {
                    Some(value) => value,
                    None => return Ok(Reply::Value(done)),
                },
            };
            set_field!(entry, kvm_msr_entry.data = value);
            context.caller.copy_out(at, &entry)?;
        }
        Ok(Reply::Value(count))
    }

    /// Sets registers until one does not exist or does not take its value; says
    /// how many were set.
    pub(super) fn set_msrs<C: Caller>(&mut self, context: &Context<'_, H, V, C>) -> Answer {
        let count = Self::count(context)?;
        for done in 0..count {
            let at = place(context.argument, done);
            let entry: [u8; ENTRY] = bytes::structure(context.caller, at)?;
            let number = field!(entry, kvm_msr_entry.index: u32);
            let value = field!(entry, kvm_msr_entry.data: u64);
            let vm = context.vm.vm();
            if self.cpu.set_msr(context.vendor, number, value).is_err()
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
