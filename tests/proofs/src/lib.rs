//! What the proofs share: a VM on the mock host, with guests that run.
//!
//! A [`Rig`] is a simulated machine and a VM on it. A [`Guest`] is one vCPU of
//! that VM: its accesses go through the simulated page walker and TLB, inside
//! guest mode, by the core's own entry protocol, and its faults go through the
//! core's fault path. So a mapping that is wrong, or a flush that is missing,
//! shows as a guest that reaches the wrong page.
pub mod fake_vendor;
pub mod guest;
pub mod machines;
pub mod paging;
pub mod random;
pub mod rig;
pub mod scripted_vendor;
mod stateless;
pub mod vcpu_thread;

pub use guest::{Guest, Reached};
pub use paging::Paging;
pub use rig::{HVA, Rig};
pub use scripted_vendor::{Scripted, ScriptedVcpu, ScriptedVendor};
