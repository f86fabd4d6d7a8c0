//! The layer `freebsd`: what the module's object must look like for FreeBSD to load it, and what it
//! does on a host that is made for this test, and is not FreeBSD.

use super::report::Report;
use super::{Options, Tally};
use crate::freebsd::object::{ALLOC, EXECUTE, Object, WRITE};
use crate::freebsd::{OLDEST, build, for_host, header_faults};
use crate::machine::{FREEBSD_MACHINE, Image};
use crate::workspace::Workspace;
use crate::{Outcome, abi, need, process};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The relocations that the loader of objects knows, by their numbers in the System V ABI: none,
/// 64, PC32, PLT32, GLOB_DAT, JMP_SLOT, RELATIVE, 32S, IRELATIVE.
const KNOWN: [u32; 9] = [0, 1, 2, 4, 6, 7, 8, 11, 37];

/// The lists in which the kernel finds what a module wants of it.
const SETS: [&str; 3] = [
    "set_modmetadata_set",
    "set_sysinit_set",
    "set_sysuninit_set",
];

/// The sections whose pages get a protection of their own.
const PADDED: [&str; 2] = [".text", ".rodata"];
const PAGE: u64 = 4096;

/// Where it is said which of the kernel's symbols the module uses.
const IMPORTS: &str = "ports/freebsd/imports.txt";
/// Where a symbol may be used, in that list.
const RULES: [&str; 5] = ["any", "spin", "block", "sleep", "data"];

/// What the compiler uses of itself, now and then.
const BY_COMPILER: [&str; 3] = ["memcpy", "memmove", "memset"];

pub fn run(workspace: &Workspace, _options: &Options, tally: &mut Tally) -> Outcome {
    let module = build(workspace)?;
    let file = fs::read(&module).map_err(|error| format!("{}: {error}", module.display()))?;
    let object = Object::read(&file)?;
    let imports = workspace.read(IMPORTS)?;
    let header = header_faults(workspace, &abi::c_header_checks(workspace)?)?;
    let checks = [
        ("the loader knows every relocation", relocations(&object)),
        (
            "the lists that the kernel looks for are there",
            sets(&object),
        ),
        (
            "the module wants a kernel of the oldest version or later",
            versions(&object),
        ),
        (
            "every symbol of the kernel's is listed",
            symbols(&object, &imports),
        ),
        ("code and constants fill whole pages", padding(&object)),
        ("nothing can be written and executed", protection(&object)),
        (
            "the installed header has the structures of the public one",
            header,
        ),
        (
            "the small monitor compiles for FreeBSD from the same source",
            monitor(workspace)?,
        ),
    ];
    for (what, faults) in checks {
        println!(
            "  {} {what}",
            if faults.is_empty() { "ok" } else { "FAILED" }
        );
        match faults.as_slice() {
            [] => tally.passed += 1,
            _ => tally.failed.push(format!("{what}: {}", faults.join(", "))),
        }
    }
    tally.notes.push(format!("{} bytes", file.len()));
    on_host(workspace, &module, tally)
}

/// What the compiler says against the small monitor on FreeBSD. It is not linked: that would take
/// FreeBSD's C library.
fn monitor(workspace: &Workspace) -> Outcome<Vec<String>> {
    const TARGET: &str = "x86_64-unknown-freebsd";
    need::rust_part("target", TARGET)?;
    let mut check = workspace.cargo("check --quiet --package waterbear-vmm --target");
    check.arg(TARGET);
    let finished = process::captured(&mut check, None, "the monitor for FreeBSD", |_| {})?;
    Ok(if finished.success {
        Vec::new()
    } else {
        vec![finished.output]
    })
}

/// Runs the module on the test host.
fn on_host(workspace: &Workspace, module: &Path, tally: &mut Tally) -> Outcome {
    let image = Image::build(workspace, "", "release")?.with_file(for_host(workspace, module)?);
    let name = "the test host";
    let text = image.run(&FREEBSD_MACHINE, |line| {
        if !line.starts_with("waterbear: ") {
            println!("  {line}");
        }
    });
    Report::tell(text.map(|text| Report::of(&text)), name, tally);
    Ok(())
}

/// The relocations in what is loaded that the loader does not know.
fn relocations(object: &Object) -> Vec<String> {
    let unknown = object
        .relocations
        .iter()
        .filter(|it| object.sections[it.section].flags & ALLOC != 0 && !KNOWN.contains(&it.kind))
        .map(|it| format!("type {} in {}", it.kind, object.sections[it.section].name));
    unknown.collect::<BTreeSet<_>>().into_iter().collect()
}

fn sets(object: &Object) -> Vec<String> {
    let missing = |name: &&str| {
        object
            .section(name)
            .is_none_or(|(_, section)| section.size == 0)
    };
    SETS.into_iter()
        .filter(missing)
        .map(str::to_owned)
        .collect()
}

