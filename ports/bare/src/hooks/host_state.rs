//! A walk over the registers that a guest could change.
use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count};

use waterbear_core::arch::SegmentName;
use waterbear_core::exit::Exit;
use waterbear_core::host_state::{HostState, Read};
use waterbear_core::vendor::{Msr, Vendor};

use super::Verdict;
use super::rig::{Rig, must};
use crate::console::say;

/// The most registers of a list.
pub const MOST: usize = 96;

/// What SGDT and SIDT write.
#[repr(C, packed)]
#[derive(Default)]
struct Table {
    limit: u16,
    base: u64,
}

macro_rules! instruction {
    ($text:literal) => {{
        let value: u64;
        // SAFETY: reads a register.
        unsafe { asm!($text, out(reg) value, options(nomem, nostack, preserves_flags)) }
        value
    }};
}

/// Whether this CPU has an MSR that not every CPU has.
fn has(msr: u32) -> bool {
    match msr {
        0x48 => __cpuid_count(7, 0).edx & 1 << 26 != 0 || __cpuid(0x8000_0008).ebx & 0x1c000 != 0,
        0xda0 => __cpuid(0).eax >= 0xd && __cpuid_count(0xd, 1).eax & 1 << 3 != 0,
        0xc000_0103 => __cpuid(0x8000_0001).edx & 1 << 27 != 0,
        _ => true,
    }
}

/// What the host has in a register, if it can be compared.
pub fn read(what: Read) -> Option<u128> {
    let value = match what {
        // SAFETY: the CPU has the register.
        Read::Msr(msr) if has(msr) => unsafe { x86::msr::rdmsr(msr) },
        Read::Cr(0) => instruction!("mov {}, cr0"),
        Read::Cr(2) => instruction!("mov {}, cr2"),
        Read::Cr(3) => instruction!("mov {}, cr3"),
        Read::Cr(4) => instruction!("mov {}, cr4"),
        Read::Cr(8) => instruction!("mov {}, cr8"),
        Read::Dr(0) => instruction!("mov {}, dr0"),
        Read::Dr(1) => instruction!("mov {}, dr1"),
        Read::Dr(2) => instruction!("mov {}, dr2"),
        Read::Dr(3) => instruction!("mov {}, dr3"),
        Read::Dr(6) => instruction!("mov {}, dr6"),
        Read::Dr(7) => instruction!("mov {}, dr7"),
        Read::Xcr0 if has_xsave() => xcr0(),
        Read::Segment(name) => selector(name),
        Read::Gdtr | Read::Idtr => return Some(table(what)),
        // The flags of arithmetic are the compiler's.
        Read::Flags => instruction!("pushfq; pop {}") & !0x8d5,
        _ => return None,
    };
    Some(value.into())
}

fn has_xsave() -> bool {
    instruction!("mov {}, cr4") & 1 << 18 != 0
}

fn xcr0() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: CR4.OSXSAVE is set.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high) }
    u64::from(high) << 32 | u64::from(low)
}

fn selector(name: SegmentName) -> u64 {
    match name {
        SegmentName::Es => instruction!("mov {:r}, es"),
        SegmentName::Cs => instruction!("mov {:r}, cs"),
        SegmentName::Ss => instruction!("mov {:r}, ss"),
        SegmentName::Ds => instruction!("mov {:r}, ds"),
        SegmentName::Fs => instruction!("mov {:r}, fs"),
        SegmentName::Gs => instruction!("mov {:r}, gs"),
        SegmentName::Ldtr => instruction!("sldt {:r}"),
        SegmentName::Tr => instruction!("str {:r}"),
    }
}

fn table(which: Read) -> u128 {
    let mut value = Table::default();
    let at = &raw mut value;
    if which == Read::Gdtr {
        // SAFETY: writes ten bytes, which are there.
        unsafe { asm!("sgdt [{}]", in(reg) at, options(nostack)) }
    } else {
        // SAFETY: as above.
        unsafe { asm!("sidt [{}]", in(reg) at, options(nostack)) }
    }
    u128::from(value.limit) << 64 | u128::from(value.base)
}

