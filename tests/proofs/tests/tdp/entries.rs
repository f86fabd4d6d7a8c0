//! Entries as bits: what the core makes of them and what hardware does.
use waterbear_core::spte::{self, EntryFormat, FormatBits, Kind, LeafRights, Spte};
use waterbear_hal::{Level, Pfn};
use waterbear_mock::hw::{Access, Decoded, Format};
use waterbear_proofs::Paging;
use waterbear_svm::npt::{self, NptFeatures};
use waterbear_vmx::ept::{self, EptFeatures};

/// The formats, each with the simulated hardware's view of it.
fn formats() -> impl Iterator<Item = (EntryFormat, Format)> {
    Paging::ALL.into_iter().flat_map(|paging| {
        [Level::L4, Level::L5].map(|level| (paging.format(level), paging.walker(level).format))
    })
}

fn all_rights() -> impl Iterator<Item = LeafRights> {
    (0..32).map(|bits| LeafRights {
        write: bits & 1 != 0,
        mmu_writable: bits & 2 != 0,
        host_writable: bits & 4 != 0,
        dirty: bits & 8 != 0,
        uncached: bits & 16 != 0,
    })
}

/// What hardware makes of a leaf: its frame, what it allows, its dirty bit.
#[track_caller]
fn decoded(hardware: Format, spte: Spte, level: Level) -> Option<(Pfn, Access, bool)> {
    match hardware.decode(spte.bits(), level, 46) {
        Decoded::Leaf { pfn, allows, dirty } => Some((pfn, allows, dirty)),
        Decoded::NotPresent => None,
        other => panic!("{spte:?} at {level:?} is {other:?}"),
    }
}

/// Every leaf that the core can make, with what it was made from.
fn leaves() -> impl Iterator<Item = (EntryFormat, Format, Level, Pfn, LeafRights, Spte)> {
    formats().flat_map(|(format, hardware)| {
        Level::LEAVES.into_iter().flat_map(move |level| {
            let highest = Pfn((1 << (46 - 12)) - 1).align_down(level);
            [Pfn(0), Pfn(5 << 18), highest]
                .into_iter()
                .flat_map(move |pfn| {
                    all_rights().map(move |rights| {
                        let leaf = format.leaf(pfn, level, rights);
                        (format, hardware, level, pfn, rights, leaf)
                    })
                })
        })
    })
}

/// W implies MMU-writable, which implies host-writable.
#[track_caller]
fn assert_invariants(format: &EntryFormat, spte: Spte) {
    assert!(
        !format.is_writable(spte) || spte.is_mmu_writable(),
        "{spte:?}"
    );
    assert!(
        !spte.is_mmu_writable() || spte.is_host_writable(),
        "{spte:?}"
    );
}

/// Proves TDP-11.
#[test]
fn a_leaf_means_to_hardware_what_it_was_made_for() {
    for (format, hardware, level, pfn, rights, leaf) in leaves() {
        let mmu_writable = rights.mmu_writable && rights.host_writable;
        let write = rights.write && mmu_writable;
        let dirty = rights.dirty && write || hardware.dirty() == 0;
        let allows = Access::new(true, write, true);
        assert_eq!(decoded(hardware, leaf, level), Some((pfn, allows, dirty)));
        assert_eq!(format.kind(leaf, level), Kind::Leaf);
        assert_eq!(format.pfn(leaf), pfn);
        assert_eq!(format.is_writable(leaf), write);
        assert_eq!(leaf.is_mmu_writable(), mmu_writable);
        assert_eq!(leaf.is_host_writable(), rights.host_writable);
        assert!(format.is_young(leaf), "made for an access");
        assert_invariants(&format, leaf);
    }
}

/// Proves TDP-14, TDP-11.
#[test]
fn an_aged_leaf_gets_back_what_it_had_apart_from_w() {
    for (format, hardware, level, _, rights, leaf) in leaves() {
        let aged = format.aged(leaf);
        assert!(aged.is_present() && !format.is_young(aged));
        assert_eq!(format.aged(aged), aged);
        assert_invariants(&format, aged);
        assert_eq!(format.pfn(aged), format.pfn(leaf));
        assert_eq!(aged.is_mmu_writable(), leaf.is_mmu_writable());
        let back = format.rejuvenated(aged);
        assert!(format.is_young(back));
        if format.has_accessed_dirty() {
            assert_eq!(
                decoded(hardware, aged, level),
                decoded(hardware, leaf, level)
            );
            assert_eq!(aged.bits(), leaf.bits() & !hardware.accessed());
            assert_eq!(back, leaf);
        } else {
            assert_eq!(
                decoded(hardware, aged, level),
                None,
                "the next access faults"
            );
            assert_eq!(back, format.write_protected(leaf));
        }
        // Saved permissions and hardware's are never there together.
        assert_eq!(back.bits() & (spte::SAVED_READ | spte::SAVED_EXEC), 0);
        let _ = rights;
    }
}

