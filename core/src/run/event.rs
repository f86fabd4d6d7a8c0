//! Events that wait to be delivered: exceptions, NMIs, interrupts.
//!
//! Source: Intel SDM volume 3, "Priority Among Concurrent Events" and "Interrupt 8—Double Fault
//! Exception (#DF)"; AMD APM volume 2, "#DF—Double-Fault Exception".
use crate::Error;
use crate::arch::{Event, Exception, Rflags, Shadow};

/// The most NMIs that can wait: one, and one more that is latched while that is handled.
const MAX_NMIS: u8 = 2;
/// The vector of NMIs, which is no exception's.
const NMI_VECTOR: u8 = 2;

/// How a second exception that comes while a first is delivered is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Combined {
    /// The second is delivered; the instruction raises the first again.
    Second,
    /// Both become a double fault.
    DoubleFault,
    /// The CPU shuts down.
    Shutdown,
}

/// The classes of exceptions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Class {
    Benign,
    Contributory,
    PageFault,
    DoubleFault,
}

fn class(vector: u8) -> Class {
    /// Control protection.
    const CP: u8 = 21;
    match vector {
        Exception::DE | Exception::TS | Exception::NP | Exception::SS | Exception::GP | CP => {
            Class::Contributory
        }
        Exception::PF => Class::PageFault,
        Exception::DF => Class::DoubleFault,
        _ => Class::Benign,
    }
}

/// What comes of an exception with vector `second` while one with `first` is delivered.
pub fn combine(first: u8, second: u8) -> Combined {
    use Class::{Contributory, DoubleFault, PageFault};
    match (class(first), class(second)) {
        // Nothing can be returned to from here, so a benign one does not help either.
        (DoubleFault, _) => Combined::Shutdown,
        (Contributory, Contributory) | (PageFault, Contributory | PageFault) => {
            Combined::DoubleFault
        }
        _ => Combined::Second,
    }
}

/// Whether the return address of an exception is that of the instruction that raised it, which
/// then runs again.
pub fn is_fault(vector: u8) -> bool {
    !matches!(
        vector,
        Exception::DB | Exception::BP | Exception::OF | Exception::DF | Exception::MC
    )
}

/// The events that wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Events {
    /// Its delivery began and was cut short.
    pub again: Option<Event>,
    /// Raised, and not delivered yet.
    pub exception: Option<Exception>,
    /// From the owner's interrupt controller.
    pub interrupt: Option<u8>,
    /// How many NMIs wait.
    pub nmis: u8,
    /// The owner wants to know when an interrupt can be taken.
    pub window: bool,
    /// An exception in the delivery of a double fault.
    pub shutdown: bool,
}

/// What is next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Next {
    /// Nothing that can be taken now.
    Nothing,
    /// This, whose delivery began before.
    Again(Event),
    /// This exception.
    Exception(Exception),
    /// An NMI.
    Nmi,
    /// This interrupt.
    Interrupt(u8),
}

impl Events {
    /// Whether nothing waits and nobody wants to know.
    pub fn idle(&self) -> bool {
        self.again.is_none()
            && self.exception.is_none()
            && self.interrupt.is_none()
            && self.nmis == 0
            && !self.window
            && !self.shutdown
    }

    /// Whether hardware knows events like these.
    pub fn exist(&self) -> bool {
        let is_exception = |vector: u8| vector < 32 && vector != NMI_VECTOR;
        let again = match self.again {
            Some(Event::Exception(exception)) => is_exception(exception.vector),
            Some(Event::SoftException { vector, length }) => {
                matches!(vector, Exception::BP | Exception::OF) && length <= 15
            }
            Some(Event::SoftInterrupt { length, .. }) => length <= 15,
            Some(Event::Interrupt(_) | Event::Nmi) | None => true,
        };
        again
            && self.exception.is_none_or(|e| is_exception(e.vector))
            && self.nmis <= MAX_NMIS
            && !(self.interrupt.is_some() && matches!(self.again, Some(Event::Interrupt(_))))
    }

    /// An exception is raised. With one that waits or whose delivery was cut short it may become a
    /// double fault or a shutdown.
    pub fn raise(&mut self, new: Exception) {
        let first = match self.again {
            Some(Event::Exception(first)) => Some(first.vector),
            _ => self.exception.map(|first| first.vector),
        };
        let combined = first.map_or(Combined::Second, |first| combine(first, new.vector));
        self.put_back();
        match combined {
            Combined::Second => self.exception = Some(new),
            Combined::DoubleFault => {
                self.exception = Some(Exception::with_error(Exception::DF, 0));
            }
            Combined::Shutdown => {
                self.exception = None;
                self.shutdown = true;
            }
        }
    }

    /// What was to be delivered again waits behind the exception that came in between. Software
    /// events go: their instruction runs again.
    fn put_back(&mut self) {
        match self.again.take() {
            Some(Event::Nmi) => self.nmis = MAX_NMIS.min(self.nmis + 1),
            Some(Event::Interrupt(vector)) => self.interrupt = Some(vector),
            _ => {}
        }
    }

    /// One more NMI. One is delivered and one latched meanwhile; more are lost, as in hardware.
    pub fn queue_nmi(&mut self) {
        self.nmis = MAX_NMIS.min(self.nmis + 1);
    }

    /// While one NMI is handled or delivered only one more is latched.
    pub(super) fn limit_nmis(&mut self, shadow: Shadow) {
        if shadow.contains(Shadow::NMI) || self.again == Some(Event::Nmi) {
            self.nmis = self.nmis.min(1);
        }
    }

    /// An external interrupt.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`] when one waits.
    pub fn queue_interrupt(&mut self, vector: u8) -> Result<(), Error> {
        if self.has_interrupt() {
            return Err(Error::Exists);
        }
        self.interrupt = Some(vector);
        Ok(())
    }

    /// Whether an interrupt waits, also for its second delivery.
    pub fn has_interrupt(&self) -> bool {
        self.interrupt.is_some() || matches!(self.again, Some(Event::Interrupt(_)))
    }

    /// Whether the guest would take an interrupt now.
    pub fn takes_interrupts(&self, rflags: u64, shadow: Shadow) -> bool {
        rflags & Rflags::IF.bits() != 0
            && !shadow.intersects(Shadow::STI | Shadow::MOV_SS)
            && self.again.is_none()
            && self.exception.is_none()
    }

    /// What the next entry delivers; it no longer waits. One event at a time: the next one waits
    /// until the first handler's first instruction, as in hardware.
    pub(super) fn next(&mut self, rflags: u64, shadow: Shadow) -> Next {
        if let Some(event) = self.again.take() {
            return Next::Again(event);
        }
        if let Some(exception) = self.exception.take() {
            return Next::Exception(exception);
        }
        if self.nmis > 0 && shadow.is_empty() {
            self.nmis -= 1;
            return Next::Nmi;
        }
        if self.takes_interrupts(rflags, shadow)
            && let Some(vector) = self.interrupt.take()
        {
            return Next::Interrupt(vector);
        }
        Next::Nothing
    }
}
