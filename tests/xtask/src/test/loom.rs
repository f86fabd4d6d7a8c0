//! The layer `loom`: each model in its own process, and each twin in two.
//!
//! A twin by itself must fail, whatever way its bug takes: an assertion, a use after free that
//! the mock sees, a deadlock. When it catches its failure it must succeed, and it does so only if
//! the message is the one that its bug causes.

use super::{Options, TWIN_RAW, Tally};
use crate::process::{self, Finished, seconds};
use crate::workspace::Workspace;
use crate::{Outcome, artifacts, libtest, pool};
use std::process::Command;
use std::time::Duration;

/// A model that takes longer has become too large to be checked on every change.
const LIMIT: Duration = Duration::from_secs(10 * 60);

pub fn run(workspace: &Workspace, _: &Options, tally: &mut Tally) -> Outcome {
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

/// Runs one test; its time, or why it does not count as passed. A twin runs
/// twice: by itself it must fail, and when it catches its failure it must
/// succeed, because then it has found the message of its own bug.
fn run_alone(program: &str, name: &str) -> Outcome<Duration> {
    let run = |raw: bool| {
        let mut command = Command::new(program);
        command
            .args(["--exact", name, "--nocapture"])
            .env_remove(TWIN_RAW);
        if raw {
            command.env(TWIN_RAW, "1");
        }
        let finished = process::captured(&mut command, Some(LIMIT), name, |_| {})?;
        match fault(raw, &finished) {
            None => Ok(finished.time),
            Some(why) => Err(format!("{why} ({})\n{}", finished.ending, finished.output)),
        }
    };
    let raw = if is_twin(name) {
        run(true)?
    } else {
        Duration::ZERO
    };
    Ok(raw + run(false)?)
}

/// What is wrong with a run: `raw` is a twin's that must fail.
fn fault(raw: bool, finished: &Finished) -> Option<&'static str> {
    match (raw, finished.success) {
        (false, true) => None,
        (false, false) => Some("it failed"),
        (true, true) => Some("the twin succeeded, so the model cannot see the bug"),
        (true, false) if finished.ending.starts_with("stopped") => {
            Some("the twin did not find the bug in time")
        }
        (true, false) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finished(success: bool, ending: &str) -> Finished {
        Finished {
            success,
            ending: ending.to_owned(),
            stdout: String::new(),
            output: String::new(),
            time: Duration::ZERO,
        }
    }

    #[test]
    fn what_is_not_raw_must_succeed() {
        assert!(fault(false, &finished(true, "exit status: 0")).is_none());
        assert!(fault(false, &finished(false, "exit status: 101")).is_some());
    }

    #[test]
    fn a_raw_twin_must_fail_and_in_time() {
        assert!(fault(true, &finished(false, "exit status: 101")).is_none());
        assert!(fault(true, &finished(false, "signal: 6 (SIGABRT)")).is_none());
        assert!(fault(true, &finished(true, "exit status: 0")).is_some());
        assert!(fault(true, &finished(false, "stopped after 600.0 s")).is_some());
    }
}
