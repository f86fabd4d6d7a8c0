//! Makes sequences of operations that are likely to meet.
use std::collections::HashMap;

use waterbear_core::memslot::Region;
use waterbear_hal::Level;
use waterbear_hal::addr::PAGE_SIZE;
use waterbear_mock::hw::Access;
use waterbear_proofs::HVA;
use waterbear_proofs::random::Random;

use crate::op::{Change, Op, Pages, SLOTS, Size, Touch, VCPUS};

/// The most pages of a slot or a range: Miri takes long to walk over one.
const MOST: u64 = if cfg!(miri) { 66 } else { 1 << 40 };

/// A source of sequences.
pub struct Generator {
    random: Random,
    size: Size,
    end: u64,
    hot: Vec<u64>,
    /// The last good request for each slot, as if all had succeeded.
    known: HashMap<(u32, u32), Region>,
}

/// The frames that are looked at after each step.
pub fn interesting(size: Size, end: u64) -> Vec<u64> {
    let edges = [0, 1, 2, 63, 64, 65, 100, 510, 511];
    let step = size.granule();
    let low = (0..3).flat_map(|region| edges.map(|edge| region * step + edge));
    let more = [step - 1, 2 * step - 1, 3 * step, 3 * step + 63, 4 * step];
    let high = [1, 2, 64, 65, 512, 513, 1024].map(|back| end - back);
    let beyond = [end, end + 5];
    let mut all: Vec<u64> = low.chain(more).chain(high).chain(beyond).collect();
    all.sort_unstable();
    all.dedup();
    all
}

impl Generator {
    pub fn new(seed: u64, size: Size, end: u64) -> Self {
        let mut random = Random::new(seed);
        let all = interesting(size, end);
        let hot = (0..6).map(|_| random.pick(&all)).collect();
        Self {
            random,
            size,
            end,
            hot,
            known: HashMap::new(),
        }
    }

    /// A sequence: memory and some slots first, then anything.
    pub fn ops(&mut self, count: usize) -> Vec<Op> {
        let mut ops = Vec::with_capacity(count);
        let window = self.size.window();
        let everything = Pages {
            first: 0,
            pages: window,
        };
        ops.push(self.host_change(everything, true));
        for _ in 0..3 {
            let region = self.create();
            ops.push(Op::Slot(region));
        }
        while ops.len() < count {
            ops.push(self.op());
        }
        ops
    }

    fn op(&mut self) -> Op {
        match self.random.below(100) {
            0..=39 => Op::Touch(self.touch()),
            40..=43 => Op::Track {
                space: self.space(),
                gfn: self.gfn(),
                add: self.random.percent(55),
            },
            44..=54 => Op::Slot(self.region()),
            55..=64 => {
                let range = self.pages();
                self.host_change(range, false)
            }
            65..=69 => {
                let (space, id) = self.name();
                Op::ReadLog {
                    space,
                    id,
                    clear: self.random.percent(60),
                    short: self.random.percent(5),
                }
            }
            70..=73 => self.clear_log(),
            74..=75 => {
                let (first, pages) = self.frames();
                let space = self.space();
                Op::Split {
                    space,
                    first,
                    pages,
                }
            }
            76..=79 => Op::Prefault {
                vcpu: self.vcpu(),
                gfn: self.gfn(),
            },
            80..=83 => Op::Age(self.pages()),
            84..=85 => Op::IsYoung(self.pages()),
            86 => Op::InvalidateRoots,
            87..=88 => Op::Switch {
                vcpu: self.vcpu(),
                space: self.space(),
            },
            89..=90 => Op::Migrate {
                vcpu: self.vcpu(),
                cpu: self.random.below(4) as u32,
            },
            91..=94 => Op::FailAlloc(1 + self.random.below(8)),
            95 => Op::FailResolve,
            96 => Op::Contend(self.random.below(4)),
            97 => Op::ChangePages(self.pages()),
            _ => {
                let (first, pages) = self.frames();
                let space = self.space();
                Op::Zap {
                    space,
                    first,
                    pages,
                }
            }
        }
    }

    fn vcpu(&mut self) -> usize {
        self.random.below(VCPUS as u64) as usize
    }

    /// Mostly the normal one.
    fn space(&mut self) -> u32 {
        u32::from(self.random.percent(25))
    }

    fn gfn(&mut self) -> u64 {
        if self.random.percent(60) {
            self.random.pick(&self.hot)
        } else {
            let all = interesting(self.size, self.end);
            self.random.pick(&all)
        }
    }

    fn touch(&mut self) -> Touch {
        Touch {
            vcpu: self.vcpu(),
            gfn: self.gfn(),
            access: self
                .random
                .pick(&[Access::READ, Access::WRITE, Access::WRITE, Access::EXEC]),
        }
    }

    fn level(&mut self) -> Level {
        self.random
            .pick(&[Level::L1, Level::L2, Level::L2, Level::L3])
    }

    /// A range of user pages around something interesting.
    fn pages(&mut self) -> Pages {
        let window = self.size.window();
        let step = self.size.granule();
        let edge = self.random.pick(&[0, 0, 1, 63, 64, 100, 510, 511]);
        let first = self.random.below(window / step) * step + edge;
        let pages = self.random.pick(&[1, 1, 2, 64, 512, 513, step, step + 1]);
        Pages {
            first,
            pages: pages.min(window - first).min(MOST),
        }
    }

