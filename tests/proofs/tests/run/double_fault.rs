//! An exception while another one is delivered.
use waterbear_core::arch::{Event, Exception};
use waterbear_core::exit::Exit;
use waterbear_core::run::Leave;
use waterbear_core::run::event::{Combined, combine};
use waterbear_proofs::Scripted;

use crate::support::Bench;

const BENIGN: [u8; 4] = [Exception::DB, Exception::UD, Exception::NM, Exception::AC];
const CONTRIBUTORY: [u8; 5] = [
    Exception::DE,
    Exception::TS,
    Exception::NP,
    Exception::SS,
    Exception::GP,
];
const PAGE: [u8; 1] = [Exception::PF];

/// The table of the manuals.
fn expected() -> Vec<(&'static [u8], &'static [u8], Combined)> {
    use Combined::{DoubleFault, Second};
    vec![
        (&BENIGN, &BENIGN, Second),
        (&BENIGN, &CONTRIBUTORY, Second),
        (&BENIGN, &PAGE, Second),
        (&CONTRIBUTORY, &BENIGN, Second),
        (&CONTRIBUTORY, &CONTRIBUTORY, DoubleFault),
        (&CONTRIBUTORY, &PAGE, Second),
        (&PAGE, &BENIGN, Second),
        (&PAGE, &CONTRIBUTORY, DoubleFault),
        (&PAGE, &PAGE, DoubleFault),
    ]
}

#[test]
fn classes_combine_as_the_manuals_say() {
    for (firsts, seconds, result) in expected() {
        for &first in firsts {
            for &second in seconds {
                assert_eq!(combine(first, second), result, "{first} then {second}");
            }
        }
    }
    for &second in CONTRIBUTORY.iter().chain(&PAGE) {
        assert_eq!(combine(Exception::DF, second), Combined::Shutdown);
    }
}

#[test]
fn what_comes_while_an_exception_is_delivered_is_combined_with_it() {
    for (firsts, seconds, result) in expected() {
        for &first in firsts {
            for &second in seconds {
                let mut bench = Bench::long();
                bench.cpu.raise(Exception::plain(first));
                let exit = Exit::Exception(Exception::with_error(second, 0));
                bench.then(Scripted::exit(exit, 0).cut_short());
                bench.run_to_halt();
                let delivered = match result {
                    Combined::Second => second,
                    _ => Exception::DF,
                };
                let [Event::Exception(exception)] = bench.guest().delivered[..] else {
                    panic!("{:?}", bench.guest().delivered);
                };
                assert_eq!(exception.vector, delivered, "{first} then {second}");
                assert_eq!(exception.error, Some(0));
            }
        }
    }
}

#[test]
fn a_fault_in_the_delivery_of_a_double_fault_shuts_down() {
    let mut bench = Bench::long();
    bench.cpu.raise(Exception::with_error(Exception::DF, 0));
    let exit = Exit::Exception(Exception::general_protection(0));
    bench.then(Scripted::exit(exit, 0).cut_short());
    assert_eq!(bench.run(), Leave::Shutdown);
    assert!(bench.guest().delivered.is_empty());
    bench.run_to_halt();
    assert!(bench.guest().delivered.is_empty(), "nothing is left of it");
}

#[test]
fn two_exceptions_before_an_entry_combine_too() {
    let mut bench = Bench::long();
    bench.cpu.raise(Exception::page_fault(0x1234, 2));
    bench.cpu.raise(Exception::page_fault(0x5678, 2));
    bench.run_to_halt();
    let df = Event::Exception(Exception::with_error(Exception::DF, 0));
    assert_eq!(bench.guest().delivered, [df]);
    assert_eq!(bench.guest().switched.cr2, 0);
}

#[test]
fn real_mode_pushes_no_error_codes() {
    let mut bench = Bench::new();
    bench.cpu.raise(Exception::general_protection(0));
    bench.run_to_halt();
    let gp = Event::Exception(Exception::plain(Exception::GP));
    assert_eq!(bench.guest().delivered, [gp]);
}

#[test]
fn a_page_fault_sets_cr2_when_it_is_delivered() {
    let mut bench = Bench::long();
    bench.cpu.raise(Exception::page_fault(0xabc0, 4));
    assert_eq!(bench.guest().switched.cr2, 0);
    bench.run_to_halt();
    assert_eq!(bench.guest().switched.cr2, 0xabc0);
}
