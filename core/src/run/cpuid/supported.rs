//! What a guest can be given of the host's CPUID.
use super::{CpuidEntry, EXTENDED, HYPERVISOR, words};
use crate::Error;

/// The host's CPUID: EAX and ECX of the question, EAX, EBX, ECX and EDX of the answer. Whoever
/// provides it has taken out what the vendor's hardware does not let a guest have.
pub type HostCpuid<'a> = dyn Fn(u32, u32) -> [u32; 4] + 'a;

/// The parts of the extended state that a guest can have: x87, SSE, AVX, AVX-512.
pub const XCR0: u64 = 0xe7;

/// The highest basic leaf.
const LAST_BASIC: u32 = 0xd;
/// The highest extended leaf. Owners look for the two topology leaves of AMD on every CPU.
const LAST_EXTENDED: u32 = EXTENDED | 0x1e;

/// A mask with these bits.
const fn bits<const N: usize>(list: [u8; N]) -> u32 {
    let mut mask = 0;
    let mut i = 0;
    while i < N {
        mask |= 1 << list[i];
        i += 1;
    }
    mask
}

/// Leaf 1, ECX: SSE3, PCLMULQDQ, SSSE3, FMA, CMPXCHG16B, PCID, SSE4.1, SSE4.2, MOVBE, POPCNT,
/// AES, XSAVE, AVX, F16C, RDRAND. MONITOR, VMX, x2APIC and the deadline timer are not here.
const BASIC_C: u32 = bits([0, 1, 9, 12, 13, 17, 19, 20, 22, 23, 25, 26, 28, 29, 30]);
/// Leaf 1, ECX: a hypervisor is there.
const UNDER_HYPERVISOR: u32 = 1 << 31;
/// Leaf 1, EDX, and what AMD repeats of it in leaf 0x80000001: FPU, VME, DE, PSE, TSC, MSR, PAE,
/// MCE, CX8, APIC, MTRR, PGE, MCA, CMOV, PAT, PSE36, MMX, FXSR.
const COMMON_D: u32 = bits([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 14, 15, 16, 17, 23, 24]);
/// Leaf 1, EDX alone: SEP, CLFLUSH, SSE, SSE2, SS, HTT.
const BASIC_D: u32 = COMMON_D | bits([11, 19, 25, 26, 27, 28]);
/// Leaf 7, EBX: FSGSBASE, TSC_ADJUST, BMI1, AVX2, FDP_EXCPTN, SMEP, BMI2, ERMS, INVPCID, no FCS
/// and FDS, AVX512F and DQ, RDSEED, ADX, SMAP, IFMA, CLFLUSHOPT, CLWB, AVX512PF to CD, SHA, BW, VL.
const SEVEN_B: u32 = bits([
    0, 1, 3, 5, 6, 7, 8, 9, 10, 13, 16, 17, 18, 19, 20, 21, 23, 24, 26, 27, 28, 29, 30, 31,
]);
/// Leaf 7, ECX: VBMI, UMIP, VBMI2, GFNI, VAES, VPCLMULQDQ, VNNI, BITALG, VPOPCNTDQ, RDPID. No
/// protection keys: nobody switches PKRU. No LA57.
const SEVEN_C: u32 = bits([1, 2, 6, 8, 9, 10, 11, 12, 14, 22]);
/// Leaf 7, EDX: 4VNNIW, 4FMAPS, short REP MOV, VP2INTERSECT, MD_CLEAR, SERIALIZE. Not SPEC_CTRL
/// and relatives: nobody switches them.
const SEVEN_D: u32 = bits([2, 3, 4, 8, 10, 14]);
/// Leaf 7.1, EAX: AVX-VNNI, AVX512-BF16, fast zero-length and short REP forms, AVX-IFMA.
const SEVEN_1_A: u32 = bits([4, 5, 10, 11, 12, 23]);
/// Leaf 0xd.1, EAX: XSAVEOPT, XSAVEC, XGETBV of 1. Not XSAVES, which would come with IA32_XSS.
const XSAVE_A: u32 = bits([0, 1, 2]);
/// Leaf 0x80000001, ECX: LAHF, CMP_LEGACY, CR8 by LOCK, ABM, SSE4A, MISALIGNSSE, PREFETCHW, XOP,
/// FMA4, TBM, TOPOEXT.
const EXTENDED_C: u32 = bits([0, 1, 4, 5, 6, 7, 8, 11, 16, 21, 22]);
/// Leaf 0x80000001, EDX alone: SYSCALL, NX, MMXEXT, FFXSR, 1 GiB pages, RDTSCP, LM, 3DNow.
const EXTENDED_D: u32 = COMMON_D | bits([11, 20, 22, 25, 26, 27, 29, 30, 31]);
/// Leaf 0x80000008, EBX: CLZERO, XSAVEERPTR, WBNOINVD.
const EXTENDED_8_B: u32 = bits([0, 2, 9]);
/// The TSC does not stop and does not change its speed.
const INVARIANT_TSC: u32 = 1 << 8;
/// The APIC's timer does not stop.
const ARAT: u32 = 1 << 2;

