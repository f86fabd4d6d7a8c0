//! CPUID tables, as the interface has them: a count, four bytes of nothing, and
//! that many entries.
use core::mem::offset_of;

use waterbear_hal::Hal;

use super::bytes::{self, Caller, field, set_field, tell_count, word};
use super::kvm::{self, kvm_cpuid_entry2};
use super::vcpu::{Context, State};
use super::{Answer, DONE, Failure};
use crate::Error;
use crate::clock;
use crate::run::cpuid::{self, CpuidEntry, HYPERVISOR, HostCpuid, MAX_ENTRIES};
use crate::vendor::Vendor;

const ENTRY: usize = size_of::<kvm_cpuid_entry2>();
/// Where the entries begin.
const ENTRIES: u64 = 8;
/// Where the four words of an answer are, which stand beside each other.
const ANSWER: usize = offset_of!(kvm_cpuid_entry2, eax);

fn entry_in(sent: &[u8; ENTRY]) -> CpuidEntry {
    let flags = field!(sent, kvm_cpuid_entry2.flags: u32);
    CpuidEntry {
        function: field!(sent, kvm_cpuid_entry2.function: u32),
        index: field!(sent, kvm_cpuid_entry2.index: u32),
        significant: flags & kvm::KVM_CPUID_FLAG_SIGNIFCANT_INDEX != 0,
        answer: [0, 4, 8, 12].map(|at| bytes::u32(sent, ANSWER + at)),
    }
}

/// Writes an entry and goes on to the next one's place.
#[inline(never)]
fn entry_out(caller: &impl Caller, at: &mut u64, entry: &CpuidEntry) -> Result<(), Error> {
    let mut bytes = [0; ENTRY];
    let flags = if entry.significant {
        kvm::KVM_CPUID_FLAG_SIGNIFCANT_INDEX
    } else {
        0
    };
    set_field!(bytes, kvm_cpuid_entry2.function = entry.function);
    set_field!(bytes, kvm_cpuid_entry2.index = entry.index);
    set_field!(bytes, kvm_cpuid_entry2.flags = flags);
    let [a, b, c, d] = entry.answer;
    set_field!(bytes, kvm_cpuid_entry2.eax = a);
    set_field!(bytes, kvm_cpuid_entry2.ebx = b);
    set_field!(bytes, kvm_cpuid_entry2.ecx = c);
    set_field!(bytes, kvm_cpuid_entry2.edx = d);
    caller.copy_out(*at, &bytes)?;
    *at = at.wrapping_add(ENTRY as u64);
    Ok(())
}

/// What a guest on this machine can have.
pub(super) fn supported<H: Hal>(
    hal: &H,
    host: &HostCpuid<'_>,
    caller: &impl Caller,
    argument: u64,
) -> Answer {
    let mut count = 0;
    cpuid::supported(host, &mut |_| {
        count += 1;
        Ok(())
    })?;
    tell_count(caller, argument, count)?;
    let mut at = argument.wrapping_add(ENTRIES);
    cpuid::supported(host, &mut |mut entry| {
        if entry.function == HYPERVISOR | 1 {
            let [a, ..] = &mut entry.answer;
            *a = clock::features(hal);
        }
        entry_out(caller, &mut at, &entry)
    })?;
    DONE
}

/// What a guest can have although its CPU has not: nothing.
pub(super) fn emulated(caller: &impl Caller, argument: u64) -> Answer {
    tell_count(caller, argument, 0)?;
    DONE
}

impl<H: Hal, V: Vendor> State<H, V> {
    pub(super) fn set_cpuid<C: Caller>(&mut self, context: &Context<'_, H, V, C>) -> Answer {
        let caller = context.caller;
        let count = word(caller, context.argument)? as usize;
        if count > MAX_ENTRIES {
            return Err(Failure::TooBig);
        }
        let mut at = context.argument.wrapping_add(ENTRIES);
        self.cpu.read_cpuid(count, &mut || {
            let mut sent = [0; ENTRY];
            caller.copy_in(at, &mut sent)?;
            at = at.wrapping_add(ENTRY as u64);
            Ok(entry_in(&sent))
        })?;
        DONE
    }

    pub(super) fn get_cpuid<C: Caller>(&mut self, context: &Context<'_, H, V, C>) -> Answer {
        let entries = self.cpu.cpuid().entries();
        tell_count(context.caller, context.argument, entries.len())?;
        let mut at = context.argument.wrapping_add(ENTRIES);
        for entry in entries {
            entry_out(context.caller, &mut at, entry)?;
        }
        DONE
    }
}
