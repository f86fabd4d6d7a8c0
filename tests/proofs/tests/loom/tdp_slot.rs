//! A slot that goes away while the guest touches its memory: the whole VM.

use std::sync::Arc;

use loom::thread;

use waterbear_core::memslot::SlotFlags;
use waterbear_core::tdp::DirtyTracking;
use waterbear_core::tdp::fast::Access;
use waterbear_core::vm::VcpuMmu;
use waterbear_hal::sync::twin::Part;
use waterbear_hal::{Gfn, Level};
use waterbear_mock::MockConfig;
use waterbear_proofs::{Paging, Rig};

use crate::twins::{explore_bounded, must_fail};

fn delete_against_a_fault() {
    explore_bounded(3, || {
        let config = MockConfig::new().tables(16);
        let (paging, dirty) = (Paging::Ept, DirtyTracking::WriteProtect);
        let rig: Rig = Rig::with(config, paging, Paging::ROOT, dirty);
        rig.memory(0, 0, 2, Level::L1);
        let mut vcpu = VcpuMmu::new();
        rig.vm.load_root(&mut vcpu).expect("memory");
        let rig = Arc::new(rig);
        let thread = {
            let rig = Arc::clone(&rig);
            thread::spawn(move || {
                let access = Access {
                    write: true,
                    ..Access::default()
                };
                rig.vm
                    .handle_fault(&mut vcpu, Gfn(0).gpa(), access)
                    .expect("there is memory");
            })
        };
        rig.slot(0, 0, 0, SlotFlags::empty()).expect("it exists");
        thread.join().unwrap();
        let mapped = rig.vm.mmu().mapped(Level::L1);
        // First, because a VM cannot be taken down while a panic unwinds.
        Arc::into_inner(rig).expect("the thread is over").finish();
        assert_eq!(mapped, 0, "twin: a mapping outlives its slot");
    });
}

/// Proves MS-3, TDP-8.
#[test]
fn a_fault_maps_nothing_of_a_slot_that_was_deleted() {
    delete_against_a_fault();
}

/// Proves MS-3, TDP-8.
#[test]
fn a_fault_maps_a_page_of_a_deleted_slot_without_waiting_for_readers_twin() {
    must_fail(
        Part::SlotsSynchronize,
        "twin: a mapping outlives its slot",
        delete_against_a_fault,
    );
}
