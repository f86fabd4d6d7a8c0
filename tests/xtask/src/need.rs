//! What the commands need on this machine, installed where it is missing.

use crate::workspace::Workspace;
use crate::{Outcome, process};
use std::path::Path;
use std::process::Command;

/// The nightly toolchain with Miri.
pub fn miri(workspace: &Workspace) -> Outcome {
    if miri_works(workspace)? {
        return Ok(());
    }
    println!("  Miri is missing: installing it with the nightly toolchain");
    let install = [
        "toolchain",
        "install",
        "nightly",
        "--profile",
        "minimal",
        "--component",
        "miri",
        "--component",
        "rust-src",
    ];
    let installed = process::shown(Command::new("rustup").args(install))?;
    if installed && miri_works(workspace)? {
        return Ok(());
    }
    Err(format!(
        "Miri is missing. Run: rustup {}",
        install.join(" ")
    ))
}

fn miri_works(workspace: &Workspace) -> Outcome<bool> {
    let mut version = workspace.nightly_cargo("miri --version");
    if !process::captured(&mut version, None, "cargo miri", |_| {})?.success {
        return Ok(false);
    }
    has_rust_part("component", "rust-src", &["--toolchain", "nightly"])
}

/// A part of the project's Rust toolchain: `kind` is `component` or `target`.
pub fn rust_part(kind: &str, name: &str) -> Outcome {
    if has_rust_part(kind, name, &[])? {
        return Ok(());
    }
    println!("  {name} is missing: installing it");
    if process::shown(Command::new("rustup").args([kind, "add", name]))? {
        Ok(())
    } else {
        Err(format!("{name} is missing. Run: rustup {kind} add {name}"))
    }
}

fn has_rust_part(kind: &str, name: &str, options: &[&str]) -> Outcome<bool> {
    let mut list = Command::new("rustup");
    list.args([kind, "list", "--installed"]).args(options);
    let finished = process::captured(&mut list, None, "rustup", |_| {})?;
    Ok(finished.success && finished.stdout.lines().any(|line| line.starts_with(name)))
}

/// A program of the system, from the package of that name.
pub fn tool(name: &str, package: &str) -> Outcome {
    let found = |folder: std::path::PathBuf| folder.join(name).is_file();
    if std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).any(found) {
        return Ok(());
    }
    install(name, package)
}

/// A file of the system, from the package of that name.
pub fn file(path: &Path, package: &str) -> Outcome {
    if path.exists() {
        return Ok(());
    }
    install(&path.display().to_string(), package)
}

fn install(what: &str, package: &str) -> Outcome {
    let id = process::captured(Command::new("id").arg("-u"), None, "id", |_| {})?;
    if id.stdout.trim() == "0" {
        println!("  {what} is missing: installing the package {package}");
        // The lists of a new machine may be empty or old.
        let fresh = process::shown(Command::new("apt-get").args(["update", "--quiet"]))?;
        let mut install = Command::new("apt-get");
        install.args(["install", "--yes", "--quiet", package]);
        if fresh && process::shown(&mut install)? {
            return Ok(());
        }
    }
    Err(format!(
        "{what} is missing. Run: sudo apt-get install --yes {package}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_there_needs_nothing() {
        tool("sh", "dash").unwrap();
    }
}
