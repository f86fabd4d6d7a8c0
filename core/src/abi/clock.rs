//! The guest's clock, as the interface has it.
use waterbear_hal::Hal;

use super::bytes::{Structure, field, set_field};
use super::kvm;
use super::vm::VmFile;
use crate::Error;
use crate::clock;

/// What is always told beside the guest's clock.
const TOLD: u32 = kvm::KVM_CLOCK_REALTIME | kvm::KVM_CLOCK_HOST_TSC;
/// What owners may hand back as they got it.
const KNOWN: u32 = TOLD | kvm::KVM_CLOCK_TSC_STABLE;

/// The flags that GET_CLOCK can have on this host.
pub(super) fn flags<H: Hal>(hal: &H) -> u32 {
    if clock::by_tsc(hal) { KNOWN } else { TOLD }
}

impl<H: Hal> VmFile<H> {
    pub(super) fn get_clock(&self, bytes: &mut Structure) {
        let now = self.vm().clock().now(&self.hal);
        let stable = if now.stable {
            kvm::KVM_CLOCK_TSC_STABLE
        } else {
            0
        };
        set_field!(bytes, kvm_clock_data.clock = now.guest);
        set_field!(bytes, kvm_clock_data.flags = (TOLD | stable));
        set_field!(bytes, kvm_clock_data.realtime = now.wall);
        set_field!(bytes, kvm_clock_data.host_tsc = now.tsc);
    }

    pub(super) fn set_clock(&self, sent: &Structure) -> Result<(), Error> {
        let flags = field!(sent, kvm_clock_data.flags: u32);
        let mut clock = field!(sent, kvm_clock_data.clock: u64);
        if flags & !KNOWN != 0 {
            return Err(Error::Invalid);
        }
        if flags & kvm::KVM_CLOCK_REALTIME != 0 {
            // What has passed since the clock showed that, unless the date went back.
            let then = field!(sent, kvm_clock_data.realtime: u64);
            let passed = self.hal.wall_nanoseconds().saturating_sub(then);
            clock = clock.wrapping_add(passed);
        }
        self.vm().set_clock(clock);
        Ok(())
    }
}
