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

/// What a guest can have of some leaves beside each other.
struct Mask {
    first: u32,
    last: u32,
    /// The subleaf, or every one.
    index: Option<u8>,
    /// The bits of EAX, EBX, ECX and EDX.
    bits: [u32; 4],
}

const ALL: [u32; 4] = [u32::MAX; 4];

const fn mask(first: u32, last: u32, index: Option<u8>, bits: [u32; 4]) -> Mask {
    Mask {
        first,
        last,
        index,
        bits,
    }
}

/// What a guest can have, at most. The first that fits counts; leaves that are not here are zero.
const MASKS: [Mask; 17] = [
    mask(0, 0, None, ALL),
    // The APIC's number and the count of CPUs are the owner's; a cache line is the host's.
    mask(1, 1, None, [u32::MAX, 0xff00, BASIC_C, BASIC_D]),
    mask(2, 2, None, ALL),
    mask(4, 4, None, ALL),
    mask(6, 6, None, [ARAT, 0, 0, 0]),
    mask(7, 7, Some(0), [u32::MAX, SEVEN_B, SEVEN_C, SEVEN_D]),
    mask(7, 7, Some(1), [SEVEN_1_A, 0, 0, 0]),
    mask(
        0xd,
        0xd,
        Some(0),
        [XCR0 as u32, u32::MAX, 0, (XCR0 >> 32) as u32],
    ),
    mask(0xd, 0xd, Some(1), [XSAVE_A, u32::MAX, 0, 0]),
    mask(0xd, 0xd, None, [u32::MAX, u32::MAX, !1, 0]),
    mask(EXTENDED, EXTENDED, None, ALL),
    mask(
        0x8000_0001,
        0x8000_0001,
        None,
        [u32::MAX, 0xf000_0000, EXTENDED_C, EXTENDED_D],
    ),
    mask(0x8000_0002, 0x8000_0006, None, ALL),
    mask(0x8000_0007, 0x8000_0007, None, [0, 0, 0, INVARIANT_TSC]),
    mask(0x8000_0008, 0x8000_0008, None, [0xffff, EXTENDED_8_B, 0, 0]),
    mask(0x8000_0019, 0x8000_001a, None, ALL),
    mask(0x8000_001d, 0x8000_001d, None, ALL),
];

/// One leaf of the host's, with only what a guest can have.
pub fn leaf(host: &HostCpuid<'_>, function: u32, index: u32) -> [u32; 4] {
    const KVM: [u32; 3] = words(b"KVMKVMKVM\0\0\0");
    if function == HYPERVISOR {
        let [b, c, d] = KVM;
        return [HYPERVISOR | 1, b, c, d];
    }
    let known = MASKS.iter().find(|mask| {
        let fits = mask.index.is_none_or(|only| u32::from(only) == index);
        (mask.first..=mask.last).contains(&function) && fits
    });
    let [last, ..] = host(function & EXTENDED, 0);
    let mut answer = [0; 4];
    if let Some(known) = known
        && function <= last
    {
        answer = host(function, index);
        for (word, bits) in answer.iter_mut().zip(known.bits) {
            *word &= bits;
        }
    }
    let [a, _, c, _] = &mut answer;
    match (function, index) {
        (0, _) => *a = (*a).min(LAST_BASIC),
        (1, _) => *c |= UNDER_HYPERVISOR,
        (7, 0) => *a = (*a).min(1),
        (0xd, 0) => *c = host_size(host),
        (0xd, 2..) if index >= 64 || XCR0 >> index & 1 == 0 => answer = [0; 4],
        (EXTENDED, _) => *a = (*a).clamp(EXTENDED | 8, LAST_EXTENDED),
        _ => {}
    }
    answer
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
    for (first, last) in LEAVES {
        for function in first..=last {
            emit_leaf(host, function, emit)?;
        }
    }
    Ok(())
}

/// The leaves of the table, from the first to the last of several beside each other.
const LEAVES: [(u32, u32); 5] = [
    (0, LAST_BASIC),
    (HYPERVISOR, HYPERVISOR | 1),
    (EXTENDED, EXTENDED | 8),
    (0x8000_0019, 0x8000_001a),
    (0x8000_001d, LAST_EXTENDED),
];

/// The entries of a leaf.
fn emit_leaf(
    host: &HostCpuid<'_>,
    function: u32,
    emit: &mut dyn FnMut(CpuidEntry) -> Result<(), Error>,
) -> Result<(), Error> {
    /// The most caches.
    const MOST: u32 = 8;
    let significant = matches!(function, 4 | 7 | 0xb | 0xd | 0x8000_001d);
    let (mut index, mut parts) = (0, 0);
    loop {
        let answer = leaf(host, function, index);
        emit(CpuidEntry {
            function,
            index,
            significant,
            answer,
        })?;
        let [a, _, _, d] = answer;
        let more = match function {
            // The caches one after another, and the empty entry that ends them.
            4 | 0x8000_001d => a & 0x1f != 0 && index + 1 < MOST,
            7 => index == 0 && a >= 1,
            0xd => {
                if index == 0 {
                    // The second entry is always there.
                    parts = u64::from(d) << 32 | u64::from(a) | 2;
                }
                parts >> 1 >> index != 0
            }
            _ => false,
        };
        if !more {
            return Ok(());
        }
        index += 1;
        if function == 0xd {
            index += (parts >> index).trailing_zeros();
        }
    }
}
