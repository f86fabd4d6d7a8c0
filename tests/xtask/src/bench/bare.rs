//! `cargo xtask bench bare`: instructions per exit, guest to guest, on the bare port.

use crate::machine::{BENCH_MACHINES, Emulator, Image, KICK_MACHINES, Machine};
use crate::workspace::Workspace;
use crate::{Outcome, Verdict, pool};

/// How the kernel is built: as a module would be.
const PROFILE: &str = "module";

/// What an operation may cost, in instructions, and whether that holds only for CPUs that tell the
/// length of the instruction: on others it has to be decoded.
const TARGETS: &[(&str, u64, bool)] = &[
    ("CPUID", 450, true),
    ("nested-page fault, 4 KiB, read", 700, false),
];

/// Measures on every machine that counts instructions and prints one table. It is bad when a target
/// is missed.
pub fn run() -> Outcome<Verdict> {
    let image = Image::build(&Workspace::find()?, "bench=1", PROFILE)?;
    let all = BENCH_MACHINES.iter().chain(KICK_MACHINES);
    let machines = all.enumerate().collect();
    let mut results = pool::run(machines, |(number, machine)| {
        let costs = image.run(machine, |_| {}).and_then(|text| costs(&text));
        (
            number,
            machine,
            costs.map_err(|why| format!("{}: {why}", machine.name())),
        )
    });
    results.sort_by_key(|(number, ..)| *number);
    let mut columns = Vec::<Column>::new();
    for (number, machine, costs) in results {
        let costs = costs?;
        let same = |of: &Machine| (of.emulator, of.cpu) == (machine.emulator, machine.cpu);
        if number < BENCH_MACHINES.len() {
            println!("[{}] {}", number + 1, machine.name());
            // QEMU's processors do not tell the length.
            columns.push((machine.emulator == Emulator::Bochs, costs));
        } else if let Some(of) = BENCH_MACHINES.iter().position(same) {
            println!("[{}] {}, for the kick", of + 1, machine.name());
            columns[of].1.extend(costs);
        }
    }
    let (text, missed) = table(&columns);
    print!("{text}");
    println!("Built with the profile `{PROFILE}`, as a kernel module is.");
    println!("Instructions from the guest's instruction to its next; the empty loop is taken off.");
    println!(
        "The kick: until the sender sees the guest, which has left, run again; in ticks of the"
    );
    println!(
        "sender's counter. Bochs's CPUs take turns of 5 instructions; in a tick each does one."
    );
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

/// A machine's costs, and whether it tells the length of instructions.
type Column = (bool, Vec<Cost>);

/// The table, and whether a target was missed.
fn table(columns: &[Column]) -> (String, bool) {
    let heads: String = (1..=columns.len())
        .map(|n| format!("{:>8}", format!("[{n}]")))
        .collect();
    let mut text = format!("{:<48}{heads}  target\n", "operation");
    let mut missed = false;
    let mut names = Vec::new();
    for (name, _) in columns.iter().flat_map(|(_, costs)| costs) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    for name in names {
        let costs: Vec<_> = columns
            .iter()
            .map(|(tells, costs)| {
                let cost = costs.iter().find(|(operation, _)| operation == name);
                (*tells, cost.map(|&(_, cost)| cost))
            })
            .collect();
        let target = TARGETS.iter().find(|(operation, ..)| operation == name);
        let cells: String = costs
            .iter()
            .map(|(_, cost)| match cost {
                Some(cost) => format!("{cost:>8}"),
                None => format!("{:>8}", "-"),
            })
            .collect();
        let mut remark = String::new();
        if let Some(&(_, target, told)) = target {
            let late = costs
                .iter()
                .any(|&(tells, cost)| (tells || !told) && cost.is_some_and(|cost| cost > target));
            missed |= late;
            remark = format!(
                "  ≤ {target}{}{}",
                if told {
                    " where the length is told"
                } else {
                    ""
                },
                if late { ", MISSED" } else { "" }
            );
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
        let (good, late) = ((true, good), (true, late));
        let (text, missed) = table(&[good.clone(), (false, late.1.clone())]);
        assert!(!missed && text.contains("≤ 450"), "{text}");
        let (text, missed) = table(&[good, late]);
        assert!(missed && text.contains("MISSED"), "{text}");
    }

    #[test]
    fn a_row_that_one_machine_lacks_has_a_hyphen_there() {
        let one = (true, vec![("CPUID".to_owned(), 400)]);
        let (text, _) = table(&[one, (true, costs(LINES).unwrap())]);
        let row = text.lines().find(|line| line.starts_with("other"));
        let cells: Vec<_> = row.unwrap().split_whitespace().collect();
        assert_eq!(cells, ["other", "-", "9"]);
    }
}
