//! Model-specific registers: which there are, and which values they take.
//!
//! Source: Intel SDM volume 4, "Model-Specific Registers"; AMD APM volume 2, "Model-Specific
//! Registers (MSRs)".
//!
//! A register that is not in [`MSRS`] raises #GP. Those that hardware switches are the vendor's,
//! the bases of FS and GS are the segments'; the rest is kept here.
use waterbear_hal::Hal;

use super::GuestCpu;
use super::clock::{OLD_SYSTEM_TIME, OLD_WALL_CLOCK, SYSTEM_TIME, WALL_CLOCK};
use super::machine_check::McBank;
use super::mtrr::mtrr_place;
use crate::Error;
use crate::arch::SegmentName;
use crate::vendor::{Control, Msr, Vendor};

/// The numbers.
pub mod index {
    #![expect(missing_docs, reason = "the names are the manuals'")]
    pub const TSC: u32 = 0x10;
    pub const PLATFORM_ID: u32 = 0x17;
    pub const APIC_BASE: u32 = 0x1b;
    pub const EBL_CR_POWERON: u32 = 0x2a;
    pub const FEATURE_CONTROL: u32 = 0x3a;
    pub const TSC_ADJUST: u32 = 0x3b;
    pub const MICROCODE_UPDATE: u32 = 0x79;
    pub const MICROCODE: u32 = 0x8b;
    pub const PERF_COUNTER0: u32 = 0xc1;
    pub const PERF_COUNTER1: u32 = 0xc2;
    pub const PLATFORM_INFO: u32 = 0xce;
    pub const MTRR_CAP: u32 = 0xfe;
    pub const ARCH_CAPABILITIES: u32 = 0x10a;
    pub const BBL_CR_CTL3: u32 = 0x11e;
    pub const MISC_FEATURES: u32 = 0x140;
    pub const SYSENTER_CS: u32 = 0x174;
    pub const SYSENTER_ESP: u32 = 0x175;
    pub const SYSENTER_EIP: u32 = 0x176;
    pub const MCG_CAP: u32 = 0x179;
    pub const MCG_STATUS: u32 = 0x17a;
    pub const MCG_CTL: u32 = 0x17b;
    pub const PERF_SELECT0: u32 = 0x186;
    pub const PERF_SELECT1: u32 = 0x187;
    pub const PERF_STATUS: u32 = 0x198;
    pub const MISC_ENABLE: u32 = 0x1a0;
    pub const DEBUG_CONTROL: u32 = 0x1d9;
    pub const LAST_BRANCH_FROM: u32 = 0x1db;
    pub const LAST_INT_TO: u32 = 0x1de;
    pub const PAT: u32 = 0x277;
    pub const MTRR_DEFAULT: u32 = 0x2ff;
    pub const MC0_CTL: u32 = 0x400;
    pub const RAPL_UNIT: u32 = 0x606;
    pub const PKG_ENERGY: u32 = 0x611;
    pub const DRAM_ENERGY: u32 = 0x619;
    pub const PP0_ENERGY: u32 = 0x639;
    pub const PP1_ENERGY: u32 = 0x641;
    pub const EFER: u32 = 0xc000_0080;
    pub const STAR: u32 = 0xc000_0081;
    pub const LSTAR: u32 = 0xc000_0082;
    pub const CSTAR: u32 = 0xc000_0083;
    pub const SFMASK: u32 = 0xc000_0084;
    pub const FS_BASE: u32 = 0xc000_0100;
    pub const GS_BASE: u32 = 0xc000_0101;
    pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
    pub const TSC_AUX: u32 = 0xc000_0103;
    pub const K7_SELECT0: u32 = 0xc001_0000;
    pub const K7_COUNTER3: u32 = 0xc001_0007;
    pub const SYSCFG: u32 = 0xc001_0010;
    pub const HWCR: u32 = 0xc001_0015;
    pub const TOP_MEM: u32 = 0xc001_001a;
    pub const TOP_MEM2: u32 = 0xc001_001d;
    pub const NB_CFG: u32 = 0xc001_001f;
    pub const INT_PENDING: u32 = 0xc001_0055;
    pub const MMIO_CONFIG: u32 = 0xc001_0058;
    pub const SMM_ADDRESS: u32 = 0xc001_0112;
    pub const SMM_MASK: u32 = 0xc001_0113;
    pub const VM_CR: u32 = 0xc001_0114;
    pub const VM_HSAVE: u32 = 0xc001_0117;
    pub const DC_CFG: u32 = 0xc001_1022;
    pub const BU_CFG: u32 = 0xc001_1023;
    pub const DE_CFG: u32 = 0xc001_1029;
    pub const BU_CFG2: u32 = 0xc001_102a;
}
use index::*;

