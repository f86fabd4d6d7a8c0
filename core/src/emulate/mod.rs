//! Instructions of the guest that the CPU does not execute by itself: those that touch a device,
//! read-only or tracked memory.
//!
//! [`decode()`] turns bytes into an [`Instruction`]; it also tells the length of those that are
//! only skipped. [`execute()`] does what it says, on a [`Machine`].
mod alu;
mod bits;
mod compute;
mod cpu;
pub mod decode;
pub mod device;
pub mod execute;
pub mod instruction;
pub mod machine;
mod modrm;
mod multiply;
mod operation;
mod operation_more;
mod operation_two;
mod pieces;
mod port;
mod shift;
mod strings;
mod table;

pub use cpu::code_size;
pub use decode::{DecodeError, MAX_LENGTH, decode};
pub use device::{Devices, Fragment, Target};
pub use execute::execute;
pub use instruction::{CodeSize, Instruction, Map, Memory, Prefixes};
pub use machine::{Access, Done, Feature, Machine, Stop};
pub use pieces::{Piece, pieces};
