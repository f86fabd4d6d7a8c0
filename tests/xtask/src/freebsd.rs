//! The FreeBSD module, built on Linux.
//!
//! The headers come from a Python package that carries those of many systems; compiler and linker
//! are Debian's. Everything is made under the build folder.

pub mod object;

use crate::workspace::Workspace;
use crate::{Outcome, need, process};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The package with the headers, and its version: another one may have another FreeBSD's.
const PACKAGE: &str = "ziglang==0.17.1";
/// The header folders in it, most special first.
const FOLDERS: [&str; 3] = ["x86_64-freebsd-none", "x86-freebsd-none", "generic-freebsd"];
/// The folder of these folders.
const PLACE: &str = "ziglang/lib/libc/include";

/// The oldest kernel that the module loads on, as its `__FreeBSD_version`, which the package's
/// headers leave out. Later ones of the same major version take the module too.
pub const OLDEST: u32 = 1_500_068;

/// What a kernel's configuration says that its headers want to know. It does not say KLD_TIED, so
/// kernels with and without checks take the same module.
const CONFIGURATION: &str = "#define SMP 1\n#define VIMAGE 1\n#define MAC 1\n";

/// The target, and the rules for code in this kernel.
const COMPILE: &str = "--target=x86_64-unknown-freebsd15.0 -c -O2 -std=gnu17 -nostdinc \
    -D_KERNEL -DKLD_MODULE -include opt_global.h -mcmodel=kernel -mno-red-zone -mno-mmx -mno-sse \
    -mno-aes -mno-avx -msoft-float -ffreestanding -fwrapv -fno-strict-aliasing -fno-common \
    -fno-asynchronous-unwind-tables -fno-omit-frame-pointer -Wall -Wextra -Wno-unused-parameter \
    -Wno-format -Werror";

/// Builds `waterbear.ko` and says where it is.
pub fn build(workspace: &Workspace) -> Outcome<PathBuf> {
    for tool in ["clang", "ld.lld", "llvm-objcopy"] {
        let package = if tool == "ld.lld" { "lld" } else { tool };
        need::tool(tool, package.strip_suffix("-objcopy").unwrap_or(package))?;
    }
    need::rust_part("component", "rust-src")?;
    need::rust_part("target", "x86_64-unknown-none")?;
    let folder = workspace.target().join("freebsd");
    let headers = headers(&folder)?;
    let objects = folder.join("objects");
    create(&objects)?;
    write(&objects.join("opt_global.h"), CONFIGURATION)?;

    let port = workspace.folder("ports/freebsd");
    let glue = port.join("glue");
    let shared = workspace.folder("ports/kernel");
    let mut parts = compiled(&glue, &[&shared], &objects, &headers)?;

    println!("  building the module's part in Rust");
    let object = objects.join("rust.o");
    let mut rust = Command::new(port.join("rust.sh"));
    rust.arg(&object).arg(folder.join("rust"));
    // What cargo says to this program is not for that build.
    rust.env_remove("CARGO_TARGET_DIR");
    done(&mut rust, "the module's part in Rust")?;
    parts.push(object);

    let whole = objects.join("waterbear.whole");
    let mut link = Command::new("ld.lld");
    link.arg("-r").arg("-T").arg(port.join("module.lds"));
    link.arg("-o").arg(&whole).args(parts);
    done(&mut link, "linking the module")?;
    let module = folder.join("waterbear.ko");
    let mut strip = Command::new("llvm-objcopy");
    strip.args(["--strip-debug", "--strip-unneeded"]);
    strip.args([
        "-R",
        ".comment",
        "-R",
        ".llvm_addrsig",
        "-R",
        ".note.GNU-stack",
    ]);
    strip.arg(&whole).arg(&module);
    done(&mut strip, "stripping the module")?;
    Ok(module)
}

