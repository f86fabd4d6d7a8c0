//! Small guests on a host that boots by itself.

use crate::machine::{Emulator, Expect, Image, MACHINES, Machine};
use crate::workspace::Workspace;
use crate::{Outcome, Verdict};

/// Guests that show the most: each mode of the CPU, a device, and several vCPUs on several CPUs.
const GUESTS: &[&str] = &[
    "real_mode_calls_and_interrupts",
    "long_mode_pages_of_all_sizes",
    "instructions_on_a_device",
    "two_cpus_count_wake_and_interrupt_each_other",
    "memory_changes_under_two_vcpus",
    "four_cpus_count_wake_and_interrupt_each_other",
];

pub fn run(workspace: &Workspace, vendor: &str) -> Outcome<Verdict> {
    let machine = chosen(vendor)?;
    let image = Image::build(workspace, &format!("only={}", GUESTS.join(",")), "release")?;
    let emulator = match machine.emulator {
        Emulator::Qemu => "QEMU",
        Emulator::Bochs => "Bochs",
    };
    println!("booting on {emulator}'s {}", machine.name());
    let mut exits = 0;
    let text = image.run(machine, |line| {
        if ours(line) {
            println!("  | {line}");
            exits += exits_in(line);
        }
    })?;
    let guests = text.lines().filter(|line| is_guest(line)).count();
    let all_ran = GUESTS.iter().all(|guest| has_ended(&text, guest));
    if text.lines().any(|line| line == "END passed") && all_ran {
        println!(
            "Waterbear ran {guests} guests on an emulated {}: they came back to their monitors \
             {exits} times, and the host kept every register and every page.",
            machine.name()
        );
        Ok(Verdict::Good)
    } else {
        println!("The run failed; its lines are above.");
        Ok(Verdict::Bad)
    }
}

/// Whether a line says that a guest has passed.
fn is_guest(line: &str) -> bool {
    line.strip_prefix("PASS ")
        .is_some_and(|name| GUESTS.contains(&name))
}

/// Whether a guest has passed, or the machine lacks what it needs, which a line then says.
fn has_ended(text: &str, guest: &str) -> bool {
    let skipped = format!("SKIP {guest}: ");
    text.lines()
        .any(|line| line.strip_prefix("PASS ") == Some(guest) || line.starts_with(&skipped))
}

/// The exits that a note about a guest counts.
fn exits_in(line: &str) -> u64 {
    let count = line
        .strip_prefix("NOTE ")
        .and_then(|note| note.split_once(": "))
        .and_then(|(_, rest)| rest.split_once(" exits"));
    count.and_then(|(count, _)| count.parse().ok()).unwrap_or(0)
}

/// Whether a line comes from the bare port and not from firmware or emulator.
fn ours(line: &str) -> bool {
    const STARTS: [&str; 8] = [
        "waterbear: ",
        "PLAN ",
        "PASS ",
        "FAIL ",
        "SKIP ",
        "END ",
        "REFUSED ",
        "NOTE ",
    ];
    STARTS.iter().any(|start| line.starts_with(start))
}

/// The first machine on which the wanted vendor registers.
fn chosen(vendor: &str) -> Outcome<&'static Machine> {
    let registers = |machine: &&Machine| match machine.expect {
        Expect::Guests(name) => name.eq_ignore_ascii_case(vendor),
        Expect::Refused(_) => false,
    };
    MACHINES
        .iter()
        .find(registers)
        .ok_or_else(|| format!("there is no vendor {vendor:?}. Vendors are svm and vmx."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_vendor_has_a_machine() {
        assert_eq!(chosen("svm").unwrap().cpu, "EPYC,+svm,+npt");
        assert_eq!(chosen("vmx").unwrap().cpu, "corei7_skylake_x");
        let error = chosen("via").err().unwrap();
        assert!(error.contains("svm and vmx"), "{error}");
    }
}
