//! The tests that claim to prove a rule.
//!
//! A claim is a doc comment in which a line begins with the word "Proves", followed by the ids
//! with commas or "and" between them and a full stop at the end, perhaps on a later line. It
//! stands above a function that has a `test` attribute or that is an argument of a macro call
//! (such as `proptest!`).

use super::is_id;
use crate::Outcome;
use crate::source::{self, Attribute, Item};
use std::path::Path;

/// One test and one of the rules it names.
pub struct Claim {
    pub rule: String,
    pub test: String,
    /// File and line.
    pub place: String,
}

/// The claims in a source file, and what is wrong with them.
pub fn parse(text: &str, path: &Path) -> Outcome<(Vec<Claim>, Vec<String>)> {
    let mut claims = Vec::new();
    let mut faults = Vec::new();
    for item in source::items(text, path)? {
        let (name, line, attributes, in_macro) = match item {
            Item::Function {
                name,
                line,
                attributes,
                in_macro,
            } => (name, line, attributes, in_macro),
            Item::ModuleFile { attributes, .. } | Item::Other { attributes, .. } => {
                let ids = claimed(&attributes).into_iter().filter(|word| is_id(word));
                let place = path.display();
                faults.extend(ids.map(|id| format!("{place}: {id} is named above no function.")));
                continue;
            }
        };
        let place = format!("{}:{line}", path.display());
        let is_test = in_macro || attributes.iter().any(|attribute| attribute.is("test"));
        let is_ignored = attributes.iter().any(|attribute| attribute.is("ignore"));
        for word in claimed(&attributes) {
            if !is_id(&word) {
                faults.push(format!(
                    "{place}: {name} proves {word:?}, which is no id such as MS-7. Name each id."
                ));
            } else if !is_test {
                faults.push(format!("{place}: {name} names {word} but is not a test."));
            } else if is_ignored {
                faults.push(format!("{place}: {name} names {word} but is ignored."));
            } else {
                claims.push(Claim {
                    rule: word,
                    test: name.clone(),
                    place: place.clone(),
                });
            }
        }
    }
    Ok((claims, faults))
}

/// The words between "Proves" and the full stop, in all such sentences.
fn claimed(attributes: &[Attribute]) -> Vec<String> {
    let mut words = Vec::new();
    let mut open = false;
    for line in attributes.iter().filter_map(Attribute::doc) {
        let mut rest = line.as_str();
        if let Some(start) = rest.strip_prefix("Proves ") {
            (open, rest) = (true, start);
        }
        for word in rest.split_whitespace() {
            if !open {
                break;
            }
            open = !word.ends_with('.');
            let ids = word.trim_end_matches('.').split(',');
            words.extend(
                ids.filter(|id| !id.is_empty() && *id != "and")
                    .map(str::to_owned),
            );
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The claims as `test: rule`, and the number of faults.
    fn read(text: &str) -> (Vec<String>, usize) {
        let (claims, faults) = parse(text, Path::new("a.rs")).unwrap();
        let claims = claims
            .iter()
            .map(|claim| format!("{}: {}", claim.test, claim.rule));
        (claims.collect(), faults.len())
    }

    #[test]
    fn a_test_can_prove_several_rules() {
        let (claims, faults) = read("/// Proves MS-7, KR-1.\n#[test]\nfn a() {}");
        assert_eq!(
            (claims, faults),
            (vec!["a: MS-7".to_owned(), "a: KR-1".to_owned()], 0)
        );
    }

    #[test]
    fn a_claim_can_go_on_over_lines_and_stand_among_other_text() {
        let text = "/// Text. Not MS-1.\n///\n/// Proves MS-7, KR-1\n/// and TDP-2. More MS-9.\n\
                    /// Proves BUG-3.\n#[cfg(x)]\n#[test]\nfn a() {}";
        let (claims, faults) = read(text);
        assert_eq!(claims, ["a: MS-7", "a: KR-1", "a: TDP-2", "a: BUG-3"]);
        assert_eq!(faults, 0);
    }

    #[test]
    fn tests_made_by_macros_count() {
        let (claims, faults) = read("proptest! {\n/// Proves PT-1.\n#[test]\nfn a(x in 0..9) {} }");
        assert_eq!((claims, faults), (vec!["a: PT-1".to_owned()], 0));
        assert_eq!(
            read("model! {\n/// Proves PT-1.\nfn a() {} }").0,
            ["a: PT-1"]
        );
    }

    #[test]
    fn a_block_comment_counts() {
        assert_eq!(
            read("/** Proves PT-1. */\n#[test]\nfn a() {}").0,
            ["a: PT-1"]
        );
    }

    #[test]
    fn ranges_are_faults() {
        for range in ["MS-1..4", "MS-1-4", "MS-1–MS-4", "MS-1 to MS-4"] {
            let (_, faults) = read(&format!("/// Proves {range}.\n#[test]\nfn a() {{}}"));
            assert_ne!(faults, 0, "{range}");
        }
    }

    #[test]
    fn only_tests_that_run_prove_anything() {
        assert_eq!(read("/// Proves MS-1.\nfn a() {}"), (vec![], 1));
        assert_eq!(
            read("/// Proves MS-1.\n#[test]\n#[ignore = \"x\"]\nfn a() {}"),
            (vec![], 1)
        );
    }

    #[test]
    fn a_claim_above_something_else_is_a_fault_and_no_claim_of_the_next_test() {
        assert_eq!(
            read("/// Proves MS-1.\nstruct S;\n#[test]\nfn a() {}"),
            (vec![], 1)
        );
    }

    #[test]
    fn the_place_is_file_and_line() {
        let (claims, _) =
            parse("\n/// Proves MS-1.\n#[test]\nfn a() {}", Path::new("a.rs")).unwrap();
        assert_eq!(claims[0].place, "a.rs:4");
    }
}
