//! `cargo xtask bench`: what the core's operations cost.

mod bare;
mod mmu;

use crate::{Command, Outcome, Verdict, usage};

pub const COMMAND: Command = Command {
    name: "bench",
    summary: "measure what operations cost and print one table",
    options: "\
bare      exits of guests on the bare port, in instructions
mmu       page tables: fault, walk, zap, write-protect, collect the dirty log;
          in instructions and nanoseconds, beside the same under one mutex
--quick   only the small sizes",
    run,
};

fn run(mut arguments: lexopt::Parser) -> Outcome<Verdict> {
    use lexopt::prelude::*;
    let mut mmu = false;
    let mut bare = false;
    let mut quick = false;
    while let Some(argument) = arguments.next().map_err(|error| usage(&error))? {
        match argument {
            Value(name) if name == "mmu" => mmu = true,
            Value(name) if name == "bare" => bare = true,
            Long("quick") => quick = true,
            other => return Err(usage(&other.unexpected())),
        }
    }
    if !mmu && !bare {
        return Err("nothing to measure is named. Run `cargo xtask bench mmu` or `bare`.".into());
    }
    let verdict = if bare { bare::run()? } else { Verdict::Good };
    if mmu && mmu::run(quick)? == Verdict::Bad {
        return Ok(Verdict::Bad);
    }
    Ok(verdict)
}
