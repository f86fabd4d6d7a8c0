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
pub const FEATURES: [(u32, u64); 3] = [
    (ARCH_CAPABILITIES, 0),
    (MICROCODE, Kept::RESET.microcode),
    (DE_CFG, 0),
];

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
    pub(super) apic_base: u64,
    pub(super) tsc_offset: u64,
    tsc_adjust: u64,
    misc_enable: u64,
    microcode: u64,
    feature_control: u64,
    arch_capabilities: u64,
    platform_info: u64,
    hwcr: u64,
    syscfg: u64,
    de_cfg: u64,
}

impl Kept {
    /// As after a reset.
    pub(super) const RESET: Self = Self {
        // Enabled, at its usual place.
        apic_base: 0xfee0_0800,
        tsc_offset: 0,
        tsc_adjust: 0,
        // Fast strings.
        misc_enable: 1,
        microcode: 0x1_0000_0000,
        feature_control: 0,
        arch_capabilities: 0,
        platform_info: 0,
        hwcr: 0,
        syscfg: 0,
        de_cfg: 0,
    };
}

/// What a number stands for.
enum Kind {
    Vendor(Msr),
    /// The same, and an address.
    VendorAddress(Msr),
    Base(SegmentName),
    Kept,
    Mtrr(usize),
    Bank(McBank),
    /// Reads as this; writes do nothing.
    Constant(u64),
    None,
}

