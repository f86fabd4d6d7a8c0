//! A small guest in real mode, and a way to run it from exit to exit.
//!
//! Its program is at [`MAIN`]; every interrupt and exception goes to [`HANDLER`]. Nothing is mapped
//! at first, so the first event's delivery meets missing pages.
use core::slice;

use waterbear_core::Error;
use waterbear_core::arch::Event;
use waterbear_core::exit::Exit;
use waterbear_core::memslot::Region;
use waterbear_core::regs::Regs;
use waterbear_core::tdp::DirtyTracking;
use waterbear_core::vcpu::{Owner, Runner};
use waterbear_core::vendor::Vendor;
use waterbear_core::vm::{Outcome, VcpuMmu, Vm};
use waterbear_hal::addr::PAGE_SIZE;
use waterbear_hal::{Memory, Pfn};

use crate::console::say;
use crate::host::Bare;

/// Where a program begins.
pub const MAIN: u64 = 0x1000;
/// Where every vector leads: to the program's second half.
pub const HANDLER: u64 = 0x1100;
/// The guest's stack ends here.
pub const STACK: u64 = 0x8000;
const PAGES: usize = 16;
/// More exits than any test has.
const LIMIT: usize = 200;

/// Guest memory.
struct Ram(Pfn);

impl Ram {
    #[expect(clippy::mut_from_ref, reason = "the guest does not run meanwhile")]
    fn bytes(&self) -> &mut [u8] {
        // SAFETY: pages of ours, mapped one to one.
        let start = unsafe { Bare.pages(self.0) };
        // SAFETY: as above, and the guest, who shares them, does not run.
        unsafe { slice::from_raw_parts_mut(start.as_ptr(), PAGES * PAGE_SIZE as usize) }
    }
}

impl Drop for Ram {
    fn drop(&mut self) {
        // SAFETY: from `alloc_pages`; the VM that used them is gone.
        unsafe { Bare.free_pages(self.0, PAGES) }
    }
}

/// A guest and its vCPU.
pub struct Rig<'a, V: Vendor> {
    vendor: &'a V,
    runner: Runner<V>,
    mmu: VcpuMmu<Bare>,
    // Dropped before the memory that it maps.
    vm: Vm<Bare>,
    ram: Ram,
    /// How often an event had to be delivered again.
    pub again: usize,
    /// Asked for before every entry: the windows for an interrupt and for an NMI.
    pub windows: (bool, bool),
}

/// The thread of the vCPU. Every exit goes to the test.
struct Thread<'a> {
    vm: &'a Vm<Bare>,
    mmu: &'a mut VcpuMmu<Bare>,
}

impl<V: Vendor> Owner<V> for Thread<'_> {
    fn reload(&mut self) -> Result<Pfn, Error> {
        Ok(self.vm.load_root(self.mmu)?.pfn())
    }
}

impl<'a, V: Vendor> Rig<'a, V> {
    /// Makes a guest that is about to execute `main`.
    pub fn new(vendor: &'a V, main: &[u8], handler: &[u8]) -> Result<Self, &'static str> {
        let ram = Ram(Bare.alloc_pages(PAGES).map_err(|_| "no memory")?);
        let bytes = ram.bytes();
        for vector in 0..256 {
            let offset = (HANDLER as u16).to_le_bytes();
            bytes[vector * 4..vector * 4 + 2].copy_from_slice(&offset);
        }
        bytes[MAIN as usize..][..main.len()].copy_from_slice(main);
        bytes[HANDLER as usize..][..handler.len()].copy_from_slice(handler);
        let format = vendor.entry_format();
        let vm = Vm::new(&Bare, (), format, DirtyTracking::WriteProtect).map_err(|_| "no VM")?;
        vm.set_region(Region {
            space: 0,
            id: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: PAGES as u64 * PAGE_SIZE,
            userspace_addr: ram.0.hpa().0,
        })
        .map_err(|_| "no memory slot")?;
        vm.vcpus().add(0).map_err(|_| "no vCPU")?;
        let mut state = vendor.new_vcpu().map_err(|_: Error| "no vCPU state")?;
        let regs = vendor.regs(&mut state);
        regs.rip = MAIN;
        regs.general[Regs::RSP] = STACK;
        Ok(Self {
            vendor,
            runner: Runner::new(state),
            mmu: VcpuMmu::new(),
            vm,
            ram,
            again: 0,
            windows: (false, false),
        })
    }

    /// The vendor's state of the vCPU.
    pub fn state(&mut self) -> &mut V::Vcpu {
        self.runner.state()
    }

    /// The registers.
    pub fn regs(&mut self) -> &mut Regs {
        self.vendor.regs(self.runner.state())
    }

    /// A word of guest memory.
    pub fn word(&self, at: u64) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.ram.bytes()[at as usize..][..8]);
        u64::from_le_bytes(bytes)
    }

    /// A word of 16 bits on the guest's stack, counted from its top.
    pub fn pushed(&mut self, index: u64) -> u64 {
        let top = self.regs().general[Regs::RSP];
        self.word(top + index * 2) & 0xffff
    }

    /// Injects an event.
    pub fn inject(&mut self, event: Event) {
        self.vendor.inject(self.runner.state(), event);
    }

    /// Runs to the next exit that says something; missing pages come in, and events whose delivery
    /// met one are delivered again.
    pub fn run(&mut self) -> Result<Exit, &'static str> {
        let vcpu = self.vm.vcpus().get(0).ok_or("no vCPU")?;
        for _ in 0..LIMIT {
            let (interrupt, nmi) = self.windows;
            self.vendor
                .want_windows(self.runner.state(), interrupt, nmi);
            let (vm, mmu) = (&self.vm, &mut self.mmu);
            let exit = self
                .runner
                .attempt(&Bare, vcpu, self.vendor, &mut Thread { vm, mmu })
                .map_err(|_| "the vCPU does not run")?;
            let Some(exit) = exit else { continue };
            match exit {
                Exit::Interrupt => {}
                Exit::Fault { gpa, access } => {
                    match self.vm.handle_fault(&mut self.mmu, gpa, access) {
                        Ok(Outcome::Resume) => {}
                        other => {
                            say!("NOTE {other:?} at {gpa:?}");
                            return Err("the guest touched what it does not have");
                        }
                    }
                }
                exit => return Ok(exit),
            }
            let state = self.runner.state();
            if let Some(event) = self.vendor.take_undelivered(state) {
                self.again += 1;
                self.vendor.inject(state, event);
            }
        }
        Err("the guest does not get anywhere")
    }

    /// Runs to an access to this port, whose instruction has two bytes, and moves on behind it.
    pub fn run_to_port(&mut self, port: u16) -> Result<(), &'static str> {
        match self.run()? {
            Exit::Io(io) if io.port == port => {
                self.regs().rip += 2;
                Ok(())
            }
            other => self.unexpected(other),
        }
    }

    /// Runs to this exit.
    pub fn run_to(&mut self, wanted: Exit) -> Result<(), &'static str> {
        match self.run()? {
            exit if exit == wanted => Ok(()),
            other => self.unexpected(other),
        }
    }

    /// Reports an exit that should not be.
    pub fn unexpected<T>(&mut self, exit: Exit) -> Result<T, &'static str> {
        let regs = *self.regs();
        say!("NOTE {exit:x?}, {regs:x?}");
        Err("another exit came")
    }
}

/// Fails a test unless `fact`.
pub fn must(fact: bool, else_why: &'static str) -> Result<(), &'static str> {
    if fact { Ok(()) } else { Err(else_why) }
}
