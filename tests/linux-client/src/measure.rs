//! What the operations of the interface cost, on the module and on the kernel's own KVM.
use std::process::Command;

use crate::node::{NODE, same};
use crate::{Outcome, kernel, sys};

pub fn the_module_is_measured() -> Outcome {
    same("loading", sys::load(kernel::MODULE, ""), Ok(()))?;
    measure(NODE)
}

pub fn stock_kvm_is_measured() -> Outcome {
    kernel::load_stock()?;
    measure("/dev/kvm")
}

/// The program writes what it finds to our own output.
fn measure(node: &str) -> Outcome {
    let status = Command::new("/exits").arg(node).status();
    let status = status.map_err(|error| format!("the program does not start: {error}"))?;
    same("the program ended well", status.success(), true)
}
