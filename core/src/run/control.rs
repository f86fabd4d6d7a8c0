//! Control registers.
//!
//! Source: Intel SDM volume 3, "Control Registers", and volume 2, "MOV—Move to/from Control
//! Registers"; AMD APM volume 2, "System-Control Registers".
use waterbear_hal::Hal;

use super::GuestCpu;
use super::cpuid::Features;
use super::debug::DR6_BD;
use super::msr::By;
use crate::Error;
use crate::arch::{Attributes, Cr0, Cr4, Efer, Exception, SegmentName};
use crate::vendor::{Control, Vendor};
use crate::vm::Vm;

/// The result of an instruction: done, or what it raises instead.
pub(super) type Done = Result<(), Raised>;

/// The exceptions of instructions that come here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Raised {
    /// #GP(0).
    Protection,
    /// #UD.
    Opcode,
    /// #DB, because debug registers are locked.
    Debug,
}

impl Raised {
    /// The exception.
    pub(super) fn exception(self) -> Exception {
        match self {
            Raised::Protection => GP,
            Raised::Opcode => Exception::invalid_opcode(),
            Raised::Debug => Exception {
                payload: DR6_BD,
                ..Exception::plain(Exception::DB)
            },
        }
    }
}

/// #GP(0).
pub(super) const GP: Exception = Exception::general_protection(0);

/// The bits of CR0 that exist.
const CR0_BITS: Cr0 = Cr0::all();
/// A change of one of these changes what linear addresses mean.
const CR4_PAGING: Cr4 = Cr4::PSE
    .union(Cr4::PAE)
    .union(Cr4::PGE)
    .union(Cr4::PCIDE)
    .union(Cr4::SMEP)
    .union(Cr4::SMAP);
/// A change of one of these makes the CPU read the page-directory pointers again.
const CR4_POINTERS: Cr4 = Cr4::PSE.union(Cr4::PAE).union(Cr4::PGE).union(Cr4::SMEP);
const CR0_PAGING: Cr0 = Cr0::PG.union(Cr0::WP).union(Cr0::CD).union(Cr0::NW);
/// The bits of a page-directory pointer in PAE mode that must be zero, but for those of the
/// address.
const POINTER_RESERVED: u64 = 0x1e6;
/// CR3: keep the translations of this process-context identifier.
const NO_FLUSH: u64 = 1 << 63;
/// CR3: the process-context identifier.
const PCID: u64 = 0xfff;

/// Whether linear addresses are translated as in PAE mode.
pub fn in_pae_mode(cr0: Cr0, cr4: Cr4, efer: Efer) -> bool {
    cr0.contains(Cr0::PG) && cr4.contains(Cr4::PAE) && !efer.contains(Efer::LMA)
}

/// Whether a CPU can have these values at the same time.
pub fn consistent(features: &Features, cr0: u64, cr3: u64, cr4: u64, efer: u64) -> bool {
    let cr0 = Cr0::from_bits_retain(cr0);
    let cr4 = Cr4::from_bits_retain(cr4);
    let efer = Efer::from_bits_retain(efer);
    let long = cr0.contains(Cr0::PG) && efer.contains(Efer::LME);
    CR0_BITS.contains(cr0)
        && features.cr4.contains(cr4)
        && features.efer.contains(efer)
        && (cr0.contains(Cr0::PE) || !cr0.contains(Cr0::PG))
        && (cr0.contains(Cr0::CD) || !cr0.contains(Cr0::NW))
        && efer.contains(Efer::LMA) == long
        && (!long || cr4.contains(Cr4::PAE))
        && (long || !cr4.contains(Cr4::PCIDE))
        && (!long || cr3 & features.reserved_address_bits() == 0)
}

impl<H: Hal, V: Vendor> GuestCpu<H, V> {
    pub(super) fn cr0(&mut self, vendor: &V) -> Cr0 {
        Cr0::from_bits_retain(vendor.control(self.runner.state(), Control::Cr0))
    }

    pub(super) fn cr4(&mut self, vendor: &V) -> Cr4 {
        Cr4::from_bits_retain(vendor.control(self.runner.state(), Control::Cr4))
    }

    pub(super) fn efer(&mut self, vendor: &V) -> Efer {
        Efer::from_bits_retain(vendor.control(self.runner.state(), Control::Efer))
    }

    /// Whether the guest runs 64-bit code.
    pub(super) fn in_64_bit_code(&mut self, vendor: &V) -> bool {
        self.efer(vendor).contains(Efer::LMA)
            && vendor
                .segment(self.runner.state(), SegmentName::Cs)
                .attributes
                .contains(Attributes::LONG)
    }

