//! Instructions of the guest that the CPU does not execute by itself: those that touch a device,
//! read-only or tracked memory.
//!
//! [`decode()`] turns bytes into an [`Instruction`]; it also tells the length of those that are
//! only skipped. [`execute()`] does what it says, on a [`Machine`].
//!
//! # How an instruction is executed
//!
//! A plan names the operation, its source and its target, with linear addresses that have passed
//! their segments (`operation`, `operand`, `cpu`). Then the source and the target are loaded, the
//! result is computed from values alone (`compute`), and the target is stored. All of it works on
//! a copy of the registers, which replaces them at the end. So an instruction that stops has
//! changed nothing, and one that has to wait for a device is executed again from its beginning
//! ([`Devices`]). Only loading and storing are generic over the machine; the rest exists once.
//!
//! # Why not a library
//!
//! Decoders from elsewhere know far more instructions than a guest can use on a device, and their
//! tables do not fit beside everything else. Bytes are code and constants, optimised for size: ours
//! in the module, the others' in a program that does nothing else.
//!
//! | | bytes |
//! |---|---|
//! | this decoder | 2,900 |
//! | this decoder and the execution | 15,000 |
//! | iced-x86 1.22, decoder only | 112,900 |
//! | yaxpeax-x86 2, decoder only, all modes | 386,000 |
//!
//! The two are quicker at decoding, by less than a tenth of what an access to a device costs, and
//! neither executes anything.
//!
//! # What is not emulated
//!
//! x87, MMX and AVX, far calls and jumps, loads of segment registers, ENTER, LEAVE, PUSHA and POPA,
//! and what leaves the guest by an exit of its own. [`Stop::Unsupported`] says so.
mod alu;
mod batch;
mod compute;
mod cpu;
pub mod decode;
pub mod device;
pub mod execute;
pub mod instruction;
pub mod machine;
mod modrm;
mod multiply;
mod op;
mod operand;
mod operation;
mod pieces;
mod port;
mod shift;
mod strings;
mod table;
mod vector;

pub use batch::{Batch, batch, finish_batch, is_port_string};
pub use cpu::code_size;
pub use decode::{DecodeError, MAX_LENGTH, decode};
pub use device::{Devices, Fragment, Target};
pub use execute::execute;
pub use instruction::{CodeSize, Instruction, Map, Memory, Prefixes};
pub use machine::{Access, Done, Feature, Machine, Stop};
pub use pieces::{Piece, pieces};
