//! Interrupts and NMIs: windows, shadows, and what is delivered again.
use waterbear_core::Error;
use waterbear_core::arch::{Event, Exception, Rflags, Shadow};
use waterbear_core::exit::Exit;
use waterbear_core::run::Leave;
use waterbear_proofs::Scripted;

use crate::support::Bench;

const IF: u64 = Rflags::IF.bits();

/// Leaves because the host was interrupted, and then a window opens.
fn window(exit: Exit, deed: fn(&mut waterbear_proofs::ScriptedVcpu)) -> Scripted {
    Scripted::exit(exit, 0).after(deed)
}

#[test]
fn an_interrupt_is_delivered_at_once_when_the_guest_can_take_it() {
    let mut bench = Bench::new();
    bench.guest().regs.rflags |= IF;
    assert!(bench.cpu.ready_for_interrupt(&bench.vendor));
    bench.cpu.queue_interrupt(0x41).unwrap();
    assert!(!bench.cpu.ready_for_interrupt(&bench.vendor));
    assert_eq!(bench.cpu.queue_interrupt(0x42), Err(Error::Exists));
    bench.run_to_halt();
    assert_eq!(bench.guest().delivered, [Event::Interrupt(0x41)]);
    assert_eq!(bench.guest().windows, (false, false));
    bench.cpu.queue_interrupt(0x42).unwrap();
}

#[test]
fn an_interrupt_waits_for_its_window() {
    for closed in ["flag", "sti", "mov ss"] {
        let mut bench = Bench::new();
        bench.guest().regs.rflags |= IF;
        match closed {
            "flag" => bench.guest().regs.rflags &= !IF,
            "sti" => bench.guest().shadow = Shadow::STI,
            _ => bench.guest().shadow = Shadow::MOV_SS,
        }
        assert!(!bench.cpu.ready_for_interrupt(&bench.vendor));
        bench.cpu.queue_interrupt(0x41).unwrap();
        bench.then(window(Exit::InterruptWindow, |guest| {
            assert_eq!(guest.windows, (true, false));
            assert!(guest.delivered.is_empty());
            guest.regs.rflags |= IF;
        }));
        bench.run_to_halt();
        assert_eq!(
            bench.guest().delivered,
            [Event::Interrupt(0x41)],
            "{closed}"
        );
        assert_eq!(bench.guest().windows, (false, false), "asked no more");
    }
}

#[test]
fn the_owner_hears_of_a_window_that_it_wants() {
    let mut bench = Bench::new();
    bench.cpu.want_interrupt_window(true);
    bench.then(window(Exit::InterruptWindow, |guest| {
        assert_eq!(guest.windows, (true, false));
        guest.regs.rflags |= IF;
    }));
    assert_eq!(bench.run(), Leave::InterruptWindow);
    assert_eq!(bench.run(), Leave::InterruptWindow, "without an entry");
    assert_eq!(bench.guest().entries, 1);
    bench.cpu.want_interrupt_window(false);
    bench.cpu.queue_interrupt(0x30).unwrap();
    bench.run_to_halt();
    assert_eq!(bench.guest().delivered, [Event::Interrupt(0x30)]);
}

#[test]
fn a_window_opens_in_the_handler_of_an_nmi_while_another_waits() {
    let mut bench = Bench::new();
    bench.cpu.queue_nmi();
    bench.cpu.queue_nmi();
    bench.then(window(Exit::Interrupt, |guest| guest.regs.rflags |= IF));
    bench.cpu.want_interrupt_window(true);
    assert_eq!(bench.run(), Leave::InterruptWindow);
    assert_eq!(bench.guest().entries, 1);
    assert_eq!(bench.cpu.events().nmis, 1);
}

#[test]
fn a_second_nmi_is_latched_and_a_third_is_lost() {
    let mut bench = Bench::new();
    for _ in 0..3 {
        bench.cpu.queue_nmi();
    }
    bench.then(window(Exit::NmiWindow, |guest| {
        assert_eq!(guest.delivered, [Event::Nmi]);
        assert_eq!(guest.windows, (false, true), "one waits");
        // IRET.
        guest.shadow = Shadow::empty();
    }));
    bench.then(window(Exit::Interrupt, |guest| {
        assert_eq!(guest.delivered, [Event::Nmi, Event::Nmi]);
        assert_eq!(guest.windows, (false, false), "none waits");
        guest.shadow = Shadow::empty();
    }));
    bench.run_to_halt();
    assert_eq!(bench.guest().delivered, [Event::Nmi; 2]);
}

#[test]
fn in_the_handler_of_an_nmi_one_more_is_latched() {
    let mut bench = Bench::new();
    bench.cpu.queue_nmi();
    bench.run_to_halt();
    bench.cpu.queue_nmi();
    bench.cpu.queue_nmi();
    bench.then(window(Exit::NmiWindow, |guest| {
        guest.shadow = Shadow::empty()
    }));
    bench.then(window(Exit::Interrupt, |guest| {
        guest.shadow = Shadow::empty();
        assert_eq!(guest.windows, (false, false), "none waits");
    }));
    bench.run_to_halt();
    assert_eq!(bench.guest().delivered, [Event::Nmi; 2]);
}

