//! What CPUID says to guests, and what programs may ask of it.
use core::arch::x86_64::__cpuid_count;

use waterbear_core::Error;
use waterbear_core::mem::{Heap, Vec};
use waterbear_core::run::GuestCpu;
use waterbear_core::run::cpuid::supported;
use waterbear_core::vendor::Vendor;
use waterbear_guests::Need;

use crate::host::Bare;

/// The machine's CPUID.
pub fn host(function: u32, index: u32) -> [u32; 4] {
    let answer = __cpuid_count(function, index);
    [answer.eax, answer.ebx, answer.ecx, answer.edx]
}

/// Gives a guest everything that it can have.
pub fn give<V: Vendor>(cpu: &mut GuestCpu<Bare, V>) -> Result<(), Error> {
    let mut entries = Vec::new_in(Heap(Bare));
    supported(&host, &mut |entry| {
        entries.try_reserve(1)?;
        entries.push(entry);
        Ok(())
    })?;
    cpu.set_cpuid(&entries)
}

fn has(function: u32, register: usize, bit: u32) -> bool {
    let highest = host(function & 0x8000_0000, 0)[0];
    highest >= function && host(function, 0)[register] >> bit & 1 != 0
}

/// Whether this is QEMU's own code generator, which leaves some checks out.
fn is_tcg() -> bool {
    let [_, b, c, d] = host(0x4000_0000, 0);
    let name = [b, c, d].map(u32::to_le_bytes);
    has(1, 2, 31) && name.as_flattened() == b"TCGTCGTCGTCG"
}

/// Why this machine cannot run a program that needs this.
pub fn lacks(need: Need) -> Option<&'static str> {
    let (there, reason) = match need {
        Need::SegmentChecks => (
            !is_tcg(),
            "this emulator does not check segments on every access",
        ),
        Need::Avx => (has(1, 2, 26) && has(1, 2, 28), "this CPU has no AVX"),
        Need::Pcid => (has(1, 2, 17), "this CPU has no PCID"),
        Need::Breakpoints => (true, ""),
    };
    (!there).then_some(reason)
}
