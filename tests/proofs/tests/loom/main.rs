//! The races of the core, every interleaving of each.
//!
//! Each model has a twin: the same model on the same code with one barrier,
//! check or lock taken out, which must fail.
#![cfg(loom)]

mod kick;
mod memslot;
mod twins;
mod vendor;