#[test]
fn an_nmi_comes_before_an_interrupt_and_an_exception_before_both() {
    let mut bench = Bench::new();
    bench.guest().regs.rflags |= IF;
    bench.cpu.queue_interrupt(0x55).unwrap();
    bench.cpu.queue_nmi();
    bench.cpu.raise(Exception::invalid_opcode());
    bench.then(window(Exit::NmiWindow, |guest| {
        assert_eq!(guest.windows, (true, true));
    }));
    bench.then(window(Exit::InterruptWindow, |guest| {
        assert_eq!(guest.windows, (true, false));
    }));
    bench.run_to_halt();
    assert_eq!(
        bench.guest().delivered,
        [
            Event::Exception(Exception::invalid_opcode()),
            Event::Nmi,
            Event::Interrupt(0x55)
        ]
    );
}

#[test]
fn what_is_cut_short_is_delivered_again() {
    let soft = Event::SoftInterrupt {
        vector: 0x80,
        length: 2,
    };
    let exception = Event::Exception(Exception::plain(Exception::DE));
    for event in [Event::Interrupt(0x41), Event::Nmi, exception, soft] {
        let mut bench = Bench::new();
        bench.guest().regs.rflags |= IF;
        let mut events = *bench.cpu.events();
        events.again = Some(event);
        bench.cpu.set_events(events).unwrap();
        for _ in 0..3 {
            bench.then(
                Scripted::exit(Exit::Interrupt, 0)
                    .cut_short()
                    .after(|guest| {
                        guest.regs.rflags &= !IF;
                        assert!(guest.delivered.is_empty());
                    }),
            );
        }
        bench.run_to_halt();
        assert_eq!(bench.guest().delivered, [event]);
    }
}

#[test]
fn an_exception_in_the_delivery_of_an_interrupt_comes_first() {
    let mut bench = Bench::new();
    bench.guest().regs.rflags |= IF;
    bench.cpu.queue_interrupt(0x41).unwrap();
    let np = Exception::plain(Exception::UD);
    bench.then(Scripted::exit(Exit::Exception(np), 0).cut_short());
    bench.then(window(Exit::InterruptWindow, |guest| {
        assert_eq!(guest.windows, (true, false));
    }));
    bench.run_to_halt();
    let delivered = [Event::Exception(np), Event::Interrupt(0x41)];
    assert_eq!(bench.guest().delivered, delivered);
}

#[test]
fn an_nmi_whose_delivery_is_cut_short_does_not_hold_itself_off() {
    let mut bench = Bench::new();
    bench.cpu.queue_nmi();
    let ud = Exception::plain(Exception::UD);
    bench.then(Scripted::exit(Exit::Exception(ud), 0).cut_short());
    bench.then(window(Exit::NmiWindow, |_| {}));
    bench.run_to_halt();
    assert_eq!(bench.guest().delivered, [Event::Exception(ud), Event::Nmi]);
    assert_eq!(bench.guest().shadow, Shadow::NMI);
}

#[test]
fn an_event_that_was_not_delivered_because_of_a_signal_is_not_lost() {
    let mut bench = Bench::new();
    bench.guest().regs.rflags |= IF;
    bench.cpu.queue_interrupt(0x41).unwrap();
    bench.rig.host.set_signal(true);
    for _ in 0..3 {
        assert_eq!(bench.run(), Leave::Interrupted);
    }
    assert_eq!(bench.guest().entries, 0);
    assert_eq!(bench.cpu.queue_interrupt(0x42), Err(Error::Exists));
    bench.rig.host.set_signal(false);
    bench.run_to_halt();
    assert_eq!(bench.guest().delivered, [Event::Interrupt(0x41)]);
}

#[test]
fn faults_return_with_the_resume_flag_and_traps_without() {
    for (vector, fault) in [
        (Exception::GP, true),
        (Exception::UD, true),
        (Exception::DB, false),
        (Exception::DF, false),
    ] {
        let mut bench = Bench::new();
        bench.cpu.raise(Exception::plain(vector));
        bench.exit(Exit::Shutdown);
        bench.run();
        let rf = bench.guest().regs.rflags & Rflags::RF.bits() != 0;
        assert_eq!(rf, fault, "{vector}");
    }
}

#[test]
fn events_that_do_not_exist_are_not_set() {
    let mut bench = Bench::new();
    let mut events = *bench.cpu.events();
    events.exception = Some(Exception::plain(32));
    assert_eq!(bench.cpu.set_events(events), Err(Error::Invalid));
    events.exception = None;
    events.nmis = 3;
    assert_eq!(bench.cpu.set_events(events), Err(Error::Invalid));
    events.nmis = 2;
    assert_eq!(bench.cpu.set_events(events), Ok(()));
}
