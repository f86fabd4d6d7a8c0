//! Sequences of calls with arguments that are mostly nearly right, from several threads, over all
//! descriptors, while the memory that they point to changes.
//!
//! Each round is a process of its own. What it leaves behind when it ends is the kernel's to clean
//! up; afterwards nobody may hold the module, and nothing may be lost.
use std::fs;
use std::mem::offset_of;
use std::os::fd::{AsRawFd, IntoRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use waterbear_core::abi::kvm::*;

use crate::leaks::{Used, nobody_holds_the_module};
use crate::memory;
use crate::node::{NODE, same};
use crate::pressure::crowd::{signal, take_signals};
use crate::pressure::map::{BOTH, PAGE, Place};
use crate::random::Random;
use crate::{Outcome, sys};

/// How many processes, how many threads in each, how many calls of each.
const ROUNDS: u64 = 16;
const THREADS: usize = 3;
const CALLS: usize = 2500;

const NODE_CALLS: &[u32] = &[
    KVM_CREATE_VM,
    KVM_GET_API_VERSION,
    KVM_CHECK_EXTENSION,
    KVM_GET_VCPU_MMAP_SIZE,
    KVM_GET_SUPPORTED_CPUID,
    KVM_GET_EMULATED_CPUID,
    KVM_GET_MSR_INDEX_LIST,
    KVM_GET_MSR_FEATURE_INDEX_LIST,
    KVM_GET_MSRS,
];
const VM_CALLS: &[u32] = &[
    KVM_CREATE_VCPU,
    KVM_CREATE_VCPU,
    KVM_SET_USER_MEMORY_REGION,
    KVM_SET_USER_MEMORY_REGION,
    KVM_SET_USER_MEMORY_REGION,
    KVM_GET_DIRTY_LOG,
    KVM_CLEAR_DIRTY_LOG,
    KVM_ENABLE_CAP,
    KVM_CHECK_EXTENSION,
    KVM_SET_TSS_ADDR,
    KVM_SET_IDENTITY_MAP_ADDR,
    KVM_CREATE_IRQCHIP,
    KVM_GET_IRQCHIP,
    KVM_SET_IRQCHIP,
    KVM_SET_GSI_ROUTING,
    KVM_CREATE_PIT2,
    KVM_GET_PIT2,
    KVM_SET_PIT2,
    KVM_SET_BOOT_CPU_ID,
    KVM_SET_CLOCK,
    KVM_GET_CLOCK,
    KVM_SET_TSC_KHZ,
    KVM_GET_TSC_KHZ,
    KVM_CREATE_DEVICE,
    KVM_GET_STATS_FD,
];
const VCPU_CALLS: &[u32] = &[
    KVM_RUN,
    KVM_RUN,
    KVM_RUN,
    KVM_RUN,
    KVM_GET_REGS,
    KVM_SET_REGS,
    KVM_GET_SREGS,
    KVM_SET_SREGS,
    KVM_GET_SREGS2,
    KVM_SET_SREGS2,
    KVM_INTERRUPT,
    KVM_NMI,
    KVM_GET_MSRS,
    KVM_SET_MSRS,
    KVM_GET_CPUID2,
    KVM_SET_CPUID2,
    KVM_SET_CPUID,
    KVM_SET_SIGNAL_MASK,
    KVM_GET_FPU,
    KVM_SET_FPU,
    KVM_GET_XSAVE,
    KVM_SET_XSAVE,
    KVM_GET_XSAVE2,
    KVM_GET_XCRS,
    KVM_SET_XCRS,
    KVM_GET_LAPIC,
    KVM_SET_LAPIC,
    KVM_GET_MP_STATE,
    KVM_SET_MP_STATE,
    KVM_GET_VCPU_EVENTS,
    KVM_SET_VCPU_EVENTS,
    KVM_GET_DEBUGREGS,
    KVM_SET_DEBUGREGS,
    KVM_SET_GUEST_DEBUG,
    KVM_ENABLE_CAP,
    KVM_GET_ONE_REG,
    KVM_SET_ONE_REG,
    KVM_GET_TSC_KHZ,
    KVM_SET_TSC_KHZ,
    KVM_GET_STATS_FD,
];

/// What a structure is like before it is set: what the kernel itself says.
const PAIRS: &[(u32, u32)] = &[
    (KVM_GET_REGS, KVM_SET_REGS),
    (KVM_GET_SREGS, KVM_SET_SREGS),
    (KVM_GET_SREGS2, KVM_SET_SREGS2),
    (KVM_GET_FPU, KVM_SET_FPU),
    (KVM_GET_XSAVE, KVM_SET_XSAVE),
    (KVM_GET_XCRS, KVM_SET_XCRS),
    (KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS),
    (KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS),
    (KVM_GET_MP_STATE, KVM_SET_MP_STATE),
];

/// A guest's memory, what commands point to, and the kinds of descriptors.
const GUEST: usize = 64 * PAGE;
const ARGUMENTS: usize = 16 * PAGE;
const KINDS: usize = 3;

/// What the threads of a process share.
struct World {
    guest: Place,
    arguments: Place,
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

    /// A copy of an argument in which EFER.LME goes with CR4.PAE only. A guest may have the one
    /// without the other, but when it exits, QEMU's emulator forgets to load the host's CR0.
    fn without_long_mode(&self, command: u32, argument: u64, copy: &mut [u64; 128]) -> u64 {
        const EFER: u64 = 0xc000_0080;
        const LME: u64 = 1 << 8;
        let offset = argument.wrapping_sub(self.arguments.address()) as usize & !7;
        if offset.saturating_add(size_of_val(copy)) > ARGUMENTS {
            // A number that is no address, or one with nothing behind it.
            return 0;
        }
        for (index, word) in copy.iter_mut().enumerate() {
            let half = |at| u64::from(self.arguments.word(offset + index * 8 + at));
            *word = half(0) | half(4) << 32;
        }
        if command == KVM_SET_MSRS {
            for entry in 1..copy.len() / 2 {
                if copy[2 * entry - 1] as u32 == EFER as u32 {
                    copy[2 * entry] &= !LME;
                }
            }
        } else if copy[offset_of!(kvm_sregs, cr4) / 8] & 1 << 5 == 0 {
            copy[offset_of!(kvm_sregs, efer) / 8] &= !LME;
        }
        copy.as_ptr() as u64
    }

    /// An address or a number.
    fn argument(&self, random: &mut Random) -> u64 {
        let inside = self.arguments.address() + (random.below(ARGUMENTS / 8) * 8) as u64;
        match random.below(16) {
            0 => 0,
            1 => random.below(8) as u64,
            2 => random.next(),
            // Ends too early.
            3 => self.arguments.address() + ARGUMENTS as u64 - random.below(64) as u64,
            4 => 0xffff_8880_0000_0000 | random.next() >> 24,
            // Memory that the guest writes to.
            5 => self.guest.address() + random.below(GUEST) as u64,
            6 => {
                let shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
                shared
                    .first()
                    .map_or(inside, |place| place.address() + random.below(PAGE) as u64)
            }
            _ => inside,
        }
    }

    /// Fills an argument with numbers: most of them small, or like an address.
    fn fill(&self, at: u64, random: &mut Random) {
        let Some(offset) = at.checked_sub(self.arguments.address()) else {
            return;
        };
        let offset = offset as usize & !7;
        for at in (offset..ARGUMENTS.min(offset + 256)).step_by(4) {
            let word = match random.below(10) {
                0..4 => 0,
                4..7 => random.below(17) as u64,
                7 => 1 << random.below(32),
                8 => random.one(&[
                    0x10,
                    0x174,
                    0xc000_0080,
                    0xc000_0100,
                    0x4b56_4d00,
                    0x4000_0001,
                ]),
                _ => random.next(),
            };
            self.arguments.set_word(at, word as u32);
        }
    }

    /// A region that is nearly right.
    fn region(&self, vm: RawFd, random: &mut Random) {
        let pages = random.below(GUEST / PAGE);
        let first = random.below(GUEST / PAGE - pages);
        let slot = random.one(&[0, 0, 0, 1, 2, 3, 1 << 16, 32763, 32764]);
        let flags = random.one(&[0, 0, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, 3, 4]);
        let guest = random.one(&[0, 0, 0x1000, 0x10_0000, 0xf000_0000, 1 << 40, !0xfff]);
        let size = (pages * PAGE) as u64;
        let here = match random.below(8) {
            // The memory that a vCPU shares.
            0 => {
                let shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
                shared.first().map_or(0, Place::address)
            }
            _ => self.guest.address() + (first * PAGE) as u64,
        };
        let _ = memory::set(&Borrowed(vm), (slot, flags, guest, size, here));
    }

    /// Takes something that is, changes a little, and sets it.
    fn nearly(&self, vcpu: RawFd, random: &mut Random) {
        let (get, set) = random.one(PAIRS);
        let room = random.below(3) * 2 * PAGE;
        let at = self.arguments.address() + room as u64;
        let _ = self.call(vcpu, get, at);
        for _ in 0..random.below(4) {
            let at = room + random.below(100) * 4;
            let bit = 1 << random.below(32);
            self.arguments.set_word(at, self.arguments.word(at) ^ bit);
        }
        let _ = self.call(vcpu, set, at);
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
