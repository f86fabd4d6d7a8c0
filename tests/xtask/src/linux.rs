//! Stock Debian kernels, the module built for them, and machines that run both.
//!
//! Everything is unpacked under the build folder, so nothing of it is installed.

mod apt;
mod archive;
mod disc;
mod frames;
mod kernel;
mod machine;
mod module;
mod packed;

pub use disc::{Client, Disc};
pub use kernel::{Flavour, Kernel, VERSIONS, Version};
pub use machine::{ABLE, INTEL, MONITOR, Machine, PROGRAMS};
pub use module::Module;
