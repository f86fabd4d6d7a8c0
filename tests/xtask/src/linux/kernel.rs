//! Stock Debian kernels.

use super::apt::Suite;
use crate::Outcome;
use crate::workspace::{self, Workspace};
use std::fs;
use std::path::{Path, PathBuf};

/// A version of the kernel, in Debian's words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Version {
    /// As `--kernel` has it.
    pub name: &'static str,
    /// The suite that has it.
    suite: &'static str,
}

/// The versions that the module is for. The first is what a command takes that is not told.
pub const VERSIONS: [Version; 2] = [
    Version {
        name: "6.1",
        suite: "bookworm",
    },
    Version {
        name: "6.12",
        suite: "bookworm-backports",
    },
];

impl Version {
    /// The version of that name.
    pub fn named(name: &str) -> Outcome<Self> {
        let found = VERSIONS.into_iter().find(|version| version.name == name);
        found.ok_or_else(|| {
            let names = VERSIONS.map(|version| version.name).join(" and ");
            format!("there is no kernel {name:?} to try. There are {names}.")
        })
    }
}

/// What a kernel is built for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flavour {
    /// Any PC.
    Amd64,
    /// Virtual machines: it is smaller and boots faster.
    Cloud,
}

impl Flavour {
    fn name(self) -> &'static str {
        match self {
            Flavour::Amd64 => "amd64",
            Flavour::Cloud => "cloud-amd64",
        }
    }
}

/// A kernel, unpacked.
pub struct Kernel {
    /// Its release, as it says itself.
    pub release: String,
    /// The file that a machine boots.
    pub image: PathBuf,
    /// The folder with its modules.
    pub modules: PathBuf,
    /// The folder that modules are built with.
    pub headers: PathBuf,
}

impl Kernel {
    /// Downloads and unpacks what is not there yet.
    pub fn fetch(workspace: &Workspace, version: Version, flavour: Flavour) -> Outcome<Self> {
        let name = format!("{}-{}", version.name, flavour.name());
        let folder = workspace.target().join("linux").join(name);
        let (root, done) = (folder.join("root"), folder.join("complete"));
        if !done.exists() {
            unpack(version, flavour, &folder, &root)?;
            fs::write(&done, "").map_err(|error| format!("{}: {error}", done.display()))?;
        }
        let modules = only(&root.join("lib/modules"))?;
        let release = modules.file_name().unwrap_or_default().to_string_lossy();
        let kernel = Self {
            image: root.join(format!("boot/vmlinuz-{release}")),
            headers: root.join(format!("usr/src/linux-headers-{release}")),
            release: release.into_owned(),
            modules: modules.join("kernel"),
        };
        kernel.move_headers(&root)?;
        Ok(kernel)
    }

    /// The headers' own file names the place where they would be installed.
    fn move_headers(&self, root: &Path) -> Outcome {
        let makefile = self.headers.join("Makefile");
        let text = workspace::read(&makefile)?;
        let place = format!("include {}/usr/src/", root.display());
        if text.starts_with(&place) {
            return Ok(());
        }
        let moved = text.replace("include /usr/src/", &place);
        fs::write(&makefile, moved).map_err(|error| format!("{}: {error}", makefile.display()))
    }
}

/// Downloads a kernel and what builds modules for it, and unpacks it.
fn unpack(version: Version, flavour: Flavour, folder: &Path, root: &Path) -> Outcome {
    let (number, flavour) = (version.name, flavour.name());
    println!("  downloading Debian's kernel {number} for {flavour} and its headers");
    let suite = Suite::fetch(version.suite, folder)?;
    let latest = ["image", "headers"].map(|part| format!("linux-{part}-{flavour}"));
    let mut names = suite.dependencies(&latest.each_ref().map(String::as_str))?;
    let headers = names.iter().find(|name| name.contains("headers"));
    let headers = headers.ok_or_else(|| format!("{} has no headers", version.suite))?;
    // They also want the kernel itself to be there, in one form or another.
    let parts = suite.dependencies(&[headers])?;
    names.extend(parts.into_iter().filter(|name| {
        ["headers", "kbuild", "compiler"]
            .iter()
            .any(|part| name.starts_with(&format!("linux-{part}-")))
    }));
    suite.unpack(&names, root)
}

/// The only entry of a folder.
fn only(folder: &Path) -> Outcome<PathBuf> {
    let cannot = |error| format!("cannot list {}: {error}.", folder.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(cannot)? {
        found.push(entry.map_err(cannot)?.path());
    }
    match found.as_slice() {
        [path] => Ok(path.clone()),
        _ => Err(format!(
            "{} holds {} kernels. Remove the folder and try again.",
            folder.display(),
            found.len(),
        )),
    }
}
