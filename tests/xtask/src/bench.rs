//! `cargo xtask bench`: what the core's operations cost.

mod bare;
mod exits;
mod mmu;

use crate::{Command, Outcome, Verdict, usage};

pub const COMMAND: Command = Command {
    name: "bench",
    summary: "measure what operations cost and print one table",
    options: "\
bare      exits of guests on the bare port, in instructions
exits     exits, faults and ioctls on Linux, in instructions, beside the kernel's own KVM
mmu       page tables: fault, walk, zap, write-protect, collect the dirty log;
          in instructions and nanoseconds, beside the same under one mutex
--quick   only the small sizes",
    run,
};

fn run(mut arguments: lexopt::Parser) -> Outcome<Verdict> {
    use lexopt::prelude::*;
    let (mut bare, mut exits, mut mmu, mut quick) = (false, false, false, false);
    while let Some(argument) = arguments.next().map_err(|error| usage(&error))? {
        match argument {
            Value(name) if name == "bare" => bare = true,
            Value(name) if name == "exits" => exits = true,
            Value(name) if name == "mmu" => mmu = true,
            Long("quick") => quick = true,
            other => return Err(usage(&other.unexpected())),
        }
    }
    if !(bare || exits || mmu) {
        return Err(
            "nothing to measure is named. Run `cargo xtask bench` with bare, exits or mmu.".into(),
        );
    }
    let mut good = true;
    if bare {
        good &= bare::run()? == Verdict::Good;
    }
    if exits {
        good &= exits::run()? == Verdict::Good;
    }
    if mmu {
        good &= mmu::run(quick)? == Verdict::Good;
    }
    Ok(if good { Verdict::Good } else { Verdict::Bad })
}