    fn frames(&mut self) -> (u64, u64) {
        let first = self.gfn().min(self.end - 1);
        let step = self.size.granule();
        let pages = self.random.pick(&[1, 2, 64, 512, step, 3 * step]);
        (first, pages.min(self.end - first).min(MOST))
    }

    fn host_change(&mut self, range: Pages, map: bool) -> Op {
        let change = match self.random.below(if map { 8 } else { 20 }) {
            0..=7 => Change::Map {
                writable: map || self.random.percent(80),
                level: self.level(),
            },
            8..=10 => Change::Unmap,
            11..=15 => Change::Protect {
                writable: self.random.percent(50),
            },
            16..=18 => Change::Limit {
                level: self.level(),
            },
            _ => Change::Poison,
        };
        let windows = !map && self.random.percent(40);
        let touch = |this: &mut Self| windows.then(|| this.touch());
        Op::Host {
            range,
            change,
            before: touch(self),
            after: touch(self),
            other: (windows && self.random.percent(30)).then(|| self.pages()),
        }
    }

    /// A slot that was asked for, or any.
    fn name(&mut self) -> (u32, u32) {
        let (space, id) = (self.space(), self.random.below(SLOTS) as u32);
        if !self.known.contains_key(&(space, id)) && !self.known.is_empty() {
            let mut known: Vec<_> = self.known.keys().copied().collect();
            known.sort_unstable();
            return self.random.pick(&known);
        }
        (space, id)
    }

    fn clear_log(&mut self) -> Op {
        let (space, id) = self.name();
        let pages = self
            .known
            .get(&(space, id))
            .map_or(64, |region| region.memory_size / PAGE_SIZE);
        let first = if self.random.percent(90) {
            self.random.below(pages / 64 + 1) * 64
        } else {
            self.random.below(pages)
        };
        let npages = match self.random.below(4) {
            0 => 64,
            1 => self.random.below(200),
            _ => pages.saturating_sub(first),
        };
        let mask = match self.random.below(3) {
            0 => u64::MAX,
            _ => self.random.number(),
        };
        Op::ClearLog {
            space,
            id,
            first,
            npages,
            mask,
        }
    }

    fn region(&mut self) -> Region {
        let old = self.name();
        let region = match (self.random.below(20), self.known.get(&old).copied()) {
            (0..=5, _) | (_, None) => self.create(),
            (6..=10, Some(known)) => Region {
                flags: known.flags ^ 1,
                ..known
            },
            (11..=12, Some(known)) => Region {
                guest_phys_addr: self.base() * PAGE_SIZE,
                flags: known.flags ^ u32::from(self.random.percent(30)),
                ..known
            },
            (13..=15, Some(known)) => {
                self.known.remove(&old);
                return Region {
                    memory_size: 0,
                    ..known
                };
            }
            (16, Some(known)) => known,
            (_, Some(known)) => return self.spoilt(known),
        };
        self.known.insert((region.space, region.id), region);
        region
    }

    fn base(&mut self) -> u64 {
        let step = self.size.granule();
        if self.random.percent(15) {
            let back = self.random.pick(&[1, 64, 512, 513, 1024]);
            return self.end - back;
        }
        let edge = self.random.pick(&[0, 0, 0, 1, 64, 500, 511]);
        self.random.below(4) * step + edge
    }

    fn create(&mut self) -> Region {
        let step = self.size.granule();
        let base = self.base();
        let pages = self
            .random
            .pick(&[1, 2, 63, 64, 65, 511, step, step, step + 1, 2 * step]);
        let pages = pages.min(self.end - base).min(MOST);
        let room = self.size.window() - pages;
        let hva = if self.random.percent(75) {
            // Aligned like the frames, as large mappings need it.
            let places = (room + 1).saturating_sub(base % step).div_ceil(step);
            self.random.below(places.max(1)) * step + base % step
        } else {
            self.random.pick(&[0, 1, 3, 100])
        };
        let region = Region {
            space: self.space(),
            id: self.random.below(SLOTS) as u32,
            flags: self.random.pick(&[0, 0, 1, 1, 2, 3]),
            guest_phys_addr: base * PAGE_SIZE,
            memory_size: pages * PAGE_SIZE,
            userspace_addr: HVA.0 + hva.min(room) * PAGE_SIZE,
        };
        self.known.insert((region.space, region.id), region);
        region
    }

    /// A good request with something wrong in it.
    fn spoilt(&mut self, good: Region) -> Region {
        let mut bad = good;
        match self.random.below(16) {
            0 => bad.space = self.random.pick(&[2, 3, u32::MAX]),
            1 => bad.id = self.random.pick(&[32_764, 65_536, u32::MAX]),
            2 => bad.flags |= 4,
            3 => bad.guest_phys_addr += self.random.pick(&[1, 0x800]),
            4 => bad.memory_size += 0x10,
            5 => bad.userspace_addr += 8,
            6 => bad.guest_phys_addr = self.end * PAGE_SIZE,
            7 => bad.guest_phys_addr = 0u64.wrapping_sub(PAGE_SIZE),
            8 => bad.memory_size = 1 << 43,
            9 => bad.memory_size = 0u64.wrapping_sub(PAGE_SIZE),
            10 => bad.userspace_addr = (1 << 63) - PAGE_SIZE,
            11 => bad.userspace_addr = 0u64.wrapping_sub(PAGE_SIZE),
            12 => bad.flags ^= 2,
            13 => bad.memory_size += PAGE_SIZE,
            14 => bad.userspace_addr += PAGE_SIZE,
            _ => (bad.id, bad.memory_size) = (SLOTS as u32 + 1, 0),
        }
        bad
    }
}
