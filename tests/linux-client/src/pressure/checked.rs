//! A guest that checks its memory all the time, and an owner that can tell what it must find.
//!
//! Each vCPU has a part of the memory. Round by round it finds in each of its words what it wrote
//! there the last time, and writes something else. So it sees a page that was exchanged, lost or
//! reached through an old translation as soon as it comes by. What it writes goes up with each
//! round, so the owner can tell too: behind a round that is over nothing older may be found.
use std::arch::global_asm;
use std::mem::offset_of;
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;
use std::{ptr, slice};

use waterbear_core::abi::kvm::*;

use super::map::Place;
use crate::node::same;
use crate::sys::{self, Mapping, errno, ioctl, ioctl_with};
use crate::{Outcome, memory, vcpu, vm};

// 32 bits, no paging. ESI and ECX: begin and end of the memory; EBX: the round; EBP: where it
// says whether a page may have become zero, and behind that how far it is to the next word.
global_asm!(
    ".pushsection .rodata",
    ".global waterbear_checks, waterbear_checks_end",
    "waterbear_checks:",
    ".code32",
    "2: mov edi, esi",
    "3: mov eax, ebx",
    "xor eax, edi",
    "mov edx, [edi]",
    "cmp edx, eax",
    "jne 6f",
    "4: lea eax, [ebx + 1]",
    "xor eax, edi",
    "mov [edi], eax",
    "add edi, [ebp + 4]",
    "cmp edi, ecx",
    "jb 3b",
    "inc ebx",
    "mov eax, ebx",
    "out 1, eax",
    "jmp 2b",
    "6: test edx, edx",
    "jnz 7f",
    "cmp dword ptr [ebp], 0",
    "jne 4b",
    "7: out 2, eax",
    "hlt",
    ".code64",
    "waterbear_checks_end:",
    ".popsection",
);

unsafe extern "C" {
    safe static waterbear_checks: u8;
    safe static waterbear_checks_end: u8;
}

/// Every so many bytes a word is checked, if nothing else is said.
pub const STEP: usize = 512;
/// Where the memory begins for the guest: not where one large leaf maps it with the code.
pub const BASE: u64 = 1 << 30;
/// The number of the slot with the memory.
pub const SLOT: u32 = 1;
/// The first round. Together with an address below it never makes a zero.
const FIRST: u32 = 0x8000_0000;
/// Where the code and the word are that says whether there may be zeros.
const CODE: usize = 0x1000;
const ZEROS: usize = 0x2000;
const LOW: usize = 0x4000;

/// A vCPU, and what is known about it.
struct Checker {
    vcpu: OwnedFd,
    run: Mapping,
    /// Its part of the memory.
    part: std::ops::Range<usize>,
    round: AtomicU32,
    /// How often it found no memory.
    faults: AtomicU64,
    /// The thread that runs it, while there is one.
    pub thread: AtomicI32,
}

/// What is done about accesses that find no slot.
pub type Device<'a> = &'a (dyn Fn(u64, Option<u32>) -> u32 + Sync);

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

fn code() -> &'static [u8] {
    let (start, end) = (&raw const waterbear_checks, &raw const waterbear_checks_end);
    // SAFETY: the two are the ends of one piece of constant memory.
    unsafe { slice::from_raw_parts(start, end.addr() - start.addr()) }
}

