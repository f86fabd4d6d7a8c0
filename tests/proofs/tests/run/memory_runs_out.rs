//! No memory: an error, and nothing has changed.
use waterbear_core::Error;
use waterbear_core::run::GuestCpu;
use waterbear_mock::MockHost;
use waterbear_proofs::ScriptedVendor;

use crate::support::{Bench, amd, table};

#[test]
fn a_vcpu_without_memory_is_an_error_and_leaks_nothing() {
    let host = MockHost::new();
    let vendor = ScriptedVendor::new(&host);
    let entries = table(amd);
    let failed = host.for_each_failing_alloc(|_| {
        let made = GuestCpu::new(&host, &vendor, &amd).and_then(|mut cpu| {
            cpu.set_cpuid(&entries)?;
            cpu.set_up_machine_checks(0x10a)
        });
        let expected = if host.injection_fired() {
            Err(Error::NoMemory)
        } else {
            Ok(())
        };
        assert_eq!(made, expected);
        host.assert_no_leaks();
    });
    assert!(failed >= 4, "{failed}");
}

#[test]
fn a_table_without_memory_leaves_the_old_one() {
    let mut bench = Bench::new();
    let before = bench.cpu.cpuid().entries().to_vec();
    bench.rig.host.fail_nth_alloc(1);
    let result = bench.cpu.set_cpuid(&before[1..]);
    assert_eq!(result, Err(Error::NoMemory));
    assert_eq!(bench.cpu.cpuid().entries(), before);
    assert_ne!(bench.cpu.features().cr4.bits(), 0);
}

#[test]
fn a_run_without_memory_is_an_error_and_can_be_tried_again() {
    for nth in 1..4 {
        let mut bench = Bench::new();
        bench.cpu.queue_nmi();
        bench.rig.host.fail_nth_alloc(nth);
        let result = bench.try_run_once();
        let fired = bench.rig.host.injection_fired();
        assert_eq!(result.is_err(), fired);
        if fired {
            assert_eq!(result, Err(Error::NoMemory));
            bench.run_to_halt();
            assert_eq!(bench.guest().delivered.len(), 1, "the event was not lost");
        }
    }
}