/// Registers that there are, for owners that save and restore them. Those of the variable-range
/// and fixed-range MTRRs are not among them, nor those of the machine-check banks.
pub const MSRS: &[u32] = &[
    TSC,
    SYSENTER_CS,
    SYSENTER_ESP,
    SYSENTER_EIP,
    STAR,
    CSTAR,
    KERNEL_GS_BASE,
    SFMASK,
    LSTAR,
    FS_BASE,
    GS_BASE,
    EFER,
    TSC_AUX,
    TSC_ADJUST,
    PAT,
    MISC_ENABLE,
    MCG_STATUS,
    MCG_CTL,
    FEATURE_CONTROL,
    ARCH_CAPABILITIES,
    PLATFORM_INFO,
    MISC_FEATURES,
    MICROCODE,
    APIC_BASE,
    HWCR,
    SYSCFG,
    DE_CFG,
    WALL_CLOCK,
    SYSTEM_TIME,
    OLD_WALL_CLOCK,
    OLD_SYSTEM_TIME,
];

/// Registers that tell owners what a guest can have, and what they read. LFENCE does not wait by
/// itself as far as we know.
pub const FEATURES: [(u32, u64); 3] = [(ARCH_CAPABILITIES, 0), (MICROCODE, REVISION), (DE_CFG, 0)];

/// Who accesses a register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum By {
    /// The guest, by an instruction.
    Guest,
    /// The owner, who may set what is read-only to the guest.
    Owner,
}

/// The registers that are kept here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Kept {
    pub(super) tsc_offset: u64,
    /// The others, by [`Place`].
    values: [u64; Place::COUNT],
}

/// A register's place among them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    ApicBase,
    TscAdjust,
    MiscEnable,
    Microcode,
    FeatureControl,
    ArchCapabilities,
    PlatformInfo,
    Hwcr,
    Syscfg,
    DeCfg,
}

impl Place {
    const COUNT: usize = Self::DeCfg as usize + 1;
}

/// The revision of the microcode.
const REVISION: u64 = 0x1_0000_0000;

impl Kept {
    /// As after a reset.
    pub(super) const RESET: Self = {
        let mut values = [0; Place::COUNT];
        // Enabled, at its usual place.
        values[Place::ApicBase as usize] = 0xfee0_0800;
        // Fast strings.
        values[Place::MiscEnable as usize] = 1;
        values[Place::Microcode as usize] = REVISION;
        Self {
            tsc_offset: 0,
            values,
        }
    };

    pub(super) fn apic_base(&self) -> u64 {
        self.get(Place::ApicBase)
    }

