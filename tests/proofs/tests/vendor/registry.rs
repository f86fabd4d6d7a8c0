//! Registering a vendor, and what must be true before it succeeds.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;

use waterbear_core::Error;
use waterbear_core::lock::Mutex;
use waterbear_core::lock_order::{SLOTS, USAGE, VENDOR, VM_LIST};
use waterbear_core::registry::Registry;
use waterbear_core::vendor::{Hardware, Unsupported};
use waterbear_mock::{MockConfig, MockHost};
use waterbear_proofs::fake_vendor::FakeVendor;

/// A machine with four CPUs and two vendors.
struct Fixture {
    host: MockHost,
    blue: FakeVendor,
    red: FakeVendor,
}

impl Fixture {
    fn new() -> Self {
        let host = MockHost::with(MockConfig::new().cpus(4));
        Self {
            blue: FakeVendor::new(&host, "blue"),
            red: FakeVendor::new(&host, "red"),
            host,
        }
    }

    fn with(&self, f: impl FnOnce(&Registry<'_, MockHost>)) {
        let vendors: [&dyn Hardware; 2] = [&self.blue, &self.red];
        let registry = Registry::new(&self.host, &vendors).expect("memory");
        f(&registry);
        assert_eq!(registry.vm_count(), 0);
        drop(registry);
        assert!(self.blue.on().is_empty() && self.red.on().is_empty());
        self.host.assert_no_leaks();
    }
}

fn no_node() -> Result<(), Error> {
    panic!("the node appeared although registration failed")
}

/// Proves VR-2.
#[test]
fn a_second_vendor_gets_exists() {
    Fixture::new().with(|registry| {
        assert_eq!(registry.current(), None);
        assert_eq!(registry.register(0, || Ok(())), Ok(()));
        assert_eq!(registry.register(1, no_node), Err(Error::Exists));
        assert_eq!(registry.register(0, no_node), Err(Error::Exists));
        assert_eq!(registry.current(), Some(0));
        assert_eq!(registry.unregister(|| ()), Ok(()));
        assert_eq!(registry.current(), None);
        assert_eq!(registry.register(1, || Ok(())), Ok(()));
        assert_eq!(registry.current(), Some(1));
    });
}

/// Proves VR-2.
#[test]
fn a_vendor_that_does_not_exist_is_invalid() {
    Fixture::new().with(|registry| {
        for number in [2, 3, usize::MAX] {
            assert_eq!(registry.register(number, no_node), Err(Error::Invalid));
        }
        assert_eq!(registry.unregister(|| panic!()), Err(Error::NotFound));
        assert_eq!(registry.vm_created().map(drop), Err(Error::NotFound));
    });
}

/// Proves VR-2, VR-3.
#[test]
fn every_online_cpu_is_checked_before_the_node_appears() {
    let fixture = Fixture::new();
    assert!(fixture.host.set_online(2, false, |_| true));
    fixture.with(|registry| {
        let result = registry.register(0, || {
            let mut checked = fixture.blue.take_checked();
            checked.sort_unstable();
            checked.dedup();
            assert_eq!(checked, [0, 1, 3]);
            Ok(())
        });
        assert_eq!(result, Ok(()));
        assert_eq!(fixture.blue.switches(), (0, 0), "nothing was switched on");
        assert!(fixture.red.take_checked().is_empty());
    });
}

/// Proves VR-2, VR-3.
#[test]
fn an_unsupported_cpu_is_refused_with_the_reason_in_words() {
    let reasons = [
        (Unsupported::NoVirtualization, "no hardware virtualisation"),
        (Unsupported::DisabledByFirmware, "firmware disabled it"),
        (Unsupported::NoSecondLevelPaging, "no second-level paging"),
        (Unsupported::NoUnrestrictedGuest, "unrestricted guest"),
        (Unsupported::Differs, "differs from the other CPUs"),
        (Unsupported::NumberTooHigh, "number that is too high"),
    ];
    for (reason, words) in reasons {
        let fixture = Fixture::new();
        fixture.blue.lacks(2, reason);
        fixture.with(|registry| {
            assert_eq!(registry.register(0, no_node), Err(Error::NotSupported));
            assert_eq!(registry.current(), None);
            let log = fixture.host.log_lines().join("\n");
            assert!(log.contains("blue") && log.contains("CPU 2"), "{log}");
            assert!(log.contains(words), "{log}");
            // The wrong vendor does not stand in the right one's way.
            assert_eq!(registry.register(1, || Ok(())), Ok(()));
            assert_eq!(registry.current(), Some(1));
        });
    }
}

/// Proves VR-2.
#[test]
fn a_cpu_with_a_number_out_of_range_is_refused() {
    let host = MockHost::with(MockConfig::new().cpus(1025));
    let blue = FakeVendor::new(&host, "blue");
    let vendors: [&dyn Hardware; 1] = [&blue];
    let registry = Registry::new(&host, &vendors).unwrap();
    assert_eq!(registry.register(0, no_node), Err(Error::NotSupported));
    let log = host.log_lines().join("\n");
    assert!(
        log.contains("CPU 1024 has a number that is too high"),
        "{log}"
    );
}

/// Proves VR-5.
#[test]
fn a_cpu_that_somebody_else_uses_is_busy_and_stays_theirs() {
    let fixture = Fixture::new();
    fixture.blue.foreign(3, true);
    fixture.with(|registry| {
        assert_eq!(registry.register(0, no_node), Err(Error::Busy));
        assert_eq!(registry.current(), None);
        let log = fixture.host.log_lines().join("\n");
        assert!(
            log.contains("CPU 3 has hardware virtualisation in use"),
            "{log}"
        );
        assert_eq!(fixture.blue.switches(), (0, 0));
        // When they are done it works.
        fixture.blue.foreign(3, false);
        assert_eq!(registry.register(0, || Ok(())), Ok(()));
    });
}

/// Proves VR-2, VR-3.
#[test]
fn a_node_that_does_not_appear_undoes_the_registration() {
    Fixture::new().with(|registry| {
        let result = registry.register(0, || Err(Error::NoMemory));
        assert_eq!(result, Err(Error::NoMemory));
        assert_eq!(registry.current(), None);
        assert_eq!(registry.vm_created().map(drop), Err(Error::NotFound));
        assert_eq!(registry.register(1, || Ok(())), Ok(()));
    });
}

/// Proves VR-3.
#[test]
fn the_vendor_is_usable_when_the_node_appears() {
    Fixture::new().with(|registry| {
        let result = registry.register(0, || {
            assert_eq!(registry.current(), Some(0));
            registry.vm_created().map(drop)
        });
        assert_eq!(result, Ok(()));
    });
}

/// Proves VR-3.
#[test]
fn the_node_disappears_first_and_no_vm_is_created_meanwhile() {
    Fixture::new().with(|registry| {
        registry.register(0, || Ok(())).unwrap();
        let result = registry.unregister(|| {
            assert_eq!(registry.current(), Some(0));
            assert_eq!(registry.vm_created().map(drop), Err(Error::NotFound));
        });
        assert_eq!(result, Ok(()));
    });
}

/// Proves VR-3.
#[test]
fn unloading_is_refused_while_a_vm_exists() {
    let fixture = Fixture::new();
    fixture.with(|registry| {
        registry.register(1, || Ok(())).unwrap();
        let first = registry.vm_created().unwrap();
        let second = registry.vm_created().unwrap();
        assert_eq!(first.vendor(), 1);
        assert_eq!(registry.vm_count(), 2);
        let node_stays = || panic!("the node was removed");
        assert_eq!(registry.unregister(node_stays), Err(Error::Busy));
        drop(first);
        assert_eq!(registry.unregister(node_stays), Err(Error::Busy));
        assert_eq!(fixture.red.on(), [0, 1, 2, 3]);
        drop(second);
        assert_eq!(registry.unregister(|| ()), Ok(()));
    });
}

/// Proves VR-2.
#[test]
fn a_registry_without_memory_is_an_error_and_leaks_nothing() {
    let fixture = Fixture::new();
    let vendors: [&dyn Hardware; 2] = [&fixture.blue, &fixture.red];
    let failed = fixture.host.for_each_failing_alloc(|_| {
        let result = Registry::new(&fixture.host, &vendors).map(drop);
        assert_eq!(result.is_err(), fixture.host.injection_fired());
        fixture.host.assert_no_leaks();
    });
    assert!(failed >= 3);
}

/// Proves VR-1, VR-2, BUG-17.
#[test]
fn of_many_that_register_at_once_one_wins() {
    const ROUNDS: usize = if cfg!(miri) { 2 } else { 100 };
    let fixture = Fixture::new();
    fixture.with(|registry| {
        for _ in 0..ROUNDS {
            let nodes = AtomicUsize::new(0);
            let wins: usize = thread::scope(|scope| {
                let tries: Vec<_> = (0..4)
                    .map(|n| {
                        let nodes = &nodes;
                        scope.spawn(move || {
                            let publish = || {
                                nodes.fetch_add(1, SeqCst);
                                Ok(())
                            };
                            match registry.register(n % 2, publish) {
                                Ok(()) => 1,
                                Err(error) => {
                                    assert_eq!(error, Error::Exists);
                                    0
                                }
                            }
                        })
                    })
                    .collect();
                tries.into_iter().map(|t| t.join().unwrap()).sum()
            });
            assert_eq!((wins, nodes.load(SeqCst)), (1, 1));
            registry.unregister(|| ()).unwrap();
        }
    });
}

/// Proves VR-1, VR-3, VR-4, BUG-17.
#[test]
fn loading_hotplug_and_vm_creation_may_all_race() {
    const ROUNDS: usize = if cfg!(miri) { 3 } else { 300 };
    let fixture = Fixture::new();
    let (host, blue) = (&fixture.host, &fixture.blue);
    fixture.with(|registry| {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    match registry.register(0, || Ok(())) {
                        Ok(()) | Err(Error::Exists) => {}
                        Err(error) => panic!("{error:?}"),
                    }
                    match registry.unregister(|| ()) {
                        Ok(()) | Err(Error::Busy) => {}
                        Err(error) => panic!("{error:?}"),
                    }
                }
                done.store(true, SeqCst);
            });
            scope.spawn(|| {
                while !done.load(SeqCst) {
                    host.set_online(3, false, |cpu| {
                        registry.cpu_offline(cpu);
                        assert!(!blue.on().contains(&cpu), "offline and on");
                        true
                    });
                    host.set_online(3, true, |cpu| registry.cpu_online(cpu).is_ok());
                }
            });
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(SeqCst) {
                        match registry.vm_created() {
                            Ok(vm) => {
                                assert_eq!(vm.vendor(), 0);
                                let on = blue.on();
                                assert!([0, 1, 2].iter().all(|cpu| on.contains(cpu)), "{on:?}");
                            }
                            Err(error) => assert_eq!(error, Error::NotFound),
                        }
                        thread::yield_now();
                    }
                });
            }
        });
        let (enables, disables) = blue.switches();
        assert_eq!(enables, disables);
    });
}