    /// Reads a control register as the MOV instruction does.
    pub(super) fn read_control(&mut self, vendor: &V, register: u8) -> Result<u64, Raised> {
        let state = self.runner.state();
        Ok(match register {
            0 => vendor.control(state, Control::Cr0),
            2 => vendor.switched(state).cr2,
            3 => vendor.control(state, Control::Cr3),
            4 => vendor.control(state, Control::Cr4),
            8 => self.cr8,
            _ => return Err(Raised::Opcode),
        })
    }

    /// Writes a control register as the MOV instruction does. At privilege level 0.
    pub(super) fn write_control(
        &mut self,
        vm: &Vm<H>,
        vendor: &V,
        register: u8,
        value: u64,
    ) -> Done {
        match register {
            0 => self.write_cr0(vm, vendor, value),
            2 => {
                vendor.switched(self.runner.state()).cr2 = value;
                Ok(())
            }
            3 => self.write_cr3(vm, vendor, value),
            4 => self.write_cr4(vm, vendor, value),
            8 if value & !0xf == 0 => {
                self.cr8 = value;
                Ok(())
            }
            8 => Err(Raised::Protection),
            _ => Err(Raised::Opcode),
        }
    }

    fn write_cr0(&mut self, vm: &Vm<H>, vendor: &V, value: u64) -> Done {
        if value >> 32 != 0 {
            return Err(Raised::Protection);
        }
        let old = self.cr0(vendor);
        // Reserved bits of the lower half are ignored.
        let new = (Cr0::from_bits_retain(value) & CR0_BITS) | Cr0::ET;
        if new.contains(Cr0::NW) && !new.contains(Cr0::CD)
            || new.contains(Cr0::PG) && !new.contains(Cr0::PE)
        {
            return Err(Raised::Protection);
        }
        let efer = self.efer(vendor);
        let cr4 = self.cr4(vendor);
        let mut new_efer = efer;
        let turns_on = !old.contains(Cr0::PG) && new.contains(Cr0::PG);
        let turns_off = old.contains(Cr0::PG) && !new.contains(Cr0::PG);
        if turns_on && efer.contains(Efer::LME) {
            let cs = vendor.segment(self.runner.state(), SegmentName::Cs);
            if !cr4.contains(Cr4::PAE) || cs.attributes.contains(Attributes::LONG) {
                return Err(Raised::Protection);
            }
            new_efer.insert(Efer::LMA);
        }
        if turns_off {
            if cr4.contains(Cr4::PCIDE) || self.in_64_bit_code(vendor) {
                return Err(Raised::Protection);
            }
            new_efer.remove(Efer::LMA);
        }
        let pae = in_pae_mode(new, cr4, new_efer);
        if pae && (old ^ new).intersects(Cr0::PG | Cr0::CD | Cr0::NW) {
            let cr3 = vendor.control(self.runner.state(), Control::Cr3);
            self.load_page_directories(vm, vendor, cr3)?;
        }
        let state = self.runner.state();
        if new_efer != efer {
            vendor.set_control(state, Control::Efer, new_efer.bits());
        }
        vendor.set_control(state, Control::Cr0, new.bits());
        if (old ^ new).intersects(CR0_PAGING) {
            vendor.flush_tlb(state);
        }
        Ok(())
    }

    fn write_cr3(&mut self, vm: &Vm<H>, vendor: &V, value: u64) -> Done {
        let long = self.efer(vendor).contains(Efer::LMA);
        let cr4 = self.cr4(vendor);
        let mut value = value;
        if long {
            if cr4.contains(Cr4::PCIDE) {
                value &= !NO_FLUSH;
            }
            if value & self.features.reserved_address_bits() != 0 {
                return Err(Raised::Protection);
            }
        } else {
            value &= 0xffff_ffff;
            if self.cr0(vendor).contains(Cr0::PG) && cr4.contains(Cr4::PAE) {
                self.load_page_directories(vm, vendor, value)?;
            }
        }
        let state = self.runner.state();
        vendor.set_control(state, Control::Cr3, value);
        // The guest's own translations are flushed together with ours.
        vendor.flush_tlb(state);
        Ok(())
    }

    fn write_cr4(&mut self, vm: &Vm<H>, vendor: &V, value: u64) -> Done {
        let old = self.cr4(vendor);
        let new = Cr4::from_bits_retain(value);
        let long = self.efer(vendor).contains(Efer::LMA);
        let cr3 = vendor.control(self.runner.state(), Control::Cr3);
        let identifies = !old.contains(Cr4::PCIDE) && new.contains(Cr4::PCIDE);
        if !self.features.cr4.contains(new)
            || long && !new.contains(Cr4::PAE)
            || identifies && (!long || cr3 & PCID != 0)
        {
            return Err(Raised::Protection);
        }
        let changed = old ^ new;
        if !long
            && new.contains(Cr4::PAE)
            && self.cr0(vendor).contains(Cr0::PG)
            && changed.intersects(CR4_POINTERS)
        {
            self.load_page_directories(vm, vendor, cr3)?;
        }
        let state = self.runner.state();
        vendor.set_control(state, Control::Cr4, new.bits());
        if changed.intersects(CR4_PAGING) {
            vendor.flush_tlb(state);
        }
        Ok(())
    }

