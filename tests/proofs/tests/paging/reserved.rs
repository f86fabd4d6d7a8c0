//! Reserved bits, by enumeration.
use waterbear_core::arch::{Cr4, Efer};
use waterbear_core::paging::{Access, Cpu, Failure, Kind, Mode, Registers, translate};

use crate::code;
use crate::tables::{P, PS, Shape, Tables, U, W};

/// The formats of entries, as the manuals draw them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Format {
    Pml5e,
    Pml4e,
    Pdpte,
    Page1g,
    Pde,
    Page2m,
    Pte,
    PdePae,
    Page2mPae,
    PtePae,
    Pde32,
    Page4m,
    Pte32,
}

fn format(shape: Shape, level: u32, leaf: bool) -> Format {
    match (shape, level, leaf) {
        (Shape::Bits32, 1, _) => Format::Pte32,
        (Shape::Bits32, _, true) => Format::Page4m,
        (Shape::Bits32, _, false) => Format::Pde32,
        (Shape::Pae, 1, _) => Format::PtePae,
        (Shape::Pae, _, true) => Format::Page2mPae,
        (Shape::Pae, _, false) => Format::PdePae,
        (_, 1, _) => Format::Pte,
        (_, 2, true) => Format::Page2m,
        (_, 2, false) => Format::Pde,
        (_, 3, true) => Format::Page1g,
        (_, 3, false) => Format::Pdpte,
        (_, 4, _) => Format::Pml4e,
        _ => Format::Pml5e,
    }
}

/// Whether a bit of a present entry is reserved. Bit 7 of formats that it tells
/// apart from others is not asked about.
fn is_reserved(format: Format, bit: u32, cpu: &Cpu, nxe: bool) -> bool {
    use Format::*;
    let m = u32::from(cpu.physical_bits);
    let long = matches!(format, Pml5e | Pml4e | Pdpte | Page1g | Pde | Page2m | Pte);
    let pae = matches!(format, PdePae | Page2mPae | PtePae);
    match bit {
        63 => (long || pae) && !nxe,
        52..=62 => pae,
        _ if bit >= m && (long || pae) => true,
        7 => matches!(format, Pml5e | Pml4e) || format == Pdpte && !cpu.pages_1g,
        8 => cpu.link_global_reserved && matches!(format, Pml5e | Pml4e | Pdpte),
        13..=20 if matches!(format, Page1g | Page2m | Page2mPae) => true,
        21..=29 if format == Page1g => true,
        // Bits 20:13 are bits 39:32 of the address.
        21 if format == Page4m => true,
        13..=20 if format == Page4m => bit - 13 + 32 >= m,
        _ => false,
    }
}

const READ: Access = Access {
    kind: Kind::Read,
    mode: Mode::User,
};

/// Tries each bit of each entry of the tables that map a page at `leaf`.
fn each_bit(shape: Shape, leaf: u32, regs: &Registers) {
    let levels = (shape.levels() + 1 - leaf) as usize;
    let clean = Tables::chain(shape, &vec![P | W | U; levels]);
    assert!(translate(regs, &mut clean.clone(), shape.linear(), READ).is_ok());
    for place in 0..levels {
        let level = shape.levels() - place as u32;
        let format = format(shape, level, level == leaf);
        let last = 8 * shape.width().bytes() as u32;
        for bit in 1..last {
            let tells_apart = match format {
                Format::Pdpte => regs.cpu.pages_1g,
                Format::Pde | Format::PdePae | Format::Pde32 => true,
                Format::Page1g | Format::Page2m | Format::Page2mPae | Format::Page4m => true,
                _ => false,
            };
            if bit == 7 && tells_apart {
                continue;
            }
            let mut tables = clean.clone();
            tables.entries[place].1 |= 1 << bit;
            let result = translate(regs, &mut tables, shape.linear(), READ);
            let nxe = regs.efer.contains(Efer::NXE);
            let what = || format!("bit {bit} of {format:?}, {:?}, {nxe}", regs.cpu);
            if is_reserved(format, bit, &regs.cpu, nxe) {
                let Err(failure) = result else {
                    panic!("{} is no fault", what());
                };
                assert_eq!(code(failure, shape.linear()), 0b1101, "{}", what());
            } else {
                // Other bits may lead to another table, where there is none.
                let fine = matches!(result, Ok(_) | Err(Failure::NoMemory(_)));
                assert!(fine, "{}: {result:?}", what());
            }
        }
    }
}

#[test]
fn exactly_the_bits_that_the_manuals_call_reserved_are_a_fault() {
    for shape in Shape::ALL {
        for leaf in shape.leaves() {
            for physical_bits in [36, 39, 40, 41, 46, 48, 51, 52] {
                for flags in 0..8 {
                    let mut regs = shape.registers();
                    regs.efer.set(Efer::NXE, flags & 1 != 0);
                    regs.cpu = Cpu {
                        physical_bits,
                        pages_1g: flags & 2 != 0 || leaf == 3,
                        link_global_reserved: flags & 4 != 0,
                    };
                    each_bit(shape, leaf, &regs);
                }
            }
        }
    }
}

#[test]
fn a_page_of_1_gib_that_the_cpu_has_not_is_a_reserved_bit() {
    for shape in [Shape::Four, Shape::Five] {
        let mut regs = shape.registers();
        regs.cpu.pages_1g = false;
        let levels = shape.levels() as usize - 2;
        let mut tables = Tables::chain(shape, &vec![P | U; levels]);
        let result = translate(&regs, &mut tables, shape.linear(), READ);
        assert_eq!(code(result.unwrap_err(), shape.linear()), 0b1101);
    }
}

#[test]
fn without_pse_bit_7_is_ignored_in_32_bit_paging() {
    let shape = Shape::Bits32;
    let mut regs = shape.registers();
    regs.cr4.remove(Cr4::PSE);
    let mut tables = Tables::chain(shape, &[P | U | PS, P | U]);
    let found = translate(&regs, &mut tables, shape.linear(), READ).unwrap();
    assert_eq!(found.page_shift, 12);
}

#[test]
fn what_is_not_present_comes_before_reserved_bits_below_it_and_after_those_above() {
    let shape = Shape::Four;
    let regs = shape.registers();
    let fault = |bits: &[u64]| {
        let mut tables = Tables::chain(shape, bits);
        let result = translate(&regs, &mut tables, shape.linear(), READ);
        code(result.unwrap_err(), shape.linear())
    };
    let (fine, reserved, absent) = (P | U, P | U | PS, U);
    assert_eq!(fault(&[absent, reserved, fine, fine]), 0b0100);
    assert_eq!(fault(&[reserved, absent, fine, fine]), 0b1101);
    // And rights are asked last.
    assert_eq!(fault(&[P, fine, fine, absent]), 0b0100);
}