    #[inline(always)]
    fn get(&self, place: Place) -> u64 {
        self.values.get(place as usize).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn set(&mut self, place: Place, value: u64) {
        if let Some(kept) = self.values.get_mut(place as usize) {
            *kept = value;
        }
    }
}

/// What a number stands for.
#[derive(Clone, Copy)]
enum Kind {
    /// The vendor has it.
    Vendor(Msr),
    Base(SegmentName),
    Kept(Place),
    Efer,
    Tsc,
    /// To be written by the guest, which offers new microcode so.
    Update,
}

/// What has a meaning here: what guests use most comes first.
const KINDS: [(u32, Kind); 25] = [
    (APIC_BASE, Kind::Kept(Place::ApicBase)),
    (KERNEL_GS_BASE, Kind::Vendor(Msr::KernelGsBase)),
    (FS_BASE, Kind::Base(SegmentName::Fs)),
    (GS_BASE, Kind::Base(SegmentName::Gs)),
    (TSC, Kind::Tsc),
    (TSC_ADJUST, Kind::Kept(Place::TscAdjust)),
    (EFER, Kind::Efer),
    (TSC_AUX, Kind::Vendor(Msr::TscAux)),
    (SYSENTER_CS, Kind::Vendor(Msr::SysenterCs)),
    (SYSENTER_ESP, Kind::Vendor(Msr::SysenterEsp)),
    (SYSENTER_EIP, Kind::Vendor(Msr::SysenterEip)),
    (STAR, Kind::Vendor(Msr::Star)),
    (LSTAR, Kind::Vendor(Msr::Lstar)),
    (CSTAR, Kind::Vendor(Msr::Cstar)),
    (SFMASK, Kind::Vendor(Msr::Sfmask)),
    (PAT, Kind::Vendor(Msr::Pat)),
    (MISC_ENABLE, Kind::Kept(Place::MiscEnable)),
    (MICROCODE, Kind::Kept(Place::Microcode)),
    (MICROCODE_UPDATE, Kind::Update),
    (FEATURE_CONTROL, Kind::Kept(Place::FeatureControl)),
    (ARCH_CAPABILITIES, Kind::Kept(Place::ArchCapabilities)),
    (PLATFORM_INFO, Kind::Kept(Place::PlatformInfo)),
    (HWCR, Kind::Kept(Place::Hwcr)),
    (SYSCFG, Kind::Kept(Place::Syscfg)),
    (DE_CFG, Kind::Kept(Place::DeCfg)),
];

/// What owners and guests look at without needing it: reads as 0, and writes do nothing. First and
/// last of several beside each other.
const ZEROS: [(u32, u32); 22] = [
    (PLATFORM_ID, PLATFORM_ID),
    (EBL_CR_POWERON, EBL_CR_POWERON),
    (PERF_COUNTER0, PERF_COUNTER1),
    (MISC_FEATURES, MISC_FEATURES),
    (PERF_SELECT0, PERF_SELECT1),
    (DEBUG_CONTROL, DEBUG_CONTROL),
    (LAST_BRANCH_FROM, LAST_INT_TO),
    (RAPL_UNIT, RAPL_UNIT),
    (PKG_ENERGY, PKG_ENERGY),
    (DRAM_ENERGY, DRAM_ENERGY),
    (PP0_ENERGY, PP0_ENERGY),
    (PP1_ENERGY, PP1_ENERGY),
    (K7_SELECT0, K7_COUNTER3),
    (TOP_MEM, TOP_MEM),
    (TOP_MEM2, TOP_MEM2),
    (NB_CFG, NB_CFG),
    (INT_PENDING, INT_PENDING),
    (MMIO_CONFIG, MMIO_CONFIG),
    (SMM_ADDRESS, VM_CR),
    (VM_HSAVE, VM_HSAVE),
    (DC_CFG, BU_CFG),
    (BU_CFG2, BU_CFG2),
];

/// What a register reads as whose writes do nothing.
fn constant(index: u32) -> Option<u64> {
    match index {
        // A bus at 1000 MHz with a factor of 4: not zero, because some divide by it.
        PERF_STATUS => return Some(1000 | 4 << 40),
        // The L2 cache is there and on.
        BBL_CR_CTL3 => return Some(0xbe70_2111),
        _ => {}
    }
    let is_zero = |&(first, last): &(u32, u32)| first <= index && index <= last;
    ZEROS.iter().any(is_zero).then_some(0)
}

fn kind(index: u32) -> Option<Kind> {
    let (_, kind) = KINDS.iter().find(|(known, _)| *known == index)?;
    Some(*kind)
}

/// Whether an address of 48 bits is sign-extended.
pub fn is_canonical(address: u64) -> bool {
    (address << 16) as i64 >> 16 == address as i64
}

/// Whether each byte of PAT is a memory type that exists.
pub fn pat_is_valid(value: u64) -> bool {
    value
        .to_le_bytes()
        .iter()
        .all(|kind| matches!(kind, 0 | 1 | 4..=7))
}

impl<H: Hal, V: Vendor> GuestCpu<H, V> {
    /// Reads a register, if there is one and it may be read.
    #[inline(never)]
    pub(super) fn read_msr(&mut self, vendor: &V, index: u32, by: By) -> Option<u64> {
        let Some(kind) = kind(index) else {
            return self.read_other(index);
        };
        let is_there = self.is_there(kind, by);
        let state = self.runner.state();
        let value = match kind {
            Kind::Vendor(msr) => vendor.msr(state, msr),
            Kind::Base(name) => vendor.segment(state, name).base,
            Kind::Kept(place) => self.kept.get(place),
            Kind::Efer => vendor.control(state, Control::Efer),
            Kind::Tsc => self.hal.tsc().wrapping_add(self.kept.tsc_offset),
            Kind::Update => return None,
        };
        is_there.then_some(value)
    }

    /// Whether the CPU has a register, which must be one that is its vendor's to have.
    fn is_there(&self, kind: Kind, by: By) -> bool {
        let owner = by == By::Owner;
        match kind {
            // It is in the CPU while the guest runs, so there must be one.
            Kind::Vendor(Msr::TscAux) => self.host.tsc_aux && (owner || self.features.tsc_aux),
            Kind::Kept(Place::TscAdjust) => owner || self.features.tsc_adjust,
            Kind::Kept(Place::ArchCapabilities) => owner || self.features.arch_capabilities,
            _ => true,
        }
    }

    #[cold]
    fn read_other(&self, index: u32) -> Option<u64> {
        if let Some(register) = McBank::of(index) {
            return self.banks.read(register);
        }
        match mtrr_place(index) {
            Some(place) => Some(self.mtrrs.read(place)),
            None => constant(index),
        }
    }

