//! Where addresses lead, in every mode and with every size of page.
use waterbear_core::arch::{Cr0, Exception};
use waterbear_core::paging::{Access, Failure, Kind, Mode, Registers, Translation, translate};
use waterbear_hal::Gpa;
use waterbear_proofs::random::Random;

use crate::tables::{A, P, PS, Shape, Tables, U, W};

const READ: Access = Access {
    kind: Kind::Read,
    mode: Mode::User,
};

#[test]
fn the_offset_in_the_page_is_the_linear_address_and_the_rest_the_entry() {
    let mut random = Random::new(3);
    for shape in Shape::ALL {
        for leaf in shape.leaves() {
            let shift = shape.shift(leaf);
            let levels = (shape.levels() + 1 - leaf) as usize;
            for _ in 0..500 {
                let offset = random.below(1 << shift);
                let linear = shape.linear() & !((1 << shift) - 1) | offset;
                let mut tables = Tables::chain(shape, &vec![P | U; levels]);
                let width = 8 * shape.width().bytes() as u32;
                let page = random.number() << shift & ((1 << width.min(52)) - 1);
                let leaf_entry = tables.entries.last_mut().unwrap();
                let kept = leaf_entry.1 & 0xfff;
                leaf_entry.1 = page | kept;
                let found = translate(&shape.registers(), &mut tables, linear, READ);
                let expected = Translation {
                    gpa: Gpa(page + offset),
                    page_shift: shift as u8,
                    writable: false,
                };
                assert_eq!(found, Ok(expected), "{shape:?} {leaf}");
            }
        }
    }
}

#[test]
fn a_page_of_4_mib_can_be_beyond_4_gib() {
    let shape = Shape::Bits32;
    for high in 0..256_u64 {
        let mut tables = Tables::chain(shape, &[P | U | high << 13 | 1 << 12]);
        let found = translate(&shape.registers(), &mut tables, shape.linear(), READ).unwrap();
        let offset = shape.linear() & 0x3f_ffff;
        assert_eq!(found.gpa, Gpa(high << 32 | shape.page() | offset));
        assert_eq!(found.page_shift, 22);
    }
}

#[test]
fn without_paging_an_address_is_itself_and_reads_no_entry() {
    let mut nothing = Tables::chain(Shape::Bits32, &[]);
    for cr0 in [Cr0::empty(), Cr0::PE, Cr0::PE | Cr0::WP] {
        let regs = Registers {
            cr0,
            ..Shape::Four.registers()
        };
        for (linear, gpa) in [(0x1234, 0x1234), (0x1_ffff_ffff, 0xffff_ffff)] {
            let found = translate(&regs, &mut nothing, linear, READ);
            let expected = Translation {
                gpa: Gpa(gpa),
                page_shift: 32,
                writable: true,
            };
            assert_eq!(found, Ok(expected));
        }
    }
}

#[test]
fn linear_addresses_have_32_bits_outside_long_mode_and_all_in_it() {
    let beyond = 0xffff_8000_0000_0000;
    for shape in Shape::ALL {
        let regs = shape.registers();
        let levels = shape.levels() as usize;
        let long = matches!(shape, Shape::Four | Shape::Five);
        let linear = if long {
            // The upper half: the highest bit is copied upwards.
            !0 << (12 + 9 * levels) | shape.linear()
        } else {
            beyond | shape.linear()
        };
        let mut tables = Tables::chain(shape, &vec![P | U; levels]);
        let found = translate(&regs, &mut tables, linear, READ).unwrap();
        assert_eq!(found.gpa, Gpa(shape.page() | shape.linear() & 0xfff));
        let mut tables = Tables::chain(shape, &vec![0; levels]);
        let cr2 = if long { linear } else { shape.linear() };
        assert_eq!(
            translate(&regs, &mut tables, linear, READ),
            Err(Failure::Fault(Exception::page_fault(cr2, 4)))
        );
    }
}

