//! Where things may stand: no operating system in the portable crates, unsafe code only in the
//! named modules of the core and the vendor crates. Each check returns its faults, one line each.

use crate::Outcome;
use crate::source::{self, Attribute, Item};
use crate::workspace::{self, Workspace};
use std::path::Path;

/// The crates whose unsafe code is fenced.
const FENCED: [&str; 3] = ["core", "vendor-svm", "vendor-vmx"];

/// Their files that may hold unsafe code. The documentation of each crate says why.
const UNSAFE_FILES: &[&str] = &[
    "core/src/lock.rs",
    "core/src/mem.rs",
    "core/src/once.rs",
    "core/src/once_table.rs",
    "core/src/published.rs",
    "core/src/tdp/table.rs",
    "vendor-svm/src/by_hand.rs",
    "vendor-svm/src/cpu.rs",
    "vendor-svm/src/pages.rs",
    "vendor-svm/src/svm.rs",
    "vendor-svm/src/world.rs",
    "vendor-vmx/src/cpu.rs",
    "vendor-vmx/src/fields.rs",
    "vendor-vmx/src/host.rs",
    "vendor-vmx/src/loaded.rs",
    "vendor-vmx/src/pages.rs",
    "vendor-vmx/src/run.rs",
    "vendor-vmx/src/swap.rs",
    "vendor-vmx/src/vmx.rs",
    "vendor-vmx/src/world.rs",
];

/// No file of the portable crates asks for which operating system it is built.
pub fn no_system(workspace: &Workspace) -> Outcome<Vec<String>> {
    let mut faults = Vec::new();
    let portable = [workspace.folder("core"), workspace.folder("hal")];
    for folder in portable.into_iter().chain(workspace.vendor_folders()?) {
        for path in workspace::files(&folder, &["rs", "toml"])? {
            for (number, line) in workspace::read(&path)?.lines().enumerate() {
                if line.contains("target_os") {
                    let path = workspace.relative(&path).display();
                    faults.push(format!("{path}:{}: {}", number + 1, line.trim()));
                }
            }
        }
    }
    Ok(faults)
}

/// The `lib.rs` of each fenced crate has `#![deny(unsafe_code)]`.
pub fn unsafe_is_denied(workspace: &Workspace) -> Outcome<Vec<String>> {
    let denies = |attribute: &Attribute| {
        ["deny", "forbid"]
            .iter()
            .any(|level| attribute.is(level) && attribute.sets(level, "unsafe_code"))
    };
    let mut faults = Vec::new();
    for name in FENCED {
        let lib = format!("{name}/src/lib.rs");
        let items = source::items(&workspace.read(&lib)?, Path::new(&lib))?;
        let denied = items.iter().any(|item| match item {
            Item::Other {
                attributes,
                inner: true,
            } => attributes.iter().any(denies),
            _ => false,
        });
        if !denied {
            faults.push(format!("{lib} lacks #![deny(unsafe_code)]"));
        }
    }
    Ok(faults)
}

/// No other file of the fenced crates than the named ones lifts that.
pub fn unsafe_only_where_named(workspace: &Workspace) -> Outcome<Vec<String>> {
    let mut faults = Vec::new();
    for name in FENCED {
        for path in workspace::files(&workspace.folder(name), &["rs"])? {
            let text = workspace::read(&path)?;
            let path = workspace.relative(&path);
            for place in places_with_unsafe(&text, path)? {
                if !UNSAFE_FILES.contains(&place.as_str()) {
                    faults.push(format!(
                        "{}: {place} is not among the files that may hold unsafe code: {}",
                        path.display(),
                        UNSAFE_FILES.join(", ")
                    ));
                }
            }
        }
    }
    Ok(faults)
}

/// The files for which this one lifts the ban: itself, or a module `mod name;` that it declares.
fn places_with_unsafe(text: &str, path: &Path) -> Outcome<Vec<String>> {
    let mut places = Vec::new();
    for item in source::items(text, path)? {
        let (attributes, place) = match item {
            Item::ModuleFile { name, attributes } => (attributes, module_file(path, &name)),
            Item::Function { attributes, .. } | Item::Other { attributes, .. } => {
                (attributes, path.display().to_string())
            }
        };
        let lifts = |level| attributes.iter().any(|one| one.sets(level, "unsafe_code"));
        if ["allow", "expect", "warn"].into_iter().any(lifts) {
            places.push(place);
        }
    }
    Ok(places)
}

/// The file of a module that is declared in the file `parent`.
fn module_file(parent: &Path, name: &str) -> String {
    let is_root = parent
        .file_stem()
        .is_some_and(|stem| stem == "lib" || stem == "mod");
    let folder = if is_root {
        parent.with_file_name("")
    } else {
        parent.with_extension("")
    };
    folder.join(name).with_extension("rs").display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(text: &str, path: &str) -> Vec<String> {
        places_with_unsafe(text, Path::new(path)).unwrap()
    }

    #[test]
    fn a_file_can_lift_the_ban_for_itself() {
        assert_eq!(
            places("#![expect(unsafe_code)]", "core/src/mem.rs"),
            ["core/src/mem.rs"]
        );
        assert_eq!(
            places("#[allow(unsafe_code)] fn f() {}", "core/src/a.rs"),
            ["core/src/a.rs"]
        );
    }

    #[test]
    fn a_parent_can_lift_the_ban_for_a_module() {
        let text = "#[expect(unsafe_code, reason = \"x\")]\npub(crate) mod table;";
        assert_eq!(places(text, "core/src/lib.rs"), ["core/src/table.rs"]);
        assert_eq!(places(text, "core/src/tdp.rs"), ["core/src/tdp/table.rs"]);
        assert_eq!(
            places(text, "core/src/tdp/mod.rs"),
            ["core/src/tdp/table.rs"]
        );
    }

    #[test]
    fn the_ban_itself_lifts_nothing() {
        assert!(
            places(
                "#![deny(unsafe_code)] // allow(unsafe_code)",
                "core/src/lib.rs"
            )
            .is_empty()
        );
    }
}
