//! A vCPU with a scripted guest, on a machine with a CPUID of its own.
use waterbear_core::Error;
use waterbear_core::arch::{Attributes, SegmentName};
use waterbear_core::exit::Exit;
use waterbear_core::mem::Box;
use waterbear_core::regs::Regs;
use waterbear_core::run::{GuestCpu, Leave};
use waterbear_core::tdp::DirtyTracking;
use waterbear_core::vendor::Control;
use waterbear_hal::Level;
use waterbear_mock::MockHost;
pub use waterbear_proofs::machines::{amd, intel, table};
use waterbear_proofs::{Paging, Rig, Scripted, ScriptedVcpu, ScriptedVendor};

/// Frames of memory from address 0 on.
pub const PAGES: u64 = 64;

/// A vCPU whose guest is a script.
pub struct Bench {
    pub rig: Rig,
    pub vendor: ScriptedVendor,
    pub cpu: Box<GuestCpu<MockHost, ScriptedVendor>, MockHost>,
}

impl Bench {
    /// On an AMD processor, with everything that it can have, at RIP 0x1000.
    pub fn new() -> Self {
        Self::on(amd)
    }

    /// On another processor.
    pub fn on(host: fn(u32, u32) -> [u32; 4]) -> Self {
        let rig = Rig::new(Paging::Npt, DirtyTracking::WriteProtect);
        rig.memory(0, 0, PAGES, Level::L1);
        rig.vm.vcpus().add(0).expect("memory");
        let vendor = ScriptedVendor::new(&rig.host);
        let mut cpu = GuestCpu::new(&rig.host, &vendor, &host).expect("memory");
        cpu.set_cpuid(&table(host)).expect("memory");
        cpu.state().regs.rip = 0x1000;
        Self { rig, vendor, cpu }
    }

    /// A guest in 64-bit mode.
    pub fn long() -> Self {
        let mut bench = Self::new();
        let state = bench.cpu.state();
        *state.control(Control::Cr0) = 0x8000_0011;
        *state.control(Control::Cr4) = 0x20;
        *state.control(Control::Efer) = 0x500;
        state.segments[SegmentName::Cs as usize].attributes = Attributes::from_bits_retain(0xa9b);
        bench
    }

    /// The guest's state.
    pub fn guest(&mut self) -> &mut ScriptedVcpu {
        self.cpu.state()
    }

    /// Sets the privilege level.
    pub fn set_cpl(&mut self, cpl: u16) {
        let stack = &mut self.guest().segments[SegmentName::Ss as usize];
        stack.attributes = Attributes::from_bits_retain(0x93 | cpl << 5);
    }

    /// Adds a step to the script.
    pub fn then(&mut self, step: Scripted) -> &mut Self {
        self.guest().then(step);
        self
    }

    /// Adds an exit by an instruction of two bytes.
    pub fn exit(&mut self, exit: Exit) -> &mut Self {
        self.then(Scripted::exit(exit, 2))
    }

    /// Runs, and says why it came back.
    #[track_caller]
    pub fn run(&mut self) -> Leave {
        self.try_run().expect("nothing fails")
    }

    /// Runs.
    #[track_caller]
    pub fn try_run(&mut self) -> Result<Leave, Error> {
        let vcpu = self.rig.vm.vcpus().get(0).expect("it is there");
        let result = self.cpu.run(&self.rig.vm, vcpu, &self.vendor);
        assert!(!self.rig.host.has_guest_fpu(), "the FPU stayed the guest's");
        result
    }

    /// Runs the script up to a HLT that is added to it.
    #[track_caller]
    pub fn run_to_halt(&mut self) {
        self.exit(Exit::Halt);
        assert_eq!(self.run(), Leave::Halted);
    }

    /// The guest's exit `exit` and nothing else: what was delivered because of it.
    #[track_caller]
    pub fn did(&mut self, exit: Exit) -> Vec<waterbear_core::arch::Event> {
        self.guest().delivered.clear();
        self.exit(exit);
        self.run_to_halt();
        std::mem::take(&mut self.guest().delivered)
    }

    /// EDX:EAX.
    pub fn edx_eax(&mut self) -> u64 {
        let regs = &self.guest().regs;
        regs.general[Regs::RDX] << 32 | regs.general[Regs::RAX] & 0xffff_ffff
    }

    /// Sets EDX:EAX and ECX.
    pub fn set_edx_eax_ecx(&mut self, value: u64, ecx: u32) {
        let regs = &mut self.guest().regs;
        regs.general[Regs::RAX] = value & 0xffff_ffff;
        regs.general[Regs::RDX] = value >> 32;
        regs.general[Regs::RCX] = ecx.into();
    }
}

impl Bench {
    /// Runs a script that is one HLT, if it gets there.
    pub fn try_run_once(&mut self) -> Result<Leave, Error> {
        if self.guest().left() == 0 {
            self.exit(Exit::Halt);
        }
        let result = self.try_run();
        if result.is_err() {
            self.guest().clear();
        }
        result
    }
}
