//! The layer `miri`: the proofs interpreted, so that undefined behaviour is an error.
//!
//! Miri runs one test at a time. To use all processors the tests are dealt out to several
//! processes, a few at a time.

use super::{Options, Skipped, Tally};
use crate::artifacts::TestProgram;
use crate::libtest::{self, Ending, Report};
use crate::process::{self, Finished, seconds};
use crate::workspace::Workspace;
use crate::{Outcome, artifacts, need, pool};
use std::process::Command;
use std::time::Duration;

/// Pointers must come from where they claim to come from.
const FLAGS: &str = "-Zmiri-strict-provenance";

/// A batch that runs longer is stopped. The tests are cut to take seconds each, so this is a hang or
/// a test that grew out of Miri's reach.
const LIMIT: Duration = Duration::from_secs(10 * 60);

/// Test programs that are not run, because [`WHY_LEFT_OUT`].
const LEFT_OUT: &[&str] = &["abi", "emulate", "memory", "paging", "run"];

const WHY_LEFT_OUT: &str = "what they prove has no unsafe code; what it stands on, memory and read \
                            sections, is used in the same ways by the programs that are run";

/// A few tests of one test program.
struct Batch {
    /// `--lib`, `--bin=NAME` or `--test=NAME`.
    program: String,
    tests: Vec<String>,
}

pub fn run(workspace: &Workspace, _: &Options, tally: &mut Tally) -> Outcome {
    if let Err(why) = need::miri(workspace) {
        println!("  SKIPPED the whole layer: {why}");
        let name = "the whole layer".to_owned();
        tally.skipped.push(Skipped { name, reason: why });
        return Ok(());
    }
    let batches = batches(list(workspace)?);
    if batches.is_empty() {
        return Err("the proofs hold no test to run under Miri".to_owned());
    }
    let tests: usize = batches.iter().map(|batch| batch.tests.len()).sum();
    let (count, workers) = (batches.len(), pool::workers());
    println!("  left out: {}; {WHY_LEFT_OUT}", LEFT_OUT.join(", "));
    println!("  {tests} tests in {count} batches, {workers} at a time");
    let endings = pool::run(batches, |batch| run_batch(workspace, &batch));
    for (name, ending) in endings.into_iter().flatten() {
        match ending {
            Ending::Passed => tally.passed += 1,
            Ending::Failed => tally.failed.push(name),
            Ending::Ignored(reason) => tally.skipped.push(Skipped { name, reason }),
        }
    }
    Ok(())
}

/// Builds the proofs and names the tests of each test program.
fn list(workspace: &Workspace) -> Outcome<Vec<(String, Vec<String>)>> {
    let arguments = "test --package waterbear-proofs --lib --tests --no-run";
    // Once for the reader, once for the names of the programs.
    if !process::shown(&mut miri(workspace, arguments))? {
        return Err("the proofs do not build for Miri; its messages are above".to_owned());
    }
    let mut again = miri(workspace, arguments);
    again.arg("--message-format=json-render-diagnostics");
    let messages = process::captured(&mut again, None, "cargo miri", |_| {})?;

    let (left_out, run) = divide(artifacts::test_programs(&messages.stdout));
    if left_out.len() != LEFT_OUT.len() {
        return Err(format!(
            "of the test programs {LEFT_OUT:?} that are left out there are only {left_out:?}"
        ));
    }
    let mut programs = Vec::new();
    for program in run {
        let name = match program.kind.as_str() {
            "test" => format!("--test={}", program.name),
            "bin" => format!("--bin={}", program.name),
            _ => "--lib".to_owned(),
        };
        let mut list = test(workspace, &name);
        list.arg("--list");
        let listed = process::captured(&mut list, None, "cargo miri", |_| {})?;
        if !listed.success {
            return Err(format!(
                "cannot list the tests of {name}: {}",
                listed.output
            ));
        }
        programs.push((name, libtest::list(&listed.stdout)));
    }
    Ok(programs)
}

/// The names of the programs that are left out, and the others.
fn divide(programs: Vec<TestProgram>) -> (Vec<String>, Vec<TestProgram>) {
    let (left_out, run): (Vec<_>, Vec<_>) = programs
        .into_iter()
        .partition(|program| program.kind == "test" && LEFT_OUT.contains(&program.name.as_str()));
    let names = left_out.into_iter().map(|program| program.name).collect();
    (names, run)
}

/// Cuts the lists so that every processor has several batches to take.
fn batches(programs: Vec<(String, Vec<String>)>) -> Vec<Batch> {
    let total: usize = programs.iter().map(|(_, tests)| tests.len()).sum();
    let size = (total / (pool::workers() * 24)).clamp(1, 2);
    let mut batches = Vec::new();
    for (program, tests) in programs {
        for tests in tests.chunks(size) {
            batches.push(Batch {
                program: program.clone(),
                tests: tests.to_vec(),
            });
        }
    }
    batches
}