/// Builds the test host's part in C, and a file of it and of the module, for the bare port to load:
/// each as its length in 8 bytes, and that many bytes.
pub fn for_host(workspace: &Workspace, module: &Path) -> Outcome<PathBuf> {
    let folder = workspace.target().join("freebsd");
    let headers = headers(&folder)?;
    let objects = folder.join("host-objects");
    create(&objects)?;
    write(&objects.join("opt_global.h"), CONFIGURATION)?;
    let glue = workspace.folder("ports/freebsd/glue");
    let host = workspace.folder("tests/freebsd-host");
    let parts = compiled(
        &host,
        &[&glue, &workspace.folder("ports/kernel")],
        &objects,
        &headers,
    )?;
    let whole = objects.join("host");
    let mut link = Command::new("ld.lld");
    link.arg("-r").arg("-T").arg(glue.join("../module.lds"));
    link.arg("-o").arg(&whole).args(parts);
    done(&mut link, "linking the test host")?;
    let mut bytes = Vec::new();
    for object in [&whole, module] {
        let object = fs::read(object).map_err(|error| format!("{}: {error}", object.display()))?;
        bytes.extend_from_slice(&(object.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&object);
    }
    let file = folder.join("for-the-host");
    fs::write(&file, bytes).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(file)
}

/// Compiles the C files of a folder for the kernel, and says where the objects are.
fn compiled(
    sources: &Path,
    others: &[&Path],
    objects: &Path,
    headers: &Path,
) -> Outcome<Vec<PathBuf>> {
    let mut parts = Vec::new();
    for source in crate::workspace::files(sources, &["c"])? {
        let name = source.file_name().unwrap_or_default();
        let object = objects.join(name).with_extension("o");
        let mut compile = Command::new("clang");
        compile
            .args(COMPILE.split_whitespace())
            .arg(format!("-D__FreeBSD_version={OLDEST}"));
        for folder in [&[objects], others].concat() {
            compile.arg("-I").arg(folder);
        }
        for name in FOLDERS {
            compile.arg("-isystem").arg(headers.join(name));
        }
        compile.arg(&source).arg("-o").arg(&object);
        done(&mut compile, &source.display().to_string())?;
        parts.push(object);
    }
    Ok(parts)
}

/// What a C compiler for FreeBSD says against a program that includes the installed header.
pub fn header_faults(workspace: &Workspace, program: &str) -> Outcome<Vec<String>> {
    let folder = workspace.target().join("freebsd");
    let (headers, source) = (headers(&folder)?, folder.join("header.c"));
    write(&source, program)?;
    let mut compile = Command::new("clang");
    compile.args("--target=x86_64-unknown-freebsd15.0 -fsyntax-only -Wall -Werror".split(' '));
    compile
        .arg("-nostdinc")
        .arg("-I")
        .arg(workspace.folder("ports/freebsd/include"));
    for name in FOLDERS {
        compile.arg("-isystem").arg(headers.join(name));
    }
    let finished = process::captured(compile.arg(&source), None, "clang", |_| {})?;
    let faults = finished
        .output
        .lines()
        .filter(|line| line.contains("error"));
    Ok(if finished.success {
        Vec::new()
    } else {
        faults.map(str::to_owned).collect()
    })
}

/// The folder of the header folders, downloaded if it is not there yet.
fn headers(folder: &Path) -> Outcome<PathBuf> {
    let headers = folder.join("headers");
    let place = headers.join(PLACE);
    let complete = headers.join("complete");
    if fs::read_to_string(&complete).is_ok_and(|text| text == PACKAGE) {
        return Ok(place);
    }
    println!("  downloading FreeBSD's headers, in the Python package {PACKAGE}");
    need::tool("python3", "python3")?;
    let packages = folder.join("packages");
    create(&packages)?;
    let mut download = Command::new("python3");
    download.args(["-m", "pip", "download", "--quiet", "--no-deps", "--dest"]);
    download.arg(&packages).arg(PACKAGE);
    if !process::captured(&mut download, None, "pip download", |_| {})?.success {
        need::file(Path::new("/usr/bin/pip3"), "python3-pip")?;
        done(&mut download, "pip download")?;
    }
    create(&headers)?;
    for package in crate::workspace::files(&packages, &["whl"])? {
        let mut extract = Command::new("python3");
        extract.args(["-c", EXTRACT]).arg(&package).arg(&headers);
        extract.arg(PLACE).args(FOLDERS);
        done(&mut extract, &package.display().to_string())?;
    }
    write(&complete, PACKAGE)?;
    Ok(place)
}

/// Extracts folders of a folder in an archive: archive, where to, folder, folders in it.
const EXTRACT: &str = "\
import sys, zipfile
archive = zipfile.ZipFile(sys.argv[1])
wanted = tuple(f'{sys.argv[3]}/{name}/' for name in sys.argv[4:])
archive.extractall(sys.argv[2], [n for n in archive.namelist() if n.startswith(wanted)])
";

fn create(folder: &Path) -> Outcome {
    fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))
}

fn write(path: &Path, text: &str) -> Outcome {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

/// Runs a program that must succeed.
fn done(command: &mut Command, what: &str) -> Outcome {
    let finished = process::captured(command, None, what, |_| {})?;
    if finished.success {
        Ok(())
    } else {
        Err(format!("{what}:\n{}", finished.output))
    }
}
