//! What decides how the guest's linear addresses are translated.
use waterbear_hal::{Gpa, Hal};

use super::GuestCpu;
use crate::arch::Rflags;
use crate::paging::{Cpu, Registers};
use crate::vendor::{Control, Vendor};
use crate::vm::Vm;

impl<H: Hal, V: Vendor> GuestCpu<H, V> {
    /// The four page-directory pointers that CR3 names, from memory.
    pub(super) fn read_page_directories(&mut self, vm: &Vm<H>, at: u64) -> Option<[u64; 4]> {
        let mut entries = [0; 4];
        let mut bytes = [0; 32];
        vm.read_guest(self.mmu.space(), Gpa(at), &mut bytes).ok()?;
        let (words, _) = bytes.as_chunks::<8>();
        for (entry, word) in entries.iter_mut().zip(words) {
            *entry = u64::from_le_bytes(*word);
        }
        Some(entries)
    }

    /// What decides how linear addresses are translated now.
    pub(super) fn paging(&mut self, vm: &Vm<H>, vendor: &V) -> Registers {
        let (cr0, cr4, efer) = (self.cr0(vendor), self.cr4(vendor), self.efer(vendor));
        let state = self.runner.state();
        let cr3 = vendor.control(state, Control::Cr3);
        let rflags = vendor.regs(state).rflags;
        let pdptes = self.page_directories(vm, vendor).unwrap_or_default();
        Registers {
            cr0,
            cr3,
            cr4,
            efer,
            ac: rflags & Rflags::AC.bits() != 0,
            pkru: 0,
            pdptes,
            cpu: Cpu {
                physical_bits: self.features.physical_bits.clamp(32, 52) as u8,
                ..Cpu::default()
            },
        }
    }
}
