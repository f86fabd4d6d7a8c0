//! Memory runs out, at every place where it can.
use waterbear_core::Error;
use waterbear_core::memslot::{Region, SlotFlags, SpaceId};
use waterbear_core::tdp::fast::Access as Wanted;
use waterbear_core::vm::{Outcome, VcpuMmu, Vm};
use waterbear_hal::{Gfn, Level, Pfn};
use waterbear_mock::Mock;
use waterbear_proofs::Rig;

use crate::support::{Case, cases, mapping, on_both_hosts, on_each};

const WRITE: Wanted = Wanted {
    write: true,
    exec: false,
    guest_walk: false,
    absent: false,
};
const L2: u64 = 512;

/// Runs `op` with its first allocation failing, then its second, and so on
/// until none fails. Each time `after` is told whether one failed.
fn each_failure<const N: bool>(
    host: &Mock<N>,
    mut op: impl FnMut() -> Result<(), Error>,
    mut after: impl FnMut(bool),
) -> u64 {
    for n in 1.. {
        host.fail_nth_alloc(n);
        let result = op();
        let failed = host.injection_fired();
        host.fail_nth_alloc(0);
        let expected = if failed { Err(Error::NoMemory) } else { Ok(()) };
        assert_eq!(result, expected, "allocation {n}");
        after(failed);
        if !failed {
            return n - 1;
        }
    }
    unreachable!()
}

/// Proves TDP-16, MS-4.
#[test]
fn a_vm_that_cannot_be_made_leaves_nothing() {
    fn test<const N: bool>(case: Case) {
        let host = Mock::<N>::new();
        let user = host.new_space();
        let format = case.paging.format(case.root);
        let failures = each_failure(
            &host,
            || Vm::new(&host, user.clone(), format, case.dirty).map(drop),
            |_| host.assert_no_leaks(),
        );
        assert!(failures >= 3);
    }
    for case in cases() {
        test::<true>(case);
        test::<false>(case);
    }
}

/// Proves TDP-16, TDP-2, TDP-14.
#[test]
fn a_fault_that_finds_no_memory_changes_nothing() {
    fn test<const N: bool>(_: Case, rig: &Rig<N>) {
        rig.memory(0, 0, 2 * L2, Level::L2);
        rig.memory(1, 1 << 20, 16, Level::L1);
        let before = rig.host.live();
        // A page in a large host page, a small one, a device.
        for gfn in [3, 1 << 20, 1 << 25] {
            let vcpu = std::cell::RefCell::new(VcpuMmu::new());
            let failures = each_failure(
                &rig.host,
                || {
                    let mmu = &mut *vcpu.borrow_mut();
                    if mmu.root().is_none() {
                        rig.vm.load_root(mmu)?;
                    }
                    let outcome = rig.vm.handle_fault(mmu, Gfn(gfn).gpa(), WRITE)?;
                    let device = gfn == 1 << 25;
                    assert_eq!(outcome == Outcome::Mmio, device);
                    Ok(())
                },
                |failed| {
                    let mapped: i64 = Level::LEAVES.map(|l| rig.vm.mmu().mapped(l)).iter().sum();
                    let expected = i64::from(!failed && gfn != 1 << 25);
                    assert_eq!(mapped, expected);
                    if failed {
                        assert_eq!(rig.host.live().page_references, 0);
                    }
                    *vcpu.borrow_mut() = VcpuMmu::new();
                    rig.vm.mmu().invalidate_roots(rig.vm.vcpus(), [&(), &()]);
                    assert_eq!(rig.host.live(), before);
                },
            );
            assert!(failures >= 6, "root, its handle, four tables: {failures}");
        }
    }
    on_both_hosts!(test);
}

/// Proves TDP-16, TDP-12.
#[test]
fn a_prefault_that_finds_no_memory_changes_nothing() {
    fn test<const N: bool>(_: Case, rig: &Rig<N>) {
        rig.memory(0, 0, 2 * L2, Level::L2);
        let before = rig.host.live();
        each_failure(
            &rig.host,
            || {
                let mut mmu = VcpuMmu::new();
                rig.vm.prefault(&mut mmu, Gfn(3).gpa()).map(drop)
            },
            |failed| {
                if failed {
                    assert_eq!(rig.vm.mmu().mapped(Level::L1), 0);
                    assert_eq!(rig.vm.mmu().mapped(Level::L2), 0);
                }
                rig.vm.mmu().invalidate_roots(rig.vm.vcpus(), [&(), &()]);
                assert_eq!(rig.host.live(), before);
            },
        );
    }
    on_both_hosts!(test);
}

/// What hardware sees of some frames.
fn seen<const N: bool>(rig: &Rig<N>, root: Pfn, gfns: &[u64]) -> Vec<Option<Pfn>> {
    let at = |&gfn| mapping(rig, root, gfn).map(|found| found.pfn);
    gfns.iter().map(at).collect()
}

