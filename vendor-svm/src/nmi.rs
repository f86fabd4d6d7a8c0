//! When the guest can take an NMI.
//!
//! The CPU does not know that a guest handles an NMI: whoever injects one counts it as being
//! handled until the guest has executed IRET. So IRET exits meanwhile. At that exit the handler
//! has not ended yet; it has as soon as RIP is elsewhere.
//!
//! When an NMI waits for that moment, or for the end of an interrupt shadow, the one instruction
//! in the way is single-stepped. Meanwhile every exception exits, so that no handler of the
//! guest's finds the trap flag in the flags it returns to; only an instruction in a shadow that
//! itself reads the flags sees it. An NMI that waits for another event's injection goes in at the
//! exit after that: nothing tells when the injection is over.
//!
//! CPUs that do all this in hardware (vNMI) are used in the same way. Source: AMD APM volume 2,
//! "NMI Support" and "IRET Intercept".
use waterbear_core::arch::Rflags;
use waterbear_core::exit::Exit;
use waterbear_core::regs::Regs;

use crate::exit::{DR6_CAUSES, DR6_STEP, code};

/// The guest's NMIs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Nmi {
    masked: bool,
    wanted: bool,
    /// Where the IRET is that has exited and not been executed yet.
    iret: Option<u64>,
    step: Option<Step>,
}

/// One instruction is single-stepped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Step {
    rip: u64,
    /// The guest's own trap flag.
    trap: bool,
    /// The guest's own DR6.
    dr6: u64,
    /// It is an IRET, which replaces the flags.
    iret: bool,
}

/// What came of a run, as far as stepping is concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stepped {
    /// The guest's DR6.
    pub dr6: u64,
    /// What of it the last debug exception has set.
    pub causes: u64,
    /// The exit, where it is clear from this alone.
    pub exit: Option<Exit>,
}

impl Nmi {
    /// Whether the guest handles an NMI.
    pub fn masked(&self) -> bool {
        self.masked
    }

    /// Says whether it does.
    pub fn set_masked(&mut self, masked: bool) {
        self.masked = masked;
        self.iret = None;
    }

    /// Asks for [`Exit::NmiWindow`].
    pub fn want(&mut self, wanted: bool) {
        self.wanted = wanted;
    }

    /// Whether there is anything to watch for: else a run needs no call of
    /// [`prepare`](Nmi::prepare) and [`finish`](Nmi::finish).
    pub fn is_busy(&self) -> bool {
        self.masked || self.wanted
    }

    /// Forgets what was asked for a run that did not happen.
    pub fn cancel(&mut self) {
        self.wanted = false;
        self.step = None;
    }

    /// Decides how the next run watches for the end of a handler. `idle` says that no event is to
    /// be injected. Returns whether a wanted window is open already.
    pub fn prepare(&mut self, regs: &Regs, dr6: u64, shadow: bool, idle: bool) -> bool {
        self.step = None;
        if !idle || self.iret != Some(regs.rip) {
            self.iret = None;
        }
        if !self.wanted || !idle {
            return false;
        }
        if !self.masked && !shadow {
            return true;
        }
        let iret = self.iret.is_some();
        if iret || !self.masked {
            self.step = Some(Step {
                rip: regs.rip,
                trap: Rflags::from_bits_retain(regs.rflags).contains(Rflags::TF),
                dr6,
                iret,
            });
        }
        false
    }

    /// Whether IRET has to exit.
    pub fn intercepts_iret(&self) -> bool {
        self.masked && self.iret.is_none()
    }

    /// Whether exceptions have to exit.
    pub fn steps(&self) -> bool {
        self.step.is_some()
    }

    /// The flags to run with.
    pub fn flags(&self, flags: u64) -> u64 {
        match self.step {
            Some(_) => flags | Rflags::TF.bits(),
            None => flags,
        }
    }

    /// The DR6 to run with.
    pub fn dr6(&self, dr6: u64) -> u64 {
        match self.step {
            // So that what is there afterwards is new.
            Some(_) => dr6 & !DR6_CAUSES,
            None => dr6,
        }
    }

