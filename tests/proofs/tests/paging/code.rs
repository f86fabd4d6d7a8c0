//! The short walk for code against the one that knows everything.
use waterbear_core::arch::{Cr4, Efer};
use waterbear_core::paging::{Access, CodeWalk, EntryMemory, Kind, Registers, translate};
use waterbear_hal::Width;
use waterbear_proofs::random::Random;

use crate::tables::{A, D, NX, P, PS, Shape, Tables, U, W};

fn find(regs: &Registers, tables: &mut Tables, linear: u64, user: bool) -> Option<u64> {
    let walk = CodeWalk {
        cr3: regs.cr3,
        cr4: regs.cr4,
        efer: regs.efer,
        physical_bits: regs.cpu.physical_bits.into(),
        user,
    };
    let found = walk.find(linear, |at| tables.read(at, Width::Qword).ok());
    found.map(|gpa| gpa.0)
}

#[test]
fn code_in_pages_of_all_sizes_that_was_used_before_is_found() {
    for shape in [Shape::Four, Shape::Five] {
        for leaf in shape.leaves() {
            let levels = shape.levels() as usize + 1 - leaf as usize;
            let mut tables = Tables::chain(shape, &vec![P | W | A | U; levels]);
            let offset = (1 << shape.shift(leaf)) - 1;
            let expected = shape.page() | shape.linear() & offset;
            for user in [true, false] {
                let found = find(&shape.registers(), &mut tables, shape.linear(), user);
                assert_eq!(found, Some(expected), "{shape:?} {leaf} {user}");
            }
        }
    }
}

#[test]
fn what_the_short_walk_finds_the_other_one_finds_too_and_leaves_no_mark_there() {
    let rounds = if cfg!(miri) { 300 } else { 30_000 };
    let mut random = Random::new(1);
    let mut found = 0;
    for _ in 0..rounds {
        let shape = random.pick(&[Shape::Four, Shape::Five, Shape::Pae]);
        let leaf = random.pick(&[1, 2, 3]).min(*shape.leaves().end());
        let mut bits = Vec::new();
        for _ in leaf..=shape.levels() {
            let mut entry = P | A | W;
            for (bit, percent) in [(U, 50), (D, 50), (NX, 3), (1 << 8, 3)] {
                entry |= if random.percent(percent) { bit } else { 0 };
            }
            // Once in a while any bit is another one.
            if random.percent(10) {
                entry ^= 1 << random.below(64);
            }
            bits.push(entry);
        }
        let mut tables = Tables::chain(shape, &bits);
        if random.percent(5) {
            let last = tables.entries.len() - 1;
            tables.entries[last].1 ^= PS;
        }
        let mut regs = shape.registers();
        regs.cpu.physical_bits = random.pick(&[36, 40, 48, 52]);
        regs.cpu.link_global_reserved = random.percent(50);
        regs.efer.set(Efer::NXE, random.percent(80));
        regs.cr4.set(Cr4::SMEP, random.percent(50));
        let user = random.percent(50);
        let before = tables.clone();
        let short = find(&regs, &mut tables, shape.linear(), user);
        let access = Access::at(if user { 3 } else { 0 }, Kind::Fetch);
        let whole = translate(&regs, &mut tables, shape.linear(), access);
        if let Some(gpa) = short {
            found += 1;
            assert_eq!(whole.map(|it| it.gpa.0), Ok(gpa), "{shape:?} {before:x?}");
            assert_eq!(tables, before);
        }
    }
    assert!(found > rounds / 10, "{found} of {rounds}");
}
