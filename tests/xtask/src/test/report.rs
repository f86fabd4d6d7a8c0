//! What a run of tests in a machine says of itself.
//!
//! The lines are `PLAN n` before each part of the tests, one `PASS name`, `FAIL name: why` or
//! `SKIP name: why` for each of the n tests, and `END passed` or `END failed`.

use super::{Skipped, Tally};
use crate::Outcome;

/// What the lines of one run say.
#[derive(Default, PartialEq, Eq, Debug)]
pub struct Report {
    pub passed: u64,
    pub failed: Vec<String>,
    pub skipped: Vec<Skipped>,
    /// What became of each test, in the order of the run.
    pub marks: Vec<Mark>,
}

/// What became of a test.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mark {
    pub test: String,
    pub word: &'static str,
}

impl Mark {
    pub fn new(test: &str, word: &'static str) -> Self {
        Self {
            test: test.to_owned(),
            word,
        }
    }
}

impl Report {
    /// Reads a run's lines. A run that says less than it should has failed.
    pub fn of(text: &str) -> Self {
        let mut report = Self::default();
        let mut planned = None;
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("PASS ") {
                report.passed += 1;
                report.marks.push(Mark::new(name, "ok"));
            } else if let Some(failure) = line.strip_prefix("FAIL ") {
                let name = failure.split(':').next().unwrap_or(failure);
                report.marks.push(Mark::new(name, "FAIL"));
                report.failed.push(failure.to_owned());
            } else if let Some(plan) = line.strip_prefix("PLAN ") {
                let plan: Option<u64> = plan.parse().ok();
                planned = plan.map(|plan| plan + planned.unwrap_or(0));
            } else if let Some((name, reason)) =
                line.strip_prefix("SKIP ").and_then(|l| l.split_once(": "))
            {
                report.marks.push(Mark::new(name, "skip"));
                report.skipped.push(Skipped {
                    name: name.to_owned(),
                    reason: reason.to_owned(),
                });
            }
        }
        let seen = report.passed + (report.failed.len() + report.skipped.len()) as u64;
        if planned != Some(seen) {
            let plan = planned.map_or("no plan".to_owned(), |n| format!("{n} planned"));
            report.failed.push(format!("{plan}, {seen} run"));
        }
        if !text.lines().any(|line| line == "END passed") && report.failed.is_empty() {
            report.failed.push("the run did not end".to_owned());
        }
        report
    }

    /// Adds what a run says to the table, under its name.
    pub fn tell(run: Outcome<Self>, name: &str, tally: &mut Tally) {
        match run {
            Ok(report) => report.add(name, tally),
            Err(sentence) => tally.failed.push(format!("{name}: {sentence}")),
        }
    }

    fn add(self, name: &str, tally: &mut Tally) {
        tally.passed += self.passed;
        for failure in self.failed {
            tally.failed.push(format!("{name}: {failure}"));
        }
        for mut skipped in self.skipped {
            skipped.name = format!("{name}: {}", skipped.name);
            tally.skipped.push(skipped);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "PLAN 2\nPASS a\nSKIP b: no need\nEND passed\n";

    #[test]
    fn a_complete_run_passes() {
        let report = Report::of(GOOD);
        assert_eq!((report.passed, report.skipped.len()), (1, 1));
        assert_eq!(report.failed, [""; 0]);
    }

    #[test]
    fn a_run_that_says_less_fails() {
        for less in [
            "",
            &GOOD.replace("END passed", ""),
            &GOOD.replace("PASS a", ""),
            &GOOD.replace("PLAN 2", "PLAN 3"),
            &GOOD.replace("PLAN 2\n", ""),
            &GOOD.replace("SKIP b: no need", ""),
            &GOOD.replace("PASS a", "FAIL a: it is broken"),
        ] {
            assert!(!Report::of(less).failed.is_empty(), "{less:?}");
        }
    }
}
