//! `cargo xtask build`: a port's module.

use crate::linux::{Flavour, Kernel, Module, VERSIONS, Version};
use crate::workspace::Workspace;
use crate::{Command, Outcome, Verdict, freebsd, usage};
use std::path::PathBuf;

pub const COMMAND: Command = Command {
    name: "build",
    summary: "build a port's kernel module",
    options: "\
--port NAME    linux (the default) or freebsd, for FreeBSD 15 on amd64
--kernel VERSION
               of Linux: Debian's 6.1 (the default) or 6.12
--flavour NAME amd64 (the default) or cloud: what that kernel is for",
    run,
};

/// What to build.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wish {
    Linux(Version, Flavour),
    FreeBsd,
}

fn run(arguments: lexopt::Parser) -> Outcome<Verdict> {
    let wish = chosen(arguments)?;
    let workspace = Workspace::find()?;
    let (module, complaints): (PathBuf, Vec<String>) = match wish {
        Wish::FreeBsd => (freebsd::build(&workspace)?, Vec::new()),
        Wish::Linux(version, flavour) => {
            let kernel = Kernel::fetch(&workspace, version, flavour)?;
            println!("building the module for {}", kernel.release);
            let module = Module::build(&workspace, &kernel)?;
            (module.file, module.complaints)
        }
    };
    for complaint in &complaints {
        println!("  {complaint}");
    }
    println!("{} is built.", workspace.relative(&module).display());
    Ok(if complaints.is_empty() {
        Verdict::Good
    } else {
        Verdict::Bad
    })
}

fn chosen(mut arguments: lexopt::Parser) -> Outcome<Wish> {
    use lexopt::prelude::*;
    let (mut version, mut flavour) = (VERSIONS[0], Flavour::Amd64);
    let mut freebsd = false;
    while let Some(argument) = arguments.next().map_err(|error| usage(&error))? {
        let name = match &argument {
            Long(name) => (*name).to_owned(),
            _ => return Err(usage(&argument.unexpected())),
        };
        let value = arguments.value().and_then(|value| value.string());
        let value = value.map_err(|error| usage(&error))?;
        match (name.as_str(), value.as_str()) {
            ("port", "linux") => freebsd = false,
            ("port", "freebsd") => freebsd = true,
            ("port", other) => {
                return Err(format!(
                    "no module is built for {other:?}. Ports are linux and freebsd."
                ));
            }
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
    Ok(if freebsd {
        Wish::FreeBsd
    } else {
        Wish::Linux(version, flavour)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_is_known() {
        let chosen = |arguments: &[&str]| chosen(lexopt::Parser::from_args(arguments));
        assert_eq!(chosen(&["--port", "freebsd"]), Ok(Wish::FreeBsd));
        assert_eq!(chosen(&[]), Ok(Wish::Linux(VERSIONS[0], Flavour::Amd64)));
        assert!(chosen(&["--port", "moon"]).unwrap_err().contains("freebsd"));
        assert!(chosen(&["--flavour", "moon"]).is_err());
        assert!(chosen(&["--moon", "full"]).is_err());
    }
}
