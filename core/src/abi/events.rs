//! Events that wait, reports of errors, and debug registers, as the interface has them.
use core::mem::offset_of;

use waterbear_hal::Hal;

use super::bytes::{self, Structure, field, set_field};
use super::kvm::{self, kvm_debugregs};
use super::vcpu::State;
use crate::Error;
use crate::arch::{Event, Exception, Shadow};
use crate::run::event::Events;
use crate::run::machine_check::Report;
use crate::vendor::Vendor;

/// Where DR0 is.
const BREAKPOINTS: usize = offset_of!(kvm_debugregs, db);

/// What the interface tells of what holds events off, in one byte.
const SHADOWS: [(Shadow, u32); 2] = [
    (Shadow::MOV_SS, kvm::KVM_X86_SHADOW_INT_MOV_SS),
    (Shadow::STI, kvm::KVM_X86_SHADOW_INT_STI),
];

/// The parts that an owner may say are there. System management mode is among them, as long as
/// there is none of it.
const VALID: u32 = kvm::KVM_VCPUEVENT_VALID_NMI_PENDING
    | kvm::KVM_VCPUEVENT_VALID_SIPI_VECTOR
    | kvm::KVM_VCPUEVENT_VALID_SHADOW
    | kvm::KVM_VCPUEVENT_VALID_SMM;

impl<H: Hal, V: Vendor> State<H, V> {
    #[inline(never)]
    pub(super) fn get_events(&mut self, vendor: &V, bytes: &mut Structure) {
        let shadow = vendor.shadow(self.cpu.state());
        let events = self.cpu.events();
        let exception = match events.again {
            Some(Event::Exception(exception)) => Some(exception),
            Some(Event::SoftException { vector, .. }) => Some(Exception::plain(vector)),
            _ => events.exception,
        };
        if let Some(Exception { vector, error, .. }) = exception {
            set_field!(bytes, kvm_vcpu_events.exception.injected = 1_u8);
            set_field!(bytes, kvm_vcpu_events.exception.nr = vector);
            let has_error = u8::from(error.is_some());
            set_field!(bytes, kvm_vcpu_events.exception.has_error_code = has_error);
            let error = error.unwrap_or(0);
            set_field!(bytes, kvm_vcpu_events.exception.error_code = error);
        }
        let (interrupt, soft) = match events.again {
            Some(Event::Interrupt(vector)) => (Some(vector), false),
            Some(Event::SoftInterrupt { vector, .. }) => (Some(vector), true),
            _ => (events.interrupt, false),
        };
        if let Some(vector) = interrupt {
            set_field!(bytes, kvm_vcpu_events.interrupt.injected = 1_u8);
            set_field!(bytes, kvm_vcpu_events.interrupt.nr = vector);
            set_field!(bytes, kvm_vcpu_events.interrupt.soft = u8::from(soft));
        }
        let held = SHADOWS
            .iter()
            .filter(|(flag, _)| shadow.contains(*flag))
            .fold(0, |bits, (_, bit)| bits | bit);
        set_field!(bytes, kvm_vcpu_events.interrupt.shadow = held as u8);
        let injected = u8::from(events.again == Some(Event::Nmi));
        set_field!(bytes, kvm_vcpu_events.nmi.injected = injected);
        set_field!(bytes, kvm_vcpu_events.nmi.pending = events.nmis);
        let masked = u8::from(shadow.contains(Shadow::NMI));
        set_field!(bytes, kvm_vcpu_events.nmi.masked = masked);
        let valid = kvm::KVM_VCPUEVENT_VALID_NMI_PENDING
            | kvm::KVM_VCPUEVENT_VALID_SHADOW
            | kvm::KVM_VCPUEVENT_VALID_SMM;
        set_field!(bytes, kvm_vcpu_events.flags = valid);
    }

