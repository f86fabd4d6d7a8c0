//! Memory slots do what their rules say.
#![cfg(not(loom))]
//!
//! | file | what it proves |
//! |---|---|
//! | `requests` | which requests are legal, and what each does |
//! | `steps` | the order of an update's steps, and who may run between them |
//! | `generations` | the number of a set, and cached MMIO entries |
//! | `memory_runs_out` | each allocation fails once, and nothing has changed |
//! | `lookups` | three indexes against a naive model; the largest set |
//! | `counts` | huge mappings, tracked pages, dirty bits |
//! | `notifications` | publishing and unmap notifications |
mod counts;
mod generations;
mod lookups;
mod memory_runs_out;
mod notifications;
mod requests;
mod steps;
mod vm;