/// What is wrong with the version that the module's metadata ask for: from the oldest kernel to
/// the end of its major version.
fn versions(object: &Object) -> Vec<String> {
    match wanted(object, "kernel") {
        None => vec!["it names no kernel".to_owned()],
        Some(versions) => {
            let right = [OLDEST, OLDEST, OLDEST / 100_000 * 100_000 + 99_999];
            if versions == right {
                Vec::new()
            } else {
                vec![format!("{versions:?} instead of {right:?}")]
            }
        }
    }
}

/// The least, best and greatest version of another module that this one wants. Source:
/// `sys/module.h`, `struct mod_metadata` and `struct mod_depend`.
fn wanted(object: &Object, name: &str) -> Option<[u32; 3]> {
    const DATA: u64 = 8;
    const NAME: u64 = 16;
    let (set, section) = object.section("set_modmetadata_set")?;
    (0..section.size).step_by(8).find_map(|offset| {
        let (place, at) = object.pointer(set, offset)?;
        if object.text_at(object.pointer(place, at + NAME)?)? != name {
            return None;
        }
        let (place, at) = object.pointer(place, at + DATA)?;
        let number = |index: u64| object.number_at((place, at + 4 * index));
        Some([number(0)?, number(1)?, number(2)?])
    })
}

/// Symbols that the module uses and the list does not have, or the other way round, and lines of
/// the list that make no sense.
fn symbols(object: &Object, imports: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let mut listed = BTreeSet::new();
    for line in imports.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        match words.as_slice() {
            [] => {}
            [first, ..] if first.starts_with('#') => {}
            [symbol, header, rule] if header.ends_with(".h") && RULES.contains(rule) => {
                listed.insert((*symbol).to_owned());
            }
            _ => faults.push(format!("the line {line:?} makes no sense")),
        }
    }
    let used: BTreeSet<_> = object
        .symbols
        .iter()
        .filter(|symbol| symbol.section == 0 && !symbol.name.is_empty())
        .map(|symbol| symbol.name.clone())
        .collect();
    faults.extend(
        used.difference(&listed)
            .map(|name| format!("{name} is not listed")),
    );
    let unused = listed.difference(&used);
    let unused = unused.filter(|name| !BY_COMPILER.contains(&name.as_str()));
    faults.extend(unused.map(|name| format!("{name} is not used")));
    faults
}

fn padding(object: &Object) -> Vec<String> {
    let fills = |name: &str| {
        let section = object.section(name);
        section.is_some_and(|(_, section)| section.size != 0 && section.size % PAGE == 0)
    };
    let code = |name: &str| PADDED.contains(&name);
    let elsewhere = object
        .sections
        .iter()
        .filter(|it| it.flags & ALLOC != 0 && it.flags & EXECUTE != 0 && !code(&it.name))
        .map(|it| it.name.clone());
    let padded = PADDED
        .into_iter()
        .filter(|name| !fills(name))
        .map(str::to_owned);
    padded.chain(elsewhere).collect()
}

fn protection(object: &Object) -> Vec<String> {
    let both = WRITE | EXECUTE;
    let faulty = object.sections.iter().filter(|it| it.flags & both == both);
    faulty.map(|it| it.name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::freebsd::object::{Relocation, Section, Symbol};

    fn object() -> Object {
        let symbol = |name: &str| Symbol {
            name: name.to_owned(),
            section: 0,
            value: 0,
        };
        Object {
            sections: vec![Section::new(".text", ALLOC | EXECUTE, PAGE)],
            symbols: vec![symbol("printf"), symbol("panic")],
            relocations: Vec::new(),
        }
    }

    #[test]
    fn symbols_and_their_list_must_agree() {
        let listed = "# a remark\nprintf sys/systm.h any\npanic sys/systm.h any\n";
        let faults = |imports: &str| symbols(&object(), imports).len();
        assert_eq!(faults(listed), 0);
        assert_eq!(faults(&listed.replace("panic", "# panic")), 1);
        assert_eq!(faults(&format!("{listed}malloc sys/malloc.h sleep")), 1);
        assert_eq!(faults(&format!("{listed}malloc")), 1);
    }

    #[test]
    fn relocations_by_way_of_a_table_of_offsets_are_refused() {
        const GOTPCREL: u32 = 9;
        let mut object = object();
        object.relocations.push(Relocation {
            section: 0,
            offset: 0,
            kind: GOTPCREL,
            symbol: 0,
            addend: 0,
        });
        assert_eq!(relocations(&object).len(), 1);
    }

    #[test]
    fn code_that_can_be_written_or_is_not_padded_is_refused() {
        let mut object = object();
        assert_eq!(protection(&object).len(), 0);
        assert_eq!(padding(&object), [".rodata"]);
        object.sections = vec![
            Section::new(".text", ALLOC | EXECUTE | WRITE, PAGE + 1),
            Section::new(".rodata", ALLOC, PAGE),
        ];
        assert_eq!(protection(&object), [".text"]);
        assert_eq!(padding(&object), [".text"]);
    }
}
