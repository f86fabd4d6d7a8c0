//! `cargo xtask bench bare`: instructions per exit, guest to guest, on the bare port.

use crate::machine::{BENCH_MACHINES, Image};
use crate::workspace::Workspace;
use crate::{Outcome, Verdict, pool};

/// How the kernel is built: as a module would be.
const PROFILE: &str = "module";

/// What an operation may cost, in instructions.
const TARGETS: &[(&str, u64)] = &[("CPUID", 450), ("nested-page fault, 4 KiB, read", 700)];

/// Measures on every machine that counts instructions and prints one table. It is bad when a target
/// is missed by a CPU that tells the length of instructions; without, each has to be decoded.
pub fn run() -> Outcome<Verdict> {
    let image = Image::build(&Workspace::find()?, "bench=1", PROFILE)?;
    let machines = BENCH_MACHINES.iter().enumerate().collect();
    let mut results = pool::run(machines, |(number, machine)| {
        (
            number,
            image.run(machine, |_| {}).and_then(|text| costs(&text)),
        )
    });
    results.sort_by_key(|(number, _)| *number);
    let mut columns = Vec::new();
    for (number, result) in results {
        let machine = &BENCH_MACHINES[number];
        let costs = result.map_err(|why| format!("{}: {why}", machine.name()))?;
        println!("[{}] {}", number + 1, machine.name());
        columns.push(costs);
    }
    let (text, missed) = table(&columns);
    print!("{text}");
    println!("Built with the profile `{PROFILE}`, as a kernel module is.");
    println!("Instructions from the guest's instruction to its next; the empty loop is taken off.");
    Ok(if missed { Verdict::Bad } else { Verdict::Good })
}

/// An operation and what it cost.
type Cost = (String, u64);

/// Reads the lines `BENCH cost name`.
fn costs(text: &str) -> Outcome<Vec<Cost>> {
    let cost = |line: &str| {
        let (cost, name) = line.strip_prefix("BENCH ")?.split_once(' ')?;
        Some((name.to_owned(), cost.parse().ok()?))
    };
    let costs: Vec<_> = text.lines().filter_map(cost).collect();
    if costs.is_empty() || !text.lines().any(|line| line == "END passed") {
        return Err(format!("it did not measure. It said:\n{text}"));
    }
    Ok(costs)
}

/// The table, and whether a target was missed.
fn table(columns: &[Vec<Cost>]) -> (String, bool) {
    let heads: String = (1..=columns.len())
        .map(|n| format!("{:>8}", format!("[{n}]")))
        .collect();
    let mut text = format!("{:<48}{heads}  target\n", "operation");
    let mut missed = false;
    for (row, (name, _)) in columns.first().into_iter().flatten().enumerate() {
        let costs = columns.iter().filter_map(|column| column.get(row));
        let target = TARGETS.iter().find(|(operation, _)| operation == name);
        let cells: String = costs
            .clone()
            .map(|(_, cost)| format!("{cost:>8}"))
            .collect();
        let mut remark = String::new();
        if let Some((_, target)) = target {
            let late = costs.clone().any(|(_, cost)| cost > target);
            missed |= late;
            remark = format!("  ≤ {target}{}", if late { ", MISSED" } else { "" });
        }
        text += &format!("{name:<48}{cells}{remark}\n");
    }
    (text, missed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = "BENCH 400 CPUID\nBENCH 9 other\nEND passed\n";

    #[test]
    fn lines_become_costs() {
        let wanted = [("CPUID".to_owned(), 400), ("other".to_owned(), 9)];
        assert_eq!(costs(LINES).unwrap(), wanted);
        assert!(costs(&LINES.replace("END passed", "END failed")).is_err());
        assert!(costs("END passed").is_err());
    }

    #[test]
    fn a_target_that_is_missed_by_one_machine_is_missed() {
        let good = costs(LINES).unwrap();
        let late = costs(&LINES.replace("400", "451")).unwrap();
        let (text, missed) = table(&[good.clone(), good.clone()]);
        assert!(!missed && text.contains("≤ 450"), "{text}");
        let (text, missed) = table(&[good, late]);
        assert!(missed && text.contains("MISSED"), "{text}");
    }
}
