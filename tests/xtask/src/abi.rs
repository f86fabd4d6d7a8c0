//! `cargo xtask abi`: the interface's numbers and structures, from the public header.

mod header;

use crate::workspace::Workspace;
use crate::{Command, Outcome, Verdict, need, process, usage};
use std::path::Path;
use std::{env, fs};

pub const COMMAND: Command = Command {
    name: "abi",
    summary: "write core/src/abi/kvm.rs, and FreeBSD's waterbear/kvm.h, anew from the public header",
    options: "--header       only what is FreeBSD's, from the first as it is",
    run,
};

/// What is generated, and from what.
pub const GENERATED: &str = "core/src/abi/kvm.rs";
/// The same for FreeBSD, in C.
pub const C_HEADER: &str = "ports/freebsd/include/waterbear/kvm.h";
/// FreeBSD's numbers of the commands, for the port.
pub const COMMAND_LIST: &str = "ports/freebsd/src/commands/list.rs";
const HEADER: &str = "core/src/abi/kvm.h";
/// The version of the generator; another one may write the same things differently.
const VERSION: &str = "0.73.2";

/// Numbers that the core uses, as a pattern.
const NUMBERS: &str = "KVM_(API_VERSION|CAP_.*|CREATE_.*|GET_.*|SET_.*|RUN|CHECK_EXTENSION|\
                       ENABLE_CAP|CLEAR_DIRTY_LOG|MEM_.*|DIRTY_LOG_.*|EXIT_.*|INTERRUPT|NMI|\
                       MP_STATE_.*|VCPUEVENT_.*|X86_SHADOW_.*|X86_.*MCE.*|CPUID_FLAG_.*|INTERNAL_ERROR_.*|MAX_CPUID_ENTRIES|\
                       (UN)?REGISTER_COALESCED_MMIO|COALESCED_MMIO_PAGE_OFFSET|IOEVENTFD.*|\
                       KVMCLOCK_CTRL|CLOCK_.*|STATS_(TYPE|UNIT|BASE)_.*)";
/// Structures that the core uses. Those with an array of unknown length are not among them: they
/// cannot be had without unsafe code, and their first fields are simple.
const STRUCTURES: &str = "kvm_(userspace_memory_region|dirty_log|clear_dirty_log|enable_cap|run|\
                          regs|sregs|sregs2|fpu|segment|dtable|msr_entry|cpuid_entry2|mp_state|\
                          interrupt|vcpu_events|debugregs|xcrs|xcr|coalesced_mmio_zone|\
                          coalesced_mmio|ioeventfd|clock_data|stats_header)";

fn run(mut arguments: lexopt::Parser) -> Outcome<Verdict> {
    let workspace = Workspace::find()?;
    match arguments.next().map_err(|error| usage(&error))? {
        None => {}
        Some(lexopt::Arg::Long("header")) => {
            write_for_freebsd(&workspace)?;
            return Ok(Verdict::Good);
        }
        Some(argument) => return Err(usage(&argument.unexpected())),
    }
    need::file(Path::new("/usr/include/linux/kvm.h"), "linux-libc-dev")?;
    need::tool("clang", "clang")?;
    match generate(&workspace)? {
        Fresh::Text(text) => {
            let path = workspace.folder(GENERATED);
            fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
            println!("{GENERATED} is written.");
            write_for_freebsd(&workspace)?;
            Ok(Verdict::Good)
        }
        Fresh::Cannot(why) => Err(why),
    }
}

/// Writes the header and the list for FreeBSD, from what is there.
fn write_for_freebsd(workspace: &Workspace) -> Outcome {
    let generated = workspace.read(GENERATED)?;
    let texts = [
        (C_HEADER, header::write(&generated)),
        (COMMAND_LIST, header::list(&generated)),
    ];
    for (name, text) in texts {
        let path = workspace.folder(name);
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        println!("{name} is written.");
    }
    Ok(())
}

/// A C file that checks FreeBSD's header while it is compiled.
pub fn c_header_checks(workspace: &Workspace) -> Outcome<String> {
    Ok(header::checks(&workspace.read(GENERATED)?))
}