/// Proves VR-6.
#[test]
fn locks_are_taken_in_the_order_of_the_table() {
    // A registry that runs under locks from further down is caught by the mock.
    let caught = |class| {
        std::panic::catch_unwind(|| {
            let fixture = Fixture::new();
            let lock = Mutex::new(&fixture.host, class, ()).unwrap();
            let vendors: [&dyn Hardware; 1] = [&fixture.blue];
            let registry = Registry::new(&fixture.host, &vendors).unwrap();
            let _held = lock.lock();
            registry.register(0, || Ok(())).unwrap();
        })
        .is_err()
    };
    for class in [&VENDOR, &USAGE, &VM_LIST, &SLOTS] {
        assert!(caught(class), "under `{}`", class.name);
    }
}

/// Proves VR-1, VR-6.
#[test]
fn the_vendor_lock_is_held_to_the_end_and_vms_come_and_go_under_it() {
    let fixture = Fixture::new();
    fixture.with(|registry| {
        registry.register(0, || Ok(())).unwrap();
        let vm = registry.vm_created().unwrap();
        drop(vm);
        // Creating a VM takes neither the vendor lock nor one above it.
        registry
            .unregister(|| {
                let _ = registry.vm_created().map(drop);
                assert_eq!(registry.vm_count(), 0);
                assert!(fixture.host.set_online(1, true, |_| true));
            })
            .unwrap();
    });
}
