//! Which writes to devices are done in the kernel.
//!
//! Source: "The Definitive KVM API Documentation", KVM_IOEVENTFD and
//! KVM_REGISTER_COALESCED_MMIO.
use waterbear_hal::{Bell, Hal};

use crate::Error;
use crate::emulate::Target;
use crate::mem::{Heap, Shared, Vec};

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

    /// The same again.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`].
    pub fn copy(&self, hal: &H) -> Result<Self, Error> {
        let mut copy = Self::new(hal);
        copy.listeners.try_reserve_exact(self.listeners.len() + 1)?;
        copy.zones.try_reserve_exact(self.zones.len() + 1)?;
        // Within the capacity just reserved.
        copy.listeners.extend(self.listeners.iter().cloned());
        copy.zones.extend_from_slice(&self.zones);
        Ok(copy)
    }

    /// The listeners at an address.
    fn at(&self, target: Target) -> impl Iterator<Item = &Listener<H>> {
        let wanted = key(target);
        let first = self
            .listeners
            .partition_point(|listener| key(listener.target) < wanted);
        self.listeners
            .get(first..)
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

    /// Adds a listener.
    ///
    /// # Errors
    ///
    /// As [`Bus::listen`](super::Bus::listen).
    pub fn add_listener(&mut self, hal: &H, listener: Listener<H>) -> Result<(), Error> {
        if self.at(listener.target).any(|other| other.meets(&listener)) {
            return Err(Error::Exists);
        }
        if self.listeners.len() >= MAX_LISTENERS {
            return Err(Error::Full);
        }
        self.listeners.try_reserve(1)?;
        let wanted = key(listener.target);
        let place = self
            .listeners
            .partition_point(|other| key(other.target) <= wanted);
        // Within the capacity just reserved.
        self.listeners.insert(place, Shared::new(hal, listener)?);
        Ok(())
    }

    /// Takes a listener away.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`].
    pub fn remove_listener(&mut self, listener: &Listener<H>) -> Result<(), Error> {
        let place = self.listeners.iter().position(|other| other.is(listener));
        // In range: just found.
        self.listeners.remove(place.ok_or(Error::NotFound)?);
        Ok(())
    }

    /// Adds a zone.
    ///
    /// # Errors
    ///
    /// [`Error::Full`], [`Error::NoMemory`].
    pub fn add_zone(&mut self, zone: Zone) -> Result<(), Error> {
        if self.zones.len() >= MAX_ZONES {
            return Err(Error::Full);
        }
        self.zones.try_reserve(1)?;
        self.zones.push(zone);
        Ok(())
    }

    /// Takes every zone away that has all of this one in it.
    pub fn remove_zones(&mut self, zone: Zone) {
        self.zones
            .retain(|other| !other.has(zone.start, zone.size.into()));
    }
}