/// Proves TDP-10, TDP-5.
#[test]
fn a_flush_is_due_when_hardware_may_still_allow_what_an_entry_no_longer_does() {
    for (format, hardware, level, _, _, leaf) in leaves() {
        let changed = [
            leaf,
            format.aged(leaf),
            format.write_protected(leaf),
            format.write_tracked(leaf),
            format.made_writable(leaf),
            format.cleaned(leaf),
            format.cleaned(format.write_protected(leaf)),
        ];
        for old in changed {
            for new in changed {
                let before = decoded(hardware, old, level);
                let after = decoded(hardware, new, level);
                let expected = match (before, after) {
                    (None, _) => false,
                    (Some(_), None) => true,
                    (Some((_, had, was_dirty)), Some((_, has, dirty))) => {
                        !has.allows(had) || was_dirty && !dirty
                    }
                };
                let due = format.needs_flush(old, new);
                assert_eq!(due, expected, "{old:?} to {new:?} at {level:?}");
            }
        }
        let protected = format.write_protected(leaf);
        assert_eq!(protected.is_mmu_writable(), leaf.is_mmu_writable());
        assert!(!format.is_writable(protected) && !format.is_dirty(format.cleaned(leaf)));
        assert!(!format.write_tracked(leaf).is_mmu_writable());
        assert_invariants(&format, format.write_tracked(leaf));
    }
}

/// Proves TDP-12, TDP-5.
#[test]
fn the_parts_of_a_leaf_map_what_the_leaf_does() {
    for (format, hardware, level, pfn, _, whole) in leaves() {
        for leaf in [whole, format.aged(whole)] {
            let Some(below) = level.below() else {
                assert_eq!(format.part(leaf, level, 0), None);
                continue;
            };
            for index in [0, 1, 255, 511] {
                let part = format.part(leaf, level, index).unwrap();
                let at = pfn.add(index as u64 * below.pages());
                assert_eq!(format.pfn(part), at);
                assert_eq!(format.kind(part, below), Kind::Leaf);
                let (had, has) = (
                    decoded(hardware, leaf, level),
                    decoded(hardware, part, below),
                );
                assert_eq!(has, had.map(|(_, allows, dirty)| (at, allows, dirty)));
                assert_eq!(format.is_young(part), format.is_young(leaf));
                assert_eq!(part.is_mmu_writable(), leaf.is_mmu_writable());
                assert_eq!(part.is_host_writable(), leaf.is_host_writable());
            }
        }
    }
}

/// Proves MS-9, TDP-15, TDP-3.
#[test]
fn nothing_but_a_leaf_or_a_link_maps_anything() {
    for (format, hardware) in formats() {
        for level in [Level::L1, Level::L2, Level::L3, Level::L4, Level::L5] {
            for nothing in [Spte::EMPTY, Spte::FROZEN] {
                let decoded = hardware.decode(nothing.bits(), level, 46);
                assert_eq!(decoded, Decoded::NotPresent);
            }
            assert_eq!(format.kind(Spte::EMPTY, level), Kind::Empty);
            assert_eq!(format.kind(Spte::FROZEN, level), Kind::Frozen);
            for generation in [0, 1, 0x5_5555, (1 << 20) - 1] {
                let mmio = format.mmio(generation).unwrap();
                let decoded = hardware.decode(mmio.bits(), level, 46);
                assert_eq!(decoded, Decoded::Broken, "{mmio:?}");
                assert_eq!(format.kind(mmio, level), Kind::Mmio);
                assert!(format.mmio_is_current(mmio, generation));
                for other in [0, 1, 2, 0x5_5554, (1 << 20) - 2] {
                    let same = other == generation;
                    assert_eq!(format.mmio_is_current(mmio, other), same);
                }
            }
            assert!(!format.mmio_is_current(Spte::EMPTY, 0));
            assert!(!format.mmio_is_current(Spte::FROZEN, 0));
        }
    }
}

fn ept(physical_bits: u32) -> Result<EntryFormat, &'static str> {
    ept::entry_format(EptFeatures {
        root_level: Level::L4,
        physical_bits,
        large_2m: true,
        large_1g: true,
        accessed_dirty: true,
    })
}

