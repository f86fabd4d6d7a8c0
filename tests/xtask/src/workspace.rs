//! Where the project lies, and how its files and packages are found.

use crate::{Outcome, process};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The project's folder and its build folder.
pub struct Workspace {
    root: PathBuf,
    target: PathBuf,
}

impl Workspace {
    /// Finds the project through the variables that `cargo run` sets.
    pub fn find() -> Outcome<Self> {
        let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
            .ok_or("this program must be started by cargo. Run `cargo xtask`.")?;
        let root = Path::new(&manifest)
            .ancestors()
            .nth(2)
            .ok_or("the project's folder was not found. Run `cargo xtask` inside the project.")?
            .to_path_buf();
        let target = match std::env::var_os("CARGO_TARGET_DIR") {
            Some(folder) => root.join(folder),
            None => root.join("target"),
        };
        Ok(Self { root, target })
    }

    /// The build folder.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// A cargo command that starts in the project's folder, from words with spaces between.
    pub fn cargo(&self, arguments: &str) -> Command {
        let mut command = Command::new("cargo");
        command.args(arguments.split_whitespace());
        self.prepare(&mut command);
        command
    }

    /// A cargo command that builds for loom's model checker, in a build folder of its own:
    /// the two kinds of build do not invalidate each other.
    pub fn loom_cargo(&self, arguments: &str) -> Command {
        let mut command = self.cargo(arguments);
        command.env("RUSTFLAGS", "--cfg loom");
        command.env("CARGO_TARGET_DIR", self.target.join("loom"));
        command
    }

    /// A command of the nightly toolchain's cargo.
    pub fn nightly_cargo(&self, arguments: &str) -> Command {
        let mut command = Command::new("rustup");
        command
            .args(["run", "nightly", "cargo"])
            .args(arguments.split_whitespace());
        self.prepare(&mut command);
        // `cargo run` points this at the other toolchain's libraries.
        command.env_remove("LD_LIBRARY_PATH");
        command
    }

    fn prepare(&self, command: &mut Command) {
        command.current_dir(&self.root);
        command.env_remove(crate::test::TWIN_RAW);
    }

    /// Whether a package of this name is part of the workspace.
    pub fn has_package(&self, name: &str) -> Outcome<bool> {
        let mut command = self.cargo("metadata --no-deps --format-version 1");
        let finished = process::captured(&mut command, None, "cargo metadata", |_| {})?;
        if !finished.success {
            return Err(format!(
                "cargo cannot read the workspace: {}",
                finished.output
            ));
        }
        Ok(finished.stdout.contains(&format!("\"name\":\"{name}\"")))
    }

    /// A program that cargo has built with a profile of this name.
    pub fn program(&self, profile: &str, name: &str) -> PathBuf {
        self.target.join(profile).join(name)
    }

    /// A folder under the build folder, for files that are needed for a moment.
    pub fn scratch(&self, name: &str) -> PathBuf {
        self.target.join(name)
    }

    /// One of the project's folders.
    pub fn folder(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The folders of the vendors' crates, `vendor-*`.
    pub fn vendor_folders(&self) -> Outcome<Vec<PathBuf>> {
        let mut folders = entries(&self.root)?;
        folders.retain(|folder| {
            folder
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("vendor-"))
        });
        Ok(folders)
    }

    /// A path as the reader knows it: relative to the project's folder.
    pub fn relative<'a>(&self, path: &'a Path) -> &'a Path {
        path.strip_prefix(&self.root).unwrap_or(path)
    }

    /// The text of a file named relative to the project's folder.
    pub fn read(&self, path: &str) -> Outcome<String> {
        read(&self.root.join(path))
    }
}

/// The text of a file.
pub fn read(path: &Path) -> Outcome<String> {
    fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}.", path.display()))
}

/// All files under a folder with one of these extensions, sorted; build output is left out.
pub fn files(folder: &Path, extensions: &[&str]) -> Outcome<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in entries(folder)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                found.extend(files(&path, extensions)?);
            }
        } else if extensions
            .iter()
            .any(|wanted| path.extension().is_some_and(|has| has == *wanted))
        {
            found.push(path);
        }
    }
    Ok(found)
}

fn entries(folder: &Path) -> Outcome<Vec<PathBuf>> {
    let cannot = |error| format!("cannot list {}: {error}.", folder.display());
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(cannot)? {
        paths.push(entry.map_err(cannot)?.path());
    }
    paths.sort();
    Ok(paths)
}
