//! A vCPU whose guest touches memory.
use waterbear_core::Error;
use waterbear_core::exit::Exit;
use waterbear_core::memslot::SpaceId;
use waterbear_core::spte::EntryFormat;
use waterbear_core::tdp::fast::Access as Wanted;
use waterbear_core::vcpu::{Owner, Runner, Vcpu};
use waterbear_core::vendor::{EnableError, Hardware, Left, Unsupported, Vendor};
use waterbear_core::vm::{Outcome, VcpuMmu, Vm};
use waterbear_hal::{CpuId, Gfn, Pfn};
use waterbear_mock::Mock;
use waterbear_mock::hw::{Access, FaultKind, Format, Tlb, Walker};

use crate::Rig;

/// Hardware that runs one access at a time.
struct OneAccess<const NOTIFIER: bool> {
    host: Mock<NOTIFIER>,
    walker: Walker,
    format: EntryFormat,
}

/// The vendor's state of a vCPU: a TLB, and the access to run.
struct State {
    tlb: Tlb,
    gfn: Gfn,
    wanted: Access,
    /// The access is the CPU's own, on its way through the guest's page tables.
    guest_walk: bool,
    page: Option<Pfn>,
    /// The page tables, while a run lasts.
    root: Option<Pfn>,
}

impl<const NOTIFIER: bool> Hardware for OneAccess<NOTIFIER> {
    fn name(&self) -> &'static str {
        "one access at a time"
    }
    fn entry_format(&self) -> EntryFormat {
        self.format
    }
    fn check_cpu(&self, _cpu: CpuId) -> Result<(), Unsupported> {
        Ok(())
    }
    fn is_enabled(&self, _cpu: CpuId) -> bool {
        false
    }
    fn enable_cpu(&self, _cpu: CpuId) -> Result<(), EnableError> {
        Ok(())
    }
    fn disable_cpu(&self, _cpu: CpuId) {}
}

/// The thread of the vCPU.
struct Thread<'a, const NOTIFIER: bool> {
    vm: &'a Vm<Mock<NOTIFIER>>,
    mmu: &'a mut VcpuMmu<Mock<NOTIFIER>>,
    /// How many exits there were.
    exits: &'a mut u64,
}

impl<const NOTIFIER: bool> Owner<OneAccess<NOTIFIER>> for Thread<'_, NOTIFIER> {
    fn reload(&mut self) -> Result<Pfn, Error> {
        Ok(self.vm.load_root(self.mmu)?.pfn())
    }

    fn finish(&mut self, _state: &mut State, exit: Exit) -> bool {
        let finished = matches!(
            exit,
            Exit::Fault { gpa, access } if self.vm.quick_fault(self.mmu, gpa, access)
        );
        *self.exits += u64::from(finished);
        finished
    }
}

impl<const NOTIFIER: bool> OneAccess<NOTIFIER> {
    /// One entry.
    fn once(&self, vcpu: &mut State, root: Pfn) -> Exit {
        let gpa = vcpu.gfn.gpa();
        let access = |absent| Wanted {
            write: vcpu.wanted.write,
            exec: vcpu.wanted.exec,
            guest_walk: vcpu.guest_walk,
            absent,
        };
        match vcpu.tlb.access(&self.host, root, gpa, vcpu.wanted) {
            Ok(pfn) => {
                // Panics if the host has the page back.
                if vcpu.wanted.write {
                    self.host.data_write(pfn);
                } else {
                    self.host.data_read(pfn);
                }
                vcpu.page = Some(pfn);
                Exit::Halt
            }
            Err(fault) if fault.kind == FaultKind::Broken => Exit::Mmio {
                gpa,
                access: Some(access(false)),
            },
            Err(fault) => Exit::Fault {
                gpa,
                access: access(fault.kind == FaultKind::NotPresent),
            },
        }
    }
}

crate::registerless!(State);

impl<const NOTIFIER: bool> Vendor for OneAccess<NOTIFIER> {
    type Vcpu = State;

    fn new_vcpu(&self) -> Result<State, Error> {
        Ok(State {
            tlb: Tlb::new(self.walker),
            gfn: Gfn(0),
            wanted: Access::NONE,
            guest_walk: false,
            page: None,
            root: None,
        })
    }

    fn switch_in(&self, vcpu: &mut State, _: CpuId, root: Pfn) -> Result<(), Exit> {
        vcpu.root = Some(root);
        Ok(())
    }

    fn enter(&self, vcpu: &mut State) -> Left {
        let root = vcpu.root.expect("a run has begun");
        Left {
            exit: self.once(vcpu, root),
            whole: true,
        }
    }

    fn switch_out(&self, vcpu: &mut State) {
        vcpu.root = None;
    }

    crate::stateless!(State);

    fn flush_tlb(&self, vcpu: &mut State) {
        vcpu.tlb.flush();
    }
}