fn npt(physical_bits: u32) -> Result<EntryFormat, &'static str> {
    npt::entry_format(NptFeatures {
        root_level: Level::L4,
        physical_bits,
        large_1g: true,
    })
}

/// Makes the format of a CPU with physical addresses of so many bits.
type Make = fn(u32) -> Result<EntryFormat, &'static str>;

/// Proves TDP-15.
#[test]
fn a_cpu_without_reserved_bits_has_no_mmio_entries() {
    let kinds: [(Make, Paging); 2] = [(ept, Paging::Ept), (npt, Paging::Npt)];
    for (make, paging) in kinds {
        let hardware = paging.walker(Level::L4).format;
        for bits in 32..=52 {
            let format = make(bits).unwrap();
            let mmio = format.mmio(7);
            assert_eq!(mmio.is_some(), bits < 52, "{bits} bits");
            assert!(!format.mmio_is_current(Spte::EMPTY, 7));
            if let Some(mmio) = mmio {
                for level in Level::LEAVES {
                    let decoded = hardware.decode(mmio.bits(), level, bits);
                    assert_eq!(decoded, Decoded::Broken, "{bits} bits");
                }
            }
            let highest = Pfn((1 << (bits - 12)) - 1);
            let rights = LeafRights {
                write: true,
                mmu_writable: true,
                host_writable: true,
                dirty: true,
                uncached: false,
            };
            let leaf = format.leaf(highest, Level::L1, rights);
            assert_eq!(format.pfn(leaf), highest);
            let allows = Access::ALL;
            let expected = Decoded::Leaf {
                pfn: highest,
                allows,
                dirty: true,
            };
            assert_eq!(hardware.decode(leaf.bits(), Level::L1, bits), expected);
        }
        assert!(make(31).is_err() && make(53).is_err());
    }
}

/// Masks that are right; each test below makes one wrong.
const GOOD: FormatBits = FormatBits {
    root_level: Level::L4,
    max_leaf: Level::L3,
    read: 1,
    write: 2,
    exec: 4,
    no_exec: 0,
    always: 0,
    large: 1 << 7,
    memory_type: 6 << 3,
    accessed: 1 << 8,
    dirty: 1 << 9,
    address: 0x000f_ffff_ffff_f000,
    mmio: None,
};

/// Proves TDP-15.
#[test]
fn masks_that_contradict_each_other_are_refused() {
    assert!(EntryFormat::new(GOOD).is_ok());
    let setters: [fn(&mut FormatBits, u64); 9] = [
        |b, v| b.write |= v,
        |b, v| b.exec |= v,
        |b, v| b.no_exec |= v,
        |b, v| b.always |= v,
        |b, v| b.large |= v,
        |b, v| b.memory_type |= v,
        |b, v| b.accessed |= v,
        |b, v| b.dirty |= v,
        |b, v| b.address |= v,
    ];
    let software = [
        spte::PRESENT,
        spte::SAVED_READ,
        spte::SAVED_EXEC,
        spte::HOST_WRITABLE,
        spte::MMU_WRITABLE,
        spte::FROZEN,
    ];
    for set in setters {
        for bit in software {
            let mut bad = GOOD;
            set(&mut bad, bit);
            assert!(EntryFormat::new(bad).is_err(), "{bad:?}");
        }
    }
    let bad = [
        FormatBits { read: 0, ..GOOD },
        FormatBits { write: 0, ..GOOD },
        FormatBits { large: 0, ..GOOD },
        FormatBits { address: 0, ..GOOD },
        FormatBits { dirty: 0, ..GOOD },
        FormatBits {
            accessed: 0,
            ..GOOD
        },
        FormatBits { large: 2, ..GOOD },
        FormatBits {
            always: 1 << 12,
            ..GOOD
        },
        FormatBits {
            dirty: 1 << 8,
            ..GOOD
        },
        FormatBits { read: 2, ..GOOD },
        FormatBits {
            mmio: Some(0),
            ..GOOD
        },
        FormatBits {
            mmio: Some(1 << 51 | spte::PRESENT),
            ..GOOD
        },
        FormatBits {
            mmio: Some(spte::FROZEN),
            ..GOOD
        },
        FormatBits {
            mmio: Some(1 << 51 | 1 << 12),
            ..GOOD
        },
    ];
    for bad in bad {
        assert!(EntryFormat::new(bad).is_err(), "{bad:?}");
    }
}
