//! Which change of an entry is legal.
use waterbear_core::spte::Kind::{self, Empty, Frozen, Leaf, Mmio, Table};
use waterbear_core::tdp::transition::{Effect, effect};

const KINDS: [Kind; 5] = [Empty, Mmio, Frozen, Leaf, Table];

/// Whether hardware may hold something in a TLB that came from such an entry.
fn is_cached(kind: Kind) -> bool {
    matches!(kind, Leaf | Table)
}

/// Proves TDP-5, TDP-3, BUG-9.
#[test]
fn every_change_of_an_entry_has_the_effect_that_the_table_says() {
    // Rows: from; columns: to; both in the order of `KINDS`. q quiet, f flush,
    // u unlink, c compare, x illegal.
    let table = ["qqqqq", "qqqqq", "qqxqq", "fxfcq", "uxuux"];
    for (from, row) in KINDS.into_iter().zip(table) {
        for (to, letter) in KINDS.into_iter().zip(row.chars()) {
            let expected = match letter {
                'q' => Effect::Quiet,
                'f' => Effect::Flush,
                'u' => Effect::Unlink,
                'c' => Effect::Compare,
                _ => Effect::Illegal,
            };
            assert_eq!(effect(from, to), expected, "{from:?} to {to:?}");
        }
    }
}

/// Proves TDP-5.
#[test]
fn what_hardware_may_have_cached_goes_with_a_flush_only() {
    for from in KINDS {
        for to in KINDS {
            let change = effect(from, to);
            let flushes = matches!(change, Effect::Flush | Effect::Unlink);
            if flushes {
                assert!(is_cached(from), "{from:?} to {to:?}");
            }
            // A split keeps the mapping; a leaf that stays one is compared.
            let keeps = from == Leaf && matches!(to, Leaf | Table);
            if is_cached(from) && !keeps {
                assert!(
                    flushes || change == Effect::Illegal,
                    "{from:?} to {to:?} is {change:?}"
                );
            }
            // A table is released exactly when its link goes.
            let unlinks = change == Effect::Unlink;
            let illegal = change == Effect::Illegal;
            assert_eq!(unlinks, from == Table && !illegal, "{from:?} to {to:?}");
        }
    }
}
