//! The module, built for a kernel.

use super::{Kernel, frames};
use crate::workspace::Workspace;
use crate::{Outcome, need, process};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The module, built for a kernel.
pub struct Module {
    /// The file to load.
    pub file: PathBuf,
    /// Where it was built.
    pub folder: PathBuf,
    /// What compiler, objtool and modpost complained about.
    pub complaints: Vec<String>,
}

/// How many bytes of the kernel's stack a function of the module may take for itself.
const LARGEST_FRAME: u64 = 2048;

impl Module {
    /// Builds it as a user would.
    pub fn build(workspace: &Workspace, kernel: &Kernel) -> Outcome<Self> {
        need::tool("make", "make")?;
        need::tool("gcc-12", "gcc-12")?;
        need::rust_part("component", "rust-src")?;
        need::rust_part("target", "x86_64-unknown-none")?;
        let folder = workspace
            .folder("target/linux-module")
            .join(&kernel.release);
        forget_objects(&folder)?;
        let mut make = Command::new("make");
        make.arg("-C")
            .arg(workspace.folder("ports/linux"))
            .arg(format!("KDIR={}", kernel.headers.display()));
        // The build folder belongs to the module's own file.
        make.env_remove("CARGO_TARGET_DIR");
        let finished = process::captured(&mut make, None, "the module's build", |_| {})?;
        if !finished.success {
            return Err(format!("the module does not build:\n{}", finished.output));
        }
        let complains = |line: &&str| line.to_lowercase().contains("warning");
        Ok(Self {
            file: folder.join("stripped/waterbear.ko"),
            folder,
            complaints: finished
                .output
                .lines()
                .filter(complains)
                .map(str::to_owned)
                .collect(),
        })
    }

    /// Which functions take too much of the kernel's stack, and how many bytes.
    ///
    /// The kernel gives a thread 16 KiB, and many functions call each other.
    pub fn large_frames(&self) -> Outcome<Vec<String>> {
        need::tool("objdump", "binutils")?;
        let mut objdump = Command::new("objdump");
        objdump.args(["--disassemble", "--no-show-raw-insn"]);
        objdump.arg(self.folder.join("waterbear.ko"));
        let finished = process::captured(&mut objdump, None, "objdump", |_| {})?;
        if !finished.success {
            return Err(format!("objdump fails:\n{}", finished.output));
        }
        frames::above(&finished.stdout, LARGEST_FRAME)
    }
}

/// Removes the objects of an earlier build: what objtool thought of them would not be said again.
fn forget_objects(folder: &Path) -> Outcome {
    for file in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = file.path();
        if path.extension().is_some_and(|extension| extension == "o") {
            fs::remove_file(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        }
    }
    Ok(())
}
