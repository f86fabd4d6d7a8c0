//! Instructions that are executed here: accesses to devices, and to memory that the guest's CPU
//! may not write by itself.
use waterbear_hal::Hal;

use super::GuestCpu;
use super::exit::Step;
use crate::Error;
use crate::vendor::Vendor;
use crate::vm::Vm;

impl<H: Hal, V: Vendor> GuestCpu<H, V> {
    /// Executes the instruction at RIP.
    pub(super) fn emulate(&mut self, vm: &Vm<H>, vendor: &V) -> Result<Step, Error> {
        match self.instruction(vm, vendor) {
            Ok((_, code)) => Ok(self.emulation_failed(&code)),
            Err(why) => self.without_instruction(why),
        }
    }
}