/// One leaf of the host's, with only what a guest can have.
pub fn leaf(host: &HostCpuid<'_>, function: u32, index: u32) -> [u32; 4] {
    let last_basic = host(0, 0)[0];
    let last_extended = host(EXTENDED, 0)[0];
    let [a, b, c, d] = match function {
        0..HYPERVISOR if function <= last_basic => host(function, index),
        EXTENDED.. if function <= last_extended => host(function, index),
        _ => [0; 4],
    };
    let [kvm_b, kvm_c, kvm_d] = words(b"KVMKVMKVM\0\0\0");
    match (function, index) {
        (0, _) => [a.min(LAST_BASIC), b, c, d],
        // The APIC's number and the count of CPUs are the owner's; a cache line is the host's.
        (1, _) => [a, b & 0xff00, c & BASIC_C | UNDER_HYPERVISOR, d & BASIC_D],
        (2 | 4, _) => [a, b, c, d],
        (6, _) => [a & ARAT, 0, 0, 0],
        (7, 0) => [a.min(1), b & SEVEN_B, c & SEVEN_C, d & SEVEN_D],
        (7, 1) => [a & SEVEN_1_A, 0, 0, 0],
        (0xd, 0) => {
            let [low, high] = [XCR0 as u32, (XCR0 >> 32) as u32];
            [a & low, b, host_size(host), d & high]
        }
        (0xd, 1) => [a & XSAVE_A, b, 0, 0],
        (0xd, 2..63) if XCR0 >> index & 1 != 0 => [a, b, c & !1, 0],
        (HYPERVISOR, _) => [HYPERVISOR | 1, kvm_b, kvm_c, kvm_d],
        (EXTENDED, _) => [a.clamp(EXTENDED | 8, LAST_EXTENDED), b, c, d],
        (0x8000_0001, _) => [a, b & 0xf000_0000, c & EXTENDED_C, d & EXTENDED_D],
        (0x8000_0002..=0x8000_0006, _) => [a, b, c, d],
        (0x8000_0007, _) => [0, 0, 0, d & INVARIANT_TSC],
        (0x8000_0008, _) => [a & 0xffff, b & EXTENDED_8_B, 0, 0],
        (0x8000_0019 | 0x8000_001a | 0x8000_001d, _) => [a, b, c, d],
        _ => [0; 4],
    }
}

/// The size of the XSAVE area with everything that a guest can switch on.
fn host_size(host: &HostCpuid<'_>) -> u32 {
    let [low, _, _, high] = host(0xd, 0);
    let parts = (u64::from(high) << 32 | u64::from(low)) & XCR0;
    (2..63)
        .filter(|part| parts >> part & 1 != 0)
        .map(|part| {
            let [size, offset, ..] = host(0xd, part);
            offset.saturating_add(size)
        })
        .fold(576, u32::max)
}

/// Tells `emit` each entry of the table that a guest on this machine can have.
///
/// # Errors
///
/// Those of `emit`, which ends the enumeration.
pub fn supported(
    host: &HostCpuid<'_>,
    emit: &mut dyn FnMut(CpuidEntry) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut tell = |function, index, significant| {
        let answer = leaf(host, function, index);
        emit(CpuidEntry {
            function,
            index,
            significant,
            answer,
        })?;
        Ok(answer)
    };
    for function in 0..=LAST_BASIC {
        match function {
            4 => caches(&mut tell, function)?,
            7 => {
                let [last, ..] = tell(7, 0, true)?;
                if last >= 1 {
                    tell(7, 1, true)?;
                }
            }
            0xd => {
                let [low, _, _, high] = tell(0xd, 0, true)?;
                tell(0xd, 1, true)?;
                let parts = u64::from(high) << 32 | u64::from(low);
                for part in (2..63).filter(|part| parts >> part & 1 != 0) {
                    tell(0xd, part, true)?;
                }
            }
            0xb => {
                tell(0xb, 0, true)?;
            }
            _ => {
                tell(function, 0, false)?;
            }
        }
    }
    tell(HYPERVISOR, 0, false)?;
    tell(HYPERVISOR | 1, 0, false)?;
    for function in (EXTENDED..=EXTENDED | 8).chain([0x8000_0019, 0x8000_001a]) {
        tell(function, 0, false)?;
    }
    caches(&mut tell, 0x8000_001d)?;
    tell(0x8000_001e, 0, false)?;
    Ok(())
}

/// The caches one after another, and the empty entry that ends them.
fn caches(
    tell: &mut dyn FnMut(u32, u32, bool) -> Result<[u32; 4], Error>,
    function: u32,
) -> Result<(), Error> {
    const MOST: u32 = 8;
    for index in 0..MOST {
        if tell(function, index, true)?[0] & 0x1f == 0 {
            break;
        }
    }
    Ok(())
}
