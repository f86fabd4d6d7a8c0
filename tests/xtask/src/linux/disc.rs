//! Discs in memory, with the client as the first process.

use super::archive::Archive;
use super::{Kernel, Module, packed};
use crate::workspace::Workspace;
use crate::{Outcome, need, process};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The target of the client, which is linked to nothing that it would have to bring along.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The kernel's own modules that the tests load, and that are not part of it in some versions.
const STOCK_MODULES: [&str; 6] = [
    "drivers/block/brd",
    "drivers/char/hw_random/rng-core",
    "virt/lib/irqbypass",
    "arch/x86/kvm/kvm",
    "drivers/crypto/ccp/ccp",
    "arch/x86/kvm/kvm-amd",
];

/// What QEMU loads when it starts a kernel, and where it may lie.
const FIRMWARE: [&str; 3] = ["bios-256k.bin", "kvmvapic.bin", "pvh.bin"];
const FIRMWARE_FOLDERS: [&str; 2] = ["/usr/share/qemu", "/usr/share/seabios"];

/// The client, built.
pub struct Client {
    program: Vec<u8>,
}

impl Client {
    /// Builds it.
    pub fn build(workspace: &Workspace) -> Outcome<Self> {
        let build = format!("build --release --package waterbear-linux-client --target {TARGET}");
        let mut cargo = workspace.cargo(&build);
        cargo.env("RUSTFLAGS", "-C target-feature=+crt-static");
        let folder = workspace.target().join("linux/client");
        cargo.env("CARGO_TARGET_DIR", &folder);
        if !process::shown(&mut cargo)? {
            return Err("the client does not build; the messages are above".to_owned());
        }
        let program = bytes(&folder.join(TARGET).join("release/waterbear-linux-client"))?;
        Ok(Self { program })
    }

    /// What every disc has.
    fn archive(&self) -> Archive {
        let mut archive = Archive::new();
        for name in ["dev", "proc", "sys", "tmp"] {
            archive.folder(name);
        }
        archive.console("dev/console");
        archive.program("init", &self.program);
        archive
    }
}

/// A machine's disc.
pub struct Disc {
    pub(super) file: PathBuf,
}

impl Disc {
    /// One with the module and the kernel's own.
    pub fn with_modules(
        workspace: &Workspace,
        client: &Client,
        kernel: &Kernel,
        module: &Module,
    ) -> Outcome<Self> {
        let archive = Self::modules(workspace, client, kernel, module)?;
        Self::write(workspace, kernel, "modules", archive)
    }

    /// The same, and a program that measures them.
    pub fn with_program(
        workspace: &Workspace,
        client: &Client,
        kernel: &Kernel,
        module: &Module,
        program: &Path,
    ) -> Outcome<Self> {
        let mut archive = Self::modules(workspace, client, kernel, module)?;
        archive.program("exits", &bytes(program)?);
        Self::write(workspace, kernel, "exits", archive)
    }

    fn modules(
        workspace: &Workspace,
        client: &Client,
        kernel: &Kernel,
        module: &Module,
    ) -> Outcome<Archive> {
        let mut archive = client.archive();
        archive.program("waterbear.ko", &bytes(&module.file)?);
        for path in STOCK_MODULES {
            let plain = kernel.modules.join(path).with_extension("ko");
            let name = plain.file_name().unwrap_or_default().to_string_lossy();
            let packed = plain.with_extension("ko.xz");
            if let Some(file) = [&plain, &packed].into_iter().find(|file| file.exists()) {
                archive.program(
                    &name,
                    &packed::unpacked(bytes(file)?, &work(workspace, kernel)?)?,
                );
            }
        }
        Ok(archive)
    }

    /// One with the module, QEMU as the distribution has it, and a guest for QEMU: the same
    /// kernel, and the client as the guest's first process.
    pub fn with_monitor(
        workspace: &Workspace,
        client: &Client,
        kernel: &Kernel,
        module: &Module,
    ) -> Outcome<Self> {
        const MONITOR: &str = "/usr/bin/qemu-system-x86_64";
        need::tool("qemu-system-x86_64", "qemu-system-x86")?;
        let mut archive = client.archive();
        archive.program("waterbear.ko", &bytes(&module.file)?);
        archive.program("monitor", &bytes(Path::new(MONITOR))?);
        for library in libraries(MONITOR)? {
            archive.file_with_folders(&library, &bytes(Path::new(&library))?);
        }
        for name in FIRMWARE {
            let found = FIRMWARE_FOLDERS
                .iter()
                .map(|folder| Path::new(folder).join(name))
                .find(|path| path.exists())
                .ok_or_else(|| format!("QEMU's {name} is missing; its package brings it"))?;
            archive.program(name, &bytes(&found)?);
        }
        // Without its own decompressor, which would take long in an emulated guest.
        let image = bytes(&kernel.image)?;
        let guest = packed::kernel(&image).ok_or("the kernel's image is none")?;
        let guest = packed::unpacked(guest.to_vec(), &work(workspace, kernel)?)?;
        archive.program("guest-kernel", &guest);
        archive.program("guest-disc", &client.archive().finish());
        Self::write(workspace, kernel, "monitor", archive)
    }

    fn write(
        workspace: &Workspace,
        kernel: &Kernel,
        name: &str,
        archive: Archive,
    ) -> Outcome<Self> {
        let file = work(workspace, kernel)?.join(name);
        fs::write(&file, archive.finish())
            .map_err(|error| format!("{}: {error}", file.display()))?;
        Ok(Self { file })
    }
}

fn bytes(path: &Path) -> Outcome<Vec<u8>> {
    fs::read(path).map_err(|error| format!("cannot read {}: {error}.", path.display()))
}

/// The libraries of a program, and what loads them, by their paths.
fn libraries(program: &str) -> Outcome<Vec<String>> {
    let finished = process::captured(Command::new("ldd").arg(program), None, "ldd", |_| {})?;
    let mut found: Vec<_> = finished
        .stdout
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(str::to_owned)
        .collect();
    found.sort();
    found.dedup();
    Ok(found)
}

/// A folder for what is made for a kernel.
fn work(workspace: &Workspace, kernel: &Kernel) -> Outcome<PathBuf> {
    let folder = workspace.target().join("linux").join(&kernel.release);
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok(folder)
}
