//! The other CPUs: how they are started, and how they get work.
mod start;
mod work;

pub use start::{init_cpu, listed, start};
pub use work::{Job, on_cpu, run_on, run_on_all};
