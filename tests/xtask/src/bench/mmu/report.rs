//! What was measured, and the table of it.

use crate::Outcome;

/// The operations, in the order of the table: name in the output of the program, in the table, and
/// the instructions that one page may take.
const OPERATIONS: [(&str, &str, Option<f64>); 7] = [
    ("fault", "fault", None),
    ("refault", "refault after zap", None),
    ("rewrite", "write-protect fault", None),
    ("walk", "walk (lockless)", None),
    ("zap", "zap", Some(40.0)),
    ("protect", "write-protect", Some(40.0)),
    ("collect", "collect dirty", Some(50.0)),
];

/// A number per operation.
#[derive(Default)]
struct PerOperation(Vec<(String, f64)>);

impl PerOperation {
    fn get(&self, name: &str) -> Option<f64> {
        let found = self.0.iter().find(|(operation, _)| operation == name);
        found.map(|(_, number)| *number)
    }
}

/// Instructions per page.
#[derive(Default)]
pub struct Counts(PerOperation);

impl Counts {
    /// Reads the program's output; `file` gives callgrind's file of a number.
    pub fn read(output: &str, file: impl Fn(usize) -> Outcome<String>) -> Outcome<Self> {
        let mut counts = Vec::new();
        for (index, (name, pages)) in lines(output, "count").enumerate() {
            let text = file(index + 1)?;
            let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
            let total: f64 = total
                .and_then(|total| total.trim().parse().ok())
                .ok_or("callgrind has written a file without a total.")?;
            counts.push((name.to_owned(), total / pages));
        }
        Ok(Self(PerOperation(counts)))
    }
}

/// Nanoseconds per page.
#[derive(Default)]
pub struct Times(PerOperation);

impl Times {
    /// Reads the program's output.
    pub fn read(output: &str) -> Self {
        let times = lines(output, "time");
        Self(PerOperation(
            times.map(|(name, time)| (name.to_owned(), time)).collect(),
        ))
    }
}

/// The bytes that a mapped GiB takes, by name.
pub fn bytes(output: &str) -> Vec<(String, f64)> {
    let bytes = lines(output, "bytes");
    bytes
        .map(|(name, bytes)| (name.to_owned(), bytes))
        .collect()
}

/// The lines `kind name number`.
fn lines<'a>(output: &'a str, kind: &str) -> impl Iterator<Item = (&'a str, f64)> {
    output.lines().filter_map(move |line| {
        let mut words = line.strip_prefix(kind)?.split_whitespace();
        Some((words.next()?, words.next()?.parse().ok()?))
    })
}

/// Everything that was measured.
#[derive(Default)]
pub struct Report {
    /// Per column its title and the instructions.
    pub counts: Vec<(&'static str, Counts)>,
    /// Per size, for one and two threads: as it is, and under one mutex.
    pub times: Vec<(&'static str, [[Times; 2]; 2])>,
    /// Per size, what is in memory.
    pub bytes: Vec<(&'static str, Vec<(String, f64)>)>,
}

impl Report {
    /// The table.
    pub fn text(&self) -> String {
        let mut text = String::from(
            "Instructions per page (the core's own; exact; \"-\" was not measured)\n\n",
        );
        let titles = self.counts.iter().map(|(title, _)| (*title).to_owned());
        text += &row("operation", titles.chain(["at most".to_owned()]));
        for (name, title, target) in OPERATIONS {
            let counts = self.counts.iter().map(|(_, counts)| counts.0.get(name));
            text += &row(title, counts.chain([target]).map(|count| number(count, 0)));
        }

        text += "\nNanoseconds per page (the least of several rounds; one thread: time on a CPU,\n\
                 two: by the clock, so a busy machine shows; \"mutex\": every call of the core takes\n\
                 one mutex first; \"gain\": mutex divided by ours)\n";
        for (size, times) in &self.times {
            text += &format!("\n{size}\n");
            let titles = ["1 thread", "mutex", "gain", "2 threads", "mutex", "gain"];
            text += &row("operation", titles.map(str::to_owned));
            for (name, title, _) in OPERATIONS {
                let cells = times.each_ref().map(|[ours, mutex]| {
                    let (ours, mutex) = (ours.0.get(name), mutex.0.get(name));
                    let gain = ours.zip(mutex).map(|(ours, mutex)| mutex / ours);
                    [number(ours, 1), number(mutex, 1), number(gain, 2)]
                });
                text += &row(title, cells.into_iter().flatten());
            }
        }

        text += "\nKiB per mapped GiB\n\n";
        let names = self.bytes.first().map_or(&[][..], |(_, bytes)| bytes);
        text += &row("size", names.iter().map(|(name, _)| name.clone()));
        for (size, bytes) in &self.bytes {
            let kib = bytes
                .iter()
                .map(|(_, bytes)| number(Some(bytes / 1024.0), 1));
            text += &row(size, kib);
        }
        text
    }

    /// Which targets were missed: in pages of 4 KiB, in the columns of sizes.
    pub fn missed_targets(&self) -> Vec<String> {
        let mut missed = Vec::new();
        let sizes = self.times.iter().map(|(size, _)| size);
        let fast = self.counts.iter().filter(|(title, _)| {
            sizes.clone().any(|size| size == title) && !title.contains("in 2 MiB")
        });
        for (size, counts) in fast {
            for (name, title, target) in OPERATIONS {
                if let Some((count, target)) = counts.0.get(name).zip(target)
                    && count > target
                {
                    missed.push(format!(
                        "{title}, {size}: {count:.1} instructions per page, at most {target}"
                    ));
                }
            }
        }
        missed
    }
}

fn number(value: Option<f64>, places: usize) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.places$}"))
}

fn row(first: &str, cells: impl IntoIterator<Item = String>) -> String {
    let mut line = format!("{first:<20}");
    for cell in cells {
        line += &format!("{cell:>16}");
    }
    line + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(zap: u32) -> Counts {
        let output = "count fault 10\nbytes x 1\ncount zap 10\n";
        let file = |number| {
            let total = if number == 1 { 7450 } else { zap };
            Ok(format!("events: Ir\ntotals: {total}\n"))
        };
        Counts::read(output, file).unwrap()
    }

    #[test]
    fn the_files_belong_to_the_operations_in_order() {
        let counts = counts(300);
        assert_eq!(counts.0.get("fault"), Some(745.0));
        assert_eq!(counts.0.get("zap"), Some(30.0));
        assert_eq!(counts.0.get("walk"), None);
    }

    #[test]
    fn only_the_fast_build_has_targets() {
        let report = |small, fast| Report {
            counts: vec![("64 MiB", counts(fast)), ("opt-level s", counts(small))],
            times: vec![("64 MiB", Default::default())],
            bytes: vec![],
        };
        assert!(report(900, 400).missed_targets().is_empty());
        let missed = report(300, 401).missed_targets();
        assert_eq!(
            missed,
            ["zap, 64 MiB: 40.1 instructions per page, at most 40"]
        );
    }

    #[test]
    fn what_was_not_measured_is_a_hyphen() {
        let report = Report {
            counts: vec![("64 GiB", Counts::default())],
            ..Report::default()
        };
        let text = report.text();
        let line = text.lines().find(|line| line.starts_with("zap")).unwrap();
        assert_eq!(
            line.split_whitespace().collect::<Vec<_>>(),
            ["zap", "-", "40"]
        );
    }
}
