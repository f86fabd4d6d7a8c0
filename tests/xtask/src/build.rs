//! `cargo xtask build`: the kernel module, for a kernel that is not the running one.

use crate::linux::{Flavour, Kernel, Module, VERSIONS, Version};
use crate::workspace::Workspace;
use crate::{Command, Outcome, Verdict, usage};

pub const COMMAND: Command = Command {
    name: "build",
    summary: "build the kernel module for a stock kernel",
    options: "\
--port NAME    linux: waterbear.ko (the default)
--kernel VERSION
               Debian's 6.1 (the default) or 6.12
--flavour NAME amd64 (the default) or cloud: what that kernel is for",
    run,
};

fn run(mut arguments: lexopt::Parser) -> Outcome<Verdict> {
    use lexopt::prelude::*;
    let (mut version, mut flavour) = (VERSIONS[0], Flavour::Amd64);
    while let Some(argument) = arguments.next().map_err(|error| usage(&error))? {
        let name = match &argument {
            Long(name) => (*name).to_owned(),
            _ => return Err(usage(&argument.unexpected())),
        };
        let value = arguments.value().and_then(|value| value.string());
        let value = value.map_err(|error| usage(&error))?;
        match (name.as_str(), value.as_str()) {
            ("port", "linux") => {}
            ("port", other) => return Err(format!("there is no module for {other:?} yet.")),
            ("kernel", name) => version = Version::named(name)?,
            ("flavour", "amd64") => flavour = Flavour::Amd64,
            ("flavour", "cloud") => flavour = Flavour::Cloud,
            ("flavour", other) => {
                return Err(format!(
                    "there is no flavour {other:?}. There are amd64 and cloud."
                ));
            }
            _ => {
                return Err(format!(
                    "there is no option --{name}. Run `cargo xtask` for the options."
                ));
            }
        }
    }
    let workspace = Workspace::find()?;
    let kernel = Kernel::fetch(&workspace, version, flavour)?;
    println!("building the module for {}", kernel.release);
    let module = Module::build(&workspace, &kernel)?;
    for complaint in &module.complaints {
        println!("  {complaint}");
    }
    println!("{}", workspace.relative(&module.file).display());
    Ok(if module.complaints.is_empty() {
        Verdict::Good
    } else {
        Verdict::Bad
    })
}
