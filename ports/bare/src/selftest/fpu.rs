//! Registers of the FPU do not leak.
use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count};
use core::sync::atomic::{AtomicU32, Ordering};

use waterbear_hal::Fpu;

use super::{Miss, Verdict, must};
use crate::host::{self, Bare, fpu::GuestFpu};

const CPUID_OSXSAVE: u32 = 1 << 27;
/// Room for every part that a processor of today has, AVX-512 and protection
/// keys included.
const SIZE: usize = 4096;
const HEADER: usize = 512;
const MXCSR: usize = 24;
/// As after a reset.
const MXCSR_RESET: u32 = 0x1f80;

// The x87 registers, ten bytes in each sixteen, and the XMM registers.
const X87: (usize, usize) = (32, 8 * 16);
const XMM: (usize, usize) = (160, 16 * 16);
/// The parts beyond these whose every bit is free: the upper halves of YMM,
/// the mask registers, the upper halves of ZMM, and ZMM16 to 31.
const FREE_PARTS: [u32; 4] = [2, 5, 6, 7];

/// Everything that the CPU has in its registers, in memory.
#[repr(C, align(64))]
struct Image([u8; SIZE]);

/// Whether XSAVE is on, as CPUID tells every program.
fn extended() -> bool {
    __cpuid(1).ecx & CPUID_OSXSAVE != 0
}

/// The parts that are on.
fn parts() -> u64 {
    if !extended() {
        return 3;
    }
    let (low, high): (u32, u32);
    // SAFETY: XSAVE is on.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high,
             options(nomem, nostack, preserves_flags));
    }
    u64::from(low) | u64::from(high) << 32
}

/// Where in the image the bytes are that a test may choose.
fn free_bytes() -> impl Iterator<Item = usize> {
    let parts = parts();
    let x87 = (X87.0..X87.0 + X87.1).filter(|at| at % 16 < 10);
    let xmm = XMM.0..XMM.0 + XMM.1;
    let others = FREE_PARTS
        .into_iter()
        .filter(move |part| parts & 1 << part != 0)
        .flat_map(|part| {
            let place = __cpuid_count(0xd, part);
            let start = place.ebx as usize;
            start..start + place.eax as usize
        });
    x87.chain(xmm).chain(others)
}

impl Image {
    fn from_cpu() -> Self {
        let mut image = Self([0; SIZE]);
        let at = image.0.as_mut_ptr();
        if extended() {
            // SAFETY: large enough, aligned, and the header is zero.
            unsafe {
                asm!("xsave64 [{}]", in(reg) at, in("eax") u32::MAX, in("edx") u32::MAX,
                     options(nostack, preserves_flags));
            }
        } else {
            // SAFETY: large enough and aligned.
            unsafe { asm!("fxsave64 [{}]", in(reg) at, options(nostack, preserves_flags)) }
        }
        image
    }

    fn to_cpu(&self) {
        let at = self.0.as_ptr();
        if extended() {
            // SAFETY: the CPU wrote the image, but for free bytes and the list
            // of the parts that are there.
            unsafe {
                asm!("xrstor64 [{}]", in(reg) at, in("eax") u32::MAX, in("edx") u32::MAX,
                     options(nostack, preserves_flags));
            }
        } else {
            // SAFETY: as above.
            unsafe { asm!("fxrstor64 [{}]", in(reg) at, options(nostack, preserves_flags)) }
        }
    }
}

/// The byte that `owner` has at a place.
fn byte(owner: u8, at: usize) -> u8 {
    (at as u8).wrapping_mul(7).wrapping_add(owner) | 1
}

/// The rounding and masks that `owner` has.
fn mxcsr(owner: u8) -> u32 {
    MXCSR_RESET | u32::from(owner & 3) << 13
}

/// Fills every register with what `owner` has.
pub fn put(owner: u8) {
    let mut image = Image::from_cpu();
    for at in free_bytes() {
        image.0[at] = byte(owner, at);
    }
    image.0[MXCSR..MXCSR + 4].copy_from_slice(&mxcsr(owner).to_le_bytes());
    let list = FREE_PARTS.iter().fold(3, |list, part| list | 1 << part) & parts();
    let header = &mut image.0[HEADER..HEADER + 8];
    let mut old = [0; 8];
    old.copy_from_slice(header);
    if extended() {
        header.copy_from_slice(&(u64::from_le_bytes(old) | list).to_le_bytes());
    }
    image.to_cpu();
}

/// Whether every register has what `owner` has, or 0 for what a reset leaves.
pub fn holds(owner: u8) -> bool {
    let image = Image::from_cpu();
    let at = |at: usize| if owner == 0 { 0 } else { byte(owner, at) };
    // A part that is as after a reset is not written, and `image` began as 0.
    free_bytes().all(|place| image.0[place] == at(place))
        && image.0[MXCSR..MXCSR + 4] == mxcsr(owner).to_le_bytes()
}

/// Runs `f` as the guest whose state it is.
fn inside<R>(fpu: &mut GuestFpu, f: impl FnOnce() -> R) -> R {
    Bare.load_guest_fpu(fpu);
    let result = f();
    Bare.unload_guest_fpu(fpu);
    result
}

/// On one CPU: 0 if all is well, else which step was not.
fn step_that_fails(cpu: u8) -> Result<u32, Miss> {
    let no_memory = |_| Miss::Failed("no memory");
    let [own, first, second] = [1, 2, 3].map(|n| n + 4 * cpu);
    let mut one = Bare.new_guest_fpu().map_err(no_memory)?;
    let mut two = Bare.new_guest_fpu().map_err(no_memory)?;
    put(own);
    let good = [
        holds(own),
        inside(&mut one, || {
            let fresh = holds(0);
            put(first);
            fresh
        }),
        holds(own),
        inside(&mut two, || {
            let fresh = holds(0);
            put(second);
            fresh
        }),
        holds(own),
        inside(&mut one, || holds(first)),
        inside(&mut two, || holds(second)),
        holds(own),
    ];
    let step = good.iter().position(|good| !good);
    Ok(step.map_or(0, |step| step as u32 + 1))
}

pub fn the_fpu_state_of_two_guests_and_the_host_stay_apart() -> Verdict {
    const NO_MEMORY: u32 = 99;
    let wrong = AtomicU32::new(0);
    host::run_on_all(|cpu| {
        let step = step_that_fails(cpu as u8).unwrap_or(NO_MEMORY);
        wrong.fetch_max(step, Ordering::Relaxed);
    });
    match wrong.into_inner() {
        0 => Ok(()),
        1 => Err(Miss::Failed("the host's registers do not hold a pattern")),
        2 | 4 => Err(Miss::Failed(
            "a new guest's registers are not as after a reset",
        )),
        3 | 5 | 8 => Err(Miss::Failed("a guest's registers stayed for the host")),
        6 | 7 => Err(Miss::Failed("a guest did not find its registers again")),
        _ => must(false, "no memory"),
    }
}
