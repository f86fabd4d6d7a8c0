//! A guest's memory as the loaders want it: from address 0 on, in one piece.
use std::error::Error;

use vm_memory::guest_memory::Result;
use vm_memory::{
    GuestAddress, GuestMemoryRegion, GuestMemoryRegionBytes, GuestRegionCollection, GuestUsize,
    MemoryRegionAddress, VolatileSlice,
};

use crate::sys::Mapping;

/// A guest's memory.
pub type Memory = GuestRegionCollection<Ram>;

/// Its one piece.
#[derive(Debug)]
pub struct Ram(Mapping);

impl GuestMemoryRegion for Ram {
    type B = ();

    fn len(&self) -> GuestUsize {
        self.0.size() as GuestUsize
    }

    fn start_addr(&self) -> GuestAddress {
        GuestAddress(0)
    }

    fn bitmap(&self) {}

    fn get_slice(&self, offset: MemoryRegionAddress, count: usize) -> Result<VolatileSlice<'_>> {
        Ok(self.0.slice().subslice(offset.0 as usize, count)?)
    }
}

impl GuestMemoryRegionBytes for Ram {}

/// That many bytes, all 0, and where they are in this process.
pub fn make(size: usize) -> std::result::Result<(Memory, u64), Box<dyn Error>> {
    let mapping = Mapping::new(size)?;
    let address = mapping.address();
    Ok((Memory::from_regions(vec![Ram(mapping)])?, address))
}
