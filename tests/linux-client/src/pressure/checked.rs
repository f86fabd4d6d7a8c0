//! A guest that checks its memory all the time, and an owner that can tell what it must find.
//!
//! Each vCPU has a part of the memory. Round by round it finds in each of its words what it wrote
//! there the last time, and writes something else. So it sees a page that was exchanged, lost or
//! reached through an old translation as soon as it comes by. What it writes goes up with each
//! round, so the owner can tell too: behind a round that is over nothing older may be found.
use std::mem::offset_of;
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use waterbear_core::abi::kvm::*;

use super::checker::{BASE, CODE, Checker, Device, LOW, SLOT, STEP, ZEROS, code};
use super::interrupt::{signal, take_signals};
use super::map::Place;
use crate::node::same;
use crate::sys::{self, Mapping, errno};
use crate::{Outcome, memory, vm};

/// A VM whose vCPUs check memory.
pub struct Checked {
    pub vm: OwnedFd,
    low: Mapping,
    checkers: Vec<Checker>,
    /// Every so many bytes a word is checked.
    step: usize,
    /// That a fault is expected now.
    faults_expected: AtomicBool,
    over: AtomicBool,
    failure: Mutex<Option<String>>,
}

impl Checked {
    /// Some vCPUs that check `memory`, each an equal part of it. Zeros are fine in the first round.
    pub fn new(vcpus: usize, memory: &Place) -> Result<Self, String> {
        Self::with(
            vcpus,
            memory.size(),
            (SLOT, 0, BASE, memory.size() as u64, memory.address()),
        )
    }

    /// As `new`, with a slot that is said in full.
    pub fn with(vcpus: usize, size: usize, slot: memory::Slot) -> Result<Self, String> {
        let vm = vm::make()?;
        let low = Mapping::new(LOW);
        low.write(CODE, code());
        low.write(ZEROS, &1_u32.to_le_bytes());
        low.write(ZEROS + 4, &(STEP as u32).to_le_bytes());
        let lowest = (0, 0, 0, LOW as u64, low.address());
        same("the slot with the code", memory::set(&vm, lowest), Ok(0))?;
        same("the slot", memory::set(&vm, slot), Ok(0))?;
        let part = (size / vcpus).next_multiple_of(STEP);
        let checkers = (0..vcpus)
            .map(|index| {
                let end = size.min((index + 1) * part);
                Checker::new(&vm, index as u64, index * part..end)
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            vm,
            low,
            checkers,
            step: STEP,
            faults_expected: AtomicBool::new(false),
            over: AtomicBool::new(false),
            failure: Mutex::new(None),
        })
    }

    /// Checks fewer words, before it runs.
    pub fn sparse(mut self, step: usize) -> Self {
        self.low.write(ZEROS + 4, &(step as u32).to_le_bytes());
        self.step = step;
        self
    }

    /// Whether pages may become zero from now on.
    pub fn zeros(&self, expected: bool) {
        self.low.write(ZEROS, &[expected.into()]);
    }

    /// Whether the guest may find no memory from now on.
    pub fn faults(&self, expected: bool) {
        self.faults_expected.store(expected, Ordering::SeqCst);
    }

    /// The numbers of the threads that run vCPUs.
    pub fn threads(&self) -> Vec<i32> {
        self.checkers
            .iter()
            .map(|c| c.thread.load(Ordering::SeqCst))
            .collect()
    }

    fn fail(&self, why: String) {
        let mut failure = self.failure.lock().unwrap_or_else(|e| e.into_inner());
        failure.get_or_insert(why);
    }

    /// Why it has failed, if it has.
    fn failed(&self) -> Outcome {
        let failure = self.failure.lock().unwrap_or_else(|e| e.into_inner());
        failure.clone().map_or(Ok(()), Err)
    }

    /// Waits until something is true of every vCPU.
    fn wait(&self, of: impl Fn(&Checker) -> u64, more: u64) -> Outcome {
        let before: Vec<_> = self.checkers.iter().map(&of).collect();
        for (checker, before) in self.checkers.iter().zip(before) {
            while of(checker) < before + more {
                self.failed()?;
                thread::sleep(Duration::from_millis(1));
            }
        }
        self.failed()
    }

    /// Waits until every vCPU has seen and written everything twice more.
    pub fn rounds(&self) -> Outcome {
        self.wait(|checker| checker.turns.load(Ordering::SeqCst), 2)
    }

