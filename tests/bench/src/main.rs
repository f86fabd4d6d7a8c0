//! What the operations of the TDP MMU cost, on a host as lean as a kernel.
//!
//! `cargo xtask bench mmu` starts this program once per row of its table and
//! reads what it prints, one word and numbers per line:
//!
//! ```text
//! time OPERATION NANOSECONDS    per page, the least of all rounds
//! count OPERATION PAGES         with --count: what was done, in order
//! bytes WHAT BYTES              per mapped GiB
//! ```
//!
//! With `--count` each operation runs once inside [`measured::measured`], so
//! that callgrind can count its instructions and nothing else.
mod clock;
mod measured;
mod operation;
mod round;
mod slim;

use std::process::ExitCode;

use operation::Operation;
use round::{Round, Setup};
use slim::SlimHost;

/// What the command line asks for.
struct Options {
    setup: Setup,
    rounds: u32,
    count: bool,
}

fn main() -> ExitCode {
    let options = match options(lexopt::Parser::from_env()) {
        Ok(options) => options,
        Err(error) => {
            eprintln!(
                "error: {error}. Usage: mmu [--mib N] [--large] [--threads N] [--mutex] \
                 [--rounds N] [--count]"
            );
            return ExitCode::from(2);
        }
    };
    SlimHost::boot(options.setup.tables());
    SlimHost::set_large_pages(options.setup.large);
    let mut least = [f64::INFINITY; Operation::ALL.len()];
    for _ in 0..options.rounds {
        let mut round = Round::new(&options.setup);
        for (operation, least) in Operation::ALL.into_iter().zip(&mut least) {
            if !round.can(operation) {
                continue;
            }
            let time = round.run(operation, options.count);
            *least = least.min(time.as_nanos() as f64 / options.setup.units() as f64);
        }
        round.finish();
    }
    for (operation, least) in Operation::ALL.into_iter().zip(least) {
        let name = operation.name();
        if options.count && least.is_finite() {
            println!("count {name} {}", options.setup.units());
        } else if least.is_finite() {
            println!("time {name} {least:.2}");
        }
    }
    for (what, bytes) in round::footprint(&options.setup) {
        println!("bytes {what} {bytes}");
    }
    ExitCode::SUCCESS
}

fn options(mut arguments: lexopt::Parser) -> Result<Options, lexopt::Error> {
    use lexopt::prelude::*;
    let mut options = Options {
        setup: Setup {
            mib: 64,
            large: false,
            threads: 1,
            mutex: false,
        },
        rounds: 1,
        count: false,
    };
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("mib") => options.setup.mib = arguments.value()?.parse()?,
            Long("large") => options.setup.large = true,
            Long("threads") => options.setup.threads = arguments.value()?.parse()?,
            Long("mutex") => options.setup.mutex = true,
            Long("rounds") => options.rounds = arguments.value()?.parse()?,
            Long("count") => options.count = true,
            other => return Err(other.unexpected()),
        }
    }
    Ok(options)
}
