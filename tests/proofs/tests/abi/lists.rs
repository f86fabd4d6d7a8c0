//! Lists whose length the owner does not know.
use waterbear_core::Error;
use waterbear_core::abi::{Failure, kvm};

use crate::support::{DONE, HERE, Monitor, refused};

/// Lists of the node's: the command, the size of an entry, and where the entries begin.
const LISTS: [(u32, u64, u64); 2] = [
    (kvm::KVM_GET_MSR_INDEX_LIST, 4, 4),
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
