//! The table of tests and machines.

use crate::machine::{Expect, Machine};
use crate::test::report::Mark;

/// One line per test, one column per machine. A machine that must refuse shows that instead.
pub fn text(columns: &[(&Machine, &[Mark])]) -> String {
    let mut tests: Vec<&str> = Vec::new();
    for mark in columns.iter().flat_map(|(_, marks)| *marks) {
        if !tests.contains(&mark.test.as_str()) {
            tests.push(&mark.test);
        }
    }
    let mut text = String::new();
    for (number, (machine, _)) in columns.iter().enumerate() {
        text += &format!("  [{}] {}\n", number + 1, machine.name());
    }
    let heads = (1..=columns.len()).map(|number| format!("[{number}]"));
    text += &line("test", heads);
    for test in tests {
        let words = columns.iter().map(|(machine, marks)| {
            let mark = marks.iter().find(|mark| mark.test == test);
            let absent = match machine.expect {
                Expect::Refused(_) => "refused",
                Expect::Guests(_) => "-",
            };
            mark.map_or(absent, |mark| mark.word).to_owned()
        });
        text += &line(test, words);
    }
    text
}

fn line(test: &str, words: impl Iterator<Item = String>) -> String {
    let words: String = words.map(|word| format!("{word:>8}")).collect();
    format!("  {test:<64}{words}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::MACHINES;

    #[test]
    fn each_test_is_a_line_and_each_machine_a_column() {
        let guests = MACHINES
            .iter()
            .find(|machine| matches!(machine.expect, Expect::Guests(_)));
        let refused = MACHINES
            .iter()
            .find(|machine| matches!(machine.expect, Expect::Refused(_)));
        let one = [Mark::new("a", "ok"), Mark::new("b", "FAIL")];
        let two = [Mark::new("a", "skip")];
        let text = text(&[
            (guests.unwrap(), &one[..]),
            (guests.unwrap(), &two[..]),
            (refused.unwrap(), &[]),
        ]);
        let words = |line: &str| {
            line.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let lines: Vec<_> = text.lines().skip(4).map(words).collect();
        assert_eq!(lines[0], ["a", "ok", "skip", "refused"]);
        assert_eq!(lines[1], ["b", "FAIL", "-", "refused"]);
    }
}