fn kind(index: u32) -> Kind {
    match index {
        SYSENTER_CS => Kind::Vendor(Msr::SysenterCs),
        SYSENTER_ESP => Kind::VendorAddress(Msr::SysenterEsp),
        SYSENTER_EIP => Kind::VendorAddress(Msr::SysenterEip),
        STAR => Kind::Vendor(Msr::Star),
        LSTAR => Kind::VendorAddress(Msr::Lstar),
        CSTAR => Kind::VendorAddress(Msr::Cstar),
        SFMASK => Kind::Vendor(Msr::Sfmask),
        KERNEL_GS_BASE => Kind::VendorAddress(Msr::KernelGsBase),
        FS_BASE => Kind::Base(SegmentName::Fs),
        GS_BASE => Kind::Base(SegmentName::Gs),
        PAT | TSC_AUX | EFER | TSC | TSC_ADJUST | APIC_BASE | MISC_ENABLE | MICROCODE
        | FEATURE_CONTROL | ARCH_CAPABILITIES | PLATFORM_INFO | HWCR | SYSCFG | DE_CFG
        | MICROCODE_UPDATE => Kind::Kept,
        MCG_CAP | MCG_STATUS | MCG_CTL | 0x400..0x480 => match McBank::of(index) {
            Some(register) => Kind::Bank(register),
            None => Kind::None,
        },
        // What owners and guests look at without needing it.
        PLATFORM_ID | EBL_CR_POWERON | MISC_FEATURES | DEBUG_CONTROL => Kind::Constant(0),
        LAST_BRANCH_FROM..=LAST_INT_TO => Kind::Constant(0),
        PERF_COUNTER0 | PERF_COUNTER1 | PERF_SELECT0 | PERF_SELECT1 => Kind::Constant(0),
        RAPL_UNIT | PKG_ENERGY | DRAM_ENERGY | PP0_ENERGY | PP1_ENERGY => Kind::Constant(0),
        K7_SELECT0..=K7_COUNTER3 => Kind::Constant(0),
        TOP_MEM | TOP_MEM2 | NB_CFG | INT_PENDING | MMIO_CONFIG => Kind::Constant(0),
        SMM_ADDRESS | SMM_MASK | VM_CR | VM_HSAVE => Kind::Constant(0),
        DC_CFG | BU_CFG | BU_CFG2 => Kind::Constant(0),
        // A bus at 1000 MHz with a factor of 4: not zero, because some divide by it.
        PERF_STATUS => Kind::Constant(1000 | 4 << 40),
        // The L2 cache is there and on.
        BBL_CR_CTL3 => Kind::Constant(0xbe70_2111),
        _ => mtrr_place(index).map_or(Kind::None, Kind::Mtrr),
    }
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
    pub(super) fn read_msr(&mut self, vendor: &V, index: u32, by: By) -> Option<u64> {
        let state = self.runner.state();
        Some(match kind(index) {
            Kind::Vendor(msr) | Kind::VendorAddress(msr) => vendor.msr(state, msr),
            Kind::Base(name) => vendor.segment(state, name).base,
            Kind::Mtrr(place) => self.mtrrs.read(place),
            Kind::Bank(register) => self.banks.read(register)?,
            Kind::Constant(value) => value,
            Kind::Kept => return self.read_kept(vendor, index, by),
            Kind::None => return None,
        })
    }

    fn read_kept(&mut self, vendor: &V, index: u32, by: By) -> Option<u64> {
        let has_tsc_aux = self.has_tsc_aux(by);
        let state = self.runner.state();
        let kept = &self.kept;
        Some(match index {
            PAT => vendor.msr(state, Msr::Pat),
            TSC_AUX if has_tsc_aux => vendor.msr(state, Msr::TscAux),
            EFER => vendor.control(state, Control::Efer),
            TSC => self.hal.tsc().wrapping_add(kept.tsc_offset),
            TSC_ADJUST if by == By::Owner || self.features.tsc_adjust => kept.tsc_adjust,
            APIC_BASE => kept.apic_base,
            MISC_ENABLE => kept.misc_enable,
            MICROCODE => kept.microcode,
            FEATURE_CONTROL => kept.feature_control,
            ARCH_CAPABILITIES if by == By::Owner || self.features.arch_capabilities => {
                kept.arch_capabilities
            }
            PLATFORM_INFO => kept.platform_info,
            HWCR => kept.hwcr,
            SYSCFG => kept.syscfg,
            DE_CFG => kept.de_cfg,
            _ => return None,
        })
    }

    /// Writes a register; [`None`] where there is none, or none that takes this value.
    pub(super) fn write_msr(&mut self, vendor: &V, index: u32, value: u64, by: By) -> Option<()> {
        let state = self.runner.state();
        match kind(index) {
            Kind::VendorAddress(_) | Kind::Base(_) if !is_canonical(value) => return None,
            Kind::Vendor(msr) => {
                // SYSENTER_CS and SFMASK have 32 bits.
                let value = match msr {
                    Msr::Star => value,
                    _ => value & 0xffff_ffff,
                };
                vendor.set_msr(state, msr, value);
            }
            Kind::VendorAddress(msr) => vendor.set_msr(state, msr, value),
            Kind::Base(name) => {
                let segment = vendor.segment(state, name);
                let base = value;
                vendor.set_segment(state, name, crate::arch::Segment { base, ..segment });
            }
            Kind::Mtrr(place) => return self.mtrrs.write(place, value, &self.features),
            Kind::Bank(register) => return self.banks.write(register, value, by),
            Kind::Constant(_) => {}
            Kind::Kept => return self.write_kept(vendor, index, value, by),
            Kind::None => return None,
        }
        Some(())
    }

    fn write_kept(&mut self, vendor: &V, index: u32, value: u64, by: By) -> Option<()> {
        let owner = by == By::Owner;
        match index {
            PAT if pat_is_valid(value) => {
                vendor.set_msr(self.runner.state(), Msr::Pat, value);
            }
            TSC_AUX if self.has_tsc_aux(by) && value >> 32 == 0 => {
                vendor.set_msr(self.runner.state(), Msr::TscAux, value);
            }
            EFER if owner => {
                // As KVM_SET_MSRS does: the bits that are there, and LMA stays.
                return self.write_efer_as_owner(vendor, value);
            }
            EFER => return self.write_efer(vendor, value),
            TSC => {
                let old = self.kept.tsc_offset;
                self.set_tsc_offset(vendor, value.wrapping_sub(self.hal.tsc()));
                if !owner {
                    // What software adds to the counter shows in the other register.
                    let change = self.kept.tsc_offset.wrapping_sub(old);
                    self.kept.tsc_adjust = self.kept.tsc_adjust.wrapping_add(change);
                }
            }
            TSC_ADJUST if owner => self.kept.tsc_adjust = value,
            TSC_ADJUST if self.features.tsc_adjust => {
                let change = value.wrapping_sub(self.kept.tsc_adjust);
                self.set_tsc_offset(vendor, self.kept.tsc_offset.wrapping_add(change));
                self.kept.tsc_adjust = value;
            }
            APIC_BASE => {
                // The bootstrap processor, enabled, and the address. Not x2APIC mode.
                let known = 0x900 | 0xffff_ffff_ffff_f000;
                let reserved = self.features.reserved_address_bits() | !known;
                if value & reserved != 0 {
                    return None;
                }
                self.kept.apic_base = value;
            }
            MISC_ENABLE => self.kept.misc_enable = value,
            MICROCODE if owner => self.kept.microcode = value,
            // The guest asks for its microcode's revision so, or offers an update.
            MICROCODE | MICROCODE_UPDATE => {}
            FEATURE_CONTROL if owner => self.kept.feature_control = value,
            ARCH_CAPABILITIES if owner => self.kept.arch_capabilities = value,
            PLATFORM_INFO if owner => self.kept.platform_info = value,
            HWCR => {
                // Ignored: FFDIS, TLBCACHEDIS, IgnneEm. Kept: that the TSC counts at P0's rate,
                // and that the status of machine-check banks can be written.
                const IGNORED: u64 = 1 << 3 | 1 << 6 | 1 << 8;
                const KEPT: u64 = 1 << 18 | 1 << 24;
                let value = value & !IGNORED;
                if value & !KEPT != 0 {
                    return None;
                }
                self.kept.hwcr = value;
            }
            SYSCFG if owner => self.kept.syscfg = value,
            // LFENCE is serializing, whether or not the guest says so.
            DE_CFG if owner || value & !2 == 0 => self.kept.de_cfg = value,
            _ => return None,
        }
        Some(())
    }

    /// IA32_TSC_AUX is in the CPU while the guest runs, so there must be one.
    fn has_tsc_aux(&self, by: By) -> bool {
        self.host.tsc_aux && (by == By::Owner || self.features.tsc_aux)
    }

    /// Sets what the guest's time-stamp counter is ahead of the host's.
    pub fn set_tsc_offset(&mut self, vendor: &V, offset: u64) {
        self.kept.tsc_offset = offset;
        self.clock.expire();
        vendor.set_tsc_offset(self.runner.state(), offset);
    }

    fn write_efer_as_owner(&mut self, vendor: &V, value: u64) -> Option<()> {
        use crate::arch::Efer;
        let new = Efer::from_bits(value)?;
        if !self.host.efer.contains(new - Efer::LMA) {
            return None;
        }
        let lma = self.efer(vendor) & Efer::LMA;
        let new = (new - Efer::LMA) | lma;
        let state = self.runner.state();
        vendor.set_control(state, Control::Efer, new.bits());
        vendor.flush_tlb(state);
        Some(())
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
