//! The guest's own page tables, one test per sentence.
//!
//! What the core says is compared with [`oracle`], which was written from the
//! manuals' sentences and shares nothing with the core.
#![cfg(not(loom))]

mod code;
mod guest;
mod marks;
mod oracle;
mod reserved;
mod rights;
mod sizes;
mod tables;

use waterbear_core::paging::{Access, Failure, Kind, Mode};

/// Every kind of access on every behalf.
fn accesses() -> impl Iterator<Item = Access> {
    [Kind::Read, Kind::Write, Kind::Fetch]
        .into_iter()
        .flat_map(|kind| {
            [Mode::User, Mode::Supervisor, Mode::Implicit]
                .into_iter()
                .map(move |mode| Access { kind, mode })
        })
}

/// The error code of a page fault at `linear`; panics for any other failure.
#[track_caller]
fn code(failure: Failure, linear: u64) -> u32 {
    match failure {
        Failure::Fault(exception) => {
            assert_eq!((exception.vector, exception.payload), (14, linear));
            exception.error.expect("page faults have error codes")
        }
        other => panic!("{other:?} is no page fault"),
    }
}
