//! A glance at the bytes at RIP, without waiting: 64-bit code, all of it there, nothing unusual.
//!
//! Most instructions that have to be looked at are of that kind. For the others
//! [`fetch`](super::fetch) takes its time.
use waterbear_hal::addr::PAGE_SIZE;
use waterbear_hal::{Hal, Hva};

use crate::memslot::{Generation, SpaceId};
use crate::paging::CodeWalk;
use crate::vendor::{Code, Vendor};
use crate::vm::{GuestTables, Vm};

/// The bytes from RIP on: more than an instruction has.
pub(super) type Glance = [u64; WORDS];

/// The most words of a glance, and the most entries of a walk.
const WORDS: usize = 2;
const LEVELS: usize = 5;

/// What decides where code is, but for the entries of page tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Key {
    /// In place of the address: its page.
    page: u64,
    code: Code,
    physical_bits: u32,
    space: SpaceId,
    generation: Generation,
}

/// The last walk, and what it read.
///
/// The next one for the same page reads the same places again. If it finds the same there it has the
/// same result: so nothing that the guest changes is missed, as a TLB would miss it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Walked {
    key: Option<Key>,
    /// Where the owner has two words of code, and behind them the entries.
    places: [Hva; WORDS + LEVELS],
    entries: [u64; LEVELS],
    /// How many entries.
    count: usize,
    /// Where the owner has the page of the code.
    code: Hva,
}

impl Walked {
    /// Nothing yet.
    pub(super) const NOTHING: Self = Self {
        key: None,
        places: [Hva(0); WORDS + LEVELS],
        entries: [0; LEVELS],
        count: 0,
        code: Hva(0),
    };

    /// Reads what was read before, and the code at `offset` in its page, if nothing has changed.
    #[inline(always)]
    fn again<H: Hal>(&mut self, tables: &GuestTables<'_, H>, offset: u64) -> Option<Glance> {
        let mut words = [0; WORDS + LEVELS];
        let [first, second, ..] = &mut self.places;
        *first = Hva(self.code.0.wrapping_add(offset));
        *second = Hva(first.0.wrapping_add(8));
        let places = self.places.get(..WORDS + self.count)?;
        let there = tables.read_now(places, &mut words);
        let [low, high, entries @ ..] = words;
        let mut changed = 0;
        for (now, before) in entries.iter().zip(&self.entries).take(self.count) {
            changed |= now ^ before;
        }
        (there && changed == 0).then_some([low, high])
    }
}

/// Looks at RIP. Interrupts may be off, and the vCPU may be in guest mode.
#[inline(never)]
pub(super) fn glance<H: Hal, V: Vendor>(
    vm: &Vm<H>,
    space: SpaceId,
    vendor: &V,
    state: &mut V::Vcpu,
    physical_bits: u32,
    walked: &mut Walked,
) -> Option<Glance> {
    let code = vendor.code(state);
    let linear = vendor.regs(state).rip;
    let offset = linear & (PAGE_SIZE - 1);
    let room = PAGE_SIZE - offset;
    if !code.long || room < size_of::<Glance>() as u64 {
        return None;
    }
    let mut tables = GuestTables::now(vm, space)?;
    let key = Key {
        page: linear - offset,
        code,
        physical_bits,
        space,
        generation: tables.generation()?,
    };
    if walked.key == Some(key)
        && let Some(code) = walked.again(&tables, offset)
    {
        return Some(code);
    }
    walked.walk(&mut tables, key)?;
    walked.again(&tables, offset)
}

impl Walked {
    /// Walks the tables, and notes the way.
    #[cold]
    fn walk<H: Hal>(&mut self, tables: &mut GuestTables<'_, H>, key: Key) -> Option<()> {
        *self = Self::NOTHING;
        let walk = CodeWalk {
            cr3: key.code.cr3,
            cr4: key.code.cr4,
            efer: key.code.efer,
            physical_bits: key.physical_bits,
            user: key.code.user,
        };
        let gpa = walk.find(key.page, |at| {
            let (place, mut entry) = (tables.host_place(at)?, [0]);
            if !tables.read_now(&[place], &mut entry) {
                return None;
            }
            *self.places.get_mut(WORDS + self.count)? = place;
            *self.entries.get_mut(self.count)? = entry[0];
            self.count += 1;
            Some(entry[0])
        })?;
        self.code = tables.host_place(gpa)?;
        self.key = Some(key);
        Some(())
    }
}

/// The length of an instruction that its opcode alone tells, if `code` begins with such a one: what
/// leaves the guest most often.
pub(super) fn known_length(code: &Glance) -> u8 {
    // HLT.
    if code[0] & 0xff == 0xf4 {
        return 1;
    }
    match code[0] & 0xffff {
        // CPUID, RDMSR, WRMSR, INVD, WBINVD.
        0xa20f | 0x320f | 0x300f | 0x080f | 0x090f => 2,
        _ => 0,
    }
}

/// Whether `code` begins with CPUID.
pub(super) fn is_cpuid(code: &Glance) -> bool {
    code[0] & 0xffff == 0xa20f
}
