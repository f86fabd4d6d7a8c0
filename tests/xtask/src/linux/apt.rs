//! Debian's packages of other releases than this machine's, downloaded and unpacked, never
//! installed.
//!
//! Where the packages are this machine knows: its own entry for Debian's archive is taken, with
//! another suite. Lists and packages are kept under the build folder.

use crate::{Outcome, process, workspace};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The machine's entries: a file in the old form, and a folder with files in either form.
const FILE: &str = "/etc/apt/sources.list";
const FOLDER: &str = "/etc/apt/sources.list.d";

/// One suite of Debian's archive.
pub struct Suite {
    folder: PathBuf,
    source: PathBuf,
}

impl Suite {
    /// Fetches its lists into a folder.
    pub fn fetch(name: &str, folder: &Path) -> Outcome<Self> {
        let entry = machine_entries()?
            .into_iter()
            .find_map(|(form, text)| Some((form, with_suite(form, &text, &codename()?, name)?)));
        let Some((form, entry)) = entry else {
            return Err(format!(
                "this machine has no source of Debian's packages under /etc/apt from which one \
                 for {name} could be derived. Run this on Debian, or name a kernel's headers to \
                 `make -C ports/linux KDIR=folder`."
            ));
        };
        let this = Self {
            folder: folder.to_path_buf(),
            source: folder.join("source").with_extension(form.extension()),
        };
        for part in ["lists/partial", "cache/archives/partial"] {
            let part = folder.join(part);
            fs::create_dir_all(&part).map_err(|error| format!("{}: {error}", part.display()))?;
        }
        for (file, text) in [(&this.source, entry.as_str()), (&folder.join("status"), "")] {
            fs::write(file, text).map_err(|error| format!("{}: {error}", file.display()))?;
        }
        this.run("apt-get", |apt| apt.arg("update"))?;
        Ok(this)
    }

    /// The packages of the kernel's on which these packages depend.
    pub fn dependencies(&self, of: &[&str]) -> Outcome<Vec<String>> {
        let text = self.run("apt-cache", |apt| apt.arg("depends").args(of))?;
        let names = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "));
        Ok(names
            .filter(|name| name.starts_with("linux-"))
            .map(str::to_owned)
            .collect())
    }

    /// Downloads packages and unpacks them.
    pub fn unpack(&self, names: &[String], root: &Path) -> Outcome {
        let packages = self.folder.join("packages");
        fs::create_dir_all(&packages)
            .map_err(|error| format!("{}: {error}", packages.display()))?;
        self.run("apt-get", |apt| {
            apt.arg("download").args(names).current_dir(&packages)
        })?;
        for package in workspace::files(&packages, &["deb"])? {
            let mut extract = Command::new("dpkg");
            extract.arg("--extract").arg(&package).arg(root);
            let finished = process::captured(&mut extract, None, "dpkg", |_| {})?;
            if !finished.success {
                return Err(format!("{}:\n{}", package.display(), finished.output));
            }
        }
        Ok(())
    }

    /// Runs a program of apt's with our source and our folders.
    fn run(
        &self,
        program: &str,
        arguments: impl FnOnce(&mut Command) -> &mut Command,
    ) -> Outcome<String> {
        let mut apt = Command::new(program);
        for (name, value) in [
            ("Dir::Etc::SourceList", self.source.clone()),
            ("Dir::Etc::SourceParts", PathBuf::from("/dev/null")),
            ("Dir::State::Lists", self.folder.join("lists")),
            ("Dir::State::Status", self.folder.join("status")),
            ("Dir::Cache", self.folder.join("cache")),
            // The folder may be closed to apt's own user.
            ("APT::Sandbox::User", PathBuf::from("root")),
        ] {
            apt.arg("-o").arg(format!("{name}={}", value.display()));
        }
        let finished = process::captured(arguments(&mut apt), None, program, |_| {})?;
        if finished.success {
            Ok(finished.stdout)
        } else {
            Err(format!("{program} failed:\n{}", finished.output))
        }
    }
}

/// How a file has its entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    /// A line each.
    Lines,
    /// A paragraph of fields each.
    Fields,
}

impl Form {
    fn extension(self) -> &'static str {
        match self {
            Form::Lines => "list",
            Form::Fields => "sources",
        }
    }
}

/// The texts of the machine's files.
fn machine_entries() -> Outcome<Vec<(Form, String)>> {
    let mut entries = Vec::new();
    if Path::new(FILE).exists() {
        entries.push((Form::Lines, workspace::read(Path::new(FILE))?));
    }
    for form in [Form::Lines, Form::Fields] {
        for file in workspace::files(Path::new(FOLDER), &[form.extension()])? {
            entries.push((form, workspace::read(&file)?));
        }
    }
    Ok(entries)
}

/// The name of this machine's release.
fn codename() -> Option<String> {
    let text = fs::read_to_string("/etc/os-release").ok()?;
    let name = text
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
    Some(name.trim_matches('"').to_owned())
}

/// The first entry for the suite `own` with the suite `wanted` in its place.
///
/// Source: sources.list(5).
fn with_suite(form: Form, text: &str, own: &str, wanted: &str) -> Option<String> {
    match form {
        Form::Lines => text.lines().find_map(|line| {
            let rest = line.trim().strip_prefix("deb ")?;
            let (before, after) = rest.split_once(&format!(" {own} "))?;
            after.split_whitespace().find(|part| *part == "main")?;
            Some(format!("deb {before} {wanted} main\n"))
        }),
        Form::Fields => text.split("\n\n").find_map(|paragraph| {
            let lines = || paragraph.lines().filter(|line| !line.starts_with('#'));
            let has = |name: &str, value: &str| {
                lines()
                    .filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                    .any(|values| values.split_whitespace().any(|has| has == value))
            };
            if !has("Types", "deb") || !has("Suites", own) || !has("Components", "main") {
                return None;
            }
            let changed = lines().map(|line| match line.split_once(':') {
                Some(("Types", _)) => "Types: deb\n".to_owned(),
                Some(("Suites", _)) => format!("Suites: {wanted}\n"),
                Some(("Components", _)) => "Components: main\n".to_owned(),
                _ => format!("{line}\n"),
            });
            Some(changed.collect())
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_own_entry_is_taken_with_another_suite() {
        let lines = "# a comment\n\
                     deb-src http://archive/debian here main\n\
                     deb http://archive/security here-security main\n\
                     deb [signed-by=/key] http://archive/debian here contrib main\n";
        assert_eq!(
            with_suite(Form::Lines, lines, "here", "there").unwrap(),
            "deb [signed-by=/key] http://archive/debian there main\n"
        );
        let fields = "Types: deb\nURIs: http://other\nSuites: stable\nComponents: main\n\n\
                      Types: deb deb-src\n# where\nURIs: http://archive\n\
                      Suites: here here-updates\nComponents: main contrib\nSigned-By: /key\n";
        assert_eq!(
            with_suite(Form::Fields, fields, "here", "there").unwrap(),
            "Types: deb\nURIs: http://archive\nSuites: there\nComponents: main\nSigned-By: /key\n"
        );
    }

    #[test]
    fn without_an_entry_of_its_own_there_is_nothing_to_take() {
        for form in [Form::Lines, Form::Fields] {
            assert_eq!(with_suite(form, "", "here", "there"), None);
            let other = "deb http://x here-security main\nSuites: here-security\n";
            assert_eq!(with_suite(form, other, "here", "there"), None);
        }
    }
}
