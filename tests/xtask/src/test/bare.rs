//! The layer `bare`: the bare port on every emulated machine.

mod matrix;

use super::report::Report;
use super::{Options, Tally};
use crate::machine::{Expect, Image, MACHINES, Machine};
use crate::workspace::Workspace;
use crate::{Outcome, pool, process};
use std::time::Instant;

pub fn run(workspace: &Workspace, _: &Options, tally: &mut Tally) -> Outcome {
    let image = Image::build(workspace, "", "release")?;
    let mut results = pool::run(MACHINES.to_vec(), |machine| {
        let start = Instant::now();
        let report = image.run(&machine, |_| {});
        let report = report.map(|text| judge(&machine, &text));
        println!("  {} {}", machine.name(), process::seconds(start.elapsed()));
        (machine, report)
    });
    let place = |cpu| MACHINES.iter().position(|machine| machine.cpu == cpu);
    results.sort_by_key(|(machine, _)| place(machine.cpu));
    let columns = results
        .iter()
        .map(|(machine, report)| (machine, report.as_ref().map_or(&[][..], |r| &r.marks)));
    print!("{}", matrix::text(&columns.collect::<Vec<_>>()));
    for (machine, report) in results {
        Report::tell(report, &machine.name(), tally);
    }
    tally.notes.push(format!("machines: {}", MACHINES.len()));
    Ok(())
}

/// Reads a run's lines. A run on which a CPU does not run, or on which the wrong vendor, or none,
/// has registered, has failed.
fn judge(machine: &Machine, text: &str) -> Report {
    let mut report = Report::of(text);
    let wanted = match machine.expect {
        Expect::Guests(vendor) => format!("waterbear: {vendor}: registered"),
        Expect::Refused(words) => format!("this CPU {words}"),
    };
    if !text.contains(&wanted) {
        report.failed.push(format!("it did not say {wanted:?}"));
    }
    let cpus = format!("{0} of {0} CPUs run", machine.cpus);
    if !text.contains(&cpus) {
        report.failed.push(format!("it did not say {cpus:?}"));
    }
    let registered = text.contains(": registered");
    if registered == matches!(machine.expect, Expect::Refused(_)) {
        report
            .failed
            .push("a CPU was accepted that must be refused".to_owned());
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Emulator;
    use crate::test::Skipped;
    use crate::test::report::Mark;

    const AMD: Machine = Machine {
        emulator: Emulator::Qemu,
        cpu: "some",
        cpus: 2,
        exact: false,
        expect: Expect::Guests("SVM"),
    };

    const GOOD: &str = "NOTE 2 of 2 CPUs run\nPLAN 2\nPASS a\nSKIP b: no need\n\
        PLAN 1\nwaterbear: SVM: registered\nPASS c\nEND passed\n";

    #[test]
    fn a_complete_run_passes() {
        let wanted = Report {
            passed: 2,
            failed: Vec::new(),
            skipped: vec![Skipped {
                name: "b".to_owned(),
                reason: "no need".to_owned(),
            }],
            marks: vec![
                Mark::new("a", "ok"),
                Mark::new("b", "skip"),
                Mark::new("c", "ok"),
            ],
        };
        assert_eq!(judge(&AMD, GOOD), wanted);
    }

    #[test]
    fn a_run_that_says_less_fails() {
        for less in [
            "",
            &GOOD.replace("END passed", ""),
            &GOOD.replace("PASS a", ""),
            &GOOD.replace("PLAN 1", "PLAN 2"),
            &GOOD.replace("PLAN 1\n", ""),
            &GOOD.replace("SVM", "VMX"),
            &GOOD.replace("SKIP b: no need", ""),
            &GOOD.replace("2 of 2", "1 of 2"),
            &GOOD.replace("PASS a", "FAIL a: it is broken"),
        ] {
            assert!(!judge(&AMD, less).failed.is_empty(), "{less:?}");
        }
    }

    #[test]
    fn a_cpu_that_must_be_refused_must_not_register() {
        let old = Machine {
            expect: Expect::Refused("has no second-level paging"),
            ..AMD
        };
        let refused = "2 of 2 CPUs run\nPLAN 0\nwaterbear: VMX: this CPU has no second-level paging\nEND passed\n";
        assert!(judge(&old, refused).failed.is_empty());
        let both = refused.to_owned() + "waterbear: SVM: registered\n";
        assert!(!judge(&old, &both).failed.is_empty());
    }
}
