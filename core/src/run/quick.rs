//! Exits that are dealt with before the guest's state is out of the CPU.
//!
//! Interrupts are off, so this is for what needs registers and memory that is there.
//! Whatever is unusual about an exit sends it the long way, [`exit`](super::exit).
use waterbear_hal::{Hal, Pfn};

use super::clock::VcpuClock;
use super::cpuid::Asked;
use super::glance::{Walked, glance, is_cpuid};
use crate::Error;
use crate::arch::{Rflags, Shadow};
use crate::exit::Exit;
use crate::request::Request;
use crate::stats::{Count, VcpuStats};
use crate::vcpu::Owner;
use crate::vendor::Vendor;
use crate::vm::{VcpuMmu, Vm};

/// What is at hand while the vCPU is in guest mode.
pub(super) struct Inside<'a, H: Hal, V> {
    pub(super) vm: &'a Vm<H>,
    pub(super) vendor: &'a V,
    pub(super) mmu: &'a mut VcpuMmu<H>,
    pub(super) clock: &'a mut VcpuClock,
    pub(super) tsc_offset: u64,
    pub(super) stats: &'a VcpuStats,
    pub(super) asked: Asked<'a, H>,
    pub(super) walked: &'a mut Walked,
    /// No event waits, and no window was asked for.
    pub(super) quick: bool,
}

impl<H: Hal, V: Vendor> Owner<V> for Inside<'_, H, V> {
    fn reload(&mut self) -> Result<Pfn, Error> {
        Ok(self.vm.load_root(self.mmu)?.pfn())
    }

    // An event's sender has queued it before, and this thread queues its own: that request needs
    // nothing more.
    fn handle(&mut self, request: Request, _state: &mut V::Vcpu) -> Result<(), Error> {
        if request == Request::CLOCK {
            self.clock.expire();
            self.clock.keep(self.vm, self.tsc_offset);
        }
        Ok(())
    }

    #[inline(always)]
    fn finish(&mut self, state: &mut V::Vcpu, exit: Exit) -> bool {
        match exit {
            _ if !self.quick => false,
            Exit::Cpuid => self.cpuid(state),
            Exit::Fault { gpa, access } => {
                let mapped = self.vm.quick_fault(self.mmu, gpa, access);
                if mapped {
                    self.stats.add(Count::FastFault);
                }
                mapped
            }
            _ => false,
        }
    }
}

impl<H: Hal, V: Vendor> Inside<'_, H, V> {
    #[inline(always)]
    fn cpuid(&mut self, state: &mut V::Vcpu) -> bool {
        let vendor = self.vendor;
        let mut length = vendor.length(state);
        if length == 0 {
            let (space, bits) = (self.mmu.space(), self.asked.features.physical_bits);
            length = match glance(self.vm, space, vendor, state, bits, self.walked) {
                Some(code) if is_cpuid(&code) => 2,
                _ => 0,
            };
        }
        let shadow = vendor.shadow(state);
        let regs = vendor.regs(state);
        let next = regs.rip.wrapping_add(length.into());
        let plain = length != 0
            && regs.rflags & Rflags::TF.bits() == 0
            && !shadow.intersects(Shadow::STI | Shadow::MOV_SS)
            // Beyond 4 GiB it depends on the code segment.
            && (regs.rip ^ next) >> 32 == 0;
        if plain {
            self.stats.add(Count::Cpuid);
            regs.rip = next;
            regs.rflags &= !Rflags::RF.bits();
            self.asked.execute(vendor, state);
        }
        plain
    }
}
