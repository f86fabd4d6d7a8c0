//! The FPU. The kernel's own code never uses it, yet the state that is in the
//! CPU counts as the host's: it is put away and brought back like a guest's,
//! so that a test can put something in and see whether a guest leaks into it.
use core::alloc::Layout;
use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count};
use core::ptr::NonNull;

use waterbear_hal::{AllocError, Fpu, Memory};

use super::Bare;

const CPUID_XSAVE: u32 = 1 << 26;
const CR4_OSXSAVE: u64 = 1 << 18;
/// The leaf that describes XSAVE.
const XSAVE_LEAF: u32 = 0xd;

/// What FXSAVE writes, and the first part of what XSAVE writes.
const LEGACY_SIZE: usize = 512;
/// Every XSAVE area begins on such an address.
const ALIGNMENT: usize = 64;

// As FNINIT leaves them and as a processor has them after a reset (Intel SDM,
// "Processor State Following Power-up, Reset, or INIT").
const CONTROL_WORD: (usize, u16) = (0, 0x37f);
const MXCSR: (usize, u32) = (24, 0x1f80);

/// Whether this processor has XSAVE.
fn has_xsave() -> bool {
    __cpuid(1).ecx & CPUID_XSAVE != 0
}

/// Switches on every part of the state that this processor has. On each CPU,
/// before a guest's state is loaded there.
pub fn init_cpu() {
    if !has_xsave() {
        return;
    }
    let parts = __cpuid_count(XSAVE_LEAF, 0);
    // SAFETY: the processor has XSAVE, so it has the bit; nothing else changes.
    unsafe {
        asm!("mov {0}, cr4", "or {0}, {1:r}", "mov cr4, {0}",
             out(reg) _, in(reg) CR4_OSXSAVE, options(nomem, nostack));
    }
    // SAFETY: these are all the bits that the processor allows, which is a
    // combination that it allows.
    unsafe {
        asm!("xsetbv", in("ecx") 0, in("eax") parts.eax, in("edx") parts.edx,
             options(nomem, nostack, preserves_flags));
    }
}

/// Room for one state.
struct Area {
    at: NonNull<u8>,
    layout: Layout,
    extended: bool,
}

impl Area {
    /// Room that holds the state after a reset.
    fn new() -> Result<Self, AllocError> {
        let extended = has_xsave();
        let size = if extended {
            // EBX: for the parts that are switched on, which are all.
            __cpuid_count(XSAVE_LEAF, 0).ebx as usize
        } else {
            LEGACY_SIZE
        };
        let layout = Layout::from_size_align(size, ALIGNMENT).map_err(|_| AllocError)?;
        let at = Bare.alloc_bytes(layout)?;
        let area = Self {
            at,
            layout,
            extended,
        };
        // A header of zeros says that every part is as after a reset, but the
        // restoring instruction takes MXCSR from memory all the same.
        area.write(CONTROL_WORD.0, &CONTROL_WORD.1.to_le_bytes());
        area.write(MXCSR.0, &MXCSR.1.to_le_bytes());
        Ok(area)
    }

    /// Writes a few bytes of the legacy part.
    fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= LEGACY_SIZE);
        // SAFETY: inside the area, which is at least that long.
        let place = unsafe { self.at.as_ptr().add(offset) };
        // SAFETY: as above, and nobody else has the area.
        unsafe { place.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) }
    }

    /// Copies what is in the CPU to here.
    fn save(&mut self) {
        let at = self.at.as_ptr();
        if self.extended {
            // SAFETY: the area has the size and alignment that the CPU asks for.
            unsafe {
                asm!("xsave64 [{}]", in(reg) at, in("eax") u32::MAX, in("edx") u32::MAX,
                     options(nostack, preserves_flags));
            }
        } else {
            // SAFETY: as above.
            unsafe { asm!("fxsave64 [{}]", in(reg) at, options(nostack, preserves_flags)) }
        }
    }

    /// Copies what is here to the CPU.
    fn load(&self) {
        let at = self.at.as_ptr();
        // Some processors leave the pointers to the last x87 instruction as
        // they are; FNINIT clears them, so that nothing stays of the state
        // before (AMD APM, "FXSAVE and FXRSTOR Instructions").
        if self.extended {
            // SAFETY: the CPU itself wrote the area, or `new` made it.
            unsafe {
                asm!("fninit", "xrstor64 [{}]", in(reg) at,
                     in("eax") u32::MAX, in("edx") u32::MAX,
                     options(nostack, preserves_flags));
            }
        } else {
            // SAFETY: as above.
            unsafe {
                asm!("fninit", "fxrstor64 [{}]", in(reg) at, options(nostack, preserves_flags));
            }
        }
    }
}

// SAFETY: the area is memory of its owner's alone.
unsafe impl Send for Area {}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout, and nobody else has it.
        unsafe { Bare.free_bytes(self.at, self.layout) }
    }
}

/// A guest's state, and the place where the host's waits meanwhile.
pub struct GuestFpu {
    guest: Area,
    host: Area,
    loaded: bool,
}

// SAFETY: threads stay on their CPUs and handlers do not use the FPU, so what
// is loaded stays until it is put away, and then every part of it is replaced.
unsafe impl Fpu for Bare {
    type GuestFpu = GuestFpu;

    fn new_guest_fpu(&self) -> Result<GuestFpu, AllocError> {
        Ok(GuestFpu {
            guest: Area::new()?,
            host: Area::new()?,
            loaded: false,
        })
    }

    fn load_guest_fpu(&self, fpu: &mut GuestFpu) {
        assert!(!fpu.loaded, "a guest's FPU state is loaded twice");
        fpu.loaded = true;
        fpu.host.save();
        fpu.guest.load();
    }

    fn unload_guest_fpu(&self, fpu: &mut GuestFpu) {
        assert!(fpu.loaded, "a guest's FPU state is put away twice");
        fpu.loaded = false;
        fpu.guest.save();
        fpu.host.load();
    }
}