    /// Takes note of an exit: its code, and what the guest has in RIP, RFLAGS and DR6.
    pub fn finish(&mut self, why: u64, rip: u64, flags: &mut u64, dr6: u64) -> Stepped {
        self.wanted = false;
        let step = self.step.take();
        let mut stepped = Stepped {
            dr6,
            causes: dr6 & DR6_CAUSES,
            exit: None,
        };
        if why == code::IRET {
            self.iret = Some(rip);
            // Nothing to do but to go on.
            stepped.exit = Some(Exit::Interrupt);
        } else if self.iret.is_some_and(|at| at != rip) {
            self.set_masked(false);
        }
        let Some(step) = step else {
            return stepped;
        };
        // With the trap flag on, moving on is what caused it: emulators may not say so in DR6.
        let done = why == code::DEBUG && (dr6 & DR6_STEP != 0 || rip != step.rip);
        if done && step.iret {
            self.set_masked(false);
        }
        if !(step.iret && (done || rip != step.rip)) {
            let mut own = Rflags::from_bits_retain(*flags);
            own.set(Rflags::TF, step.trap);
            *flags = own.bits();
        }
        if done && !step.trap {
            stepped.causes &= !DR6_STEP;
            stepped.dr6 &= !DR6_STEP;
            if stepped.causes == 0 {
                stepped.exit = Some(Exit::NmiWindow);
            }
        }
        stepped.dr6 |= step.dr6 & DR6_CAUSES;
        stepped
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const TF: u64 = Rflags::TF.bits();

    fn at(rip: u64) -> Regs {
        Regs {
            rip,
            rflags: 2,
            ..Regs::default()
        }
    }

    /// One that is at an IRET which has exited.
    fn at_iret(rip: u64) -> Nmi {
        let mut nmi = Nmi::default();
        nmi.set_masked(true);
        assert!(!nmi.prepare(&at(rip), 0, false, true));
        assert!(nmi.intercepts_iret());
        let stepped = nmi.finish(code::IRET, rip, &mut 2, 0);
        assert_eq!(stepped.exit, Some(Exit::Interrupt));
        assert!(nmi.masked());
        nmi
    }

    #[test]
    fn a_handler_is_over_when_rip_has_left_its_iret() {
        let mut nmi = at_iret(0x10);
        nmi.prepare(&at(0x10), 0, false, true);
        assert!(!nmi.intercepts_iret() && !nmi.steps());
        nmi.finish(0x60, 0x10, &mut 2, 0);
        assert!(nmi.masked(), "the IRET has not been executed");
        nmi.prepare(&at(0x10), 0, false, true);
        nmi.finish(0x60, 0x20, &mut 2, 0);
        assert!(!nmi.masked());
    }

    #[test]
    fn an_event_in_between_makes_the_iret_exit_again() {
        let mut nmi = at_iret(0x10);
        nmi.prepare(&at(0x10), 0, false, false);
        assert!(nmi.intercepts_iret());
        nmi.finish(0x60, 0x500, &mut 2, 0);
        assert!(nmi.masked(), "the event's handler runs inside the NMI's");
    }

    #[test]
    fn a_wanted_window_steps_over_the_iret() {
        let mut nmi = at_iret(0x10);
        nmi.want(true);
        assert!(!nmi.prepare(&at(0x10), 0xffff_0ff1, false, true));
        assert!(nmi.steps());
        assert_eq!(nmi.flags(2), 2 | TF);
        assert_eq!(nmi.dr6(0xffff_0ff1), 0xffff_0ff0);
        let mut flags = 0x202;
        let stepped = nmi.finish(code::DEBUG, 0x20, &mut flags, 0xffff_4ff0);
        assert_eq!(stepped.exit, Some(Exit::NmiWindow));
        // The guest's own bit is back, and ours is gone.
        assert_eq!(stepped.dr6, 0xffff_0ff1);
        assert_eq!(flags, 0x202);
        assert!(!nmi.masked());
    }

    #[test]
    fn a_step_that_faults_leaves_no_trap_flag() {
        let mut nmi = at_iret(0x10);
        nmi.want(true);
        nmi.prepare(&at(0x10), 0, false, true);
        let mut flags = 2 | TF;
        let stepped = nmi.finish(code::PAGE_FAULT, 0x10, &mut flags, 0);
        assert_eq!((stepped.exit, flags), (None, 2));
        assert!(nmi.masked());
    }

    #[test]
    fn a_breakpoint_met_by_the_step_is_the_guest_s() {
        let mut nmi = Nmi::default();
        nmi.want(true);
        assert!(!nmi.prepare(&at(0x10), 0, true, true));
        let mut flags = 2 | TF;
        let stepped = nmi.finish(code::DEBUG, 0x12, &mut flags, DR6_STEP | 1);
        assert_eq!((stepped.exit, stepped.causes, flags), (None, 1, 2));
    }

    #[test]
    fn the_guest_s_own_single_step_is_its_own() {
        let mut nmi = Nmi::default();
        nmi.want(true);
        let mut regs = at(0x10);
        regs.rflags |= TF;
        nmi.prepare(&regs, 0, true, true);
        let mut flags = 2 | TF;
        let stepped = nmi.finish(code::DEBUG, 0x12, &mut flags, DR6_STEP);
        assert_eq!((stepped.exit, stepped.causes), (None, DR6_STEP));
        assert_eq!(flags, 2 | TF);
    }

    #[test]
    fn an_open_window_needs_no_entry() {
        let mut nmi = Nmi::default();
        nmi.want(true);
        assert!(nmi.prepare(&at(0x10), 0, false, true));
        assert!(!nmi.prepare(&at(0x10), 0, false, false));
    }
}