/// Runs a batch. Miri ends the process at the first error; the tests that have no ending then are
/// run one by one.
fn run_batch(workspace: &Workspace, batch: &Batch) -> Vec<(String, Ending)> {
    let mut command = test(workspace, &batch.program);
    command.arg("--exact").args(&batch.tests);
    let name = batch.tests.join(", ");
    let (mut endings, text) = match process::captured(&mut command, Some(LIMIT), &name, |_| {}) {
        Ok(finished) => (endings(batch, &finished), summary(&name, &finished)),
        Err(error) => (
            every_test_failed(batch),
            format!("  FAILED {name}: {error}"),
        ),
    };
    println!("{text}");
    let is_open = |test: &&String| !endings.iter().any(|(name, _)| name == *test);
    let open: Vec<String> = batch.tests.iter().filter(is_open).cloned().collect();
    for test in open {
        let alone = Batch {
            program: batch.program.clone(),
            tests: vec![test],
        };
        endings.extend(run_batch(workspace, &alone));
    }
    endings
}

fn summary(name: &str, finished: &Finished) -> String {
    let time = seconds(finished.time);
    if finished.success {
        format!("  ok     {name}  {time}")
    } else {
        format!(
            "  FAILED {name}  {time}, {}\n{}",
            finished.ending, finished.output
        )
    }
}

/// The endings of the tests as far as they are known. That of a single test always is.
fn endings(batch: &Batch, finished: &Finished) -> Vec<(String, Ending)> {
    let mut endings = Report::parse(&finished.stdout).tests;
    endings.retain(|(name, _)| batch.tests.contains(name));
    match &batch.tests[..] {
        [_] if !finished.success => every_test_failed(batch),
        [test] if endings.is_empty() => vec![(test.clone(), Ending::Passed)],
        _ => endings,
    }
}

fn every_test_failed(batch: &Batch) -> Vec<(String, Ending)> {
    batch
        .tests
        .iter()
        .map(|test| (test.clone(), Ending::Failed))
        .collect()
}

fn test(workspace: &Workspace, program: &str) -> Command {
    miri(
        workspace,
        &format!("test --package waterbear-proofs {program} --"),
    )
}

fn miri(workspace: &Workspace, arguments: &str) -> Command {
    let mut command = workspace.nightly_cargo(&format!("miri {arguments}"));
    command.env("MIRIFLAGS", FLAGS);
    // Miri does not optimise, and warns if it is told to.
    command.env("CARGO_PROFILE_DEV_OPT_LEVEL", "0");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(tests: &[&str]) -> Batch {
        let tests = tests.iter().map(|&test| test.to_owned()).collect();
        Batch {
            program: "--lib".to_owned(),
            tests,
        }
    }

    fn finished(success: bool, stdout: &str) -> Finished {
        let (stdout, output) = (stdout.to_owned(), String::new());
        Finished {
            success,
            ending: String::new(),
            stdout,
            output,
            time: Duration::ZERO,
        }
    }

    #[test]
    fn test_programs_are_left_out_by_name_and_nothing_else_is() {
        let program = |kind: &str, name: &str| TestProgram {
            kind: kind.to_owned(),
            name: name.to_owned(),
            path: String::new(),
        };
        let all = [
            ("test", "run"),
            ("test", "runs"),
            ("lib", "run"),
            ("test", "memory"),
        ];
        let all = all.map(|(kind, name)| program(kind, name)).into();
        let (left_out, run) = divide(all);
        assert_eq!(left_out, ["run", "memory"]);
        assert_eq!(run, [program("test", "runs"), program("lib", "run")]);
    }

    #[test]
    fn every_test_is_in_one_batch() {
        let tests: Vec<String> = (0..100).map(|number| number.to_string()).collect();
        let batches = batches(vec![
            ("--lib".into(), tests.clone()),
            ("--test=a".into(), vec![]),
        ]);
        assert_eq!(
            batches
                .into_iter()
                .flat_map(|batch| batch.tests)
                .collect::<Vec<_>>(),
            tests
        );
    }

    #[test]
    fn a_process_that_died_leaves_its_last_test_open() {
        let known = endings(
            &batch(&["a", "b", "c"]),
            &finished(false, "test a ... ok\ntest b ... \n"),
        );
        assert_eq!(known, [("a".to_owned(), Ending::Passed)]);
    }

    #[test]
    fn a_single_test_fails_with_its_process() {
        let known = endings(&batch(&["b"]), &finished(false, "test b ... \n"));
        assert_eq!(known, [("b".to_owned(), Ending::Failed)]);
    }
}
