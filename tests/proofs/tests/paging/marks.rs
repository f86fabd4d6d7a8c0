//! Accessed and dirty bits, and entries that change during a walk.
use waterbear_core::paging::{Access, EntryMemory, Failure, Kind, Mode, Translation, translate};
use waterbear_core::{Error, MemoryError};
use waterbear_hal::{Gpa, Width};

use crate::tables::{A, D, P, Shape, Tables, U, W};

/// An access of the supervisor's.
fn access(kind: Kind) -> Access {
    Access {
        kind,
        mode: Mode::Supervisor,
    }
}

/// Tables with somebody else who acts before each exchange.
struct Shared<F> {
    tables: Tables,
    exchanges: usize,
    before: F,
}

impl<F: FnMut(&mut Tables, Gpa) -> Result<(), MemoryError>> EntryMemory for Shared<F> {
    fn read(&mut self, gpa: Gpa, width: Width) -> Result<u64, MemoryError> {
        self.tables.read(gpa, width)
    }

    fn compare_exchange(
        &mut self,
        gpa: Gpa,
        width: Width,
        old: u64,
        new: u64,
    ) -> Result<u64, MemoryError> {
        self.exchanges += 1;
        (self.before)(&mut self.tables, gpa)?;
        self.tables.compare_exchange(gpa, width, old, new)
    }
}

fn shared<F>(shape: Shape, bits: &[u64], before: F) -> Shared<F>
where
    F: FnMut(&mut Tables, Gpa) -> Result<(), MemoryError>,
{
    Shared {
        tables: Tables::chain(shape, bits),
        exchanges: 0,
        before,
    }
}

#[test]
fn bits_that_are_set_are_not_set_again() {
    for shape in Shape::ALL {
        let levels = shape.levels() as usize;
        let all = vec![P | W | A | D; levels];
        let mut mem = shared(shape, &all, |_, _| Ok(()));
        for kind in [Kind::Read, Kind::Write, Kind::Fetch] {
            let found = translate(&shape.registers(), &mut mem, shape.linear(), access(kind));
            assert!(found.unwrap().writable);
        }
        assert_eq!(mem.exchanges, 0);
        // A page that is read first is written with one exchange more.
        let mut mem = shared(shape, &vec![P | W; levels], |_, _| Ok(()));
        let mut go = |kind| {
            let found = translate(&shape.registers(), &mut mem, shape.linear(), access(kind));
            (found.unwrap().writable, mem.exchanges)
        };
        assert_eq!(go(Kind::Read), (false, levels));
        assert_eq!(go(Kind::Write), (true, levels + 1));
        assert_eq!(go(Kind::Read), (true, levels + 1));
    }
}

#[test]
fn a_walk_that_lost_an_entry_begins_anew_and_goes_where_it_leads_now() {
    for shape in Shape::ALL {
        let levels = shape.levels() as usize;
        for place in 0..levels {
            // Before the exchange of that entry the leaf goes elsewhere.
            let mut moved = false;
            let mut mem = shared(shape, &vec![P | W; levels], |tables: &mut Tables, gpa| {
                if gpa == tables.entries[place].0 && !moved {
                    moved = true;
                    tables.entries.last_mut().unwrap().1 += 0x5000;
                    // An entry that was read before must be found changed.
                    tables.entries[place].1 |= 1 << 9;
                }
                Ok(())
            });
            let regs = shape.registers();
            let found = translate(&regs, &mut mem, shape.linear(), access(Kind::Write));
            let found = found.unwrap();
            let page = shape.page() + 0x5000;
            assert_eq!(found.gpa, Gpa(page | shape.linear() & 0xfff));
            let leaf = mem.tables.entries.last().unwrap().1;
            assert_eq!(leaf & (A | D), A | D);
        }
    }
}

#[test]
fn a_page_that_went_away_during_the_walk_is_a_fault_and_gets_no_dirty_bit() {
    let shape = Shape::Four;
    let mut mem = shared(shape, &[P | W; 4], |tables: &mut Tables, gpa| {
        let leaf = tables.entries.last_mut().unwrap();
        if gpa == leaf.0 {
            leaf.1 = 0x1234_5000;
        }
        Ok(())
    });
    let regs = shape.registers();
    let failure = translate(&regs, &mut mem, shape.linear(), access(Kind::Write));
    assert_eq!(crate::code(failure.unwrap_err(), shape.linear()), 0b010);
    assert_eq!(mem.tables.entries.last().unwrap().1, 0x1234_5000);
}

#[test]
fn entries_that_never_rest_do_not_keep_the_host() {
    let shape = Shape::Four;
    let mut mem = shared(shape, &[P | W; 4], |tables: &mut Tables, _| {
        tables.entries[0].1 ^= 1 << 9;
        Ok(())
    });
    let regs = shape.registers();
    let found = translate(&regs, &mut mem, shape.linear(), access(Kind::Read));
    assert_eq!(found, Err(Failure::Host(Error::Again)));
    assert!(mem.exchanges < 1000);
}

#[test]
fn tables_in_a_rom_are_walked_without_marks() {
    for shape in Shape::ALL {
        let levels = shape.levels() as usize;
        let read_only = |_: &mut Tables, gpa| Err(MemoryError::ReadOnly(gpa));
        let mut mem = shared(shape, &vec![P | W; levels], read_only);
        let before = mem.tables.clone();
        for kind in [Kind::Read, Kind::Write] {
            let found = translate(&shape.registers(), &mut mem, shape.linear(), access(kind));
            let expected = Translation {
                gpa: Gpa(shape.page() | shape.linear() & 0xfff),
                page_shift: 12,
                writable: kind == Kind::Write,
            };
            assert_eq!(found, Ok(expected));
        }
        assert_eq!(mem.tables, before);
    }
}

#[test]
fn what_the_host_says_about_an_entry_is_passed_on() {
    let shape = Shape::Four;
    let poisoned = |_: &mut Tables, _| Err(MemoryError::Host(Error::Poisoned));
    let mut mem = shared(shape, &[P; 4], poisoned);
    let regs = shape.registers();
    let found = translate(&regs, &mut mem, shape.linear(), access(Kind::Read));
    assert_eq!(found, Err(Failure::Host(Error::Poisoned)));
}

#[test]
fn a_table_that_maps_itself_is_marked_at_every_level_that_it_stands_for() {
    // One entry at all four levels: it links to its own table.
    let (index, table) = (0x1ed_u64, 0x10_4000_u64);
    let linear = (0..4).fold(0, |sum, level| sum | index << (12 + 9 * level));
    let at = Gpa(table + index * 8);
    for (kind, marks) in [(Kind::Read, A), (Kind::Write, A | D)] {
        let mut tables = Tables::chain(Shape::Four, &[]);
        tables.entries.push((at, table | P | W | U));
        let regs = Shape::Four.registers();
        let found = translate(&regs, &mut tables, linear | 0x18, access(kind)).unwrap();
        assert_eq!(found.gpa, Gpa(table + 0x18));
        assert_eq!(tables.entries[0].1, table | P | W | U | marks);
    }
}
