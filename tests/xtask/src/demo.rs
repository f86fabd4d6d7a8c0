//! `cargo xtask demo`: the main job, shown.

mod bare;
mod linux;

use crate::linux::{VERSIONS, Version};
use crate::workspace::Workspace;
use crate::{Command, Outcome, Verdict, usage};

pub const COMMAND: Command = Command {
    name: "demo",
    summary: "boot a host on an emulated machine and run guests on it",
    options: "\
--port NAME    linux: a stock Debian kernel loads the module, and Debian's own QEMU boots a stock
               Debian kernel as its guest (the default)
               bare: a host that boots by itself runs small guests on several CPUs
--kernel VERSION
               with linux: 6.1 (the default) or 6.12
--vendor NAME  with bare: svm (on QEMU, the default) or vmx (on Bochs)",
    run,
};

fn run(mut arguments: lexopt::Parser) -> Outcome<Verdict> {
    use lexopt::prelude::*;
    let mut port = "linux".to_owned();
    let mut vendor = "svm".to_owned();
    let mut kernel = VERSIONS[0].name.to_owned();
    while let Some(argument) = arguments.next().map_err(|error| usage(&error))? {
        let to = match argument {
            Long("port") => &mut port,
            Long("vendor") => &mut vendor,
            Long("kernel") => &mut kernel,
            other => return Err(usage(&other.unexpected())),
        };
        let value = arguments.value().and_then(|value| value.string());
        *to = value.map_err(|error| usage(&error))?;
    }
    let workspace = Workspace::find()?;
    match (port.as_str(), vendor.as_str()) {
        ("bare", vendor) => bare::run(&workspace, vendor),
        ("linux", "svm") => linux::run(&workspace, Version::named(&kernel)?),
        ("linux", _) => Err("the demo of the port linux runs on svm only. Add --port bare.".into()),
        (other, _) => Err(format!(
            "there is no demo of a port {other:?}. Ports are linux and bare."
        )),
    }
}
