//! Bochs, which emulates Intel's and AMD's processors, and the discs that it boots.

use crate::{Outcome, need, process};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Installs what is missing.
pub fn tools() -> Outcome {
    need::tool("bochs", "bochs")?;
    for (file, package) in [
        ("/usr/share/bochs/BIOS-bochs-latest", "bochsbios"),
        ("/usr/share/bochs/VGABIOS-lgpl-latest", "vgabios"),
        (
            "/usr/lib/x86_64-linux-gnu/bochs/plugins/libbx_sdl2_gui.so",
            "bochs-sdl",
        ),
        ("/usr/lib/grub/i386-pc/multiboot2.mod", "grub-pc-bin"),
    ] {
        need::file(Path::new(file), package)?;
    }
    need::tool("grub-mkrescue", "grub-common")?;
    need::tool("xorriso", "xorriso")?;
    need::tool("mformat", "mtools")
}

/// Makes an image of a disc with GRUB on it, which carries out `menu`. The files are copied to the
/// folder `boot` of the disc under the names that come with them; `tree` is a folder for that.
pub fn disc(image: &Path, tree: &Path, files: &[(&Path, &str)], menu: &str) -> Outcome {
    let prepare = || {
        let boot = tree.join("boot");
        fs::create_dir_all(boot.join("grub"))?;
        for (file, name) in files {
            fs::copy(file, boot.join(name))?;
        }
        let menu = format!("set timeout=0\nmenuentry waterbear {{\n{menu}\nboot\n}}\n");
        fs::write(boot.join("grub/grub.cfg"), menu)
    };
    prepare().map_err(|error| format!("the disc image was not prepared: {error}"))?;
    let mut make = Command::new("grub-mkrescue");
    make.arg("-o").arg(image).arg(tree);
    let made = process::captured(&mut make, None, "grub-mkrescue", |_| {})?;
    if made.success {
        Ok(())
    } else {
        Err(format!("grub-mkrescue failed:\n{}", made.output))
    }
}

/// A machine with `cpus` processors of that model and `megs` MiB of memory, which boots the disc and
/// has its serial line as its output. `folder` is for its files.
///
/// Bochs reads its configuration from a file and starts in its debugger, which is told to continue
/// and then to quit.
pub fn machine(folder: &Path, disc: &Path, cpu: &str, cpus: u32, megs: u32) -> Outcome<Command> {
    let configuration = format!(
        "megs: {megs}\n\
         romimage: file=/usr/share/bochs/BIOS-bochs-latest\n\
         vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest\n\
         ata0-master: type=cdrom, path={disc}, status=inserted\n\
         boot: cdrom\n\
         cpu: model={cpu}, count={cpus}, ips=100000000\n\
         clock: sync=none\n\
         display_library: sdl2\n\
         sound: driver=dummy\n\
         com1: enabled=1, mode=file, dev=/dev/stdout\n\
         log: {folder}/log\n\
         error: action=ignore\n",
        disc = disc.display(),
        folder = folder.display(),
    );
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(folder.join("configuration"), configuration))
        .and_then(|()| fs::write(folder.join("commands"), "c\nq\n"))
        .map_err(|error| format!("Bochs was not configured: {error}"))?;
    let mut command = Command::new("bochs");
    command
        .env("SDL_VIDEODRIVER", "dummy")
        .arg("-q")
        .arg("-f")
        .arg(folder.join("configuration"))
        .arg("-rc")
        .arg(folder.join("commands"));
    Ok(command)
}
