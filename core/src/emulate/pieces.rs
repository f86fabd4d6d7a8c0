//! Where an operand crosses from page to page.

/// A part of an operand that lies in one page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// Its linear address.
    pub linear: u64,
    /// Its first byte in the operand.
    pub start: usize,
    /// Behind its last byte in the operand.
    pub end: usize,
}

/// The parts of an operand of `length` bytes, at most a page: one, or two where it crosses into the
/// next page. That is page 0 behind the last one, of 4 GiB outside of 64-bit mode.
pub fn pieces(linear: u64, length: usize, long: bool) -> (Piece, Option<Piece>) {
    let room = 4096 - (linear & 4095) as usize;
    let first = Piece {
        linear,
        start: 0,
        end: length.min(room),
    };
    let next = linear.wrapping_add(room as u64);
    let second = Piece {
        linear: if long { next } else { next & 0xffff_ffff },
        start: room,
        end: length,
    };
    (first, (length > room).then_some(second))
}
