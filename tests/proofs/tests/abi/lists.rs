//! Lists whose length the owner does not know.
use waterbear_core::Error;
use waterbear_core::abi::{Failure, kvm};

use crate::support::{DONE, HERE, Monitor, refused};

/// Lists of the node's: the command, the size of an entry, and where the entries begin.
const LISTS: [(u32, u64, u64); 3] = [
    (kvm::KVM_GET_MSR_INDEX_LIST, 4, 4),
    (kvm::KVM_GET_MSR_FEATURE_INDEX_LIST, 4, 4),
    (kvm::KVM_GET_SUPPORTED_CPUID, 40, 8),
];

#[test]
fn a_list_that_does_not_fit_says_how_long_it_is() {
    let monitor = Monitor::new();
    for (command, entry, first) in LISTS {
        monitor.put(0, &[0; 4096]);
        assert_eq!(monitor.node(command, HERE), Err(Failure::TooBig));
        let count = monitor.word(0) as u32;
        for room in [0, count - 1] {
            monitor.put(0, &room.to_le_bytes());
            assert_eq!(monitor.node(command, HERE), Err(Failure::TooBig));
            assert_eq!(monitor.word(0) as u32, count, "{command:#x}");
            assert_eq!(monitor.word(first.max(8)), 0, "nothing is written");
        }
        for room in [count, count + 1, u32::MAX] {
            monitor.put(0, &room.to_le_bytes());
            monitor.put(first + u64::from(count) * entry, &[0xa5; 8]);
            assert_eq!(monitor.node(command, HERE), DONE);
            assert_eq!(monitor.word(0) as u32, count);
            let behind = monitor.word(first + u64::from(count) * entry);
            assert_eq!(
                behind, 0xa5a5_a5a5_a5a5_a5a5,
                "nothing is written behind it"
            );
        }
        for at in [0, HERE - 4, u64::MAX] {
            assert_eq!(monitor.node(command, at), refused(Error::Fault));
        }
    }
}

#[test]
fn no_feature_is_there_that_the_cpu_has_not() {
    let monitor = Monitor::new();
    monitor.put(0, &[0xff; 16]);
    assert_eq!(monitor.node(kvm::KVM_GET_EMULATED_CPUID, HERE), DONE);
    assert_eq!(monitor.word(0), 0xffff_ffff_0000_0000, "no entries");
    assert_eq!(monitor.word(8), u64::MAX);
    let nowhere = monitor.node(kvm::KVM_GET_EMULATED_CPUID, 8);
    assert_eq!(nowhere, refused(Error::Fault));
}

#[test]
fn the_table_of_a_vcpu_is_told_as_it_was_set() {
    let monitor = Monitor::new();
    assert_eq!(monitor.vcpu(kvm::KVM_GET_CPUID2, HERE), DONE);
    assert_eq!(monitor.word(0) as u32, 0, "a new one has none");
    monitor.put(0, &100_u32.to_le_bytes());
    assert_eq!(monitor.node(kvm::KVM_GET_SUPPORTED_CPUID, HERE), DONE);
    let count = monitor.word(0) as u32;
    let words = || -> Vec<u64> {
        (1..=u64::from(count) * 5)
            .map(|n| monitor.word(n * 8))
            .collect()
    };
    let offered = words();
    assert_eq!(monitor.vcpu(kvm::KVM_SET_CPUID2, HERE), DONE);
    monitor.put(0, &[0; 8192]);
    monitor.put(0, &(count - 1).to_le_bytes());
    assert_eq!(
        monitor.vcpu(kvm::KVM_GET_CPUID2, HERE),
        Err(Failure::TooBig)
    );
    assert_eq!(monitor.word(0) as u32, count);
    assert_eq!(monitor.word(8), 0, "nothing is written");
    assert_eq!(monitor.vcpu(kvm::KVM_GET_CPUID2, HERE), DONE);
    assert_eq!(words(), offered);
    // One that cannot be taken changes nothing.
    monitor.put(0, &257_u32.to_le_bytes());
    assert_eq!(
        monitor.vcpu(kvm::KVM_SET_CPUID2, HERE),
        Err(Failure::TooBig)
    );
    monitor.put(0xfff8, &2_u32.to_le_bytes());
    let cut = monitor.vcpu(kvm::KVM_SET_CPUID2, HERE + 0xfff8);
    assert_eq!(cut, refused(Error::Fault));
    monitor.put(0, &count.to_le_bytes());
    assert_eq!(monitor.vcpu(kvm::KVM_GET_CPUID2, HERE), DONE);
    assert_eq!(words(), offered);
}
