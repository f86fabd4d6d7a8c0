//! The races of the core, every interleaving of each.
//!
//! Each model has a twin: the same model on the same code with one barrier,
//! check or lock taken out, which must fail. Of the checker itself [`checker`]
//! shows that it tries the orders that all of this relies on.
#![cfg(loom)]

mod checker;
mod kick;
mod memslot;
mod tdp_dirty;
mod tdp_hardware;
mod tdp_install;
mod tdp_invalidate;
mod tdp_remove;
mod tdp_slot;
mod tdp_world;
mod tdp_zap;
mod track;
mod twins;
mod vendor;