/// Sets DR1 and DR7.
fn use_breakpoint(dr1: u64, dr7: u64) {
    // SAFETY: nobody else uses them, and nothing is executed at this address.
    unsafe { asm!("mov dr1, {}", "mov dr7, {}", in(reg) dr1, in(reg) dr7, options(nostack)) }
}

/// Gives the guest a value of its own in every register, lets it load some by itself, and compares
/// the host's before and after. The host has values of its own as well.
pub fn all_is_as_before<V: Vendor>(vendor: &V, states: &[HostState]) -> Verdict {
    // LGDT [2000h]; LIDT [2000h]; MOV AX, 1234h; MOV DS, AX; MOV ES, AX; MOV FS, AX; MOV GS, AX;
    // CLTS; MOV EAX, 5555h; MOV CR2, EAX; STD; HLT.
    let main = [
        0x0f, 0x01, 0x16, 0x00, 0x20, 0x0f, 0x01, 0x1e, 0x00, 0x20, 0xb8, 0x34, 0x12, 0x8e, 0xd8,
        0x8e, 0xc0, 0x8e, 0xe0, 0x8e, 0xe8, 0x66, 0xb8, 0x55, 0x55, 0, 0, 0x0f, 0x22, 0xd0, 0xfd,
        0xf4,
    ];
    let mut rig = Rig::new(vendor, &main, &[])?;
    let state = rig.state();
    for (msr, value) in [
        (Msr::SysenterCs, 0x1233),
        (Msr::SysenterEsp, 0x1_2345),
        (Msr::SysenterEip, 0x2_3456),
        (Msr::Star, 0x0012_0034_0000_0000),
        (Msr::Lstar, 0xffff_8000_0000_1000),
        (Msr::Cstar, 0xffff_8000_0000_2000),
        (Msr::Sfmask, 0x701),
        (Msr::KernelGsBase, 0xffff_8000_0000_3000),
        (Msr::TscAux, 0x77),
        (Msr::Pat, 0x0606_0606_0606_0606),
    ] {
        vendor.set_msr(state, msr, value);
    }
    vendor.set_control(state, waterbear_core::vendor::Control::Cr0, 0x10);
    let osxsave = if has_xsave() { 1 << 18 } else { 0 };
    vendor.set_control(state, waterbear_core::vendor::Control::Cr4, 0x208 | osxsave);
    let switched = vendor.switched(state);
    switched.breakpoints = [0x111, 0x222, 0x333, 0x444];
    switched.dr6 = 0xffff_4ff0;
    switched.dr7 = 0x402;
    switched.cr2 = 0x777;
    switched.xcr0 = 1;
    use_breakpoint(0x999, 0x404);
    let mut before = [None; MOST];
    must(states.len() <= MOST, "the list is longer than expected")?;
    for (value, state) in before.iter_mut().zip(states) {
        *value = read(state.read);
    }
    let exit = rig.run()?;
    let mut after = [None; MOST];
    for (value, state) in after.iter_mut().zip(states) {
        *value = read(state.read);
    }
    use_breakpoint(0, 0x400);
    if exit != Exit::Halt {
        return rig.unexpected(exit);
    }
    let mut compared = 0;
    let mut differ = 0;
    for ((state, before), after) in states.iter().zip(before).zip(after) {
        compared += usize::from(before.is_some());
        if before != after {
            differ += 1;
            say!("NOTE {} was {before:x?} and is {after:x?}", state.name);
        }
    }
    say!("NOTE {compared} of the host's registers are as before");
    must(differ == 0, "the guest changed the host")?;
    let switched = *vendor.switched(rig.state());
    must(switched.cr2 == 0x5555, "the guest's CR2 is lost")?;
    must(switched.breakpoints[3] == 0x444, "the guest's DR3 is lost")
}
