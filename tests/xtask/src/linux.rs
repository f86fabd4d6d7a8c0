//! Stock Debian kernels, the module built for them, and machines that run both.
//!
//! Everything is unpacked under the build folder, so nothing of it is installed.

mod archive;
mod disc;

use crate::workspace::{self, Workspace};
use crate::{Outcome, need, process};
pub use disc::{Client, Disc};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Longer than the slowest machine takes on a busy host.
const LIMIT: Duration = Duration::from_secs(300);

/// The packages that stand for the current kernel: the kernel, and what builds modules for it.
const IMAGE: &str = "linux-image-amd64";
const HEADERS: &str = "linux-headers-amd64";

/// A Debian kernel, unpacked.
pub struct Kernel {
    /// The file that a machine boots.
    image: PathBuf,
    /// The folder with its modules.
    modules: PathBuf,
    /// The folder that modules are built with.
    headers: PathBuf,
}

impl Kernel {
    /// Downloads and unpacks what is not there yet.
    pub fn fetch(workspace: &Workspace) -> Outcome<Self> {
        let root = workspace.target().join("linux/root");
        let done = workspace.target().join("linux/complete");
        if !done.exists() {
            unpack(&workspace.target().join("linux/packages"), &root)?;
            fs::write(&done, "").map_err(|error| format!("{}: {error}", done.display()))?;
        }
        let release = only(&root.join("lib/modules"), "")?;
        let name = release.file_name().unwrap_or_default().to_string_lossy();
        let kernel = Self {
            image: root.join(format!("boot/vmlinuz-{name}")),
            modules: release.join("kernel"),
            headers: root.join(format!("usr/src/linux-headers-{name}")),
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

/// Downloads the packages into one folder and unpacks them into another.
fn unpack(packages: &Path, root: &Path) -> Outcome {
    println!("  downloading a Debian kernel and its headers");
    fs::create_dir_all(packages).map_err(|error| format!("{}: {error}", packages.display()))?;
    let mut names = dependencies(&[IMAGE, HEADERS])?;
    if names.is_empty() {
        // The lists of a new machine are empty.
        process::shown(Command::new("apt-get").args(["update", "--quiet"]))?;
        names = dependencies(&[IMAGE, HEADERS])?;
    }
    let headers: Vec<_> = names
        .iter()
        .filter(|name| name.starts_with("linux-headers-"))
        .map(String::as_str)
        .collect();
    names.extend(dependencies(&headers)?);
    let mut download = Command::new("apt-get");
    download.arg("download").args(&names).current_dir(packages);
    let finished = process::captured(&mut download, None, "apt-get download", |_| {})?;
    if !finished.success {
        return Err(format!(
            "the kernel was not downloaded:\n{}",
            finished.output
        ));
    }
    for package in workspace::files(packages, &["deb"])? {
        let mut extract = Command::new("dpkg");
        extract.arg("--extract").arg(&package).arg(root);
        let finished = process::captured(&mut extract, None, "dpkg", |_| {})?;
        if !finished.success {
            return Err(format!("{}:\n{}", package.display(), finished.output));
        }
    }
    Ok(())
}

/// The packages of the kernel's on which these packages depend.
fn dependencies(of: &[&str]) -> Outcome<Vec<String>> {
    let mut command = Command::new("apt-cache");
    command.arg("depends").args(of);
    let finished = process::captured(&mut command, None, "apt-cache", |_| {})?;
    let names = finished
        .stdout
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "));
    Ok(names
        .filter(|name| name.starts_with("linux-"))
        .map(str::to_owned)
        .collect())
}

/// The only entry of a folder whose name begins like this.
fn only(folder: &Path, start: &str) -> Outcome<PathBuf> {
    let cannot = |error| format!("cannot list {}: {error}.", folder.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(cannot)? {
        let path = entry.map_err(cannot)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(start) {
            found.push(path);
        }
    }
    match found.as_slice() {
        [path] => Ok(path.clone()),
        _ => Err(format!(
            "{} holds {} kernels. Remove the folder {} and try again.",
            folder.display(),
            found.len(),
            folder.display(),
        )),
    }
}

/// The module, built for a kernel.
pub struct Module {
    /// The file to load.
    pub file: PathBuf,
    /// What compiler, objtool and modpost complained about.
    pub complaints: Vec<String>,
}

impl Module {
    /// Builds it as a user would.
    pub fn build(workspace: &Workspace, kernel: &Kernel) -> Outcome<Self> {
        need::tool("make", "make")?;
        need::tool("gcc-12", "gcc-12")?;
        need::rust_part("component", "rust-src")?;
        need::rust_part("target", "x86_64-unknown-none")?;
        forget_objects(&workspace.folder("target/linux-module"))?;
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
            file: workspace.folder("ports/linux/waterbear.ko"),
            complaints: finished
                .output
                .lines()
                .filter(complains)
                .map(str::to_owned)
                .collect(),
        })
    }
}

/// Removes the objects of an earlier build: what objtool thought of them would not be said again.
fn forget_objects(folder: &Path) -> Outcome {
    let Ok(kernels) = fs::read_dir(folder) else {
        return Ok(());
    };
    for kernel in kernels.flatten().filter(|entry| entry.path().is_dir()) {
        for file in fs::read_dir(kernel.path()).into_iter().flatten().flatten() {
            let path = file.path();
            if path.extension().is_some_and(|extension| extension == "o") {
                fs::remove_file(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            }
        }
    }
    Ok(())
}

/// A machine for the client.
#[derive(Clone, Copy)]
pub struct Machine {
    /// The processor, by QEMU's name for it.
    pub cpu: &'static str,
    /// What the kernel's command line tells the client, if anything.
    pub say: &'static str,
    /// How much memory it has, in QEMU's words.
    pub memory: &'static str,
    /// Whether it has one CPU whose time-stamp counter counts instructions.
    pub exact: bool,
}

/// On which the module serves.
pub const ABLE: Machine = Machine {
    cpu: "EPYC,+svm,+npt",
    say: "",
    memory: "1G",
    exact: false,
};

/// On which an unmodified QEMU boots a guest on the module.
pub const MONITOR: Machine = Machine {
    say: "waterbear=monitor",
    memory: "2G",
    ..ABLE
};

/// On which the guest programs run.
pub const PROGRAMS: Machine = Machine {
    say: "waterbear=programs",
    ..ABLE
};

/// QEMU's options for one tick per instruction. While the machine sleeps its time flies.
const EXACT: &[&str] = &[
    "-smp",
    "1",
    "-icount",
    "shift=0,align=off,sleep=off",
    "-rtc",
    "base=2026-01-01,clock=vm",
    "-seed",
    "1",
];

impl Machine {
    /// Boots the kernel and returns what was written to the serial line.
    pub fn run(&self, kernel: &Kernel, disc: &Disc, on_line: impl FnMut(&str)) -> Outcome<String> {
        need::tool("qemu-system-x86_64", "qemu-system-x86")?;
        let line = format!(
            "console=ttyS0 panic=-1 oops=panic mitigations=off no_timer_check quiet {}",
            self.say
        );
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args(["-machine", "q35,accel=tcg", "-m", self.memory])
            .args(if self.exact { EXACT } else { &["-smp", "2"] })
            .args(["-cpu", self.cpu, "-append", &line, "-kernel"])
            .arg(&kernel.image)
            .arg("-initrd")
            .arg(&disc.file)
            .args([
                "-display",
                "none",
                "-serial",
                "stdio",
                "-no-reboot",
                "-net",
                "none",
            ]);
        let name = format!("{} {}", self.cpu, self.say);
        let finished = process::captured(&mut command, Some(LIMIT), name.trim(), on_line)?;
        Ok(finished.stdout.replace('\r', ""))
    }
}
