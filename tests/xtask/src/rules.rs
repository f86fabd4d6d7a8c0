//! `cargo xtask rules`: which tests prove which rule of the core.

mod claims;
mod list;

use crate::workspace::{self, Workspace};
use crate::{Command, Outcome, Verdict, usage};
use claims::Claim;
use std::io::Write as _;

pub const COMMAND: Command = Command {
    name: "rules",
    summary: "print the tests that prove each rule; fail if a rule has none",
    options: "",
    run,
};

/// The file that states the rules.
const FILE: &str = "core/src/rules.md";

fn run(mut arguments: lexopt::Parser) -> Outcome<Verdict> {
    if let Some(argument) = arguments.next().map_err(|error| usage(&error))? {
        return Err(usage(&argument.unexpected()));
    }
    let workspace = Workspace::find()?;
    let (rules, mut faults) = list::parse(&workspace.read(FILE)?);
    let mut claims = Vec::new();
    let folders = ["core", "hal", "ports", "tests"].map(|name| workspace.folder(name));
    for folder in folders.into_iter().chain(workspace.vendor_folders()?) {
        for path in workspace::files(&folder, &["rs"])? {
            let text = workspace::read(&path)?;
            let (found, wrong) = claims::parse(&text, workspace.relative(&path))?;
            claims.extend(found);
            faults.extend(wrong);
        }
    }
    faults.extend(unknown(&rules, &claims));

    let mut text = String::new();
    let mut proved = 0;
    for rule in &rules {
        let tests: Vec<_> = claims.iter().filter(|claim| claim.rule == *rule).collect();
        text += &lines(rule, &tests);
        if tests.is_empty() {
            faults.push(format!(
                "{rule} has no test that proves it. Write one, with `/// Proves {rule}.` above it."
            ));
        } else {
            proved += 1;
        }
    }
    text.push('\n');
    for fault in &faults {
        text += &format!("FAILED {fault}\n");
    }
    text += &format!(
        "{} rules, {proved} proved, {} faults\n",
        rules.len(),
        faults.len()
    );
    // A reader who has seen enough, such as `head`, may close the pipe.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(if faults.is_empty() {
        Verdict::Good
    } else {
        Verdict::Bad
    })
}

/// The lines of one rule: each test that proves it, or a hyphen.
fn lines(rule: &str, tests: &[&Claim]) -> String {
    let mut text = String::new();
    let mut first = rule;
    for claim in tests {
        text += &format!("{first:<8}{}  {}\n", claim.test, claim.place);
        first = "";
    }
    if tests.is_empty() {
        text += &format!("{rule:<8}-\n");
    }
    text
}

fn unknown<'a>(rules: &'a [String], claims: &'a [Claim]) -> impl Iterator<Item = String> + 'a {
    let unknown = claims.iter().filter(|claim| !rules.contains(&claim.rule));
    unknown.map(|claim| {
        format!(
            "{}: {} proves {}, which {FILE} does not state.",
            claim.place, claim.test, claim.rule
        )
    })
}

/// Whether a word is the id of a rule: letters, a hyphen, a number.
fn is_id(word: &str) -> bool {
    let Some((letters, number)) = word.split_once('-') else {
        return false;
    };
    !letters.is_empty()
        && letters.bytes().all(|byte| byte.is_ascii_uppercase())
        && !number.is_empty()
        && number.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_letters_a_hyphen_and_a_number() {
        assert!(is_id("MS-7") && is_id("BUG-17"));
        for other in ["MS", "MS-", "-7", "ms-7", "MS-7..9", "MS-7a", "MS_7"] {
            assert!(!is_id(other), "{other}");
        }
    }

    #[test]
    fn a_test_for_a_rule_that_is_not_stated_is_a_fault() {
        let claim = |rule: &str| Claim {
            rule: rule.to_owned(),
            test: "a_test".to_owned(),
            place: "a.rs:1".to_owned(),
        };
        let claims = [claim("MS-1"), claim("MS-99")];
        let faults: Vec<_> = unknown(&["MS-1".to_owned()], &claims).collect();
        assert_eq!(faults.len(), 1);
        assert!(faults[0].contains("MS-99"), "{}", faults[0]);
    }
}
