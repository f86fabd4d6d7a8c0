//! The table at the end of `cargo xtask test`.

use super::{Skipped, Tally};
use crate::process::seconds;

/// What failed, the table of layers, and the line with the sums.
pub fn text(rows: &[(&str, Tally)]) -> String {
    let mut text = String::new();
    for (layer, tally) in rows {
        for failure in &tally.failed {
            text += &format!("FAILED {layer}: {failure}\n");
        }
    }
    text += &line(
        ["layer", "passed", "failed", "skipped", "time"],
        "why skipped, and notes",
    );
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for (layer, tally) in rows {
        let counts = [
            tally.passed,
            tally.failed.len() as u64,
            tally.skipped.len() as u64,
        ];
        let [p, f, s] = counts.map(|count| count.to_string());
        text += &line([layer, &p, &f, &s, &seconds(tally.time)], &remarks(tally));
        passed += counts[0];
        failed += counts[1];
        skipped += counts[2];
    }
    text + &format!("\n{passed} passed, {failed} failed, {skipped} skipped\n")
}

/// Each reason once, with what was skipped for it, and then the notes.
fn remarks(tally: &Tally) -> String {
    let mut remarks = Vec::new();
    let mut seen = Vec::new();
    for Skipped { reason, .. } in &tally.skipped {
        if !seen.contains(&reason) {
            seen.push(reason);
            let same = tally.skipped.iter().filter(|other| other.reason == *reason);
            let names: Vec<&str> = same.map(|skipped| skipped.name.as_str()).collect();
            remarks.push(match &names[..] {
                [] | [_] | [_, _] => format!("{}: {reason}", names.join(", ")),
                many => format!("{} tests: {reason}", many.len()),
            });
        }
    }
    remarks.extend(tally.notes.iter().cloned());
    remarks.join("; ")
}

fn line([layer, passed, failed, skipped, time]: [&str; 5], remarks: &str) -> String {
    let line = format!("{layer:<6}{passed:>8}{failed:>8}{skipped:>9}{time:>13}  {remarks}");
    format!("{}\n", line.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn skipped(name: &str, reason: &str) -> Skipped {
        Skipped {
            name: name.into(),
            reason: reason.into(),
        }
    }

    #[test]
    fn a_reason_is_given_once() {
        let skipped = [("a", "slow"), ("b", "slow"), ("c", "old"), ("d", "slow")]
            .map(|(name, reason)| skipped(name, reason));
        let tally = Tally {
            skipped: skipped.into(),
            ..Tally::default()
        };
        assert_eq!(remarks(&tally), "3 tests: slow; c: old");
    }

    #[test]
    fn the_table_ends_with_the_sums_alone_on_a_line() {
        let good = Tally {
            passed: 7,
            time: Duration::from_secs(2),
            ..Tally::default()
        };
        let bad = Tally {
            passed: 1,
            failed: vec!["a: broken".into()],
            skipped: vec![skipped("b", "no machine")],
            notes: vec!["2 models".into()],
            time: Duration::from_secs(61),
        };
        let text = text(&[("const", good), ("loom", bad)]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "FAILED loom: a: broken");
        assert_eq!(lines[2], "const        7       0        0        2.0 s");
        assert!(
            lines[3].ends_with("1 min 01 s  b: no machine; 2 models"),
            "{}",
            lines[3]
        );
        assert_eq!(lines[4..], ["", "8 passed, 1 failed, 1 skipped"]);
    }
}
