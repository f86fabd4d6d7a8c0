//! A copy of an array with one element taken out and one put in.
use waterbear_hal::Hal;

use crate::Error;
use crate::mem::{Heap, Vec};

/// A copy of `old` without the element at `without`, and with `add` before the
/// element that its place in `old` names. May sleep.
///
/// # Errors
///
/// [`Error::NoMemory`].
pub(super) fn edited<T: Copy, H: Hal>(
    hal: &H,
    old: &[T],
    without: Option<usize>,
    add: Option<(usize, T)>,
) -> Result<Vec<T, H>, Error> {
    let mut new = Vec::new_in(Heap(hal.clone()));
    new.try_reserve_exact(old.len() + 1)?;
    let end = old.len();
    let place = add.map_or(end, |(place, _)| place);
    // Everything that is added is within the capacity just reserved.
    let copy = |new: &mut Vec<T, H>, from: usize, to: usize| match without {
        Some(hole) if (from..to).contains(&hole) => {
            new.extend_from_slice(old.get(from..hole).unwrap_or(&[]));
            new.extend_from_slice(old.get(hole + 1..to).unwrap_or(&[]));
        }
        _ => new.extend_from_slice(old.get(from..to).unwrap_or(&[])),
    };
    copy(&mut new, 0, place);
    new.extend(add.map(|(_, value)| value));
    copy(&mut new, place, end);
    Ok(new)
}