/// A fresh generation, or why there is none.
pub enum Fresh {
    Text(String),
    Cannot(String),
}

/// Generates the file as it would be now.
pub fn generate(workspace: &Workspace) -> Outcome<Fresh> {
    let mut command = match bindgen(workspace)? {
        Some(command) => command,
        None => match install(workspace)? {
            Some(command) => command,
            None => {
                return Ok(Fresh::Cannot(format!(
                    "bindgen {VERSION} is missing. \
                     Run: cargo install bindgen-cli --version {VERSION}"
                )));
            }
        },
    };
    let header = header_version()?;
    command
        .args(["--use-core", "--ctypes-prefix", "core::ffi"])
        .args(["--rust-edition", "2024", "--rust-target", "1.85"])
        .args(["--default-macro-constant-type", "unsigned"])
        .args(["--no-doc-comments", "--clang-macro-fallback"])
        .arg("--clang-macro-fallback-build-dir")
        .arg(workspace.target())
        .args(["--raw-line", &format!("// From linux-libc-dev {header}.")])
        .args(["--allowlist-var", NUMBERS])
        .args(["--allowlist-type", STRUCTURES])
        .arg(workspace.folder(HEADER));
    let finished = process::captured(&mut command, None, "bindgen", |_| {})?;
    Ok(if finished.success {
        Fresh::Text(finished.stdout)
    } else {
        Fresh::Cannot(format!("bindgen failed:\n{}", finished.output))
    })
}

/// Compares the file with a fresh generation: its fault, if it has one, or why it cannot be
/// compared.
pub fn compare(workspace: &Workspace) -> Outcome<Result<Option<String>, String>> {
    let kept = workspace.read(GENERATED)?;
    let header = header_version()?;
    if !kept.contains(&format!("// From linux-libc-dev {header}.")) {
        return Ok(Err(format!("the header here is another one, {header}")));
    }
    Ok(match generate(workspace)? {
        Fresh::Cannot(why) => Err(why),
        Fresh::Text(fresh) if fresh == kept => Ok(None),
        Fresh::Text(_) => Ok(Some(format!(
            "{GENERATED} is not what bindgen makes of the header. Run: cargo xtask abi"
        ))),
    })
}

/// The version of the package that has the header.
fn header_version() -> Outcome<String> {
    let mut query = std::process::Command::new("dpkg-query");
    query.args(["--show", "--showformat=${Version}", "linux-libc-dev"]);
    let finished = process::captured(&mut query, None, "dpkg-query", |_| {})?;
    Ok(finished.stdout.trim().to_owned())
}

/// The generator of the right version, from the path or from where cargo installs programs for
/// this project alone.
fn bindgen(workspace: &Workspace) -> Outcome<Option<std::process::Command>> {
    let paths = env::var_os("PATH").unwrap_or_default();
    let own = workspace.target().join("tools/bin");
    for folder in env::split_paths(&paths).chain([own]) {
        let program = folder.join("bindgen");
        if !program.is_file() {
            continue;
        }
        let mut version = std::process::Command::new(&program);
        let finished = process::captured(version.arg("--version"), None, "bindgen", |_| {})?;
        if finished.stdout.trim() == format!("bindgen {VERSION}") {
            return Ok(Some(std::process::Command::new(program)));
        }
    }
    Ok(None)
}

/// Installs it for this project alone.
fn install(workspace: &Workspace) -> Outcome<Option<std::process::Command>> {
    println!("  bindgen {VERSION} is missing: installing it");
    // The library that it reads C with has another name in each version.
    if let Err(sentence) = need::file(Path::new("/usr/share/doc/libclang-dev"), "libclang-dev") {
        println!("  {sentence}");
        return Ok(None);
    }
    let mut install = std::process::Command::new("cargo");
    install
        .args([
            "install",
            "--quiet",
            "--locked",
            "bindgen-cli",
            "--version",
            VERSION,
            "--root",
        ])
        .arg(workspace.target().join("tools"));
    if process::shown(&mut install)? {
        bindgen(workspace)
    } else {
        Ok(None)
    }
}
