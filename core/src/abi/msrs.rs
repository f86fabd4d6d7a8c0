//! Model-specific registers, as the interface has them: a count, four bytes of
//! nothing, and that many entries.
use waterbear_hal::Hal;

use super::bytes::{Caller, field, set_field, tell_count, word};
use super::kvm::kvm_msr_entry;
use super::vcpu::{Context, State};
use super::{Answer, DONE, Failure, Reply};
use crate::Error;
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
    let mut entries = Entries::of(caller, argument)?;
    while entries.next(caller)? {
        let number = entries.number();
        let Some((_, value)) = FEATURES.iter().find(|(known, _)| *known == number) else {
            break;
        };
        entries.put(caller, *value)?;
        entries.done += 1;
    }
    Ok(Reply::Value(entries.done))
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

/// The entries of an array of the caller's, one after another.
struct Entries {
    count: u32,
    /// How many of them were dealt with.
    done: u32,
    argument: u64,
    entry: [u8; ENTRY],
}

impl Entries {
    fn of(caller: &impl Caller, argument: u64) -> Result<Self, Failure> {
        let count = word(caller, argument)?;
        if count >= MAX {
            return Err(Failure::TooBig);
        }
        Ok(Self {
            count,
            done: 0,
            argument,
            entry: [0; ENTRY],
        })
    }

    /// Where the entry is.
    fn place(&self) -> u64 {
        let before = u64::from(self.done) * ENTRY as u64;
        self.argument.wrapping_add(ENTRIES).wrapping_add(before)
    }

    /// Copies the entry behind those that were dealt with, if there is one.
    #[inline(never)]
    fn next(&mut self, caller: &impl Caller) -> Result<bool, Error> {
        if self.done == self.count {
            return Ok(false);
        }
        caller.copy_in(self.place(), &mut self.entry)?;
        Ok(true)
    }

    fn number(&self) -> u32 {
        field!(self.entry, kvm_msr_entry.index: u32)
    }

    fn value(&self) -> u64 {
        field!(self.entry, kvm_msr_entry.data: u64)
    }

    /// Tells the caller the register's value.
    #[inline(never)]
    fn put(&mut self, caller: &impl Caller, value: u64) -> Result<(), Error> {
        set_field!(self.entry, kvm_msr_entry.data = value);
        caller.copy_out(self.place(), &self.entry)
    }
}

impl<H: Hal, V: Vendor> State<H, V> {
    /// Reads registers until one does not exist; says how many were read.
    pub(super) fn get_msrs<C: Caller>(&mut self, context: &Context<'_, H, V, C>) -> Answer {
        let caller = context.caller;
        let mut entries = Entries::of(caller, context.argument)?;
        while entries.next(caller)? {
            let number = entries.number();
            let value = self.cpu.msr(context.vendor, number).ok();
            let value = value.or_else(|| self.cpu.clock_msr(context.vm.vm(), number));
            let Some(value) = value else {
                break;
            };
            entries.put(caller, value)?;
            entries.done += 1;
        }
        Ok(Reply::Value(entries.done))
    }

    /// Sets registers until one does not exist or does not take its value; says
    /// how many were set.
    pub(super) fn set_msrs<C: Caller>(&mut self, context: &Context<'_, H, V, C>) -> Answer {
        let (vm, vendor) = (context.vm, context.vendor);
        let mut entries = Entries::of(context.caller, context.argument)?;
        while entries.next(context.caller)? {
            let (number, value) = (entries.number(), entries.value());
            if number == TSC {
                let offset = vm.tsc.offset_for(&vm.hal, value);
                self.cpu.set_tsc_offset(vendor, offset);
            } else if self.cpu.set_msr(vendor, number, value).is_err()
                && self.cpu.set_clock_msr(vm.vm(), number, value).is_none()
            {
                break;
            }
            entries.done += 1;
        }
        Ok(Reply::Value(entries.done))
    }
}