    #[cold]
    fn write_other(&mut self, index: u32, value: u64, by: By) -> Option<()> {
        if let Some(register) = McBank::of(index) {
            return self.banks.write(register, value, by);
        }
        match mtrr_place(index) {
            Some(place) => self.mtrrs.write(place, value, &self.features),
            None => constant(index).map(drop),
        }
    }

    /// Writes a register; [`None`] where there is none, or none that takes this value.
    #[inline(never)]
    pub(super) fn write_msr(&mut self, vendor: &V, index: u32, value: u64, by: By) -> Option<()> {
        let Some(kind) = kind(index) else {
            return self.write_other(index, value, by);
        };
        let is_there = self.is_there(kind, by);
        let state = self.runner.state();
        match kind {
            Kind::Vendor(msr) => {
                let valid = match msr {
                    Msr::SysenterCs | Msr::Star | Msr::Sfmask => true,
                    Msr::Pat => pat_is_valid(value),
                    Msr::TscAux => is_there && value >> 32 == 0,
                    _ => is_canonical(value),
                };
                if !valid {
                    return None;
                }
                // These have 32 bits.
                let value = match msr {
                    Msr::SysenterCs | Msr::Sfmask => value & 0xffff_ffff,
                    _ => value,
                };
                vendor.set_msr(state, msr, value);
            }
            Kind::Base(name) => {
                let mut segment = vendor.segment(state, name);
                segment.base = value;
                if !is_canonical(value) {
                    return None;
                }
                vendor.set_segment(state, name, segment);
            }
            Kind::Kept(place) => return self.write_kept(vendor, place, value, by),
            Kind::Efer => return self.write_efer(vendor, value, by),
            Kind::Tsc => {
                let change = self.hal.tsc().wrapping_add(self.kept.tsc_offset);
                let change = value.wrapping_sub(change);
                self.move_tsc(vendor, change);
                if by == By::Guest {
                    // What software adds to the counter shows in the other register.
                    let adjust = self.kept.get(Place::TscAdjust);
                    self.kept.set(Place::TscAdjust, adjust.wrapping_add(change));
                }
            }
            Kind::Update => {}
        }
        Some(())
    }

    fn write_kept(&mut self, vendor: &V, place: Place, value: u64, by: By) -> Option<()> {
        let owner = by == By::Owner;
        let (mut value, mut reserved) = (value, 0);
        match place {
            Place::TscAdjust if owner => {}
            Place::TscAdjust if self.features.tsc_adjust => {
                let old = self.kept.get(place);
                self.move_tsc(vendor, value.wrapping_sub(old));
            }
            Place::ApicBase => {
                // The bootstrap processor, enabled, and the address. Not x2APIC mode.
                let known = 0x900 | 0xffff_ffff_ffff_f000;
                reserved = self.features.reserved_address_bits() | !known;
            }
            Place::MiscEnable => {}
            Place::Hwcr => {
                // Ignored: FFDIS, TLBCACHEDIS, IgnneEm. Kept: that the TSC counts at P0's rate,
                // and that the status of machine-check banks can be written.
                const IGNORED: u64 = 1 << 3 | 1 << 6 | 1 << 8;
                const KEPT: u64 = 1 << 18 | 1 << 24;
                value &= !IGNORED;
                reserved = !KEPT;
            }
            // The guest asks for its microcode's revision so.
            Place::Microcode if !owner => return Some(()),
            // LFENCE is serializing, whether or not the guest says so.
            Place::DeCfg if !owner => reserved = !2,
            // What these say is the owner's business.
            _ if owner => {}
            _ => return None,
        }
        if value & reserved != 0 {
            return None;
        }
        self.kept.set(place, value);
        Some(())
    }

    /// Sets what the guest's time-stamp counter is ahead of the host's, by what it is to go on.
    fn move_tsc(&mut self, vendor: &V, change: u64) {
        self.set_tsc_offset(vendor, self.kept.tsc_offset.wrapping_add(change));
    }

    /// Sets what the guest's time-stamp counter is ahead of the host's.
    pub fn set_tsc_offset(&mut self, vendor: &V, offset: u64) {
        self.kept.tsc_offset = offset;
        self.clock.expire();
        vendor.set_tsc_offset(self.runner.state(), offset);
    }

    /// A register, for the owner.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when there is none.
    pub fn msr(&mut self, vendor: &V, index: u32) -> Result<u64, Error> {
        self.read_msr(vendor, index, By::Owner)
            .ok_or(Error::Invalid)
    }

    /// Sets a register, for the owner.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when there is none, or none that takes this value.
    pub fn set_msr(&mut self, vendor: &V, index: u32, value: u64) -> Result<(), Error> {
        self.write_msr(vendor, index, value, By::Owner)
            .ok_or(Error::Invalid)
    }
}