impl Checker {
    fn new(vm: &OwnedFd, index: u64, part: std::ops::Range<usize>) -> Result<Self, String> {
        let vcpu = vcpu::make(vm, index).map_err(|error| format!("no vCPU: error {error}"))?;
        let run = Mapping::of(&vcpu, 3 * 4096)?;
        // SAFETY: integers.
        let mut sregs: kvm_sregs = unsafe { std::mem::zeroed() };
        let at = ptr::from_mut(&mut sregs) as u64;
        same("GET_SREGS", ioctl(&vcpu, KVM_GET_SREGS, at), Ok(0))?;
        let flat = kvm_segment {
            limit: u32::MAX,
            selector: 8,
            type_: 3,
            present: 1,
            db: 1,
            s: 1,
            g: 1,
            ..sregs.ds
        };
        let flat = kvm_segment { base: 0, ..flat };
        sregs.cs = kvm_segment { type_: 11, ..flat };
        sregs.ds = flat;
        sregs.es = flat;
        sregs.ss = flat;
        sregs.cr0 |= 1;
        same("SET_SREGS", ioctl_with(&vcpu, KVM_SET_SREGS, &sregs), Ok(0))?;
        // SAFETY: integers.
        let mut regs: kvm_regs = unsafe { std::mem::zeroed() };
        regs.rip = CODE as u64;
        regs.rflags = 2;
        regs.rbx = FIRST.into();
        regs.rsi = BASE + part.start as u64;
        regs.rcx = BASE + part.end as u64;
        regs.rbp = ZEROS as u64;
        same("SET_REGS", ioctl_with(&vcpu, KVM_SET_REGS, &regs), Ok(0))?;
        Ok(Self {
            vcpu,
            run,
            part,
            round: AtomicU32::new(FIRST),
            faults: AtomicU64::new(0),
            thread: AtomicI32::new(0),
        })
    }

    /// Runs until the vCPU comes back.
    fn run(&self) -> Result<u32, i32> {
        ioctl(&self.vcpu, KVM_RUN, 0)?;
        Ok(self.run.read(offset_of!(kvm_run, exit_reason)))
    }

    /// What it found when it found something wrong.
    fn complaint(&self) -> String {
        // SAFETY: integers.
        let mut regs: kvm_regs = unsafe { std::mem::zeroed() };
        let at = ptr::from_mut(&mut regs) as u64;
        let _ = ioctl(&self.vcpu, KVM_GET_REGS, at);
        // SAFETY: the kernel wrote to it.
        let regs = unsafe { (&raw const regs).read_volatile() };
        let (seen, address) = (regs.rdx as u32, regs.rdi as u32);
        format!(
            "a guest found {seen:#x} at {address:#x}, of round {:#x}, in round {:#x}",
            seen ^ address,
            regs.rbx,
        )
    }

    /// Serves an access that found no slot.
    fn serve(&self, device: Device<'_>) -> Outcome {
        const DATA: usize = offset_of!(kvm_run, __bindgen_anon_1.mmio.data);
        let at: u64 = self
            .run
            .read(offset_of!(kvm_run, __bindgen_anon_1.mmio.phys_addr));
        let size: u32 = self
            .run
            .read(offset_of!(kvm_run, __bindgen_anon_1.mmio.len));
        let write: u8 = self
            .run
            .read(offset_of!(kvm_run, __bindgen_anon_1.mmio.is_write));
        same("the size of an access", size, 4)?;
        if write != 0 {
            device(at, Some(self.run.read(DATA)));
        } else {
            self.run.write(DATA, &device(at, None).to_le_bytes());
        }
        Ok(())
    }
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
        self.wait(|checker| checker.round.load(Ordering::SeqCst).into(), 2)
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
                    if self.over.load(Ordering::SeqCst) {
                        return Ok(());
                    }
                }
                Ok(KVM_EXIT_MMIO) => checker.serve(device)?,
                Err(libc::EFAULT) if self.faults_expected.load(Ordering::SeqCst) => {
                    checker.faults.fetch_add(1, Ordering::SeqCst);
                    thread::sleep(Duration::from_millis(1));
                }
                Err(libc::EINTR) => {}
                other => return Err(format!("KVM_RUN: {other:?}")),
            }
            if self.failed().is_err() {
                return Ok(());
            }
        }
    }

    /// Runs all vCPUs, each in a thread of its own, while `change` is done. In the end every vCPU
    /// has finished a round, and nobody has found anything wrong.
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

    /// As `meanwhile_with`, where the first round may not end by itself.
    pub fn while_it_runs(&self, device: Device<'_>, change: impl FnOnce() -> Outcome) -> Outcome {
        self.over.store(false, Ordering::SeqCst);
        thread::scope(|scope| {
            for checker in &self.checkers {
                scope.spawn(|| {
                    if let Err(why) = self.drive(checker, device) {
                        self.fail(why);
                    }
                });
            }
            if let Err(why) = change().and_then(|()| self.rounds()) {
                self.fail(why);
            }
            self.over.store(true, Ordering::SeqCst);
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
