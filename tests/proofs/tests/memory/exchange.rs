//! Compare-exchange.
use std::thread::scope;

use waterbear_core::memslot::SlotFlags;
use waterbear_core::{Error, MemoryError};
use waterbear_hal::{Gpa, Width};

use crate::{NORMAL, rig};

#[test]
fn an_exchange_happens_when_the_value_is_the_old_one_and_touches_nothing_else() {
    let rig = rig::<true>(SlotFlags::empty());
    let around = 0x8182_8384_8586_8788_u64.to_le_bytes();
    for width in Width::ALL {
        let size = width.bytes();
        for at in (0..8).step_by(size) {
            rig.vm.write_guest(NORMAL, Gpa(0x1ff8), &around).unwrap();
            let gpa = Gpa(0x1ff8 + at as u64);
            let exchange = |old, new| {
                rig.vm
                    .compare_exchange_guest(NORMAL, gpa, width, old, new)
                    .unwrap()
            };
            let mut was = [0; 8];
            was[..size].copy_from_slice(&around[at..at + size]);
            let was = u64::from_le_bytes(was);
            // Not the old value, though nearly; then it, with bits beyond it.
            assert_eq!(exchange(was ^ 1, 0), was);
            let beyond = !width.mask();
            assert_eq!(exchange(was | beyond, 0x1112_1314_1516_1718 | beyond), was);
            let mut expected = around;
            let new = (0x1112_1314_1516_1718 | beyond).to_le_bytes();
            expected[at..at + size].copy_from_slice(&new[..size]);
            let mut seen = [0; 8];
            rig.vm.read_guest(NORMAL, Gpa(0x1ff8), &mut seen).unwrap();
            assert_eq!(seen, expected, "{width:?} at {at}");
        }
    }
    rig.finish();
}

#[test]
fn an_exchange_that_is_not_aligned_is_refused() {
    let rig = rig::<true>(SlotFlags::empty());
    for width in Width::ALL {
        for at in 1..width.bytes() as u64 {
            let gpa = Gpa(0x1000 + at);
            let seen = rig.vm.compare_exchange_guest(NORMAL, gpa, width, 0, 1);
            assert_eq!(seen, Err(MemoryError::Host(Error::Invalid)));
        }
    }
    rig.finish();
}

#[test]
fn threads_that_count_by_exchanges_lose_no_count() {
    const EACH: u64 = 2000;
    let rig = rig::<true>(SlotFlags::LOG_DIRTY);
    scope(|scope| {
        for cpu in 0..2 {
            let rig = &rig;
            let count = move || {
                let mut old = 0;
                for _ in 0..EACH {
                    loop {
                        let (gpa, width) = (Gpa(0x1004), Width::Dword);
                        let vm = &rig.vm;
                        let seen = vm.compare_exchange_guest(NORMAL, gpa, width, old, old + 1);
                        let seen = seen.unwrap();
                        if seen == old {
                            break;
                        }
                        old = seen;
                    }
                }
            };
            scope.spawn(move || rig.host.run_on(cpu, count));
        }
    });
    let mut seen = [0; 4];
    rig.vm.read_guest(NORMAL, Gpa(0x1004), &mut seen).unwrap();
    assert_eq!(u64::from(u32::from_le_bytes(seen)), 2 * EACH);
    rig.finish();
}