#[test]
fn a_page_directory_register_without_a_table_is_not_present() {
    let shape = Shape::Pae;
    for index in 0..4 {
        let mut regs = shape.registers();
        let mut tables = Tables::chain(shape, &[P | U, P | U]);
        regs.pdptes[index as usize] ^= P;
        let linear = index << 30;
        let found = translate(&regs, &mut tables, linear, READ);
        if index == shape.linear() >> 30 {
            assert_eq!(crate::code(found.unwrap_err(), linear), 4);
        } else {
            // A table at 0, where there is none.
            assert_eq!(found, Err(Failure::NoMemory(Gpa(0))));
        }
    }
}

#[test]
fn tables_where_there_is_no_memory_are_told_by_address() {
    let shape = Shape::Four;
    let regs = shape.registers();
    for level in 1..=4 {
        let mut tables = Tables::chain(shape, &[P | U; 4]);
        tables.entries.retain(|entry| entry.0 != shape.entry(level));
        let before = tables.clone();
        assert_eq!(
            translate(&regs, &mut tables, shape.linear(), READ),
            Err(Failure::NoMemory(shape.entry(level)))
        );
        assert_eq!(tables, before);
    }
}

#[test]
fn nothing_that_a_guest_puts_in_registers_and_entries_does_harm() {
    /// Memory that is noise.
    struct Noise(Random);
    impl waterbear_core::paging::EntryMemory for Noise {
        fn read(&mut self, gpa: Gpa, width: Width) -> Result<u64, MemoryError> {
            assert!(gpa.0 < 1 << 52, "{gpa:?}");
            assert!(gpa.0.is_multiple_of(width.bytes() as u64));
            // Often something that goes on.
            let likely = self.0.pick(&[0, P | W | U, P | W | U | PS, P | U | A]);
            let mask = self.0.pick(&[!0, 0xf_ffff_f000, 0x8000_000f_ffff_f000]);
            Ok((self.0.number() & mask | likely) & width.mask())
        }
        fn compare_exchange(
            &mut self,
            gpa: Gpa,
            width: Width,
            old: u64,
            _new: u64,
        ) -> Result<u64, MemoryError> {
            assert!(gpa.0.is_multiple_of(width.bytes() as u64));
            let changed = u64::from(self.0.percent(50));
            Ok(old ^ changed)
        }
    }
    use waterbear_core::MemoryError;
    use waterbear_core::arch::{Cr4, Efer};
    use waterbear_core::paging::Cpu;
    use waterbear_hal::Width;

    let mut random = Random::new(11);
    let mut noise = Noise(Random::new(12));
    let accesses: Vec<Access> = crate::accesses().collect();
    let mut reached = 0;
    for _ in 0..100_000 {
        let mut regs = Registers {
            cr0: Cr0::from_bits_retain(random.number()) | Cr0::PG,
            cr3: random.number(),
            cr4: Cr4::from_bits_retain(random.number()),
            efer: Efer::from_bits_retain(random.number()),
            ac: random.percent(50),
            pkru: random.number() as u32,
            pdptes: [0; 4].map(|_: u64| random.number()),
            cpu: Cpu {
                physical_bits: random.number() as u8,
                pages_1g: random.percent(50),
                link_global_reserved: random.percent(50),
            },
        };
        if random.percent(50) {
            regs.cpu.physical_bits = 52;
        }
        let access = random.pick(&accesses);
        let linear = random.number();
        match translate(&regs, &mut noise, linear, access) {
            Ok(found) => {
                let offset = (1_u64 << found.page_shift) - 1;
                assert_eq!(found.gpa.0 & offset, linear & offset);
                assert!(found.gpa.0 < 1 << 52);
                reached += 1;
            }
            Err(Failure::Fault(fault)) => assert_eq!(fault.vector, 14),
            Err(Failure::Host(waterbear_core::Error::Again)) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(reached > 10, "{reached} walks came to an end");
}
