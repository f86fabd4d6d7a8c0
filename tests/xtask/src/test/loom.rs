//! The layer `loom`: every interleaving of the models, and their twins.
//!
//! All models are tests of the program `loom` of the proofs. A test whose name ends in `_twin` is
//! a model with one barrier or check removed. Each runs alone in a process of its own: a model
//! must succeed. A twin is run with [`TWIN_RAW`] set and must fail with a message that contains
//! [`TWIN_MARK`], which proves that the model can see the bug; any other end is a failure here.

use super::{TWIN_RAW, Tally};
use crate::process::{self, Finished, seconds};
use crate::workspace::Workspace;
use crate::{Outcome, artifacts, libtest, pool};
use std::process::Command;
use std::time::Duration;

/// What a twin's failure says somewhere, followed by the bug it has found.
const TWIN_MARK: &str = "twin: ";

/// A model that takes longer has become too large to be checked on every change.
const LIMIT: Duration = Duration::from_secs(10 * 60);

pub fn run(workspace: &Workspace, tally: &mut Tally) -> Outcome {
    let program = build(workspace)?;
    let list = Command::new(&program).arg("--list").output();
    let list = list.map_err(|error| format!("cannot start {program}: {error}."))?;
    let tests = libtest::list(&String::from_utf8_lossy(&list.stdout));
    if tests.is_empty() {
        return Err("the test program `loom` holds no model".to_owned());
    }
    let twins = tests.iter().filter(|name| is_twin(name)).count();
    tally
        .notes
        .push(format!("models: {}, twins: {twins}", tests.len() - twins));
    println!("  {} tests, {} at a time", tests.len(), pool::workers());
    let results = pool::run(tests, |name| {
        let result = run_alone(&program, &name);
        match &result {
            Ok(time) => println!("  ok     {name}  {}", seconds(*time)),
            Err(why) => println!("  FAILED {name}: {why}"),
        }
        (name, result.is_ok())
    });
    for (name, passed) in results {
        if passed {
            tally.passed += 1;
        } else {
            tally.failed.push(name);
        }
    }
    Ok(())
}

fn build(workspace: &Workspace) -> Outcome<String> {
    let arguments = "test --package waterbear-proofs --release --test loom --no-run";
    // Once for the reader, once for the name of the program.
    if !process::shown(&mut workspace.loom_cargo(arguments))? {
        return Err("the models do not build; the compiler's messages are above".to_owned());
    }
    let mut again = workspace.loom_cargo(arguments);
    again.arg("--message-format=json-render-diagnostics");
    let messages = process::captured(&mut again, None, "cargo test", |_| {})?;
    let program = artifacts::test_programs(&messages.stdout).pop();
    Ok(program
        .ok_or("cargo did not name the test program `loom` it has built.")?
        .path)
}

fn is_twin(name: &str) -> bool {
    name.ends_with("_twin")
}

/// Runs one test; its time, or why it does not count as passed.
fn run_alone(program: &str, name: &str) -> Outcome<Duration> {
    let mut command = Command::new(program);
    command
        .args(["--exact", name, "--nocapture"])
        .env_remove(TWIN_RAW);
    if is_twin(name) {
        command.env(TWIN_RAW, "1");
    }
    let finished = process::captured(&mut command, Some(LIMIT), name, |_| {})?;
    match fault(is_twin(name), &finished) {
        None => Ok(finished.time),
        Some(why) => Err(format!("{why} ({})\n{}", finished.ending, finished.output)),
    }
}

fn fault(is_twin: bool, finished: &Finished) -> Option<&'static str> {
    let found = finished.output.contains(TWIN_MARK);
    match (is_twin, finished.success) {
        (false, true) => None,
        (false, false) => Some("the model failed"),
        (true, true) => Some("the twin succeeded, so the model cannot see the bug"),
        (true, false) if finished.ending.starts_with("stopped") => {
            Some("the twin did not find the bug in time")
        }
        (true, false) if found => None,
        (true, false) => Some("the twin failed for another reason than its bug"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finished(success: bool, ending: &str, output: &str) -> Finished {
        Finished {
            success,
            ending: ending.to_owned(),
            stdout: String::new(),
            output: output.to_owned(),
            time: Duration::ZERO,
        }
    }

    #[test]
    fn a_model_must_succeed() {
        assert!(fault(false, &finished(true, "exit status: 0", "")).is_none());
        assert!(fault(false, &finished(false, "exit status: 101", "twin: x")).is_some());
    }

    #[test]
    fn a_twin_must_fail_because_of_its_bug() {
        let found = "thread panicked: twin: a request was lost";
        assert!(fault(true, &finished(false, "exit status: 101", found)).is_none());
        assert!(fault(true, &finished(false, "signal: 6 (SIGABRT)", found)).is_none());
        assert!(fault(true, &finished(true, "exit status: 0", found)).is_some());
        assert!(
            fault(
                true,
                &finished(false, "exit status: 101", "index out of range")
            )
            .is_some()
        );
        assert!(fault(true, &finished(false, "stopped after 600.0 s", found)).is_some());
    }
}
