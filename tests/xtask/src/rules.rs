//! `cargo xtask rules`: which tests prove which rule of the core.

mod claims;
mod list;

use crate::workspace::{self, Workspace};
use crate::{Command, Outcome, Verdict, usage};
use claims::Claim;

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
    for folder in workspace.folders(&["core", "hal", "ports", "tests"])? {
        for path in workspace::files(&folder, &["rs"])? {
            let text = workspace::read(&path)?;
            let (found, wrong) = claims::parse(&text, workspace.relative(&path))?;
            claims.extend(found);
            faults.extend(wrong);
        }
    }
    faults.extend(unknown(&rules, &claims));

    let mut proved = 0;
    for rule in &rules {
        let mut tests = claims.iter().filter(|claim| claim.rule == *rule).peekable();
        if tests.peek().is_some() {
            proved += 1;
        } else {
            println!("{rule:<8}-");
            faults.push(format!(
                "{rule} has no test that proves it. Write one, with `/// Proves {rule}.` above it."
            ));
        }
        let mut first = rule.as_str();
        for claim in tests {
            println!("{first:<8}{}  {}", claim.test, claim.place);
            first = "";
        }
    }
    println!();
    faults.iter().for_each(|fault| println!("FAILED {fault}"));
    println!(
        "{} rules, {proved} proved, {} faults",
        rules.len(),
        faults.len()
    );
    Ok(if faults.is_empty() {
        Verdict::Good
    } else {
        Verdict::Bad
    })
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
