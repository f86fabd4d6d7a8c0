//! Assembles each `asm/*.S` into a blob that is linked for one address.
//!
//! The C compiler that links Rust programs does it: guest code needs absolute addresses, 16-bit
//! ones too, and its own sections, which assembly inside of a Rust crate does not have.
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn main() {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let asm = here.join("asm");
    println!("cargo:rerun-if-changed={}", asm.display());
    println!("cargo:rerun-if-env-changed=CC");
    for entry in fs::read_dir(&asm).expect("the folder of the programs") {
        let source = entry.expect("an entry of the folder").path();
        println!("cargo:rerun-if-changed={}", source.display());
        if source.extension().is_some_and(|ext| ext == "S") {
            assemble(&asm, &source, &out);
        }
    }
}

fn assemble(asm: &Path, source: &Path, out: &Path) {
    let name = source.file_stem().expect("a file has a name");
    let compiler = env::var_os("CC").unwrap_or_else(|| "cc".into());
    let status = Command::new(compiler)
        .args([
            "-x",
            "assembler-with-cpp",
            "-nostdlib",
            "-static",
            "-no-pie",
        ])
        .args([
            "-Wl,--build-id=none",
            "-Wl,--oformat=binary",
            "-Wl,-z,noexecstack",
        ])
        .arg("-I")
        .arg(asm)
        .arg(source)
        .args(["-x", "none", "-T"])
        .arg(asm.join("guest.ld"))
        .arg("-o")
        .arg(out.join(name).with_extension("bin"))
        .status()
        .expect("a C compiler (cc) is needed to assemble the guest programs");
    assert!(status.success(), "{} does not assemble", source.display());
}
