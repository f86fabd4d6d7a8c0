//! Models, and twins of models that must fail.

use std::panic::{AssertUnwindSafe, catch_unwind};

use waterbear_hal::sync::twin::{self, Part};

/// Set when the failure of a twin is not to be caught.
const RAW: &str = "WATERBEAR_TWIN_RAW";

/// Explores every interleaving of `model`.
pub fn explore(model: impl Fn() + Send + Sync + 'static) {
    check(None, model);
}

/// Explores the interleavings of `model` with at most `preemptions`
/// preemptions, for a model that has too many.
pub fn explore_bounded(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    check(Some(preemptions), model);
}

fn check(preemptions: Option<usize>, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    // Only against models that run for ever; setting up and taking down a
    // machine takes some hundreds.
    builder.max_branches = 10_000;
    builder.check(model);
}

/// Runs `model` on code without `part`, and wants it to fail with a message
/// that contains `expected`.
///
/// With `WATERBEAR_TWIN_RAW` in the environment the failure is not caught, so
/// that the twin fails as a test.
pub fn must_fail(part: Part, expected: &str, model: impl Fn() + Send + Sync + 'static) {
    twin::remove(part);
    if std::env::var_os(RAW).is_some() {
        return model();
    }
    let Err(panic) = catch_unwind(AssertUnwindSafe(model)) else {
        panic!("the model does not see that {part:?} is missing");
    };
    let message = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without a message");
    assert!(
        message.contains(expected),
        "without {part:?} the model failed with `{message}`, not `{expected}`"
    );
}

/// [`must_fail`] for a model that deadlocks without `part`. `test` is the full
/// name of the test that calls.
///
/// The checker's threads cannot be unwound out of a deadlock, so the model runs
/// in a process of its own.
pub fn must_deadlock(test: &str, part: Part, model: impl Fn() + Send + Sync + 'static) {
    if std::env::var_os(RAW).is_some() {
        twin::remove(part);
        return model();
    }
    let this = std::env::current_exe().expect("a test binary has a path");
    let output = std::process::Command::new(this)
        .args(["--exact", test, "--nocapture"])
        .env(RAW, "1")
        .output()
        .expect("the test binary runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("deadlock"),
        "the model does not see that {part:?} is missing: {said}"
    );
}
