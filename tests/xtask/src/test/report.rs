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

    /// Adds what it says to the table, under the name of the run.
    fn tell(self, name: &str, tally: &mut Tally) {
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

/// Tests in a machine: what came of them at last, and what failed before.
pub struct Tried {
    pub report: Outcome<Report>,
    failed: Vec<String>,
}

impl Tried {
    /// Runs them, and up to twice more if any fails: emulators have races of their own, which show
    /// more often on a busy host. What failed is shown, and stands in the table even if it passes
    /// then, so that nobody overlooks a race of ours.
    pub fn new(name: &str, run: impl Fn() -> Outcome<Report>) -> Self {
        const TIMES_MORE: usize = 2;
        let mut failed = Vec::new();
        let mut report = run();
        for _ in 0..TIMES_MORE {
            let failures = match &report {
                Ok(report) => report.failed.clone(),
                Err(sentence) => vec![sentence.clone()],
            };
            if failures.is_empty() {
                break;
            }
            for failure in &failures {
                println!("  FAILED {name}, which runs once more: {failure}");
            }
            failed.extend(failures);
            report = run();
        }
        Self { report, failed }
    }

    /// Adds what there is to say to the table, under the name of the run.
    pub fn tell(self, name: &str, tally: &mut Tally) {
        let passed = matches!(&self.report, Ok(report) if report.failed.is_empty());
        if passed {
            for failure in self.failed {
                let first = failure.lines().next().unwrap_or_default();
                let note = format!("{name} FAILED at first, then passed: {first}");
                tally.notes.push(note);
            }
        }
        match self.report {
            Ok(report) => report.tell(name, tally),
            Err(sentence) => tally.failed.push(format!("{name}: {sentence}")),
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
    fn a_run_that_passes_in_the_end_is_noted_and_one_that_always_fails_fails() {
        let bad = "PLAN 1\nFAIL a: it is broken\nEND failed\n";
        for (texts, failed, notes) in [
            ([GOOD, bad, bad], 0, 0),
            ([bad, GOOD, bad], 0, 1),
            ([bad, bad, GOOD], 0, 2),
            ([bad, bad, bad], 1, 0),
        ] {
            let turn = std::cell::Cell::new(0);
            let tried = Tried::new("a machine", || {
                Ok(Report::of(texts[turn.replace(turn.get() + 1)]))
            });
            let mut tally = Tally::default();
            tried.tell("a machine", &mut tally);
            assert_eq!((tally.failed.len(), tally.notes.len()), (failed, notes));
        }
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
