//! One VM, on which each operation runs once.
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use waterbear_core::memslot::{Region, SlotFlags};
use waterbear_core::tdp::DirtyTracking;
use waterbear_core::vm::{VcpuMmu, Vm};
use waterbear_hal::Level;
use waterbear_hal::addr::PAGE_SIZE;
use waterbear_vmx::ept::{self, EptFeatures};

use crate::clock;
use crate::measured::measured;
use crate::operation::Operation;
use crate::slim::{self, SlimHost};

/// What is set up.
#[derive(Clone)]
pub struct Setup {
    /// The VM's memory.
    pub mib: u64,
    /// Whether it is in pages of 2 MiB.
    pub large: bool,
    /// How many threads share the work, each on a slot of its own.
    pub threads: u32,
    /// Whether every call of the core takes one mutex first.
    pub mutex: bool,
}

impl Setup {
    /// Where the owner has frame 0, aligned for every size of page.
    pub const HVA: u64 = 0x40_0000_0000;

    /// The VM's memory in pages of 4 KiB.
    fn frames(&self) -> u64 {
        self.mib << 8
    }

    /// 4 KiB frames per page.
    pub fn step(&self) -> u64 {
        if self.large { Level::L2 } else { Level::L1 }.pages()
    }

    /// The VM's memory in its own pages.
    pub fn units(&self) -> u64 {
        self.frames() / self.step()
    }

    /// More page tables than one round uses: it maps everything twice, and
    /// tables that were removed wait for the end of the VM.
    pub fn tables(&self) -> usize {
        (self.frames() / 512 * 2 + self.frames() / 512 / 128 + 256) as usize
    }

    fn part(&self, thread: u32) -> Part {
        let each = self.frames() / u64::from(self.threads);
        let start = u64::from(thread) * each;
        Part {
            slot: thread,
            frames: start..start + each,
            log: vec![0; (each / 64) as usize],
        }
    }
}

/// What one thread works on.
pub struct Part {
    /// The slot that has the frames, and nothing else.
    pub slot: u32,
    /// The frames.
    pub frames: Range<u64>,
    /// Where the slot's dirty log goes.
    pub log: Vec<u64>,
}

impl Part {
    fn region(&self, flags: SlotFlags) -> Region {
        Region {
            space: 0,
            id: self.slot,
            flags: flags.bits(),
            guest_phys_addr: self.frames.start * PAGE_SIZE,
            memory_size: (self.frames.end - self.frames.start) * PAGE_SIZE,
            userspace_addr: Setup::HVA + self.frames.start * PAGE_SIZE,
        }
    }
}

/// One VM.
pub struct Round<'a> {
    setup: &'a Setup,
    vm: Vm<SlimHost>,
    parts: Vec<(Part, VcpuMmu<SlimHost>)>,
    logs: bool,
    big_lock: Mutex<()>,
}

impl<'a> Round<'a> {
    /// A VM with a vCPU and a slot per thread, and nothing mapped.
    pub fn new(setup: &'a Setup) -> Self {
        let vm = vm();
        let parts = (0..setup.threads).map(|thread| {
            let part = setup.part(thread);
            vm.vcpus().add(thread).expect("there is memory");
            vm.set_region(part.region(SlotFlags::empty()))
                .expect("the slot is fine");
            let mut vcpu = VcpuMmu::new();
            vm.load_root(&mut vcpu).expect("there is memory");
            (part, vcpu)
        });
        let parts = parts.collect();
        Self {
            setup,
            vm,
            parts,
            logs: false,
            big_lock: Mutex::new(()),
        }
    }

    /// Whether the operation makes sense here.
    pub fn can(&self, operation: Operation) -> bool {
        !(self.setup.large && operation.logs())
    }

