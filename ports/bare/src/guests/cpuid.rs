//! What CPUID says to guests, and what programs may ask of it.
use core::arch::x86_64::__cpuid_count;
use core::slice;

use waterbear_core::Error;
use waterbear_core::mem::{Heap, Vec};
use waterbear_core::run::GuestCpu;
use waterbear_core::run::cpuid::supported;
use waterbear_core::vendor::Vendor;
use waterbear_guests::Need;
use x86::msr::{IA32_VMX_EPT_VPID_CAP, rdmsr};

use crate::host::Bare;

/// The machine's CPUID.
pub fn host(function: u32, index: u32) -> [u32; 4] {
    let answer = __cpuid_count(function, index);
    [answer.eax, answer.ebx, answer.ecx, answer.edx]
}

/// What guests can have of it.
pub fn limited<V: Vendor>(vendor: &V) -> impl Fn(u32, u32) -> [u32; 4] {
    move |function, index| vendor.limit_cpuid(function, index, host(function, index))
}

/// Gives a guest everything that it can have.
pub fn give<V: Vendor>(vendor: &V, cpu: &mut GuestCpu<Bare, V>) -> Result<(), Error> {
    let mut entries = Vec::new_in(Heap(Bare));
    supported(&limited(vendor), &mut |entry| {
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
pub fn is_qemu() -> bool {
    let [_, b, c, d] = host(0x4000_0000, 0);
    let name = [b, c, d].map(u32::to_le_bytes);
    has(1, 2, 31) && name.as_flattened() == b"TCGTCGTCGTCG"
}

/// Whether this is Bochs: its BIOS says so, and QEMU, which says so too, is known otherwise.
fn is_bochs() -> bool {
    // SAFETY: the BIOS is mapped and does not change.
    let bios = unsafe { slice::from_raw_parts(0xe_0000 as *const u8, 0x2_0000) };
    !is_qemu() && bios.windows(5).any(|bytes| bytes == b"BOCHS")
}

const QEMU: u32 = 1;
const BOCHS_SVM: u32 = 2;
const BOCHS: u32 = 4;
const BLIND_WALKS: u32 = 8;

/// What programs must not expect of an emulated CPU, as bits of `guest.inc`.
pub fn quirks() -> u32 {
    if is_qemu() {
        QEMU
    } else if is_bochs() {
        let more = if has(0x8000_0001, 2, 2) {
            BOCHS_SVM
        } else if ept_notes_accesses() {
            0
        } else {
            BLIND_WALKS
        };
        BOCHS | more
    } else {
        0
    }
}

/// Whether this Intel CPU, on which guests run, has accessed and dirty bits in EPT.
fn ept_notes_accesses() -> bool {
    // SAFETY: every CPU with EPT has the register.
    unsafe { rdmsr(IA32_VMX_EPT_VPID_CAP) & 1 << 21 != 0 }
}

/// Why this machine cannot run a program that needs this.
pub fn lacks(need: Need) -> Option<&'static str> {
    let (there, reason) = match need {
        Need::SegmentChecks => (
            !is_qemu(),
            "this emulator does not check segments on every access",
        ),
        Need::OwnShutdown => (
            quirks() & BOCHS_SVM == 0,
            "a guest's triple fault resets this emulator",
        ),
        Need::DebugExceptions => (
            !is_qemu(),
            "this emulator has no breakpoints and alignment checks in guests",
        ),
        Need::TaskSwitches => (
            !is_qemu(),
            "this emulator switches tasks without telling the host",
        ),
        Need::Hypercalls => (!is_qemu(), "this emulator raises #UD for VMMCALL"),
        Need::Tracker => return None,
    };
    (!there).then_some(reason)
}
