//! Statistics, as an owner reads them.
use std::collections::BTreeMap;

use waterbear_core::Error;
use waterbear_core::abi::{Caller, Reply, StatsFile, kvm};
use waterbear_core::exit::{Exit, IoExit};
use waterbear_core::regs::Regs;
use waterbear_core::request::Request;
use waterbear_core::tdp::fast::Access;
use waterbear_hal::Gpa;
use waterbear_mock::MockHost;
use waterbear_proofs::Scripted;

use crate::support::{DONE, HERE, Monitor, refused};

type File = StatsFile<MockHost>;

/// Everything that can be read, `step` bytes at a time.
fn all(monitor: &Monitor, file: &File, step: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let vm = monitor.vm.vm();
        let read = file.read(vm, &monitor.thread, bytes.len() as u64, HERE, step);
        let count = read.unwrap();
        if count == 0 {
            return bytes;
        }
        assert!(count <= step);
        let mut part = vec![0; count];
        monitor.thread.copy_in(HERE, &mut part).unwrap();
        bytes.extend(part);
    }
}

fn word(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).expect("it ends");
    String::from_utf8(bytes[..end].to_vec()).unwrap()
}

/// The numbers by their names, found as an owner finds them.
fn numbers(monitor: &Monitor, file: &File) -> BTreeMap<String, u64> {
    let bytes = all(monitor, file, 4096);
    let [name_size, count, _, descriptions, data] = [4, 8, 12, 16, 20].map(|at| word(&bytes, at));
    (0..count)
        .map(|n| {
            let at = descriptions + n * (16 + name_size);
            let number = data + word(&bytes, at + 8);
            let value = bytes[number..number + 8].try_into().unwrap();
            let name = text(&bytes[at + 16..at + 16 + name_size]);
            (name, u64::from_le_bytes(value))
        })
        .collect()
}

#[test]
fn what_is_read_has_the_form_of_the_interface() {
    let monitor = Monitor::new();
    let files = [
        (monitor.vm.stats(), "waterbear-vm"),
        (monitor.vcpu.stats(), "waterbear-vcpu-0"),
    ];
    for (file, name) in files {
        let bytes = all(&monitor, &file, 4096);
        let [flags, name_size, count] = [0, 4, 8].map(|at| word(&bytes, at));
        let [id, descriptions, data] = [12, 16, 20].map(|at| word(&bytes, at));
        assert_eq!((flags, id), (0, 24));
        assert_eq!(text(&bytes[id..]), name);
        assert_eq!(descriptions, id + name_size);
        assert_eq!(data, descriptions + count * (16 + name_size));
        assert_eq!(bytes.len(), data + count * 8);
        let mut names = Vec::new();
        for n in 0..count {
            let at = descriptions + n * (16 + name_size);
            let kind = word(&bytes, at) & 0xf;
            assert!(kind <= 1, "cumulative or instant");
            assert_eq!(word(&bytes, at) >> 4, 0, "no unit, powers of ten");
            assert_eq!(&bytes[at + 4..at + 8], [0, 0, 1, 0], "one number");
            assert_eq!(word(&bytes, at + 8), 8 * n);
            let name = text(&bytes[at + 16..at + 16 + name_size]);
            assert!(!name.is_empty() && !names.contains(&name), "{name}");
            names.push(name);
        }
        for step in [1, 7, 24, 64, 100] {
            assert_eq!(all(&monitor, &file, step), bytes, "{step} at a time");
        }
        let vm = monitor.vm.vm();
        let read = |offset, at, size| file.read(vm, &monitor.thread, offset, at, size);
        for offset in [bytes.len() as u64, u64::MAX] {
            assert_eq!(read(offset, HERE, 8), Ok(0));
        }
        assert_eq!(read(0, 0x10, 8), Err(Error::Fault));
        assert_eq!(read(0, 0x10, 0), Ok(0));
        assert_eq!(read(8, u64::MAX, usize::MAX), Err(Error::Fault));
    }
}

