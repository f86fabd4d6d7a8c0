//! Memory whose pages the owner brings in itself, and whose writes it hears of: userfaultfd.
//! A vCPU that touches such a page waits in the middle of KVM_RUN for another thread.
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::checked::Checked;
use super::checker::SLOT;
use super::map::{LARGE, PAGE, Place, done};
use crate::node::same;
use crate::{Outcome, memory, sys};

// From the kernel's <linux/userfaultfd.h>.
const API: u32 = 0xc018_aa3f;
const REGISTER: u32 = 0xc020_aa00;
const WAKE: u32 = 0x8010_aa02;
const COPY: u32 = 0xc028_aa03;
const WRITE_PROTECT: u32 = 0xc018_aa06;
const MISSING: u64 = 1;
const WRITES: u64 = 2;
/// A fault, in a message's first byte, and where it says the address.
const FAULT: u8 = 0x12;
const ADDRESS: std::ops::Range<usize> = 16..24;

const SIZE: usize = LARGE / 4;

/// Memory that asks its owner for pages.
struct Asks {
    fd: OwnedFd,
    at: u64,
}

impl Asks {
    /// For all of a place.
    fn new(memory: &Place) -> Result<Self, String> {
        // SAFETY: no memory is involved.
        let fd =
            unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK) };
        done("userfaultfd", fd)?;
        let asks = Self {
            fd: sys::owned(fd as i32),
            at: memory.address(),
        };
        // With news of writes.
        asks.call("the version", API, &[0xaa, 1, 0])?;
        let all = [memory.address(), memory.size() as u64, MISSING | WRITES, 0];
        asks.call("registering", REGISTER, &all)?;
        Ok(asks)
    }

    fn try_call(&self, command: u32, argument: &[u64]) -> Result<i32, i32> {
        // The kernel answers in the same place.
        let argument = argument.to_vec();
        sys::ioctl(&self.fd, command, argument.as_ptr() as u64)
    }

    fn call(&self, what: &str, command: u32, argument: &[u64]) -> Outcome {
        let answer = self.try_call(command, argument);
        answer
            .map(drop)
            .map_err(|error| format!("{what}: error {error}"))
    }

    /// From now on a write to these bytes waits, or no longer.
    fn protect(&self, offset: usize, size: usize, on: bool) -> Outcome {
        let range = [self.at + offset as u64, size as u64, on.into()];
        self.call("write-protecting", WRITE_PROTECT, &range)
    }

    /// Brings a page in.
    fn bring(&self, offset: usize, from: u64) -> Outcome {
        let page = self.at + offset as u64;
        match self.try_call(COPY, &[page, from, PAGE as u64, 0, 0]) {
            Ok(_) => Ok(()),
            // Somebody else's fault was faster.
            Err(libc::EEXIST) => self.call("waking", WAKE, &[page, PAGE as u64]),
            Err(error) => Err(format!("bringing a page: error {error}")),
        }
    }

    /// The offset of a page that somebody waits for, if somebody does.
    fn asked(&self) -> Option<usize> {
        let mut poll = libc::pollfd {
            fd: self.fd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one descriptor.
        unsafe { libc::poll(&raw mut poll, 1, 10) };
        let mut message = [0_u8; 32];
        // SAFETY: that many bytes.
        let got = unsafe { libc::read(self.fd.as_raw_fd(), message.as_mut_ptr().cast(), 32) };
        if got != 32 || message[0] != FAULT {
            return None;
        }
        let address = u64::from_le_bytes(message[ADDRESS].try_into().ok()?);
        Some((address - self.at) as usize & !(PAGE - 1))
    }
}

pub fn a_guest_waits_for_pages_that_another_thread_brings() -> Outcome {
    let memory = Place::fresh(SIZE)?;
    let aside = Place::fresh(SIZE)?;
    let asks = Asks::new(&memory)?;
    // Which pages are aside only. Whoever holds the lock may change that.
    let away = Mutex::new(vec![true; SIZE / PAGE]);
    let (over, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    let checked = Checked::new(3, &memory)?;
    let serve = || -> Outcome {
        while !over.load(Ordering::SeqCst) {
            let Some(offset) = asks.asked() else { continue };
            let mut away = away.lock().map_err(|error| error.to_string())?;
            served.fetch_add(1, Ordering::SeqCst);
            if away[offset / PAGE] {
                away[offset / PAGE] = false;
                asks.bring(offset, aside.address() + offset as u64)?;
            } else {
                asks.protect(offset, PAGE, false)?;
            }
        }
        Ok(())
    };
    // Takes pages away that the guest is writing to: nothing may be lost.
    let take = |offset: usize, size: usize| -> Outcome {
        let mut away = away.lock().map_err(|error| error.to_string())?;
        asks.protect(offset, size, true)?;
        for page in (offset..offset + size).step_by(PAGE) {
            if !away[page / PAGE] {
                for at in (page..page + PAGE).step_by(4) {
                    aside.set_word(at, memory.word(at));
                }
                away[page / PAGE] = true;
            }
        }
        memory.advise(offset, size, libc::MADV_DONTNEED)
    };
    thread::scope(|scope| {
        let server = scope.spawn(serve);
        let ran = checked.meanwhile(|| {
            for round in 0..16 {
                let first = round % 4 * (SIZE / 4);
                if round % 3 == 0 {
                    asks.protect(first, SIZE / 4, true)?;
                } else {
                    take(first, SIZE / 4)?;
                }
                checked.rounds()?;
            }
            checked.all_is_seen(&memory)
        });
        over.store(true, Ordering::SeqCst);
        server.join().map_err(|_| "the thread failed")??;
        ran
    })?;
    let served = served.load(Ordering::SeqCst);
    same(&format!("{served} faults"), served > SIZE / PAGE * 2, true)
}

pub fn an_owner_is_killed_while_its_guest_waits_for_a_page() -> Outcome {
    for round in 0..12 {
        let child = sys::fork(|| {
            let wait = || -> Outcome {
                let memory = Place::fresh(SIZE)?;
                let _asks = Asks::new(&memory)?;
                let checked = Checked::new(3, &memory)?;
                thread::scope(|scope| {
                    // Who changes slots waits for the vCPUs, and goes with them.
                    scope.spawn(|| {
                        thread::sleep(Duration::from_millis(10));
                        memory::set(&checked.vm, (SLOT, 0, 0, 0, 0))
                    });
                    checked.meanwhile(|| Ok(()))
                })
            };
            i32::from(wait().is_err())
        });
        let child = child.map_err(|error| format!("no child: error {error}"))?;
        thread::sleep(Duration::from_millis(5 * round));
        sys::kill(child);
        same("the end", sys::wait(child), Ok(256 + libc::SIGKILL))?;
    }
    Ok(())
}
