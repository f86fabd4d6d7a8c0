//! When events are delivered.
use waterbear_hal::Hal;

use super::GuestCpu;
use super::debug::DR7_GD;
use super::event::{Events, Next, is_fault};
use super::leave::Leave;
use crate::Error;
use crate::arch::{Cr0, Event, Exception, Rflags, Shadow};
use crate::vendor::Vendor;

impl<H: Hal, V: Vendor> GuestCpu<H, V> {
    /// Chooses what the next entry delivers and asks for windows for the rest; or says that the
    /// owner has to act first.
    #[inline(never)]
    pub(super) fn prepare_events(&mut self, vendor: &V) -> Option<Leave> {
        if self.events.shutdown {
            self.events.shutdown = false;
            return Some(Leave::Shutdown);
        }
        let state = self.runner.state();
        let shadow = vendor.shadow(state);
        let rflags = vendor.regs(state).rflags;
        self.events.limit_nmis(shadow);
        if self.events.window
            && !self.events.has_interrupt()
            // An NMI comes first, but not one that is held off: the guest may want interrupts in
            // its NMI's handler.
            && !(self.events.nmis > 0 && shadow.is_empty())
            && self.events.takes_interrupts(rflags, shadow)
        {
            return Some(Leave::InterruptWindow);
        }
        let event = match self.events.next(rflags, shadow) {
            Next::Nothing => None,
            Next::Again(event) => Some(event),
            Next::Exception(exception) => Some(self.deliver(vendor, exception)),
            Next::Nmi => Some(Event::Nmi),
            Next::Interrupt(vector) => Some(Event::Interrupt(vector)),
        };
        let state = self.runner.state();
        if let Some(event) = event {
            vendor.inject(state, event);
        }
        let interrupt = self.events.window || self.events.interrupt.is_some();
        let nmi = self.events.nmis > 0;
        self.asked = interrupt || nmi;
        vendor.want_windows(state, interrupt, nmi);
        None
    }

    /// What the registers get when an exception is delivered.
    fn deliver(&mut self, vendor: &V, exception: Exception) -> Event {
        let protected = self.cr0(vendor).contains(Cr0::PE);
        let state = self.runner.state();
        match exception.vector {
            Exception::PF => vendor.switched(state).cr2 = exception.payload,
            Exception::DB => {
                let switched = vendor.switched(state);
                // B0 to B3 are this exception's alone; the others add up.
                switched.dr6 = switched.dr6 & !0xf | exception.payload;
                switched.dr7 &= !DR7_GD;
            }
            _ => {}
        }
        if is_fault(exception.vector) {
            vendor.regs(state).rflags |= Rflags::RF.bits();
        }
        Event::Exception(Exception {
            // Real mode pushes no error codes.
            error: exception.error.filter(|_| protected),
            ..exception
        })
    }

    /// An event whose delivery was cut short, or that was not delivered because the guest was not
    /// entered, comes back.
    #[cold]
    pub(super) fn take_back(&mut self, vendor: &V, event: Event) {
        if event == Event::Nmi {
            // Its delivery had begun to hold other NMIs off.
            let state = self.runner.state();
            let shadow = vendor.shadow(state);
            if shadow.contains(Shadow::NMI) {
                vendor.set_shadow(state, shadow - Shadow::NMI);
            }
        }
        self.events.again = Some(event);
    }

    /// Queues an external interrupt, as an interrupt controller outside the kernel does.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`] when one waits.
    pub fn queue_interrupt(&mut self, vector: u8) -> Result<(), Error> {
        self.events.queue_interrupt(vector)
    }

    /// Queues an NMI. Two can wait; more are lost, as in hardware.
    pub fn queue_nmi(&mut self) {
        self.events.queue_nmi();
    }

    /// Whether the guest would take an interrupt at once and none waits.
    pub fn ready_for_interrupt(&mut self, vendor: &V) -> bool {
        let state = self.runner.state();
        let shadow = vendor.shadow(state);
        let rflags = vendor.regs(state).rflags;
        !self.events.has_interrupt() && self.events.takes_interrupts(rflags, shadow)
    }

    /// Makes `run` come back as soon as [`ready_for_interrupt`](GuestCpu::ready_for_interrupt)
    /// would say yes, or no longer.
    pub fn want_interrupt_window(&mut self, want: bool) {
        self.events.window = want;
    }

    /// Raises an exception in the guest.
    pub fn raise(&mut self, exception: Exception) {
        self.events.raise(exception);
    }

    /// The events that wait.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Replaces the events that wait.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for events that do not exist.
    pub fn set_events(&mut self, events: Events) -> Result<(), Error> {
        if !events.exist() {
            return Err(Error::Invalid);
        }
        self.events = events;
        Ok(())
    }
}