#[test]
fn each_vcpu_has_its_name() {
    let monitor = Monitor::new();
    for index in [9, 10, 1023] {
        let vcpu = Monitor::add_vcpu(&monitor.vm, &monitor.vendor, index);
        let bytes = all(&monitor, &vcpu.stats(), 4096);
        assert_eq!(text(&bytes[24..]), format!("waterbear-vcpu-{index}"));
    }
}

fn exit(exit: Exit) -> Scripted {
    Scripted::exit(exit, 2)
}

#[test]
fn exits_are_counted_by_reason() {
    let access = Access {
        absent: true,
        ..Access::default()
    };
    let gpa = Gpa(0x3000);
    let monitor = Monitor::with([
        exit(Exit::Cpuid),
        exit(Exit::Cpuid),
        exit(Exit::ReadMsr).after(|guest| guest.regs.general[Regs::RCX] = 0x10),
        exit(Exit::Fault { gpa, access }),
        exit(Exit::Interrupt),
        exit(Exit::Pause),
        exit(Exit::Hypercall),
        exit(Exit::Io(IoExit {
            port: 1,
            size: 1,
            input: false,
            string: false,
            repeat: false,
        })),
        exit(Exit::Halt),
    ]);
    for _ in 0..2 {
        assert_eq!(monitor.vcpu(kvm::KVM_RUN, 0), DONE);
    }
    let seen = numbers(&monitor, &monitor.vcpu.stats());
    for (name, count) in [
        ("cpuid_exits", 2),
        ("msr_exits", 1),
        ("irq_exits", 1),
        ("other_exits", 1),
        ("hypercalls", 1),
        ("io_exits", 1),
        ("halt_exits", 1),
        ("window_exits", 0),
        ("signal_exits", 0),
        ("kicks", 0),
    ] {
        assert_eq!(seen[name], count, "{name}");
    }
    assert_eq!(seen["pf_taken"] + seen["pf_fast"], 1);
    assert_eq!(seen["exits"], 9);
    let vm = numbers(&monitor, &monitor.vm.stats());
    assert_eq!((vm["pages_4k"], vm["mmu_zapped"]), (1, 0));
    // The slot goes.
    monitor.put(0, &[0; 32]);
    assert_eq!(monitor.vm(kvm::KVM_SET_USER_MEMORY_REGION, HERE), DONE);
    let vm = numbers(&monitor, &monitor.vm.stats());
    assert_eq!((vm["pages_4k"], vm["mmu_zapped"]), (0, 1));
    assert!(vm["remote_tlb_flush"] > 0);
}

#[test]
fn a_kick_of_a_vcpu_in_the_guest_is_counted() {
    let monitor = Monitor::new();
    let vcpu = monitor.vm.vm().vcpus().get(0).unwrap();
    waterbear_proofs::vcpu_thread::settle(&monitor.host, vcpu, 1);
    monitor.host.run_on(1, || {
        waterbear_proofs::vcpu_thread::enter(&monitor.host, vcpu, || {
            std::thread::scope(|scope| {
                let sender = || monitor.host.run_on(0, || vcpu.make_request(Request::EVENT));
                scope.spawn(sender).join().unwrap();
            });
        })
    });
    assert_eq!(numbers(&monitor, &monitor.vcpu.stats())["kicks"], 1);
}

#[test]
fn a_descriptor_has_no_argument_and_is_made_while_the_vcpu_runs() {
    let monitor = Monitor::new();
    let new = Ok(Reply::NewStats);
    assert_eq!(monitor.vm(kvm::KVM_GET_STATS_FD, 0), new);
    assert_eq!(monitor.vcpu(kvm::KVM_GET_STATS_FD, 0), new);
    let wrong = refused(Error::Invalid);
    assert_eq!(monitor.vm(kvm::KVM_GET_STATS_FD, 1), wrong);
    assert_eq!(monitor.vcpu(kvm::KVM_GET_STATS_FD, 1), wrong);
}