    #[inline(never)]
    pub(super) fn set_events(&mut self, vendor: &V, sent: &Structure) -> Result<(), Error> {
        let flags = field!(sent, kvm_vcpu_events.flags: u32);
        let in_smm = field!(sent, kvm_vcpu_events.smi.smm: u8) != 0
            || field!(sent, kvm_vcpu_events.smi.pending: u8) != 0;
        if flags & !VALID != 0 || flags & kvm::KVM_VCPUEVENT_VALID_SMM != 0 && in_smm {
            return Err(Error::Invalid);
        }
        let has = |flag: u32| flags & flag != 0;
        let state = self.cpu.state();
        let cr2 = vendor.switched(state).cr2;
        let old = *self.cpu.events();
        let mut events = Events {
            window: old.window,
            nmis: old.nmis,
            ..Events::default()
        };
        if field!(sent, kvm_vcpu_events.exception.injected: u8) != 0 {
            let vector = field!(sent, kvm_vcpu_events.exception.nr: u8);
            let has_error = field!(sent, kvm_vcpu_events.exception.has_error_code: u8) != 0;
            let error = field!(sent, kvm_vcpu_events.exception.error_code: u32);
            events.again = Some(Event::Exception(Exception {
                vector,
                error: has_error.then_some(error),
                // The address is in CR2 already, and stays there.
                payload: if vector == Exception::PF { cr2 } else { 0 },
            }));
        }
        if field!(sent, kvm_vcpu_events.interrupt.injected: u8) != 0 {
            // An INT n runs again: its length is not told.
            if field!(sent, kvm_vcpu_events.interrupt.soft: u8) == 0 {
                events.interrupt = Some(field!(sent, kvm_vcpu_events.interrupt.nr: u8));
            }
        }
        if field!(sent, kvm_vcpu_events.nmi.injected: u8) != 0 && events.again.is_none() {
            events.again = Some(Event::Nmi);
        }
        if has(kvm::KVM_VCPUEVENT_VALID_NMI_PENDING) {
            events.nmis = field!(sent, kvm_vcpu_events.nmi.pending: u8).min(1);
        }
        self.cpu.set_events(events)?;
        let state = self.cpu.state();
        let mut shadow = vendor.shadow(state);
        if has(kvm::KVM_VCPUEVENT_VALID_SHADOW) {
            let held = u32::from(field!(sent, kvm_vcpu_events.interrupt.shadow: u8));
            for (flag, bit) in SHADOWS {
                shadow.set(flag, held & bit != 0);
            }
        }
        let masked = field!(sent, kvm_vcpu_events.nmi.masked: u8) != 0;
        shadow.set(Shadow::NMI, masked);
        vendor.set_shadow(state, shadow);
        Ok(())
    }

    pub(super) fn get_debug(&mut self, vendor: &V, bytes: &mut Structure) {
        let switched = vendor.switched(self.cpu.state());
        for (at, value) in (BREAKPOINTS..).step_by(8).zip(switched.breakpoints) {
            bytes::put(bytes, at, value.to_le_bytes());
        }
        set_field!(bytes, kvm_debugregs.dr6 = switched.dr6);
        set_field!(bytes, kvm_debugregs.dr7 = switched.dr7);
    }

    pub(super) fn set_debug(&mut self, vendor: &V, sent: &Structure) -> Result<(), Error> {
        let dr6 = field!(sent, kvm_debugregs.dr6: u64);
        let dr7 = field!(sent, kvm_debugregs.dr7: u64);
        if field!(sent, kvm_debugregs.flags: u64) != 0 || (dr6 | dr7) >> 32 != 0 {
            return Err(Error::Invalid);
        }
        for index in 0..4_u8 {
            let value = bytes::u64(sent, BREAKPOINTS + usize::from(index) * 8);
            self.cpu.set_debug(vendor, index, value)?;
        }
        self.cpu.set_debug(vendor, 6, dr6)?;
        self.cpu.set_debug(vendor, 7, dr7)
    }

    /// Takes a report of an error: status, address, miscellaneous, global status, the bank's
    /// number, and nothing.
    pub(super) fn report_machine_check(
        &mut self,
        vendor: &V,
        sent: &Structure,
    ) -> Result<(), Error> {
        let report = Report {
            status: bytes::u64(sent, 0),
            address: bytes::u64(sent, 8),
            misc: bytes::u64(sent, 16),
            global: bytes::u64(sent, 24),
            bank: bytes::u8(sent, 32),
        };
        self.cpu.report_machine_check(vendor, &report)
    }
}
