//! Sequences of calls with arguments that are mostly nearly right, from several threads, over all
//! descriptors, while the memory that they point to changes.
//!
//! Each round is a process of its own. What it leaves behind when it ends is the kernel's to clean
//! up; afterwards nobody may hold the module, and nothing may be lost.
mod arguments;
mod calls;

use std::fs;
use std::os::fd::{AsRawFd, IntoRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use waterbear_core::abi::kvm::*;

use self::calls::{NODE_CALLS, VCPU_CALLS, VM_CALLS};
use crate::leaks::{Used, nobody_holds_the_module};
use crate::node::{NODE, same};
use crate::pressure::interrupt::{signal, take_signals};
use crate::pressure::map::{BOTH, PAGE, Place};
use crate::random::Random;
use crate::{Outcome, sys};

/// How many processes, how many threads in each, how many calls of each.
const ROUNDS: u64 = 16;
const THREADS: usize = 3;
const CALLS: usize = 2500;

/// A guest's memory, what commands point to, and the kinds of descriptors.
const GUEST: usize = 64 * PAGE;
const ARGUMENTS: usize = 16 * PAGE;
const KINDS: usize = 3;

/// What the threads of a process share.
struct World {
    guest: Place,
    arguments: Place,
    /// An eventfd.
    bell: RawFd,
    /// Descriptors of nodes, VMs and vCPUs, some of them closed by now.
    open: [Mutex<Vec<RawFd>>; KINDS],
    /// The memory of vCPUs.
    shared: Mutex<Vec<Place>>,
    over: AtomicBool,
    threads: [AtomicI32; THREADS],
    worked: AtomicU32,
}

impl World {
    fn new() -> Result<Self, String> {
        Ok(Self {
            guest: Place::fresh(GUEST)?,
            arguments: Place::fresh(ARGUMENTS)?,
            // SAFETY: no memory is involved.
            bell: unsafe { libc::eventfd(0, libc::EFD_NONBLOCK) },
            open: Default::default(),
            shared: Mutex::default(),
            over: AtomicBool::new(false),
            threads: Default::default(),
            worked: AtomicU32::new(0),
        })
    }

    /// A descriptor of a kind, if there is one.
    fn some(&self, kind: usize, random: &mut Random) -> Option<RawFd> {
        let open = self.open[kind]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        (!open.is_empty()).then(|| open[random.below(open.len())])
    }

    /// Keeps a descriptor; too many of a kind make the oldest go.
    fn keep(&self, kind: usize, fd: RawFd) {
        const MANY: usize = 6;
        let mut open = self.open[kind]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        open.push(fd);
        if open.len() > MANY {
            close(open.remove(0));
        }
    }

    fn call(&self, fd: RawFd, command: u32, argument: u64) -> Result<i32, i32> {
        let mut harmless = [0; 128];
        let argument = match command {
            KVM_SET_SREGS | KVM_SET_SREGS2 | KVM_SET_MSRS => {
                self.without_long_mode(command, argument, &mut harmless)
            }
            _ => argument,
        };
        let answer = sys::ioctl(&Borrowed(fd), command, argument);
        if answer.is_ok() {
            self.worked.fetch_add(1, Ordering::Relaxed);
        }
        answer
    }

    /// One call.
    fn step(&self, random: &mut Random) {
        let kind = random.one(&[0, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2]);
        let Some(fd) = self.some(kind, random) else {
            if let Some(above) = kind
                .checked_sub(1)
                .and_then(|above| self.some(above, random))
            {
                let command = if kind == 1 {
                    KVM_CREATE_VM
                } else {
                    KVM_CREATE_VCPU
                };
                if let Ok(fd) = self.call(above, command, 0) {
                    self.keep(kind, fd);
                }
            }
            return;
        };
        match random.below(40) {
            0 => {
                let open = &mut self.open[kind]
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                // The node stays.
                if kind > 0
                    && let Some(at) = open.iter().position(|other| *other == fd)
                {
                    close(open.swap_remove(at));
                }
            }
            1 if kind == 2 => {
                let flags = random.one(&[libc::MAP_SHARED, libc::MAP_PRIVATE]);
                let size = random.one(&[PAGE, 3 * PAGE, 5 * PAGE]);
                if let Ok(place) = Place::of(&Borrowed(fd), size, BOTH, flags) {
                    let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
                    shared.insert(0, place);
                    shared.truncate(4);
                }
            }
            2..10 if kind == 1 => self.region(fd, random),
            10..14 if kind == 1 => self.device(fd, random),
            2..10 if kind == 2 => self.nearly(fd, random),
            _ => {
                let calls = match random.below(20) {
                    0 => random.one(&[NODE_CALLS, VM_CALLS, VCPU_CALLS]),
                    _ => [NODE_CALLS, VM_CALLS, VCPU_CALLS][kind],
                };
                let mut command = random.one(calls);
                if random.below(50) == 0 {
                    command ^= 1 << random.below(32);
                }
                let argument = match command {
                    KVM_RUN if random.below(30) != 0 => 0,
                    KVM_CREATE_VCPU => random.below(4) as u64,
                    KVM_CREATE_VM if random.below(4) != 0 => 0,
                    _ => self.argument(random),
                };
                self.fill(argument, random);
                match self.call(fd, command, argument) {
                    Ok(fd) if command == KVM_CREATE_VM => self.keep(1, fd),
                    Ok(fd) if command == KVM_CREATE_VCPU => self.keep(2, fd),
                    Ok(fd) if command == KVM_GET_STATS_FD => close(fd),
                    _ => {}
                }
            }
        }
    }

    /// Changes memory that calls use, interrupts who runs a guest.
    fn disturb(&self, random: &mut Random) {
        match random.below(12) {
            0 => {
                let page = random.below(GUEST / PAGE - 4) * PAGE;
                let _ = self.guest.advise(page, 4 * PAGE, libc::MADV_DONTNEED);
            }
            1 => {
                let page = random.below(GUEST / PAGE - 8) * PAGE;
                let rights = random.one(&[libc::PROT_NONE, libc::PROT_READ, BOTH, BOTH]);
                let _ = self.guest.protect(page, 8 * PAGE, rights);
            }
            2 => {
                let _ = self.guest.refresh(0, GUEST);
                for _ in 0..200 {
                    // Code, or what looks like it.
                    let at = random.below(GUEST / 4) * 4;
                    self.guest.set_word(at, random.next() as u32);
                }
            }
            3..8 => {
                let shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(place) = shared.first() {
                    let at = random.below(PAGE / 4) * 4;
                    let at = if random.below(2) == 0 { at } else { at % 256 };
                    place.set_word(at, random.next() as u32 >> random.below(32));
                }
            }
            _ => {
                let at = random.below(ARGUMENTS / 4) * 4;
                self.arguments
                    .set_word(at, random.next() as u32 >> random.below(32));
            }
        }
        for thread in &self.threads {
            match thread.load(Ordering::Relaxed) {
                0 => {}
                number => signal(number),
            }
        }
    }

    fn run(&self, seed: u64) {
        take_signals();
        thread::scope(|scope| {
            let workers: Vec<_> = (0..THREADS)
                .map(|number| {
                    scope.spawn(move || {
                        // SAFETY: no memory is involved.
                        self.threads[number].store(unsafe { libc::gettid() }, Ordering::Relaxed);
                        let mut random = Random::with(seed * 100 + number as u64);
                        for _ in 0..CALLS {
                            self.step(&mut random);
                        }
                        self.threads[number].store(0, Ordering::Relaxed);
                    })
                })
                .collect();
            scope.spawn(|| {
                let mut random = Random::with(seed * 100 + 99);
                while !self.over.load(Ordering::Relaxed) {
                    self.disturb(&mut random);
                    thread::sleep(Duration::from_micros(300));
                }
            });
            for worker in workers {
                let _ = worker.join();
            }
            self.over.store(true, Ordering::Relaxed);
        });
    }
}

/// A descriptor that is another thread's to close, or closed by now.
struct Borrowed(RawFd);

impl AsRawFd for Borrowed {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

fn close(fd: RawFd) {
    // SAFETY: no memory is involved.
    unsafe { libc::close(fd) };
}

/// One process. Its status says whether some of its calls worked.
fn process(seed: u64) -> i32 {
    let world = || -> Outcome {
        let world = World::new()?;
        let node = fs::File::options().read(true).write(true).open(NODE);
        let node = node.map_err(|error| error.to_string())?;
        world.keep(0, node.into_raw_fd());
        world.run(seed);
        let worked = world.worked.load(Ordering::Relaxed);
        same("many calls worked", worked as usize > CALLS / 4, true)
    };
    match world() {
        Ok(()) => 0,
        Err(why) => {
            println!("seed {seed}: {why}");
            1
        }
    }
}

pub fn calls_at_random_do_the_kernel_no_harm() -> Outcome {
    let mut random = Random::new("fuzzer");
    let mut before = None;
    for round in 0..ROUNDS {
        let seed = random.next() >> 32;
        let child = sys::fork(|| process(seed));
        let status = child.and_then(sys::wait);
        same(&format!("round {round}, seed {seed}"), status, Ok(0))?;
        nobody_holds_the_module()?;
        match &before {
            None if round == 4 => before = Some(Used::now()?),
            Some(before) if round % 12 == 0 || round == ROUNDS - 1 => before.nothing_more()?,
            _ => {}
        }
    }
    Ok(())
}
