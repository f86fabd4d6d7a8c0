//! A stock kernel with the module, and an unmodified monitor with a stock kernel as its guest.

use crate::linux::{Client, Disc, Flavour, Kernel, MONITOR, Module, Version};
use crate::workspace::Workspace;
use crate::{Outcome, Verdict, process};
use std::time::Instant;

pub fn run(workspace: &Workspace, version: Version) -> Outcome<Verdict> {
    let start = Instant::now();
    println!("fetching Debian's kernel {} and its headers", version.name);
    let kernel = Kernel::fetch(workspace, version, Flavour::Amd64)?;
    println!("building the module for it");
    let module = Module::build(workspace, &kernel)?;
    let client = Client::build(workspace)?;
    let disc = Disc::with_monitor(workspace, &client, &kernel, &module)?;
    println!("booting it on QEMU's {}", MONITOR.cpu);
    // What the emulator lacks of the processor that it plays is no news.
    let text = MONITOR.run(&kernel, &disc, |line| {
        if !line.contains("TCG doesn't support") {
            println!("  | {line}");
        }
    })?;
    if text.lines().any(|line| line == "END passed") {
        println!(
            "Debian's kernel {} loaded Waterbear, Debian's own QEMU booted a stock Debian \
             kernel on it to user space, and the module was unloaded without a complaint. All \
             of it took {}.",
            kernel.release,
            process::seconds(start.elapsed())
        );
        Ok(Verdict::Good)
    } else {
        println!("The run failed; its lines are above.");
        Ok(Verdict::Bad)
    }
}
