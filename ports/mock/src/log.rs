//! The kernel log, kept.

use std::sync::Mutex;

use waterbear_hal::{Log, Word, Words};

use crate::sys::book;
use crate::{Mock, broken};

/// What was said so far.
#[derive(Default)]
pub(crate) struct Lines(Mutex<Vec<String>>);

impl<const NOTIFIER: bool> Log for Mock<NOTIFIER> {
    fn info(&self, message: &[Word]) {
        book(&self.0.log.0).push(Words(message).to_string());
    }

    #[track_caller]
    fn bug(&self, what: &'static str) {
        broken!("BUG: {what}");
    }
}

impl<const NOTIFIER: bool> Mock<NOTIFIER> {
    /// The messages of the log, oldest first.
    pub fn log_lines(&self) -> Vec<String> {
        book(&self.0.log.0).clone()
    }
}
