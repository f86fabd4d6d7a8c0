//! `cargo xtask size`: what the built module takes, beside the kernel's own hypervisor.

mod object;

use crate::linux::{Flavour, Kernel, Module, VERSIONS};
use crate::workspace::Workspace;
use crate::{Command, Outcome, Verdict, freebsd, usage};
use object::Object;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

pub const COMMAND: Command = Command {
    name: "size",
    summary: "print what the modules take, beside Linux's own hypervisor",
    options: "",
    run,
};

/// What the loaded module may take, in bytes.
const LIMIT: u64 = 160 * 1024;
/// The function that the kernel forgets after initialisation.
const FORGOTTEN: &str = "waterbear_init";

fn run(mut arguments: lexopt::Parser) -> Outcome<Verdict> {
    if let Some(other) = arguments.next().map_err(|error| usage(&error))? {
        return Err(usage(&other.unexpected()));
    }
    let workspace = Workspace::find()?;
    let kernel = Kernel::fetch(&workspace, VERSIONS[0], Flavour::Amd64)?;
    let module = Module::build(&workspace, &kernel)?;
    let ours = Object::read(&module.file)?;
    let folder = kernel.modules.join("arch/x86/kvm");
    let freebsd = Object::read(&freebsd::build(&workspace)?)?;
    let mut columns = vec![("waterbear", ours), ("on FreeBSD", freebsd)];
    for name in ["kvm", "kvm-amd", "kvm-intel"] {
        columns.push((name, Object::read(&folder.join(format!("{name}.ko")))?));
    }
    let names = module.folder.join("rust.o.mangled");
    print!("{}", crates(&names, &columns[0].1)?);
    print!("\n{}", table(&columns));
    let loaded = columns[0].1.loaded();
    println!(
        "\nIn bytes, for Linux {} and FreeBSD 15, without what goes after initialisation and without rounding up to \
         pages.",
        kernel.release
    );
    if loaded > LIMIT {
        println!("The module takes {loaded} bytes, which is more than {LIMIT}.");
        return Ok(Verdict::Bad);
    }
    println!("The module takes {loaded} bytes of at most {LIMIT}.");
    Ok(Verdict::Good)
}

/// A row for each kind of content, a column for each module.
fn table(modules: &[(&str, Object)]) -> String {
    let mut text = format!("{:<28}", "");
    for (name, _) in modules {
        text += &format!("{name:>12}");
    }
    text.push('\n');
    let mut row = |name: &str, bytes: &dyn Fn(&Object) -> u64| {
        text += &format!("{name:<28}");
        for (_, object) in modules {
            text += &format!("{:>12}", bytes(object));
        }
        text.push('\n');
    };
    for (number, kind) in object::KINDS.iter().enumerate() {
        row(kind, &|object| object.bytes[number]);
    }
    row("loaded", &Object::loaded);
    text
}

/// The bytes of code of each crate, as `nm -p -S` lists the module's Rust object; the rest of the
/// module's is C.
fn crates(names: &Path, module: &Object) -> Outcome<String> {
    let list =
        fs::read_to_string(names).map_err(|error| format!("{}: {error}", names.display()))?;
    let mut crates = BTreeMap::<&str, u64>::new();
    let mut rust = 0;
    for line in list.lines() {
        let [_, size, kind, name] = line.split(' ').collect::<Vec<_>>()[..] else {
            continue;
        };
        let size = u64::from_str_radix(size, 16).unwrap_or(0);
        if kind.eq_ignore_ascii_case("t") && name != FORGOTTEN {
            *crates.entry(crate_of(name)).or_default() += size;
            rust += size;
        }
    }
    let mut sorted: Vec<_> = crates.into_iter().collect();
    sorted.sort_by_key(|&(_, size)| std::cmp::Reverse(size));
    sorted.push((
        "C, and gaps",
        module.bytes[object::CODE].saturating_sub(rust),
    ));
    let mut text = String::from("bytes of code\n");
    for (name, size) in sorted {
        text += &format!("{name:<28}{size:>12}\n");
    }
    Ok(text)
}

/// The crate whose code a symbol is, by the first that its name mentions. The module's own is
/// `waterbear-kernel` under another name; entry points, which are not mangled, are its.
fn crate_of(symbol: &str) -> &str {
    const CRATES: [(&str, &str); 9] = [
        ("14waterbear_core", "waterbear-core"),
        ("13waterbear_hal", "waterbear-hal"),
        ("13waterbear_svm", "waterbear-svm"),
        ("13waterbear_vmx", "waterbear-vmx"),
        ("16waterbear_kernel", "waterbear-kernel"),
        ("15waterbear_linux", "waterbear-kernel"),
        ("14allocator_api2", "allocator-api2"),
        ("_4core", "core"),
        ("_5alloc", "alloc"),
    ];
    if !symbol.starts_with("_R") {
        return "waterbear-kernel";
    }
    let place = |&(mangled, name)| Some((symbol.find(mangled)?, name));
    let first = CRATES.iter().filter_map(place).min();
    first.map_or("others", |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_symbol_is_of_the_crate_that_it_names_first() {
        let core =
            "_RNvMs_NtCs7FD3HiSVVDF_14waterbear_core2vmINtB4_2VmNtCs1_16waterbear_kernel6KernelE";
        assert_eq!(crate_of(core), "waterbear-core");
        assert_eq!(crate_of("waterbear_vm_ioctl"), "waterbear-kernel");
        assert_eq!(crate_of("_RNvNtCs1_4core3fmt5write"), "core");
        assert_eq!(crate_of("_RNvCs1_5other4name"), "others");
    }
}