    /// Waits until some vCPU has found no memory.
    pub fn a_fault(&self) -> Outcome {
        let all = || -> u64 {
            self.checkers
                .iter()
                .map(|c| c.faults.load(Ordering::SeqCst))
                .sum()
        };
        let before = all();
        while all() == before {
            self.failed()?;
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Fails if the owner finds something older in memory than what must be there by now.
    pub fn nothing_old(&self, memory: &Place) -> Outcome {
        for checker in &self.checkers {
            let round = checker.round.load(Ordering::SeqCst);
            for offset in checker.part.clone().step_by(self.step) {
                let (word, address) = (memory.word(offset), BASE as u32 + offset as u32);
                if word ^ address < round {
                    return Err(format!(
                        "the owner sees {word:#x} at {address:#x}, of round {:#x}, after round {round:#x}",
                        word ^ address,
                    ));
                }
            }
        }
        Ok(())
    }

    /// After a change: all of it is seen, by the guest without zeros, and by the owner.
    pub fn all_is_seen(&self, memory: &Place) -> Outcome {
        self.rounds()?;
        self.zeros(false);
        self.nothing_old(memory)
    }

    /// Runs a vCPU until all is over.
    fn drive(&self, checker: &Checker, device: Device<'_>) -> Outcome {
        // SAFETY: no memory is involved.
        checker
            .thread
            .store(unsafe { libc::gettid() }, Ordering::SeqCst);
        loop {
            match checker.run() {
                Ok(KVM_EXIT_IO) => {
                    let port: u16 = checker
                        .run
                        .read(offset_of!(kvm_run, __bindgen_anon_1.io.port));
                    if port != 1 {
                        return Err(checker.complaint());
                    }
                    checker
                        .round
                        .store(checker.run.read(4096), Ordering::SeqCst);
                    checker.turns.fetch_add(1, Ordering::SeqCst);
                    if self.over.load(Ordering::SeqCst) {
                        return Ok(());
                    }
                }
                Ok(KVM_EXIT_MMIO) => checker.serve(device)?,
                Err(libc::EFAULT) if self.faults_expected.load(Ordering::SeqCst) => {
                    checker.faults.fetch_add(1, Ordering::SeqCst);
                    thread::sleep(Duration::from_millis(1));
                }
                Err(libc::EINTR) if self.over.load(Ordering::SeqCst) => return Ok(()),
                Err(libc::EINTR) => {}
                other => return Err(format!("KVM_RUN: {other:?}, {}", checker.place())),
            }
            if self.failed().is_err() {
                return Ok(());
            }
        }
    }

    /// Runs all vCPUs, each in a thread of its own, while `change` is done. In the end every vCPU
    /// has seen everything once more, and nobody has found anything wrong.
    pub fn meanwhile(&self, change: impl FnOnce() -> Outcome) -> Outcome {
        self.meanwhile_with(&|_, _| 0, change)
    }

    /// As `meanwhile`, with a device where there is no slot.
    pub fn meanwhile_with(&self, device: Device<'_>, change: impl FnOnce() -> Outcome) -> Outcome {
        self.while_it_runs(device, || {
            self.rounds()?;
            self.zeros(false);
            change()
        })
    }

    /// As `meanwhile`, but in the end all vCPUs stop at once, wherever they are.
    pub fn meanwhile_cut_short(&self, change: impl FnOnce() -> Outcome) -> Outcome {
        self.run_all(&|_, _| 0, || {
            self.rounds()?;
            self.zeros(false);
            change()
        })
    }

    /// As `meanwhile_with`, where the first round may not end by itself.
    pub fn while_it_runs(&self, device: Device<'_>, change: impl FnOnce() -> Outcome) -> Outcome {
        self.run_all(device, || change().and_then(|()| self.rounds()))
    }

    fn run_all(&self, device: Device<'_>, change: impl FnOnce() -> Outcome) -> Outcome {
        take_signals();
        self.over.store(false, Ordering::SeqCst);
        thread::scope(|scope| {
            let threads: Vec<_> = self
                .checkers
                .iter()
                .map(|checker| {
                    scope.spawn(|| {
                        if let Err(why) = self.drive(checker, device) {
                            self.fail(why);
                        }
                    })
                })
                .collect();
            let changed = change();
            self.over.store(true, Ordering::SeqCst);
            if let Err(why) = changed {
                self.fail(why);
            }
            // A signal that comes just before a call does not end it.
            while threads.iter().any(|thread| !thread.is_finished()) {
                self.threads().into_iter().for_each(signal);
                thread::sleep(Duration::from_millis(1));
            }
        });
        self.failed()
    }
}

/// A process that runs such a guest until it is killed.
pub fn endless_child(vcpus: usize, size: usize) -> Result<i32, String> {
    let child = sys::fork(|| {
        let run = || -> Outcome {
            let memory = Place::fresh(size)?;
            Checked::new(vcpus, &memory)?.meanwhile(|| {
                loop {
                    thread::sleep(Duration::from_secs(1));
                }
            })
        };
        i32::from(run().is_err())
    });
    child.map_err(|error| format!("no child: error {error}, {}", errno()))
}
