//! Runs a sequence; if it fails, looks for a shorter one that fails too.
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

use crate::op::Op;

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Runs `case` and returns why it panicked, if it did, without printing it.
fn fails(case: &impl Fn(&[Op]), ops: &[Op]) -> Option<String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = take_hook();
        set_hook(Box::new(move |info| {
            if !QUIET.get() {
                usual(info);
            }
        }));
    });
    QUIET.set(true);
    let result = catch_unwind(AssertUnwindSafe(|| case(ops)));
    QUIET.set(false);
    let why = result.err()?;
    let text = why.downcast_ref::<String>().cloned();
    let text = text.or_else(|| why.downcast_ref::<&str>().map(|&why| why.into()));
    Some(text.unwrap_or_default())
}

/// Takes out piece after piece, as long as it fails without.
fn shrunk(case: &impl Fn(&[Op]), mut ops: Vec<Op>) -> (Vec<Op>, String) {
    let mut why = fails(case, &ops).unwrap_or_else(|| "it fails now and then".into());
    let mut size = ops.len().div_ceil(2);
    while size > 0 {
        let mut at = 0;
        while at < ops.len() {
            let mut shorter = ops.clone();
            shorter.drain(at..(at + size).min(ops.len()));
            match fails(case, &shorter) {
                Some(other) => (ops, why) = (shorter, other),
                None => at += size,
            }
        }
        size /= 2;
    }
    (ops, why)
}

/// Runs `case` on `ops`.
///
/// # Panics
///
/// When the case panics, with the shortest sequence found that does.
#[track_caller]
pub fn run(what: &str, seed: u64, ops: Vec<Op>, case: impl Fn(&[Op])) {
    if let Some(why) = fails(&case, &ops) {
        let (ops, last) = shrunk(&case, ops);
        let list: Vec<String> = ops.iter().map(|op| format!("  {op:?}")).collect();
        panic!(
            "{what}, WATERBEAR_SEED={seed}: {why}\nthese {} operations: {last}\n{}",
            ops.len(),
            list.join("\n")
        );
    }
}
