//! Which writes to devices are done in the kernel.
//!
//! Source: "The Definitive KVM API Documentation", KVM_IOEVENTFD and
//! KVM_REGISTER_COALESCED_MMIO.
use waterbear_hal::{Bell, Hal};

use crate::Error;
use crate::emulate::Target;
use crate::mem::{Heap, Shared, Vec, edited, push, room};

/// The most listeners of a VM. Each change copies them.
pub const MAX_LISTENERS: usize = 1 << 12;
/// The most zones of a VM.
pub const MAX_ZONES: usize = 1000;

/// A bell, and the writes for which it is rung.
pub struct Listener<H: Hal> {
    /// The address, which is the first byte's.
    pub target: Target,
    /// How many bytes are written: 1, 2, 4 or 8, or 0 when that does not matter.
    pub length: u8,
    /// Which value, zero-extended, unless that does not matter either.
    pub value: Option<u64>,
    /// What is rung.
    pub bell: H::Bell,
}

impl<H: Hal> Listener<H> {
    /// Whether there is a write that is for both.
    fn meets(&self, other: &Self) -> bool {
        self.target == other.target
            && (self.length == 0 || other.length == 0 || self.length == other.length)
            && (self.value.is_none() || other.value.is_none() || self.value == other.value)
    }

    /// Whether the owner means the same one.
    fn is(&self, other: &Self) -> bool {
        self.target == other.target
            && self.length == other.length
            && self.value == other.value
            && self.bell.is(&other.bell)
    }
}

/// A range of addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Zone {
    /// Its first address.
    pub start: Target,
    /// How many bytes it has.
    pub size: u32,
}

impl Zone {
    /// Whether all of these bytes are in it.
    fn has(&self, target: Target, length: u64) -> bool {
        let ((port, at), (zone_port, start)) = (key(target), key(self.start));
        let offset = at.checked_sub(start);
        port == zone_port
            && offset.is_some_and(|offset| offset.saturating_add(length) <= self.size.into())
    }
}

/// An address as a number: ports behind memory.
fn key(target: Target) -> (bool, u64) {
    match target {
        Target::Memory(address) => (false, address),
        Target::Port(port) => (true, port.into()),
    }
}

/// What is changed in a table.
pub enum Edit<'a, H: Hal> {
    /// A listener comes.
    Listen(Listener<H>),
    /// The first listener like this one goes.
    Forget(&'a Listener<H>),
    /// A zone comes.
    Add(Zone),
    /// Every zone goes that has all of this one in it.
    Remove(Zone),
}

/// What a VM's owner has asked for.
pub struct Table<H: Hal> {
    /// In order of their addresses.
    listeners: Vec<Shared<Listener<H>, H>, H>,
    zones: Vec<Zone, H>,
}

impl<H: Hal> Table<H> {
    /// Nothing.
    pub fn new(hal: &H) -> Self {
        Self {
            listeners: Vec::new_in(Heap(hal.clone())),
            zones: Vec::new_in(Heap(hal.clone())),
        }
    }

    /// The same, but for one thing.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`], and those of [`Bus`](super::Bus)'s functions.
    pub fn edited(&self, hal: &H, edit: Edit<'_, H>) -> Result<Self, Error> {
        let (mut added, mut gone, mut emptied) = (None, None, None);
        let mut zones = room(hal, self.zones.len() + 1)?;
        match edit {
            Edit::Listen(new) => {
                if self.at(new.target).any(|other| other.meets(&new)) {
                    return Err(Error::Exists);
                }
                if self.listeners.len() >= MAX_LISTENERS {
                    return Err(Error::Full);
                }
                added = Some((self.place(new.target), Shared::new(hal, new)?));
            }
            Edit::Forget(old) => {
                let place = self.listeners.iter().position(|other| other.is(old));
                gone = Some(place.ok_or(Error::NotFound)?);
            }
            Edit::Add(_) if self.zones.len() >= MAX_ZONES => return Err(Error::Full),
            Edit::Add(new) => push(&mut zones, new),
            Edit::Remove(old) => emptied = Some(old),
        }
        for other in &self.zones {
            if !emptied.is_some_and(|zone| other.has(zone.start, zone.size.into())) {
                push(&mut zones, *other);
            }
        }
        let listeners = edited(hal, &self.listeners, gone, added)?;
        Ok(Self { listeners, zones })
    }

    /// Where the listeners at an address begin.
    fn place(&self, target: Target) -> usize {
        let wanted = key(target);
        self.listeners
            .partition_point(|listener| key(listener.target) < wanted)
    }

    /// The listeners at an address.
    fn at(&self, target: Target) -> impl Iterator<Item = &Listener<H>> {
        self.listeners
            .get(self.place(target)..)
            .unwrap_or_default()
            .iter()
            .map(|listener| &**listener)
            .take_while(move |listener| listener.target == target)
    }

    /// Rings the bell that this write is for; whether there is one.
    pub fn ring(&self, target: Target, bytes: &[u8]) -> bool {
        let mut value = [0; 8];
        for (to, from) in value.iter_mut().zip(bytes) {
            *to = *from;
        }
        let value = u64::from_le_bytes(value);
        let found = self.at(target).find(|listener| {
            (listener.length == 0 || usize::from(listener.length) == bytes.len())
                && listener.value.is_none_or(|wanted| wanted == value)
        });
        if let Some(listener) = found {
            listener.bell.ring();
        }
        found.is_some()
    }

    /// Whether some write there is for a listener.
    pub fn has_listener(&self, target: Target) -> bool {
        self.at(target).next().is_some()
    }

    /// Whether all of these bytes are in one zone.
    pub fn has_zone(&self, target: Target, length: u64) -> bool {
        self.zones.iter().any(|zone| zone.has(target, length))
    }
}
