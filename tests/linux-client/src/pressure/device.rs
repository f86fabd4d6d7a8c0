//! A device's memory as guest memory: the kernel has no structure for these pages, and gives none
//! of them to whoever asks for pages.
use std::fs::{self, File};
use std::os::fd::OwnedFd;

use waterbear_core::abi::kvm::*;

use super::checked::Checked;
use super::map::{BOTH, LARGE, PAGE, Place};
use crate::node::same;
use crate::vcpu::Guest;
use crate::{Outcome, memory, sys};

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

/// Where the kernel shows a process the time. It has no pages to give away there either, and
/// brings them only when somebody looks.
fn clock() -> Result<u64, String> {
    let maps = fs::read_to_string("/proc/self/maps").map_err(|error| error.to_string())?;
    let line = maps.lines().find(|line| line.ends_with("[vvar]"));
    let start = line.and_then(|line| line.split('-').next());
    let start = start.and_then(|start| u64::from_str_radix(start, 16).ok());
    start.ok_or_else(|| "the kernel shows no time".to_owned())
}

pub fn a_guest_reads_what_a_driver_brings_when_it_is_asked() -> Outcome {
    // mov ax, 0xffff; mov ds, ax; mov al, [0x10]; out 1, al; mov [0x10], al; out 2, al
    let guest = Guest::new(&[
        0xb8, 0xff, 0xff, 0x8e, 0xd8, 0xa0, 0x10, 0x00, 0xe6, 0x01, 0xa2, 0x10, 0x00, 0xe6, 0x02,
    ])?;
    let slot = (1, 0, 1 << 20, PAGE as u64, clock()?);
    same("the slot", memory::set(&guest.vm, slot), Ok(0))?;
    same("reason", guest.run()?, KVM_EXIT_IO)?;
    same("port", guest.port().2, 1)?;
    let answer = sys::ioctl(&guest.vcpu, KVM_RUN, 0);
    same("a write to the clock", answer, Err(libc::EFAULT))
}
