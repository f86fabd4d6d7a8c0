//! Structures of the interface as bytes: copied from the caller once, read
//! field by field at the places that the public header gives them.
use super::{Failure, kvm};
use crate::Error;

/// Reads a field of a structure that lies in `bytes`. What is not there reads
/// as 0.
macro_rules! field {
    ($bytes:expr, $structure:ident . $($field:ident).+ : $kind:ident) => {{
        const AT: usize = core::mem::offset_of!($crate::abi::kvm::$structure, $($field).+);
        $crate::abi::bytes::$kind(&$bytes[..], AT)
    }};
}
pub(super) use field;

/// Writes a field, of the size that the value has, of a structure that lies in `bytes`.
macro_rules! set_field {
    ($bytes:expr, $structure:ident . $($field:ident).+ = $value:expr) => {{
        const AT: usize = core::mem::offset_of!($crate::abi::kvm::$structure, $($field).+);
        $crate::abi::bytes::put(&mut $bytes[..], AT, $value.to_le_bytes());
    }};
}
pub(super) use set_field;

/// Puts a number at `offset`, if there is room.
// Inlined, here and below: where the size of the structure is known nothing is left to check.
#[inline(always)]
pub(super) fn put<const N: usize>(bytes: &mut [u8], offset: usize, value: [u8; N]) {
    if let Some(place) = bytes.get_mut(offset..).and_then(|b| b.first_chunk_mut()) {
        *place = value;
    }
}

/// Puts bytes at `offset`, as far as there is room.
#[inline(never)]
pub(super) fn put_all(bytes: &mut [u8], offset: usize, value: &[u8]) {
    let room = bytes.get_mut(offset..).unwrap_or_default();
    for (to, from) in room.iter_mut().zip(value) {
        *to = *from;
    }
}

#[inline(always)]
fn at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .copied()
        .unwrap_or([0; N])
}

/// The byte at `offset`.
#[inline(always)]
pub(super) fn u8(bytes: &[u8], offset: usize) -> u8 {
    bytes.get(offset).copied().unwrap_or(0)
}

/// The word of 16 bits at `offset`.
#[inline(always)]
pub(super) fn u16(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes(at(bytes, offset))
}

/// The word of 32 bits at `offset`.
#[inline(always)]
pub(super) fn u32(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(at(bytes, offset))
}

/// The word of 64 bits at `offset`.
#[inline(always)]
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

/// The structure of a command: as large as the largest of them, the FPU's, and zero where nothing
/// was copied to.
pub(super) type Structure = [u8; size_of::<kvm::kvm_fpu>()];

/// What a command's number says: the owner wrote the structure; it reads it.
const IN: u32 = 1 << 30;
const OUT: u32 = 1 << 31;

/// How large the structure of a command is, as its number says.
fn size(command: u32) -> usize {
    (command >> 16 & 0x3fff) as usize
}

/// The structure that the argument of a command points to, if the owner wrote one.
///
/// # Errors
///
/// As [`Caller::copy_in`].
pub(super) fn take(
    caller: &impl Caller,
    command: u32,
    argument: u64,
    structure: &mut Structure,
) -> Result<(), Error> {
    if command & IN == 0 {
        return Ok(());
    }
    let whole = structure.get_mut(..size(command)).unwrap_or_default();
    caller.copy_in(argument, whole)
}

/// Gives the structure to the owner, if it does nothing but read it.
///
/// # Errors
///
/// As [`Caller::copy_out`].
pub(super) fn give(
    caller: &impl Caller,
    command: u32,
    argument: u64,
    structure: &Structure,
) -> Result<(), Error> {
    if command & (IN | OUT) != OUT {
        return Ok(());
    }
    let whole = structure.get(..size(command)).unwrap_or_default();
    caller.copy_out(argument, whole)
}

/// The word of 32 bits at an address of the caller's.
///
/// # Errors
///
/// As [`Caller::copy_in`].
pub(super) fn word(caller: &impl Caller, address: u64) -> Result<u32, Error> {
    let mut bytes = [0; 4];
    caller.copy_in(address, &mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

/// Tells the caller how many entries a list has, in the word before which it has said how many it
/// has room for.
///
/// # Errors
///
/// [`Failure::TooBig`] without enough room; as [`Caller::copy_in`].
#[inline(never)]
pub(super) fn tell_count(caller: &impl Caller, argument: u64, count: usize) -> Result<(), Failure> {
    let room = word(caller, argument)? as usize;
    caller.copy_out(argument, &(count as u32).to_le_bytes())?;
    if room < count {
        return Err(Failure::TooBig);
    }
    Ok(())
}