    /// Runs the operation on all parts at once; says how long it took: one
    /// thread by the time that it had a CPU, several by the clock, from the
    /// first that begins to the last that ends.
    pub fn run(&mut self, operation: Operation, count: bool) -> Duration {
        if operation.logs() && !self.logs {
            self.logs = true;
            for (part, _) in &self.parts {
                self.vm
                    .set_region(part.region(SlotFlags::LOG_DIRTY))
                    .expect("the slot is fine");
            }
        }
        let (vm, setup, big_lock) = (&self.vm, self.setup, &self.big_lock);
        let work = |part: &mut Part, vcpu: &mut VcpuMmu<SlimHost>| {
            if setup.mutex {
                operation.run(vm, setup, vcpu, part, &|f| {
                    let _lock = big_lock.lock().unwrap_or_else(PoisonError::into_inner);
                    f();
                });
            } else if count {
                measured(&mut || operation.run(vm, setup, vcpu, part, &|f| f()));
            } else {
                operation.run(vm, setup, vcpu, part, &|f| f());
            }
        };
        if let [(part, vcpu)] = &mut self.parts[..] {
            let start = clock::on_cpu();
            work(part, vcpu);
            return clock::on_cpu() - start;
        }
        let missing = AtomicU32::new(setup.threads);
        let times = std::thread::scope(|scope| {
            let mut threads = Vec::new();
            for (part, vcpu) in &mut self.parts {
                let (work, missing) = (&work, &missing);
                threads.push(scope.spawn(move || {
                    slim::run_on(part.slot);
                    missing.fetch_sub(1, Ordering::Relaxed);
                    // Spins, so that nobody has to be woken first.
                    while missing.load(Ordering::Relaxed) != 0 {
                        std::hint::spin_loop();
                    }
                    let start = Instant::now();
                    work(part, vcpu);
                    (start, Instant::now())
                }));
            }
            let times = threads.into_iter();
            let times = times.map(|thread| thread.join().expect("no thread panics"));
            times.collect::<Vec<_>>()
        });
        let start = times.iter().map(|time| time.0).min();
        let end = times.iter().map(|time| time.1).max();
        end.zip(start)
            .map_or(Duration::ZERO, |(end, start)| end - start)
    }

    /// Ends the VM.
    pub fn finish(self) {
        let Self { vm, parts, .. } = self;
        drop(parts);
        drop(vm);
        assert_eq!(SlimHost::usage().tables, 0, "tables are left");
        assert_eq!(SlimHost::usage().heap, 0, "heap memory is left");
    }
}

fn vm() -> Vm<SlimHost> {
    let format = ept::entry_format(EptFeatures {
        root_level: Level::L4,
        physical_bits: 46,
        large_2m: true,
        large_1g: true,
        accessed_dirty: true,
    });
    let format = format.expect("the features are those of a real CPU");
    Vm::new(&SlimHost, (), format, DirtyTracking::WriteProtect).expect("there is memory")
}

/// What a mapped GiB takes, in bytes: page tables, and what a slot has without
/// a dirty log, with one, and with page tracking as well.
pub fn footprint(setup: &Setup) -> [(&'static str, u64); 4] {
    let setup = Setup {
        threads: 1,
        mutex: false,
        ..setup.clone()
    };
    let per_gib = |bytes: usize| bytes as u64 * 1024 / setup.mib;
    let heap = || SlimHost::usage().heap;

    let empty = vm();
    let without = heap();
    let part = setup.part(0);
    let slot = |flags| {
        empty
            .set_region(part.region(flags))
            .expect("the slot is fine");
        per_gib(heap() - without)
    };
    let plain = slot(SlotFlags::empty());
    let logging = slot(SlotFlags::LOG_DIRTY);
    empty.memslots().activate_track().expect("there is memory");
    let tracking = per_gib(heap() - without);
    drop(empty);

    let mut round = Round::new(&setup);
    round.run(Operation::Fault, false);
    // What is in the vCPU's stock is not mapped.
    round.parts.clear();
    let tables = per_gib(SlimHost::usage().tables * PAGE_SIZE as usize);
    round.finish();
    [
        ("tables", tables),
        ("slot", plain),
        ("slot+log", logging),
        ("slot+log+track", tracking),
    ]
}