/// Proves TDP-16, TDP-5, TDP-12.
#[test]
fn a_split_that_finds_no_memory_leaves_every_translation() {
    on_each::<true>(|_, rig| {
        let gfns = [0, 3, L2 - 1, L2, 2 * L2 - 1];
        rig.memory(0, 0, 2 * L2, Level::L2);
        let mut mmu = VcpuMmu::new();
        let root = rig.vm.load_root(&mut mmu).unwrap();
        let map = |mmu: &mut VcpuMmu<_>| {
            for gfn in [0, L2] {
                let outcome = rig.vm.handle_fault(mmu, Gfn(gfn).gpa(), WRITE);
                assert_eq!(outcome, Ok(Outcome::Resume));
            }
        };
        map(&mut mmu);
        let before = seen(rig, root.pfn(), &gfns);
        assert!(before.iter().all(Option::is_some));
        let vm = &rig.vm;
        each_failure(
            &rig.host,
            || {
                vm.mmu()
                    .split_range(vm.vcpus(), &(), SpaceId::NORMAL, Gfn(0)..Gfn(2 * L2))
            },
            |failed| {
                assert_eq!(seen(rig, root.pfn(), &gfns), before);
                let mapped = Level::LEAVES.map(|l| rig.vm.mmu().mapped(l));
                assert_eq!(mapped[0] + mapped[1] * 512, 1024);
                assert!(failed || mapped[0] == 1024);
            },
        );
        // And a fault that has to split.
        rig.host_change(0, 2 * L2, || ());
        map(&mut mmu);
        rig.slot(0, 0, 2 * L2, SlotFlags::LOG_DIRTY).unwrap();
        drop(mmu);
        let failures = each_failure(
            &rig.host,
            || {
                let mut mmu = VcpuMmu::new();
                rig.vm.load_root(&mut mmu)?;
                rig.vm.handle_fault(&mut mmu, Gfn(3).gpa(), WRITE).map(drop)
            },
            |failed| {
                assert_eq!(seen(rig, root.pfn(), &gfns), before);
                assert_eq!(rig.vm.mmu().mapped(Level::L2), if failed { 2 } else { 1 });
                assert_eq!(
                    rig.dirty_log(0, 2 * L2),
                    if failed { vec![] } else { vec![3] }
                );
            },
        );
        assert!(failures > 0);
    });
}

/// Proves MS-4, TDP-7, TDP-16.
#[test]
fn a_change_of_slots_that_finds_no_memory_keeps_the_guest_running() {
    fn test<const N: bool>(_: Case, rig: &Rig<N>) {
        rig.memory(0, 0, 2 * L2, Level::L2);
        let mut guest = rig.guest(0);
        let on = SlotFlags::LOG_DIRTY;
        let off = SlotFlags::empty();
        let elsewhere = |gfn: u64| Region {
            space: 0,
            id: 0,
            flags: 0,
            guest_phys_addr: gfn << 12,
            memory_size: (2 * L2) << 12,
            userspace_addr: Rig::<N>::hva(0).0,
        };
        type Op<'a, const N: bool> = Box<dyn Fn() -> Result<(), Error> + 'a>;
        let ops: [(Op<'_, N>, Op<'_, N>, u64); 4] = [
            (
                Box::new(|| rig.slot(1, 1 << 20, 16, off)),
                Box::new(|| rig.slot(1, 0, 0, off)),
                0,
            ),
            (
                Box::new(|| rig.slot(0, 0, 2 * L2, on)),
                Box::new(|| rig.slot(0, 0, 2 * L2, off)),
                0,
            ),
            (
                Box::new(|| rig.vm.set_region(elsewhere(4 * L2))),
                Box::new(|| rig.vm.set_region(elsewhere(0))),
                4 * L2,
            ),
            (
                Box::new(|| rig.slot(0, 0, 0, off)),
                Box::new(|| rig.slot(0, 0, 2 * L2, off)),
                u64::MAX,
            ),
        ];
        for (op, undo, base) in &ops {
            for gfn in [3, L2 + 3] {
                guest.write(gfn);
            }
            let failures = each_failure(&rig.host, op, |failed| {
                let at = if failed { 0 } else { *base };
                if at == u64::MAX {
                    assert_eq!(rig.vm.mmu().mapped(Level::L1), 0);
                    assert_eq!(rig.host.live().page_references, 0);
                    return;
                }
                for gfn in [3, L2 + 3] {
                    assert_eq!(Some(guest.write(at + gfn)), rig.backing(Gfn(gfn)));
                }
                let references = if N { 0 } else { 2 };
                assert_eq!(rig.host.live().page_references, references);
            });
            assert!(failures > 0);
            undo().unwrap();
        }
        // Building large mappings again is best effort.
        for gfn in [3, L2 + 3] {
            guest.write(gfn);
        }
        for n in 1.. {
            rig.slot(0, 0, 2 * L2, on).unwrap();
            guest.write(3);
            rig.host.fail_nth_alloc(n);
            let result = rig.slot(0, 0, 2 * L2, off);
            let failed = rig.host.injection_fired();
            rig.host.fail_nth_alloc(0);
            assert!(result == Ok(()) || failed && result == Err(Error::NoMemory));
            assert_eq!(Some(guest.write(3)), rig.backing(Gfn(3)));
            assert_eq!(Some(guest.write(5)), rig.backing(Gfn(5)));
            rig.slot(0, 0, 2 * L2, off).unwrap();
            if !failed {
                break;
            }
        }
    }
    on_both_hosts!(test);
}
