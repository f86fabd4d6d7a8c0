//! The output of Rust's test harness.

/// How one test ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ending {
    Passed,
    Failed,
    /// Not run, with the reason given in the source.
    Ignored(String),
}

/// What one or several runs of a harness have reported.
#[derive(Debug, Default)]
pub struct Report {
    /// The sums of all `test result:` lines.
    pub passed: u64,
    pub failed: u64,
    pub ignored: u64,
    /// Each test that has a line of its own.
    pub tests: Vec<(String, Ending)>,
}

impl Report {
    /// Reads the standard output of a harness.
    pub fn parse(stdout: &str) -> Self {
        let mut report = Self::default();
        for line in stdout.lines() {
            if let Some(summary) = line.strip_prefix("test result:") {
                report.passed += count(summary, "passed");
                report.failed += count(summary, "failed");
                report.ignored += count(summary, "ignored");
            } else if let Some(test) = test(line) {
                report.tests.push(test);
            }
        }
        report
    }

    /// The names of the ignored tests, with the reasons.
    pub fn ignored_names(&self) -> impl Iterator<Item = (&str, &str)> {
        self.tests.iter().filter_map(|(name, ending)| match ending {
            Ending::Ignored(reason) => Some((name.as_str(), reason.as_str())),
            _ => None,
        })
    }

    /// The names of the failed tests.
    pub fn failed_names(&self) -> impl Iterator<Item = &str> {
        let failed = self
            .tests
            .iter()
            .filter(|(_, ending)| *ending == Ending::Failed);
        failed.map(|(name, _)| name.as_str())
    }
}

/// The names in the output of `--list`.
pub fn list(stdout: &str) -> Vec<String> {
    let names = stdout
        .lines()
        .filter_map(|line| line.strip_suffix(": test"));
    names.map(str::to_owned).collect()
}

/// The number that stands before a word, in `3 passed; 0 failed; …`.
fn count(summary: &str, word: &str) -> u64 {
    let mut words = summary
        .split([' ', ';'])
        .filter(|part| !part.is_empty())
        .rev();
    words.find(|part| *part == word);
    words
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

/// Reads `test NAME ... ENDING`.
fn test(line: &str) -> Option<(String, Ending)> {
    let (name, ending) = line.strip_prefix("test ")?.rsplit_once(" ... ")?;
    let ending = match ending {
        "ok" => Ending::Passed,
        "ignored" => Ending::Ignored("no reason given".to_owned()),
        other => match other.strip_prefix("ignored, ") {
            Some(reason) => Ending::Ignored(reason.to_owned()),
            None if other.starts_with("FAILED") => Ending::Failed,
            None => return None,
        },
    };
    Some((name.trim_end_matches(" - should panic").to_owned(), ending))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "
running 4 tests
test a::one ... ok
test two - should panic ... ok
test three ... FAILED
test four ... ignored, needs a real machine

test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s
test result: ok. 5 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.01s
";

    #[test]
    fn sums_come_from_the_result_lines() {
        let report = Report::parse(OUTPUT);
        assert_eq!((report.passed, report.failed, report.ignored), (7, 1, 3));
    }

    #[test]
    fn each_test_has_its_name_and_ending() {
        let report = Report::parse(OUTPUT);
        let names: Vec<_> = report.tests.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a::one", "two", "three", "four"]);
        assert_eq!(report.failed_names().collect::<Vec<_>>(), ["three"]);
        let ignored: Vec<_> = report.ignored_names().collect();
        assert_eq!(ignored, [("four", "needs a real machine")]);
    }

    #[test]
    fn a_test_that_died_has_no_ending() {
        assert!(Report::parse("test one ... \n").tests.is_empty());
    }

    #[test]
    fn a_list_keeps_only_tests() {
        assert_eq!(
            list("a: test\nb: benchmark\nc::d: test\n\n2 tests, 1 benchmark\n"),
            ["a", "c::d"]
        );
    }
}
