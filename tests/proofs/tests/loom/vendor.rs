//! Registration, CPUs that come and go, and VMs, all at once.

use loom::sync::Arc;
use loom::thread;

use waterbear_core::Error;
use waterbear_core::registry::Registry;
use waterbear_core::vendor::Hardware;
use waterbear_hal::sync::twin::Part;
use waterbear_hal::{Cpu, cpu::CpusHeld};
use waterbear_mock::{MockConfig, MockHost};
use waterbear_proofs::fake_vendor::FakeVendor;

use crate::twins::{explore, must_fail};

/// A machine with two CPUs, and two vendors that are not registered.
struct Machine {
    host: MockHost,
    vendors: [&'static FakeVendor; 2],
    registry: Registry<'static, MockHost>,
}

impl Machine {
    fn new() -> Arc<Self> {
        let host = MockHost::with(MockConfig::new().cpus(2));
        let fake =
            |name| -> &'static FakeVendor { Box::leak(Box::new(FakeVendor::new(&host, name))) };
        let vendors = [fake("blue"), fake("red")];
        let list: &[&dyn Hardware] = Box::leak(Box::new(vendors.map(|v| v as &dyn Hardware)));
        let registry = Registry::new(&host, list).expect("memory");
        Arc::new(Self {
            host,
            vendors,
            registry,
        })
    }

    fn registered() -> Arc<Self> {
        let machine = Self::new();
        machine.registry.register(0, || Ok(())).expect("able");
        machine
    }

    fn offline(&self, cpu: u32) {
        self.host.set_online(cpu, false, |cpu| {
            self.registry.cpu_offline(cpu);
            true
        });
    }

    fn online(&self, cpu: u32) {
        let notice = |cpu| self.registry.cpu_online(cpu).is_ok();
        assert!(self.host.set_online(cpu, true, notice));
    }

    /// While a VM exists exactly the online CPUs are on.
    fn check_on(&self) {
        let held = CpusHeld::new(&self.host);
        let online: Vec<u32> = self.host.online().iter().collect();
        let on = self.vendors[0].on();
        assert!(
            on == online,
            "twin: a VM exists, {online:?} online, {on:?} on"
        );
        drop(held);
    }

    /// Nothing is left on when there is no VM.
    fn check_off(&self) {
        let on = self.vendors[0].on();
        assert!(on.is_empty(), "twin: no VM exists, and {on:?} on");
        assert_eq!(self.registry.vm_count(), 0);
    }
}

/// Two vendors that register at once.
fn two_vendors() {
    explore(|| {
        let machine = Machine::new();
        let other = {
            let machine = machine.clone();
            thread::spawn(move || machine.registry.register(1, || Ok(())))
        };
        let mine = machine.registry.register(0, || Ok(()));
        let theirs = other.join().unwrap();
        assert!(
            mine.is_ok() != theirs.is_ok(),
            "twin: registered are {mine:?} and {theirs:?}"
        );
        assert!([mine, theirs].contains(&Err(Error::Exists)));
    });
}

/// Proves VR-1, VR-2.
#[test]
fn of_two_vendors_that_register_at_once_one_wins() {
    two_vendors();
}

/// Proves VR-1, VR-2.
#[test]
fn two_vendors_are_registered_without_the_lock_twin() {
    must_fail(Part::VendorLock, "twin: ", two_vendors);
}

/// A VM is created while a CPU comes online.
fn enabling_against_a_new_cpu() {
    explore(|| {
        let machine = Machine::registered();
        machine.offline(1);
        let plug = {
            let machine = machine.clone();
            thread::spawn(move || machine.online(1))
        };
        let vm = machine.registry.vm_created().expect("able");
        machine.check_on();
        plug.join().unwrap();
        machine.check_on();
        drop(vm);
        machine.check_off();
    });
}

/// Proves VR-4, BUG-17.
#[test]
fn a_cpu_that_comes_while_the_first_vm_is_created_is_on() {
    enabling_against_a_new_cpu();
}

/// A VM is created while a CPU goes offline.
fn enabling_against_a_cpu_that_goes() {
    explore(|| {
        let machine = Machine::registered();
        let unplug = {
            let machine = machine.clone();
            thread::spawn(move || machine.offline(1))
        };
        let vm = machine.registry.vm_created().expect("able");
        unplug.join().unwrap();
        machine.check_on();
        drop(vm);
        machine.check_off();
    });
}

/// Proves VR-4, BUG-17.
#[test]
fn a_cpu_that_goes_while_the_first_vm_is_created_is_off() {
    enabling_against_a_cpu_that_goes();
}

/// Proves VR-4.
#[test]
fn a_cpu_goes_with_virtualisation_on_unless_cpus_are_held_twin() {
    must_fail(
        Part::HotplugHold,
        "twin: ",
        enabling_against_a_cpu_that_goes,
    );
}

/// Two VMs come and go at once.
fn two_users() {
    explore(|| {
        let machine = Machine::registered();
        let other = {
            let machine = machine.clone();
            thread::spawn(move || {
                let vm = machine.registry.vm_created().expect("able");
                machine.check_on();
                drop(vm);
            })
        };
        let vm = machine.registry.vm_created().expect("able");
        machine.check_on();
        drop(vm);
        other.join().unwrap();
        machine.check_off();
    });
}

/// Proves VR-4.
#[test]
fn a_vm_that_goes_does_not_switch_off_what_another_uses() {
    two_users();
}

/// Proves VR-4.
#[test]
fn a_vm_loses_the_hardware_without_the_usage_lock_twin() {
    must_fail(Part::UsageLock, "twin: ", two_users);
}

/// A vendor goes while a VM comes.
fn unload_against_vm_creation() {
    explore(|| {
        let machine = Machine::registered();
        let unload = {
            let machine = machine.clone();
            thread::spawn(move || machine.registry.unregister(|| ()))
        };
        let vm = machine.registry.vm_created();
        if vm.is_ok() {
            machine.check_on();
            assert_eq!(machine.registry.current(), Some(0), "the vendor is gone");
        }
        let unloaded = unload.join().unwrap();
        match (&vm, unloaded) {
            (Ok(_), Err(Error::Busy)) | (Err(Error::NotFound), Ok(())) => {}
            (vm, unloaded) => panic!("{:?} and {unloaded:?}", vm.as_ref().err()),
        }
        drop(vm);
        machine.check_off();
    });
}

/// Proves VR-3.
#[test]
fn a_vendor_goes_or_a_vm_comes_but_not_both() {
    unload_against_vm_creation();
}

/// A vendor comes, a CPU comes, and a VM comes.
fn load_against_hotplug_against_vm_creation() {
    explore(|| {
        let machine = Machine::new();
        machine.offline(1);
        let load = {
            let machine = machine.clone();
            thread::spawn(move || machine.registry.register(0, || Ok(())))
        };
        let plug = {
            let machine = machine.clone();
            thread::spawn(move || machine.online(1))
        };
        let vm = machine.registry.vm_created();
        if vm.is_ok() {
            machine.check_on();
        } else {
            assert_eq!(vm.as_ref().err(), Some(&Error::NotFound));
        }
        assert_eq!(load.join().unwrap(), Ok(()));
        plug.join().unwrap();
        if vm.is_ok() {
            machine.check_on();
        }
        drop(vm);
        machine.check_off();
    });
}

/// Proves VR-1, VR-3, VR-4, BUG-17.
#[test]
fn a_vendor_a_cpu_and_a_vm_may_come_at_once() {
    load_against_hotplug_against_vm_creation();
}