/// What an access of the guest came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reached {
    /// It reached this page.
    Page(Pfn),
    /// It went to a device.
    Device,
    /// The instruction was emulated.
    Emulated,
}

/// One vCPU and its thread.
pub struct Guest<'a, const NOTIFIER: bool = true> {
    rig: &'a Rig<NOTIFIER>,
    vendor: OneAccess<NOTIFIER>,
    vcpu: &'a Vcpu<Mock<NOTIFIER>>,
    runner: Runner<OneAccess<NOTIFIER>>,
    /// What the core keeps for the vCPU's faults.
    pub mmu: VcpuMmu<Mock<NOTIFIER>>,
    /// How many exits there were.
    pub exits: u64,
}

impl<'a, const NOTIFIER: bool> Guest<'a, NOTIFIER> {
    pub(crate) fn new(rig: &'a Rig<NOTIFIER>, index: u32) -> Self {
        let vcpu = rig.vm.vcpus().add(index).expect("memory does not run out");
        let vendor = OneAccess {
            host: rig.host.clone(),
            walker: rig.walker,
            format: *rig.vm.mmu().format(),
        };
        let state = vendor.new_vcpu().expect("it allocates nothing");
        Self {
            rig,
            vendor,
            vcpu,
            runner: Runner::new(state),
            mmu: VcpuMmu::new(),
            exits: 0,
        }
    }

    /// The vCPU.
    pub fn vcpu(&self) -> &'a Vcpu<Mock<NOTIFIER>> {
        self.vcpu
    }

    /// Its TLB.
    pub fn tlb(&mut self) -> &mut Tlb {
        &mut self.runner.state().tlb
    }

    /// Moves the vCPU to another address space.
    pub fn switch_space(&mut self, space: SpaceId) {
        self.rig.vm.switch_space(self.vcpu, &mut self.mmu, space);
    }

    /// Lets the guest run one access, through as many exits as it takes.
    ///
    /// # Errors
    ///
    /// What the VMM would be told.
    pub fn access(&mut self, gfn: u64, wanted: Access) -> Result<Reached, Error> {
        // Far more than any race takes.
        for _ in 0..100_000 {
            match self.step(gfn, wanted)? {
                Some(reached) => return Ok(reached),
                None => self.exits += 1,
            }
        }
        panic!("the guest makes no progress at frame {gfn:#x}");
    }

    /// One attempt: an access, or a fault and what the core did about it.
    ///
    /// # Errors
    ///
    /// What the VMM would be told.
    pub fn step(&mut self, gfn: u64, wanted: Access) -> Result<Option<Reached>, Error> {
        let Self {
            rig,
            vendor,
            vcpu,
            runner,
            mmu,
            exits,
            ..
        } = self;
        let state = runner.state();
        (state.gfn, state.wanted) = (Gfn(gfn), wanted);
        let vm = &rig.vm;
        let exit = runner.attempt(&rig.host, vcpu, vendor, &mut Thread { vm, mmu, exits })?;
        let outcome = match exit {
            Some(Exit::Mmio { gpa, access }) => {
                rig.vm.handle_mmio(mmu, gpa, access.unwrap_or_default())?
            }
            Some(Exit::Fault { gpa, access }) => rig.vm.handle_fault(mmu, gpa, access)?,
            _ => return Ok(runner.state().page.take().map(Reached::Page)),
        };
        Ok(match outcome {
            Outcome::Resume => None,
            Outcome::Mmio => Some(Reached::Device),
            Outcome::Emulate => Some(Reached::Emulated),
        })
    }

    /// Lets the CPU walk through an entry of the guest's own page tables and
    /// set the accessed bit in it. Where hardware keeps dirty bits of ours, and
    /// with nested paging, the walk counts as a write from the start.
    ///
    /// # Errors
    ///
    /// What the VMM would be told.
    pub fn walk_through(&mut self, gfn: u64) -> Result<Reached, Error> {
        let plain = matches!(self.rig.walker.format, Format::Ept { ad: false, .. });
        self.runner.state().guest_walk = true;
        let mut reached = Ok(Reached::Emulated);
        if plain {
            reached = self.access(gfn, Access::READ);
        }
        if !plain || matches!(reached, Ok(Reached::Page(_))) {
            reached = self.access(gfn, Access::new(true, true, false));
        }
        self.runner.state().guest_walk = false;
        reached
    }

    /// Reads; panics unless memory is reached.
    #[track_caller]
    pub fn read(&mut self, gfn: u64) -> Pfn {
        self.page(gfn, Access::READ)
    }

    /// Writes; panics unless memory is reached.
    #[track_caller]
    pub fn write(&mut self, gfn: u64) -> Pfn {
        self.page(gfn, Access::WRITE)
    }

    #[track_caller]
    fn page(&mut self, gfn: u64, wanted: Access) -> Pfn {
        match self.access(gfn, wanted) {
            Ok(Reached::Page(pfn)) => pfn,
            other => panic!("the access to frame {gfn:#x} came to {other:?}"),
        }
    }
}
