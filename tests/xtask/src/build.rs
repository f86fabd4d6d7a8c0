//! `cargo xtask build`: a port's module.

use crate::workspace::Workspace;
use crate::{Command, Outcome, Verdict, freebsd, usage};
use std::path::PathBuf;

pub const COMMAND: Command = Command {
    name: "build",
    summary: "build a port's kernel module",
    options: "\
--port NAME    which one:
  freebsd      target/freebsd/waterbear.ko, for FreeBSD 15 on amd64",
    run,
};

/// What builds a port's module, and says where it is.
type Build = fn(&Workspace) -> Outcome<PathBuf>;

const PORTS: &[(&str, Build)] = &[("freebsd", freebsd::build)];

fn run(arguments: lexopt::Parser) -> Outcome<Verdict> {
    let build = chosen(arguments)?;
    let workspace = Workspace::find()?;
    let module = build(&workspace)?;
    println!("{} is built.", workspace.relative(&module).display());
    Ok(Verdict::Good)
}

fn chosen(mut arguments: lexopt::Parser) -> Outcome<Build> {
    use lexopt::prelude::*;
    let mut build = None;
    while let Some(argument) = arguments.next().map_err(|error| usage(&error))? {
        match argument {
            Long("port") => {
                let name = arguments.value().and_then(|value| value.string());
                let name = name.map_err(|error| usage(&error))?;
                let found = PORTS.iter().find(|(port, _)| *port == name);
                build = Some(found.ok_or(format!("no module is built for {name:?}. {}", ports()))?);
            }
            other => return Err(usage(&other.unexpected())),
        }
    }
    build
        .map(|(_, build)| *build)
        .ok_or(format!("say which module: --port NAME. {}", ports()))
}

fn ports() -> String {
    let names: Vec<_> = PORTS.iter().map(|(port, _)| *port).collect();
    format!("Ports are {}.", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_must_be_named_and_known() {
        let error = |arguments: &[&str]| chosen(lexopt::Parser::from_args(arguments)).err();
        assert!(error(&["--port", "freebsd"]).is_none());
        assert!(error(&[]).unwrap().contains("freebsd"));
        assert!(error(&["--port", "moon"]).unwrap().contains("freebsd"));
    }
}
