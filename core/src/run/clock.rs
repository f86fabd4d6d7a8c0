//! The clock's registers, and when a vCPU's record is written.
use waterbear_hal::Hal;

use super::GuestCpu;
use crate::vendor::Vendor;
use crate::vm::Vm;

/// Where the guest wants the time of its start: one for the VM.
pub const WALL_CLOCK: u32 = 0x4b56_4d00;
/// Where a vCPU wants its record, and in bit 0 whether it does.
pub const SYSTEM_TIME: u32 = 0x4b56_4d01;
/// The same, by their old numbers.
pub const OLD_WALL_CLOCK: u32 = 0x11;
/// As above.
pub const OLD_SYSTEM_TIME: u32 = 0x12;

const ENABLED: u64 = 1;

/// What a vCPU keeps of its clock.
#[derive(Default)]
pub(super) struct VcpuClock {
    /// Where its record is wanted, and whether.
    register: u64,
    /// The record is to be written before the guest is entered.
    due: bool,
    /// And to say that the guest was stopped.
    stopped: bool,
}

impl VcpuClock {
    /// The record is right no longer.
    pub(super) fn expire(&mut self) {
        self.due = self.register & ENABLED != 0;
    }

    /// Writes the record if it is wanted and not right. Context as for
    /// [`Vm::write_guest`].
    #[inline]
    pub(super) fn keep<H: Hal>(&mut self, vm: &Vm<H>, tsc_offset: u64) {
        if self.due {
            self.write(vm, tsc_offset);
        }
    }

    // Once in the module, not once per vendor.
    #[inline(never)]
    fn write<H: Hal>(&mut self, vm: &Vm<H>, tsc_offset: u64) {
        vm.write_clock(self.register & !ENABLED, tsc_offset, self.stopped);
        self.stopped = false;
        self.due = vm.clock().expires();
    }

    /// A register, if it is one of the clock's.
    fn read<H: Hal>(&self, vm: &Vm<H>, index: u32) -> Option<u64> {
        match index {
            WALL_CLOCK | OLD_WALL_CLOCK => Some(vm.clock().wall()),
            SYSTEM_TIME | OLD_SYSTEM_TIME => Some(self.register),
            _ => None,
        }
    }

    /// Sets a register, if it is one of the clock's.
    fn set<H: Hal>(&mut self, vm: &Vm<H>, index: u32, value: u64) -> Option<()> {
        match index {
            WALL_CLOCK | OLD_WALL_CLOCK => vm.write_wall_clock(value),
            SYSTEM_TIME | OLD_SYSTEM_TIME => {
                self.register = value;
                self.expire();
            }
            _ => return None,
        }
        Some(())
    }
}

impl<H: Hal, V: Vendor> GuestCpu<H, V> {
    /// A register of the clock's, if that is its number.
    #[inline(never)]
    pub fn clock_msr(&self, vm: &Vm<H>, index: u32) -> Option<u64> {
        self.clock.read(vm, index)
    }

    /// Sets a register of the clock's, if that is its number. May sleep; no lock held but the
    /// vCPU's.
    #[inline(never)]
    pub fn set_clock_msr(&mut self, vm: &Vm<H>, index: u32, value: u64) -> Option<()> {
        self.clock.set(vm, index, value)
    }

    /// The guest is to know that it did not run for a while; whether it has a clock that tells.
    pub fn tell_stopped(&mut self) -> bool {
        self.clock.expire();
        self.clock.stopped = self.clock.due;
        self.clock.due
    }
}
