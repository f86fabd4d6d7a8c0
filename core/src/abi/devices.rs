//! Writes to devices that the kernel takes for their owner, as the interface has them.
use waterbear_hal::Hal;

use super::bytes::{Structure, field};
use super::kvm;
use super::vm::VmFile;
use crate::Error;
use crate::bus::{Listener, Zone};
use crate::emulate::Target;

/// What is known of the flags of a listener.
const FLAGS: u32 = kvm::KVM_IOEVENTFD_FLAG_DATAMATCH
    | kvm::KVM_IOEVENTFD_FLAG_PIO
    | kvm::KVM_IOEVENTFD_FLAG_DEASSIGN;

/// A port, or an address of memory. No guest reaches a port of more than 16 bits, so nothing is
/// ever written there.
fn target(is_port: bool, address: u64) -> Target {
    match u16::try_from(address) {
        Ok(port) if is_port => Target::Port(port),
        _ => Target::Memory(address),
    }
}

/// A zone, and whether it can have anything in it.
fn zone(sent: &Structure) -> Result<Zone, Error> {
    let is_port = match field!(sent, kvm_coalesced_mmio_zone.__bindgen_anon_1: u32) {
        0 => false,
        1 => true,
        _ => return Err(Error::Invalid),
    };
    let address = field!(sent, kvm_coalesced_mmio_zone.addr: u64);
    if is_port && address > u16::MAX.into() {
        return Err(Error::Invalid);
    }
    Ok(Zone {
        start: target(is_port, address),
        size: field!(sent, kvm_coalesced_mmio_zone.size: u32),
    })
}

impl<H: Hal> VmFile<H> {
    pub(super) fn add_zone(&self, sent: &Structure) -> Result<(), Error> {
        self.vm().bus().add_zone(zone(sent)?)
    }

    pub(super) fn remove_zones(&self, sent: &Structure) -> Result<(), Error> {
        self.vm().bus().remove_zones(zone(sent)?)
    }

    /// KVM_IOEVENTFD, in both directions.
    pub(super) fn listen(&self, sent: &Structure) -> Result<(), Error> {
        let flags = field!(sent, kvm_ioeventfd.flags: u32);
        let address = field!(sent, kvm_ioeventfd.addr: u64);
        let length = field!(sent, kvm_ioeventfd.len: u32);
        let wanted = field!(sent, kvm_ioeventfd.datamatch: u64);
        let has = |flag: u32| flags & flag != 0;
        let by_value = has(kvm::KVM_IOEVENTFD_FLAG_DATAMATCH);
        let is_port = has(kvm::KVM_IOEVENTFD_FLAG_PIO);
        let fits = matches!(length, 0 | 1 | 2 | 4 | 8)
            && address.checked_add(length.into()).is_some()
            && !(is_port && address > u16::MAX.into());
        if !fits || flags & !FLAGS != 0 || (length == 0 && by_value) {
            return Err(Error::Invalid);
        }
        let descriptor = field!(sent, kvm_ioeventfd.fd: u32) as i32;
        let listener = Listener {
            target: target(is_port, address),
            length: length as u8,
            value: by_value.then_some(wanted),
            bell: self.hal.bell(descriptor)?,
        };
        let bus = self.vm().bus();
        if has(kvm::KVM_IOEVENTFD_FLAG_DEASSIGN) {
            bus.forget(&listener)
        } else {
            bus.listen(listener)
        }
    }
}
