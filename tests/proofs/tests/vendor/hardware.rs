//! Hardware virtualisation is on exactly while somebody uses it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

use waterbear_core::Error;
use waterbear_core::registry::Registry;
use waterbear_core::vendor::{Hardware, Unsupported};
use waterbear_mock::{MockConfig, MockHost};
use waterbear_proofs::fake_vendor::{FakeVendor, Step};

/// A machine with four CPUs on which a vendor is registered.
fn with(f: impl FnOnce(&MockHost, &FakeVendor, &Registry<'_, MockHost>)) {
    let host = MockHost::with(MockConfig::new().cpus(4));
    let fake = FakeVendor::new(&host, "fake");
    let vendors: [&dyn Hardware; 1] = [&fake];
    let registry = Registry::new(&host, &vendors).expect("memory");
    registry.register(0, || Ok(())).expect("able");
    f(&host, &fake, &registry);
    assert!(fake.on().is_empty(), "left on: {:?}", fake.on());
    assert_eq!(registry.vm_count(), 0);
    registry.unregister(|| ()).expect("unused");
    drop(registry);
    host.assert_no_leaks();
}

fn offline(host: &MockHost, registry: &Registry<'_, MockHost>, cpu: u32) {
    assert!(host.set_online(cpu, false, |cpu| {
        registry.cpu_offline(cpu);
        true
    }));
}

fn online(host: &MockHost, registry: &Registry<'_, MockHost>, cpu: u32) -> bool {
    host.set_online(cpu, true, |cpu| registry.cpu_online(cpu).is_ok())
}

/// Proves VR-4.
#[test]
fn the_first_vm_switches_every_cpu_on_and_the_last_off() {
    with(|_, fake, registry| {
        assert!(fake.on().is_empty());
        let first = registry.vm_created().unwrap();
        assert_eq!(fake.on(), [0, 1, 2, 3]);
        let second = registry.vm_created().unwrap();
        assert_eq!(fake.switches(), (4, 0), "once is enough");
        drop(first);
        assert_eq!(fake.on(), [0, 1, 2, 3]);
        drop(second);
        assert!(fake.on().is_empty());
        assert_eq!(fake.switches(), (4, 4));
    });
}

/// Proves VR-4.
#[test]
fn a_cpu_that_refuses_makes_the_vm_fail_and_leaves_none_on() {
    for cpu in 0..4 {
        with(|host, fake, registry| {
            fake.refuses(cpu, true);
            let result = registry.vm_created().map(drop);
            assert_eq!(result, Err(Error::NotSupported));
            assert!(fake.on().is_empty());
            assert_eq!(registry.vm_count(), 0);
            let log = host.log_lines().join("\n");
            assert!(log.contains(&format!("CPU {cpu} refused")), "{log}");
            // And nothing remains of the attempt.
            fake.refuses(cpu, false);
            let vm = registry.vm_created().unwrap();
            assert_eq!(fake.on(), [0, 1, 2, 3]);
            drop(vm);
        });
    }
}

/// Proves VR-4, VR-5.
#[test]
fn a_cpu_that_somebody_took_after_registration_is_busy() {
    with(|_, fake, registry| {
        fake.foreign(2, true);
        assert_eq!(registry.vm_created().map(drop), Err(Error::Busy));
        assert!(fake.on().is_empty());
        fake.foreign(2, false);
        assert!(registry.vm_created().is_ok());
    });
}

/// Proves VR-4.
#[test]
fn a_cpu_that_comes_while_there_is_a_vm_is_switched_on() {
    with(|host, fake, registry| {
        offline(host, registry, 3);
        let vm = registry.vm_created().unwrap();
        assert_eq!(fake.on(), [0, 1, 2]);
        assert!(online(host, registry, 3));
        assert_eq!(fake.on(), [0, 1, 2, 3]);
        drop(vm);
    });
}

/// Proves VR-4.
#[test]
fn a_cpu_that_comes_while_there_is_no_vm_stays_off() {
    with(|host, fake, registry| {
        offline(host, registry, 3);
        assert!(online(host, registry, 3));
        assert!(fake.on().is_empty());
        let vm = registry.vm_created().unwrap();
        assert_eq!(fake.on(), [0, 1, 2, 3]);
        drop(vm);
    });
}

/// Proves VR-4.
#[test]
fn a_cpu_that_goes_is_switched_off_first() {
    with(|host, fake, registry| {
        let vm = registry.vm_created().unwrap();
        offline(host, registry, 1);
        assert_eq!(fake.on(), [0, 2, 3]);
        drop(vm);
        assert!(fake.on().is_empty());
        assert_eq!(fake.switches(), (4, 4));
    });
}

/// Proves VR-2, VR-4.
#[test]
fn a_cpu_that_cannot_do_it_does_not_come_while_there_is_a_vm() {
    with(|host, fake, registry| {
        offline(host, registry, 3);
        let vm = registry.vm_created().unwrap();
        fake.lacks(3, Unsupported::Differs);
        assert!(!online(host, registry, 3));
        assert_eq!(registry.cpu_online(1024), Err(Error::NotSupported));
        assert_eq!(fake.on(), [0, 1, 2]);
        let log = host.log_lines().join("\n");
        assert!(log.contains("CPU 3 differs"), "{log}");
        drop(vm);
    });
}

/// Proves VR-2, VR-4.
#[test]
fn a_cpu_that_cannot_do_it_and_came_early_makes_the_vm_fail() {
    with(|host, fake, registry| {
        offline(host, registry, 3);
        fake.lacks(3, Unsupported::NoVirtualization);
        assert!(online(host, registry, 3), "an idle module is no obstacle");
        let result = registry.vm_created().map(drop);
        assert_eq!(result, Err(Error::NotSupported));
        offline(host, registry, 3);
        assert!(registry.vm_created().is_ok());
    });
}

/// Proves VR-4.
#[test]
fn suspend_switches_off_and_resume_on() {
    with(|host, fake, registry| {
        let vm = registry.vm_created().unwrap();
        for cpu in [1, 2, 3] {
            offline(host, registry, cpu);
        }
        registry.suspend(0);
        assert!(fake.on().is_empty());
        fake.power_cycle();
        assert_eq!(registry.resume(0), Ok(()));
        assert_eq!(fake.on(), [0]);
        for cpu in [1, 2, 3] {
            assert!(online(host, registry, cpu));
        }
        assert_eq!(fake.on(), [0, 1, 2, 3]);
        drop(vm);
        // Without a VM nothing is switched on.
        registry.suspend(0);
        assert_eq!(registry.resume(0), Ok(()));
        assert!(fake.on().is_empty());
    });
}

/// Proves VR-4.
#[test]
fn a_cpu_that_does_not_come_back_from_suspend_is_reported() {
    with(|host, fake, registry| {
        let vm = registry.vm_created().unwrap();
        registry.suspend(0);
        fake.refuses(0, true);
        assert_eq!(registry.resume(0), Err(Error::NotSupported));
        let log = host.log_lines().join("\n");
        assert!(log.contains("CPU 0 refused"), "{log}");
        drop(vm);
    });
}

/// Proves VR-4.
#[test]
fn notices_without_a_vendor_do_nothing() {
    let host = MockHost::new();
    let registry = Registry::new(&host, &[]).unwrap();
    assert_eq!(registry.cpu_online(0), Ok(()));
    registry.cpu_offline(0);
    registry.suspend(0);
    assert_eq!(registry.resume(0), Ok(()));
    registry.emergency_off(0);
    registry.emergency_off(u32::MAX);
}

/// Proves VR-4.
#[test]
fn an_emergency_leaves_every_cpu_off_for_good() {
    with(|host, fake, registry| {
        let vm = registry.vm_created().unwrap();
        for cpu in 0..4 {
            host.run_on(cpu, || {
                let _off = waterbear_hal::IrqOff::new(host);
                registry.emergency_off(cpu);
            });
        }
        assert!(fake.on().is_empty());
        assert!(registry.vm_created().is_ok(), "nothing is left to switch");
        assert!(fake.on().is_empty());
        drop(vm);
        assert_eq!(registry.vm_created().map(drop), Err(Error::NotSupported));
        assert!(fake.on().is_empty());
    });
}

/// Proves VR-4.
#[test]
fn an_emergency_in_the_middle_of_switching_leaves_the_cpu_off() {
    type Leaked = Registry<'static, MockHost>;
    static REGISTRY: [OnceLock<&Leaked>; 4] = [const { OnceLock::new() }; 4];
    fn emergency<const N: usize>(cpu: u32) {
        if let Some(registry) = REGISTRY[N].get() {
            registry.emergency_off(cpu);
        }
    }
    let steps: [(Step, fn(u32)); 4] = [
        (Step::BeforeEnable, emergency::<0>),
        (Step::AfterEnable, emergency::<1>),
        (Step::BeforeDisable, emergency::<2>),
        (Step::AfterDisable, emergency::<3>),
    ];
    for (n, (step, emergency)) in steps.into_iter().enumerate() {
        let host = MockHost::new();
        let fake: &'static FakeVendor = Box::leak(Box::new(FakeVendor::new(&host, "fake")));
        let vendors: &[&dyn Hardware] = Box::leak(Box::new([fake as &dyn Hardware]));
        let registry = Registry::new(&host, vendors).unwrap();
        let registry = *REGISTRY[n].get_or_init(|| Box::leak(Box::new(registry)));
        registry.register(0, || Ok(())).unwrap();
        fake.interfere(step, 2, emergency);
        let vm = registry.vm_created();
        let switching_on = matches!(step, Step::BeforeEnable | Step::AfterEnable);
        assert_eq!(vm.is_err(), switching_on);
        drop(vm);
        assert!(!fake.interferes(), "{step:?} did not happen");
        assert!(fake.on().is_empty(), "{step:?} left {:?} on", fake.on());
    }
}

/// Proves VR-4, BUG-17.
#[test]
fn while_a_vm_exists_every_online_cpu_is_on() {
    const ROUNDS: usize = if cfg!(miri) { 3 } else { 500 };
    with(|host, fake, registry| {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(SeqCst) {
                    offline(host, registry, 3);
                    assert!(online(host, registry, 3));
                }
            });
            let users: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        for _ in 0..ROUNDS {
                            let vm = registry.vm_created().unwrap();
                            let held = waterbear_hal::cpu::CpusHeld::new(host);
                            let online: Vec<u32> =
                                waterbear_hal::Cpu::online(host).iter().collect();
                            assert_eq!(fake.on(), online);
                            drop(held);
                            drop(vm);
                        }
                    })
                })
                .collect();
            users.into_iter().for_each(|user| user.join().unwrap());
            done.store(true, SeqCst);
        });
    });
}
