//! The owner's memory under pressure while a guest runs on it and checks itself.
pub mod backing;
pub mod change;
pub mod checked;
pub mod checker;
pub mod crowd;
pub mod device;
pub mod interrupt;
pub mod map;
pub mod slots;
pub mod uffd;