    /// LMSW: the lowest four bits of CR0, but PE stays once it is set.
    pub(super) fn load_status(&mut self, vm: &Vm<H>, vendor: &V, value: u16) -> Done {
        let old = self.cr0(vendor).bits();
        let low = u64::from(value) & 0xf;
        self.write_cr0(vm, vendor, (old & !0xe) | low)
    }

    /// CLTS.
    pub(super) fn clear_ts(&mut self, vendor: &V) -> Done {
        let cr0 = self.cr0(vendor) - Cr0::TS;
        vendor.set_control(self.runner.state(), Control::Cr0, cr0.bits());
        Ok(())
    }

    /// Writes EFER as WRMSR does, or as KVM_SET_MSRS: the owner may give the guest what its CPUID
    /// does not have, and switch long mode while paging is on.
    pub(super) fn write_efer(&mut self, vendor: &V, value: u64, by: By) -> Option<()> {
        let old = self.efer(vendor);
        // LMA is not written; what is there does not matter.
        let written = Efer::from_bits_retain(value) - Efer::LMA;
        let new = written | (old & Efer::LMA);
        let (offered, fixed) = match by {
            By::Guest => (self.features.efer, self.cr0(vendor).contains(Cr0::PG)),
            By::Owner => (self.host.efer, false),
        };
        if !offered.contains(written) || fixed && (old ^ new).contains(Efer::LME) {
            return None;
        }
        let state = self.runner.state();
        vendor.set_control(state, Control::Efer, new.bits());
        vendor.flush_tlb(state);
        Some(())
    }

    /// Reads the four page-directory pointers of PAE mode as the CPU does when CR3 is loaded.
    pub(super) fn load_page_directories(&mut self, vm: &Vm<H>, vendor: &V, cr3: u64) -> Done {
        let reserved = self.features.reserved_address_bits() | POINTER_RESERVED;
        let entries = self
            .read_page_directories(vm, cr3 & 0xffff_ffe0)
            .ok_or(Raised::Protection)?;
        if entries.iter().any(|&e| e & 1 != 0 && e & reserved != 0) {
            return Err(Raised::Protection);
        }
        vendor.set_page_directories(self.runner.state(), entries);
        Ok(())
    }

    /// Sets the control registers together. May sleep.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when no CPU with the guest's features can have these values.
    pub fn set_controls(
        &mut self,
        vm: &Vm<H>,
        vendor: &V,
        [cr0, cr3, cr4, efer]: [u64; 4],
    ) -> Result<(), Error> {
        if !consistent(&self.host, cr0, cr3, cr4, efer) {
            return Err(Error::Invalid);
        }
        let state = self.runner.state();
        vendor.set_control(state, Control::Efer, efer);
        vendor.set_control(state, Control::Cr4, cr4);
        vendor.set_control(state, Control::Cr3, cr3);
        vendor.set_control(state, Control::Cr0, cr0 | Cr0::ET.bits());
        vendor.flush_tlb(state);
        if self.pae(vendor) {
            // The owner may not have put the memory there yet; pointers that are not right make
            // the entry fail, and do not concern the owner now.
            let _ = self.load_page_directories(vm, vendor, cr3);
        }
        Ok(())
    }

    /// Whether the guest is in PAE mode.
    pub(super) fn pae(&mut self, vendor: &V) -> bool {
        in_pae_mode(self.cr0(vendor), self.cr4(vendor), self.efer(vendor))
    }

    /// The page-directory pointers that CR3 names, in PAE mode and where the owner has memory
    /// there. The CPU has read them when CR3 was loaded, and does not show them; a guest that
    /// changes them reloads CR3, so they are the same. May sleep.
    pub fn page_directories(&mut self, vm: &Vm<H>, vendor: &V) -> Option<[u64; 4]> {
        if !self.pae(vendor) {
            return None;
        }
        let cr3 = vendor.control(self.runner.state(), Control::Cr3);
        self.read_page_directories(vm, cr3 & 0xffff_ffe0)
    }

    /// CR8: the task priority, kept for an interrupt controller of the owner's.
    pub fn cr8(&self) -> u64 {
        self.cr8
    }

    /// Sets CR8.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] above 15.
    pub fn set_cr8(&mut self, value: u64) -> Result<(), Error> {
        if value > 0xf {
            return Err(Error::Invalid);
        }
        self.cr8 = value;
        Ok(())
    }
}
