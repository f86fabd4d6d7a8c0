//! A device's memory as guest memory: the kernel has no structure for these pages, and gives none
//! of them to whoever asks for pages.
use std::fs::{self, File};
use std::os::fd::OwnedFd;

use super::checked::Checked;
use super::map::{BOTH, LARGE, PAGE, Place};
use crate::Outcome;
use crate::node::same;

const SIZE: usize = LARGE;

/// The memory of the machine's display, which keeps what is written to it.
fn display() -> Result<OwnedFd, String> {
    const DEVICES: &str = "/sys/bus/pci/devices";
    let list = fs::read_dir(DEVICES).map_err(|error| format!("{DEVICES}: {error}"))?;
    for device in list.flatten().map(|entry| entry.path()) {
        let class = fs::read_to_string(device.join("class")).unwrap_or_default();
        if class.starts_with("0x0300") {
            let file = File::options()
                .read(true)
                .write(true)
                .open(device.join("resource0"));
            return file.map(OwnedFd::from).map_err(|error| error.to_string());
        }
    }
    Err("there is no display".to_owned())
}

pub fn a_guest_runs_on_the_memory_of_a_device() -> Outcome {
    let display = display()?;
    let memory = Place::of(&display, SIZE, BOTH, libc::MAP_SHARED)?;
    let view = Place::of(&display, SIZE, BOTH, libc::MAP_SHARED)?;
    for offset in (0..SIZE).step_by(4) {
        view.set_word(offset, 0);
    }
    let checked = Checked::new(2, &memory)?;
    checked.meanwhile(|| {
        for round in 0..4 {
            checked.all_is_seen(&view)?;
            checked.faults(true);
            memory.protect(round * PAGE, PAGE, libc::PROT_READ)?;
            checked.a_fault()?;
            memory.protect(round * PAGE, PAGE, BOTH)?;
            memory.unmap(SIZE / 2, 5 * PAGE)?;
            checked.a_fault()?;
            // Somewhere else, and back.
            let again = Place::of(&display, SIZE, BOTH, libc::MAP_SHARED)?;
            again.move_to(&memory, SIZE / 2, 5 * PAGE, false)?;
            checked.rounds()?;
            checked.faults(false);
        }
        checked.all_is_seen(&view)
    })
}

pub fn a_guest_reads_a_device_that_the_owner_may_only_read() -> Outcome {
    let display = display()?;
    let memory = Place::of(&display, SIZE, libc::PROT_READ, libc::MAP_SHARED)?;
    let view = Place::of(&display, SIZE, BOTH, libc::MAP_SHARED)?;
    for offset in (0..SIZE).step_by(4) {
        view.set_word(offset, 0);
    }
    let checked = Checked::new(1, &memory)?;
    checked.faults(true);
    checked.while_it_runs(&|_, _| 0, || {
        for _ in 0..10 {
            checked.a_fault()?;
        }
        for offset in (0..SIZE).step_by(PAGE) {
            same("a word", view.word(offset), 0)?;
        }
        memory.protect(0, SIZE, BOTH)?;
        checked.rounds()
    })
}
