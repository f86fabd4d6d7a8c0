//! CPUID tables, as the interface has them: a count, four bytes of nothing, and
//! that many entries.
use waterbear_hal::Hal;

use super::bytes::{self, Caller, field, set_field};
use super::kvm::{self, kvm_cpuid_entry2};
use super::vcpu::{Context, State};
use super::{Answer, DONE, Failure};
use crate::clock;
use crate::mem::{Heap, Vec};
use crate::run::cpuid::{self, CpuidEntry, HYPERVISOR, HostCpuid, MAX_ENTRIES};
use crate::vendor::Vendor;

const ENTRY: usize = size_of::<kvm_cpuid_entry2>();
/// Where the entries begin.
const ENTRIES: u64 = 8;

fn entry_in(sent: &[u8; ENTRY]) -> CpuidEntry {
    let flags = field!(sent, kvm_cpuid_entry2.flags: u32);
    CpuidEntry {
        function: field!(sent, kvm_cpuid_entry2.function: u32),
        index: field!(sent, kvm_cpuid_entry2.index: u32),
        significant: flags & kvm::KVM_CPUID_FLAG_SIGNIFCANT_INDEX != 0,
        answer: [
            field!(sent, kvm_cpuid_entry2.eax: u32),
            field!(sent, kvm_cpuid_entry2.ebx: u32),
            field!(sent, kvm_cpuid_entry2.ecx: u32),
            field!(sent, kvm_cpuid_entry2.edx: u32),
        ],
    }
}

fn entry_out(entry: &CpuidEntry) -> [u8; ENTRY] {
    let mut bytes = [0; ENTRY];
    let [eax, ebx, ecx, edx] = entry.answer;
    let flags = if entry.significant {
        kvm::KVM_CPUID_FLAG_SIGNIFCANT_INDEX
    } else {
        0
    };
    set_field!(bytes, kvm_cpuid_entry2.function = entry.function);
    set_field!(bytes, kvm_cpuid_entry2.index = entry.index);
    set_field!(bytes, kvm_cpuid_entry2.flags = flags);
    set_field!(bytes, kvm_cpuid_entry2.eax = eax);
    set_field!(bytes, kvm_cpuid_entry2.ebx = ebx);
    set_field!(bytes, kvm_cpuid_entry2.ecx = ecx);
    set_field!(bytes, kvm_cpuid_entry2.edx = edx);
    bytes
}

/// Writes a table, if the caller has room for it; the count always.
fn table_out(caller: &impl Caller, argument: u64, entries: &[CpuidEntry]) -> Answer {
    let room = u32::from_le_bytes(bytes::structure(caller, argument)?);
    let count = entries.len() as u32;
    caller.copy_out(argument, &count.to_le_bytes())?;
    if room < count {
        return Err(Failure::TooBig);
    }
    let mut at = argument.wrapping_add(ENTRIES);
    for entry in entries {
        caller.copy_out(at, &entry_out(entry))?;
        at = at.wrapping_add(ENTRY as u64);
    }
    DONE
}

/// What a guest on this machine can have.
pub(super) fn supported<H: Hal>(
    hal: &H,
    host: &HostCpuid<'_>,
    caller: &impl Caller,
    argument: u64,
) -> Answer {
    let mut entries = Vec::new_in(Heap(hal.clone()));
    cpuid::supported(host, &mut |mut entry| {
        if entry.function == HYPERVISOR | 1 {
            let [a, ..] = &mut entry.answer;
            *a = clock::features(hal);
        }
        entries.try_reserve(1)?;
        entries.push(entry);
        Ok(())
    })?;
    table_out(caller, argument, &entries)
}

/// What a guest can have although its CPU has not: nothing.
pub(super) fn emulated(caller: &impl Caller, argument: u64) -> Answer {
    table_out(caller, argument, &[])
}

impl<H: Hal, V: Vendor> State<H, V> {
    pub(super) fn set_cpuid<C: Caller>(&mut self, context: &Context<'_, H, V, C>) -> Answer {
        let caller = context.caller;
        let count = u32::from_le_bytes(bytes::structure(caller, context.argument)?) as usize;
        if count > MAX_ENTRIES {
            return Err(Failure::TooBig);
        }
        let mut entries = Vec::new_in(Heap(context.vm.hal.clone()));
        entries
            .try_reserve_exact(count)
            .map_err(crate::Error::from)?;
        let mut at = context.argument.wrapping_add(ENTRIES);
        for _ in 0..count {
            entries.push(entry_in(&bytes::structure(caller, at)?));
            at = at.wrapping_add(ENTRY as u64);
        }
        self.cpu.set_cpuid(&entries)?;
        DONE
    }

    pub(super) fn get_cpuid<C: Caller>(&mut self, context: &Context<'_, H, V, C>) -> Answer {
        let entries = self.cpu.cpuid().entries();
        table_out(context.caller, context.argument, entries)
    }
}
