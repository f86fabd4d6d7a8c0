//! What all vCPUs of a machine share.
use core::num::NonZeroU16;

use waterbear_core::Error;
use waterbear_hal::{Hal, Hpa, Pfn};
use x86::vmx::vmcs::control::SecondaryControls;

use crate::controls::Controls;
use crate::cpu;
use crate::detect::Features;
use crate::loaded::Cpus;
use crate::msr_bitmap;
use crate::pages::Page;
use crate::swap::Which;
use crate::vpid::Vpids;

/// What all vCPUs of a machine share.
pub struct Machine<H: Hal> {
    /// What its CPUs have.
    pub features: Features,
    /// The control fields.
    pub controls: Controls,
    /// Its CPUs.
    pub cpus: Cpus<H>,
    /// Who has which identifier.
    pub vpids: Vpids<H>,
    /// What is switched by hand.
    pub which: Which,
    /// The bits that CR0 must have while a guest runs.
    pub cr0_must: u64,
    /// The same for CR4.
    pub cr4_must: u64,
    bitmap: Page<H>,
    long_bitmap: Page<H>,
}

impl<H: Hal> Machine<H> {
    /// A machine with `cpus` CPUs, all like this one. May sleep.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`].
    pub fn new(hal: &H, cpus: u32, features: Features, controls: Controls) -> Result<Self, Error> {
        let bitmap = |long| {
            let mut page = Page::new(hal, 0)?;
            msr_bitmap::fill(page.bytes(), long);
            Ok::<_, Error>(page)
        };
        let fixed = cpu::fixed0();
        Ok(Self {
            features,
            which: Which {
                tsc_aux: controls.has(SecondaryControls::ENABLE_RDTSCP),
                xss: controls.has(SecondaryControls::ENABLE_XSAVES_XRSTORS),
            },
            controls,
            cpus: Cpus::new(hal, cpus, &features)?,
            vpids: Vpids::new(hal)?,
            cr0_must: fixed.cr0,
            cr4_must: fixed.cr4,
            bitmap: bitmap(false)?,
            long_bitmap: bitmap(true)?,
        })
    }

    /// An identifier for a vCPU, if the CPUs have them and one is left.
    pub fn take_vpid(&self) -> Option<NonZeroU16> {
        if self.controls.has(SecondaryControls::ENABLE_VPID) {
            self.vpids.take()
        } else {
            None
        }
    }

    /// Where the MSR bitmap is.
    pub fn bitmap(&self, long: bool) -> Hpa {
        if long {
            self.long_bitmap.address()
        } else {
            self.bitmap.address()
        }
    }

    /// The EPT pointer for a root table.
    #[inline]
    pub fn ept_pointer(&self, root: Pfn) -> u64 {
        const WRITE_BACK: u64 = 6;
        const FOUR_LEVELS: u64 = 3 << 3;
        const ACCESSED_DIRTY: u64 = 1 << 6;
        let flags = if self.features.ept.accessed_dirty {
            ACCESSED_DIRTY
        } else {
            0
        };
        root.hpa().0 | WRITE_BACK | FOUR_LEVELS | flags
    }
}
