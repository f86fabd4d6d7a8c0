//! Kernels, and where they begin.
use std::error::Error;
use std::fs::{self, File};

use linux_loader::configurator::linux::LinuxBootConfigurator;
use linux_loader::configurator::pvh::PvhBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use linux_loader::loader::elf::PvhBootCapability;
use linux_loader::loader::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use linux_loader::loader::{self, BzImage, Cmdline, Elf, KernelLoader};
use vm_memory::{Bytes, GuestAddress};
use waterbear_guests::LOAD;

use super::Guest;
use super::memory::Memory;
use super::state::{self, Start};

/// Where a kernel of any kind finds what it is told, below its own memory.
const PARAMETERS: u64 = 0x7000;
const MEMORY_MAP: u64 = 0x7800;
const MODULES: u64 = 0x7c00;
const LINE: u64 = 0x2_0000;
/// Its bytes, with the 0 at the end.
const LINE_SIZE: usize = 2048;
/// Where kernels are loaded that do not say.
const HIGH: u64 = 1 << 20;
/// What is below it and not memory.
const HOLE: u64 = 0x9_fc00;
/// "Usable", in every kind of memory map.
const RAM: u32 = 1;

/// Puts a guest's files into its memory, and says where it begins.
pub fn load(guest: &Guest, memory: &Memory) -> Result<Start, Box<dyn Error>> {
    let named = |error| format!("{}: {error}", guest.kernel.display());
    let mut file = File::open(&guest.kernel).map_err(named)?;
    let mut line = Cmdline::new(LINE_SIZE)?;
    line.insert_str(&guest.line)?;
    loader::load_cmdline(memory, GuestAddress(LINE), &line)?;
    let initrd = load_initrd(guest, memory)?;
    state::map(memory)?;
    let high = Some(GuestAddress(HIGH));
    if let Ok(kernel) = Elf::load(memory, None, &mut file, high) {
        let PvhBootCapability::PvhEntryPresent(entry) = kernel.pvh_boot_cap else {
            return Ok(Start::Long {
                rip: kernel.kernel_load.0,
                rsi: PARAMETERS,
            });
        };
        tell_pvh(guest, memory, initrd)?;
        return Ok(Start::Protected {
            eip: entry.0,
            ebx: PARAMETERS,
        });
    }
    if let Ok(kernel) = BzImage::load(memory, None, &mut file, high) {
        let Some(header) = kernel.setup_header else {
            return Err("this bzImage has no header".into());
        };
        let mut parameters = boot_params {
            hdr: header,
            ..boot_params::default()
        };
        // No loader that has a number.
        parameters.hdr.type_of_loader = 0xff;
        parameters.hdr.cmd_line_ptr = LINE as u32;
        parameters.hdr.cmdline_size = LINE_SIZE as u32;
        if let Some((start, size)) = initrd {
            parameters.hdr.ramdisk_image = u32::try_from(start)?;
            parameters.hdr.ramdisk_size = u32::try_from(size)?;
        }
        for (entry, (addr, size)) in parameters.e820_table.iter_mut().zip(ranges(guest)) {
            *entry = boot_e820_entry {
                addr,
                size,
                r#type: RAM,
            };
            parameters.e820_entries += 1;
        }
        let parameters = BootParams::new(&parameters, GuestAddress(PARAMETERS));
        LinuxBootConfigurator::write_bootparams(&parameters, memory)?;
        return Ok(Start::Long {
            rip: kernel.kernel_load.0 + 0x200,
            rsi: PARAMETERS,
        });
    }
    let code = fs::read(&guest.kernel).map_err(named)?;
    memory.write_slice(&code, GuestAddress(LOAD))?;
    Ok(Start::Real { ip: LOAD })
}

/// Puts the disc at the end of the memory; says where, and its bytes.
fn load_initrd(guest: &Guest, memory: &Memory) -> Result<Option<(u64, u64)>, Box<dyn Error>> {
    let Some(path) = &guest.initrd else {
        return Ok(None);
    };
    let disc = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let room = guest.memory.checked_sub(disc.len());
    let room = room.ok_or("the disc does not fit into the memory")? as u64;
    let start = room & !0xfff;
    memory.write_slice(&disc, GuestAddress(start))?;
    Ok(Some((start, disc.len() as u64)))
}

/// Where there is memory, and its bytes.
fn ranges(guest: &Guest) -> [(u64, u64); 2] {
    let end = guest.memory as u64;
    [(0, HOLE.min(end)), (HIGH, end.saturating_sub(HIGH))]
}

/// Writes what a kernel that is entered in protected mode wants to know.
fn tell_pvh(
    guest: &Guest,
    memory: &Memory,
    initrd: Option<(u64, u64)>,
) -> Result<(), Box<dyn Error>> {
    const MAGIC: u32 = 0x336e_c578;
    let map = ranges(guest).map(|(addr, size)| hvm_memmap_table_entry {
        addr,
        size,
        type_: RAM,
        reserved: 0,
    });
    let modules: Vec<_> = initrd
        .iter()
        .map(|&(paddr, size)| hvm_modlist_entry {
            paddr,
            size,
            ..hvm_modlist_entry::default()
        })
        .collect();
    let info = hvm_start_info {
        magic: MAGIC,
        version: 1,
        cmdline_paddr: LINE,
        memmap_paddr: MEMORY_MAP,
        memmap_entries: map.len() as u32,
        modlist_paddr: if modules.is_empty() { 0 } else { MODULES },
        nr_modules: modules.len() as u32,
        ..hvm_start_info::default()
    };
    let mut parameters = BootParams::new(&info, GuestAddress(PARAMETERS));
    parameters.set_sections(&map, GuestAddress(MEMORY_MAP));
    if !modules.is_empty() {
        parameters.set_modules(&modules, GuestAddress(MODULES));
    }
    Ok(PvhBootConfigurator::write_bootparams(&parameters, memory)?)
}
