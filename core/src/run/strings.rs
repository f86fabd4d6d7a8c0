//! REP INS and REP OUTS: many accesses in one turn of the owner's.
//!
//! What is read from a port goes to where its operand was when the owner was asked. Another vCPU
//! that changes page tables meanwhile has to wait for this one before it can rely on that, as for
//! a CPU in the middle of an instruction.
use waterbear_hal::{Gpa, Hal};

use super::emulation::InKernel;
use super::exit::Step;
use super::leave::Leave;
use super::{GuestCpu, Pending};
use crate::emulate::{Batch, batch, finish_batch, is_port_string};
use crate::paging::Kind;
use crate::vendor::Vendor;
use crate::vm::Vm;
use crate::{Error, MemoryError};

/// What the owner does together.
#[derive(Clone, Copy)]
pub(super) struct Together {
    batch: Batch,
    /// Where the lowest operand is.
    gpa: Gpa,
}

impl<H: Hal, V: Vendor> GuestCpu<H, V> {
    /// Asks the owner for several iterations, if the instruction has as many that need nothing but
    /// a port and a page of memory.
    #[inline(never)]
    pub(super) fn ask_together(&mut self, vm: &Vm<H>, vendor: &V) -> Option<Step> {
        let instruction = self.emulated.instruction;
        if !is_port_string(&instruction) {
            return None;
        }
        let mut machine = InKernel::new(self, vm, vendor);
        let batch = batch(&instruction, &mut machine)?;
        // What the kernel takes, it takes one by one.
        if !batch.input && vm.bus().wants_port(batch.port) {
            return None;
        }
        let kind = if batch.input { Kind::Write } else { Kind::Read };
        let wanted = machine.wanted(kind);
        let gpa = machine.gpa(batch.linear, wanted).ok()?;
        let space = self.mmu.space();
        self.len = batch.bytes();
        if batch.input {
            vm.probe_guest(space, gpa, batch.bytes()).ok()?;
            self.data().fill(0);
        } else {
            let data = self.data.get_mut(..batch.bytes())?;
            vm.read_guest(space, gpa, data).ok()?;
            in_order(&batch, data);
        }
        self.together = Some(Together { batch, gpa });
        self.pending = Pending::Together;
        Some(Step::Leave(Leave::Io {
            port: batch.port,
            size: batch.size,
            input: batch.input,
            count: batch.count.into(),
        }))
    }

    /// The owner has made the accesses.
    pub(super) fn complete_together(&mut self, vm: &Vm<H>, vendor: &V) -> Result<Step, Error> {
        let Some(together) = self.together.take() else {
            return Ok(Step::Resume);
        };
        let Together { batch, gpa } = together;
        if batch.input {
            let space = self.mmu.space();
            in_order(&batch, self.data());
            let data = self.data.get(..batch.bytes()).unwrap_or_default();
            match vm.write_guest(space, gpa, data) {
                // The memory is gone: so is what was read.
                Ok(()) | Err(MemoryError::Missing(_) | MemoryError::ReadOnly(_)) => {}
                Err(MemoryError::Host(error)) => {
                    // What was read is kept for the next run.
                    in_order(&batch, self.data());
                    self.together = Some(together);
                    self.pending = Pending::Together;
                    return match error {
                        Error::Again => Ok(Step::Leave(Leave::Interrupted)),
                        error => Err(error),
                    };
                }
            }
        }
        let instruction = self.emulated.instruction;
        finish_batch(&instruction, &batch, &mut InKernel::new(self, vm, vendor));
        self.retired(vendor, false);
        Ok(Step::Resume)
    }
}

/// From the order in memory to that of the accesses, or back.
fn in_order(batch: &Batch, data: &mut [u8]) {
    if batch.down {
        data.reverse();
        for operand in data.chunks_mut(usize::from(batch.size).max(1)) {
            operand.reverse();
        }
    }
}
