//! Who may do what, by enumeration.
use waterbear_core::arch::{Cr0, Cr4, Efer};
use waterbear_core::paging::{Access, Kind, Mode, Registers, Translation, translate};
use waterbear_hal::Gpa;

use crate::oracle::{Settings, verdict};
use crate::tables::{A, D, NX, P, Shape, Tables, U, W};
use crate::{accesses, code};

/// What a level of tables can say.
fn choices(shape: Shape) -> Vec<u64> {
    let rights: &[u64] = match shape {
        Shape::Bits32 => &[0, W, U, U | W],
        _ => &[0, W, U, U | W, NX, NX | W, NX | U, NX | U | W],
    };
    let mut all: Vec<u64> = rights.iter().map(|rights| rights | P).collect();
    // In an entry that is not present nothing else counts.
    all.extend(match shape {
        Shape::Bits32 => [0, 0xffff_fffe],
        _ => [0, !P],
    });
    all
}

/// Every combination of what the levels say, the highest first. Below an entry
/// that is not present it does not matter.
fn combinations(shape: Shape, levels: usize) -> Vec<Vec<u64>> {
    let mut all = vec![vec![]];
    for _ in 0..levels {
        let longer = |bits: Vec<u64>| {
            let over = bits.last().is_some_and(|entry| entry & P == 0);
            let choices = if over { vec![P] } else { choices(shape) };
            choices.into_iter().map(move |choice| {
                let mut bits = bits.clone();
                bits.push(choice);
                bits
            })
        };
        all = all.into_iter().flat_map(longer).collect();
    }
    all
}

fn with(shape: Shape, s: Settings) -> Registers {
    let mut regs = shape.registers();
    regs.cr0.set(Cr0::WP, s.wp);
    regs.cr4.set(Cr4::SMEP, s.smep);
    regs.cr4.set(Cr4::SMAP, s.smap);
    regs.efer.set(Efer::NXE, s.nxe);
    regs.ac = s.ac;
    regs
}

/// Compares one walk with the oracle, and what it did to the entries.
fn check(shape: Shape, regs: &Registers, s: Settings, access: Access, before: &Tables) {
    let mut tables = before.clone();
    let values: Vec<u64> = before.entries.iter().map(|entry| entry.1).collect();
    let result = translate(regs, &mut tables, shape.linear(), access);
    match verdict(shape, &values, s, access) {
        Ok(()) => {
            let level = shape.levels() + 1 - values.len() as u32;
            let offset = (1 << shape.shift(level)) - 1;
            let write = Access {
                kind: Kind::Write,
                ..access
            };
            let writable = access.kind == Kind::Write
                || values.last().unwrap() & D != 0 && verdict(shape, &values, s, write).is_ok();
            let expected = Translation {
                gpa: Gpa(shape.page() | shape.linear() & offset),
                page_shift: shape.shift(level) as u8,
                writable,
            };
            assert_eq!(result, Ok(expected), "{before:x?} {s:?} {access:?}");
            let mut marked = before.clone();
            marked.entries.iter_mut().for_each(|entry| entry.1 |= A);
            if access.kind == Kind::Write {
                marked.entries.last_mut().unwrap().1 |= D;
            }
            assert_eq!(tables, marked, "{s:?} {access:?}");
        }
        Err(expected) => {
            let failure = result.expect_err("the manual forbids it");
            let code = code(failure, shape.linear());
            assert_eq!(code, expected, "{before:x?} {s:?} {access:?}");
            assert_eq!(&tables, before, "a fault leaves no trace");
        }
    }
}

fn enumerate(shape: Shape) {
    let mut cases = 0_usize;
    for leaf in shape.leaves() {
        let levels = (shape.levels() + 1 - leaf) as usize;
        for bits in combinations(shape, levels) {
            let clean = Tables::chain(shape, &bits);
            let mut dirty = clean.clone();
            let leaf = dirty.entries.last_mut().unwrap();
            if leaf.1 & P != 0 {
                leaf.1 |= D;
            }
            for s in Settings::all() {
                let regs = with(shape, s);
                for access in accesses() {
                    cases += 1;
                    check(shape, &regs, s, access, &clean);
                    if access.kind == Kind::Read {
                        check(shape, &regs, s, access, &dirty);
                    }
                }
            }
        }
    }
    assert!(cases > 50, "only {cases} cases");
}

#[test]
fn rights_are_those_of_the_manual_in_32_bit_paging() {
    enumerate(Shape::Bits32);
}

#[test]
fn rights_are_those_of_the_manual_in_pae_paging() {
    enumerate(Shape::Pae);
}

#[test]
fn rights_are_those_of_the_manual_with_four_levels() {
    enumerate(Shape::Four);
}

#[test]
fn rights_are_those_of_the_manual_with_five_levels() {
    enumerate(Shape::Five);
}

#[test]
fn protection_keys_forbid_data_accesses_to_user_pages() {
    for key in 0..16 {
        for rights in 0..4_u32 {
            // The other keys say the opposite.
            let pkru = !(3 << (2 * key)) & !(rights * 0x5555_5555) | rights << (2 * key);
            for bits in 0..16 {
                let (wp, write, user, pke) =
                    (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0, bits & 8 != 0);
                let mut leaf = P | key << 59;
                leaf |= if write { W } else { 0 };
                leaf |= if user { U } else { 0 };
                // Those above have other keys, which do not count.
                let link = P | W | U | (key ^ 5) << 59;
                let tables = Tables::chain(Shape::Four, &[link, link, link, leaf]);
                let mut regs = Shape::Four.registers();
                regs.cr0.set(Cr0::WP, wp);
                regs.cr4.set(Cr4::PKE, pke);
                regs.pkru = pkru;
                for access in accesses() {
                    let user_access = access.mode == Mode::User;
                    let writes = access.kind == Kind::Write;
                    let key_says_no = pke
                        && user
                        && access.kind != Kind::Fetch
                        && (rights & 1 != 0 || rights & 2 != 0 && writes && (user_access || wp));
                    let page_says_no =
                        user_access && !user || writes && !write && (user_access || wp);
                    let result =
                        translate(&regs, &mut tables.clone(), Shape::Four.linear(), access);
                    if !key_says_no && !page_says_no {
                        assert!(result.is_ok(), "{regs:?} {access:?} {leaf:x}");
                        continue;
                    }
                    let code = code(result.unwrap_err(), Shape::Four.linear());
                    let expected = 1
                        | if writes { 2 } else { 0 }
                        | if user_access { 4 } else { 0 }
                        | if key_says_no { 32 } else { 0 };
                    assert_eq!(code, expected, "{regs:?} {access:?} {leaf:x}");
                }
            }
        }
    }
}

#[test]
fn the_privilege_level_says_on_whose_behalf() {
    for cpl in 0..4 {
        let mode = if cpl == 3 {
            Mode::User
        } else {
            Mode::Supervisor
        };
        let kind = Kind::Read;
        assert_eq!(Access::at(cpl, kind), Access { kind, mode });
    }
    assert_eq!(Access::implicit(Kind::Write).mode, Mode::Implicit);
}
