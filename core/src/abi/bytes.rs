//! Structures of the interface as bytes: copied from the caller once, read
//! field by field at the places that the public header gives them.
use super::Failure;
use crate::Error;

/// Reads a field of a structure that lies in `bytes`. What is not there reads
/// as 0.
macro_rules! field {
    ($bytes:expr, $structure:ident . $($field:ident).+ : $kind:ident) => {{
        let at = core::mem::offset_of!($crate::abi::kvm::$structure, $($field).+);
        $crate::abi::bytes::$kind(&$bytes[..], at)
    }};
}
pub(super) use field;

/// Writes a field, of the size that the value has, of a structure that lies in `bytes`.
macro_rules! set_field {
    ($bytes:expr, $structure:ident . $($field:ident).+ = $value:expr) => {{
        let at = core::mem::offset_of!($crate::abi::kvm::$structure, $($field).+);
        $crate::abi::bytes::put(&mut $bytes, at, &$value.to_le_bytes());
    }};
}
pub(super) use set_field;

/// Puts bytes at `offset`, as far as there is room.
pub(super) fn put(bytes: &mut [u8], offset: usize, value: &[u8]) {
    for (to, from) in bytes.iter_mut().skip(offset).zip(value) {
        *to = *from;
    }
}

fn at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .copied()
        .unwrap_or([0; N])
}

/// The byte at `offset`.
pub(super) fn u8(bytes: &[u8], offset: usize) -> u8 {
    bytes.get(offset).copied().unwrap_or(0)
}

/// The word of 16 bits at `offset`.
pub(super) fn u16(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes(at(bytes, offset))
}

/// The word of 32 bits at `offset`.
pub(super) fn u32(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(at(bytes, offset))
}

/// The word of 64 bits at `offset`.
pub(super) fn u64(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(at(bytes, offset))
}

/// The thread that calls, and its process: their memory and signals.
///
/// A pointer in an argument is an allegation: whatever it points to is copied
/// once, and only the copy is looked at.
pub trait Caller {
    /// Copies bytes from the caller's memory. May sleep; no lock held but
    /// those under which user memory may be touched.
    ///
    /// # Errors
    ///
    /// [`Error::Fault`] where the caller has no memory; `into` may have
    /// changed.
    fn copy_in(&self, address: u64, into: &mut [u8]) -> Result<(), Error>;

    /// Copies bytes to the caller's memory. As [`copy_in`](Caller::copy_in).
    ///
    /// # Errors
    ///
    /// [`Error::Fault`] where the caller has no memory, or none that it may
    /// write; some bytes may have been written.
    fn copy_out(&self, address: u64, bytes: &[u8]) -> Result<(), Error>;

    /// What it takes to put the calling thread's signal mask back.
    type Mask;

    /// Makes the calling thread block the signals of `mask`, of which bit 0 is
    /// the first, and no others, until
    /// [`unmask_signals`](Caller::unmask_signals). One that cannot be blocked
    /// is not, and one without a bit stays as it is. Does not nest.
    ///
    /// Linux: `sigprocmask`. FreeBSD: `kern_sigprocmask`.
    fn mask_signals(&self, mask: u64) -> Self::Mask;

    /// Puts the mask back: a signal that has come meanwhile, and is blocked
    /// again, waits.
    fn unmask_signals(&self, before: Self::Mask);
}

/// The structure that an argument points to.
pub(super) fn structure<const N: usize>(
    caller: &impl Caller,
    address: u64,
) -> Result<[u8; N], Failure> {
    let mut bytes = [0; N];
    caller.copy_in(address, &mut bytes)?;
    Ok(bytes)
}
