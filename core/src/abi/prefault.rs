//! KVM_PRE_FAULT_MEMORY: memory is mapped before the guest asks.
//!
//! The numbers are from a public header that is newer than the one behind [`kvm`](super::kvm).
use waterbear_hal::addr::PAGE_SIZE;
use waterbear_hal::{Gpa, Hal};

use super::bytes::{self, Caller};
use super::vcpu::{Context, State};
use super::{Answer, DONE};
use crate::Error;
use crate::vendor::Vendor;

/// The command: it reads and writes a structure of 64 bytes.
pub const KVM_PRE_FAULT_MEMORY: u32 = 0xc040_aed5;
/// Its capability.
pub const KVM_CAP_PRE_FAULT_MEMORY: u32 = 236;

/// The size of `struct kvm_pre_fault_memory`: address, size, flags, and five words of nothing.
const SIZE: usize = 64;

impl<H: Hal, V: Vendor> State<H, V> {
    /// Maps what it can, and tells the owner what is left of the range.
    pub(super) fn prefault<C: Caller>(&mut self, context: &Context<'_, H, V, C>) -> Answer {
        let mut sent = [0; SIZE];
        context.caller.copy_in(context.argument, &mut sent)?;
        let [gpa, size, flags] = [0, 8, 16].map(|at| bytes::u64(&sent, at));
        let aligned = (gpa | size).is_multiple_of(PAGE_SIZE);
        let end = gpa.checked_add(size).filter(|end| *end > gpa);
        let (true, 0, Some(end)) = (aligned, flags, end) else {
            return Err(Error::Invalid.into());
        };
        let mut at = gpa;
        let result = loop {
            match self.prefault_page(context, Gpa(at)) {
                Ok(behind) => at = behind.min(end),
                Err(error) => break Err(error),
            }
            if at == end {
                break Ok(());
            }
            context.vm.hal.yield_now();
        };
        bytes::put(&mut sent, 0, at.to_le_bytes());
        bytes::put(&mut sent, 8, (end - at).to_le_bytes());
        context.caller.copy_out(context.argument, &sent)?;
        if at == gpa {
            result?;
        }
        DONE
    }

    /// Maps the page at `gpa`; says where it ends.
    fn prefault_page<C: Caller>(
        &mut self,
        context: &Context<'_, H, V, C>,
        gpa: Gpa,
    ) -> Result<u64, Error> {
        if context.vm.hal.signal_pending() {
            return Err(Error::Interrupted);
        }
        let level = context.vm.vm().prefault(self.cpu.mmu(), gpa)?;
        let size = level.pages() * PAGE_SIZE;
        Ok((gpa.0 | (size - 1)).saturating_add(1))
    }
}
