//! What makes the guest exit.
//!
//! Source: AMD APM volume 2, "Instruction Intercepts", "Intercepting Exceptions"
//! and "VMCB Layout".

bitflags::bitflags! {
    /// Accesses to control registers (offset 0x000): reads in bits 15:0, writes in bits 31:16.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    #[repr(transparent)]
    pub struct Control0: u32 {
        /// MOV from CR0 and SMSW.
        const READ_CR0 = 1 << 0;
        /// MOV from CR8.
        const READ_CR8 = 1 << 8;
        /// MOV from CR4.
        const READ_CR4 = 1 << 4;
        /// MOV to CR0, LMSW and CLTS.
        const WRITE_CR0 = 1 << 16;
        /// MOV to CR4.
        const WRITE_CR4 = 1 << 20;
        /// MOV to CR8.
        const WRITE_CR8 = 1 << 24;
    }

    /// Accesses to debug registers (offset 0x004): reads in bits 15:0, writes in bits 31:16.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    #[repr(transparent)]
    pub struct Debug0: u32 {
        /// Each of them.
        const ALL = u32::MAX;
    }

    /// Exceptions (offset 0x008), by vector.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    #[repr(transparent)]
    pub struct Exceptions: u32 {
        /// #DB. A breakpoint on what its own delivery touches would repeat for ever inside one
        /// instruction.
        const DEBUG = 1 << 1;
        /// #AC, for the same reason.
        const ALIGNMENT = 1 << 17;
        /// #MC, which is the host's.
        const MACHINE_CHECK = 1 << 18;
        /// Each of them.
        const ALL = u32::MAX;
    }

    /// Events and instructions (offset 0x00c).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    #[repr(transparent)]
    pub struct Intercept3: u32 {
        /// A physical interrupt.
        const INTR = 1 << 0;
        /// A physical NMI.
        const NMI = 1 << 1;
        /// A physical SMI.
        const SMI = 1 << 2;
        /// INIT.
        const INIT = 1 << 3;
        /// A virtual interrupt that the guest can take.
        const VINTR = 1 << 4;
        /// A write to CR0 that changes more than TS and MP.
        const CR0_SELECTIVE = 1 << 5;
        /// RDPMC.
        const RDPMC = 1 << 15;
        /// CPUID.
        const CPUID = 1 << 18;
        /// RSM.
        const RSM = 1 << 19;
        /// IRET.
        const IRET = 1 << 20;
        /// INVD.
        const INVD = 1 << 22;
        /// PAUSE, when the filter has counted enough of them.
        const PAUSE = 1 << 23;
        /// HLT.
        const HLT = 1 << 24;
        /// INVLPGA.
        const INVLPGA = 1 << 26;
        /// Ports, as the I/O permission map says.
        const IOIO = 1 << 27;
        /// MSRs, as the MSR permission map says.
        const MSR = 1 << 28;
        /// A task switch.
        const TASK_SWITCH = 1 << 29;
        /// The FPU freezes the CPU until an interrupt.
        const FERR_FREEZE = 1 << 30;
        /// Shutdown.
        const SHUTDOWN = 1 << 31;
    }

    /// Instructions (offset 0x010).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    #[repr(transparent)]
    pub struct Intercept4: u32 {
        /// VMRUN; must be set.
        const VMRUN = 1 << 0;
        /// VMMCALL.
        const VMMCALL = 1 << 1;
        /// VMLOAD.
        const VMLOAD = 1 << 2;
        /// VMSAVE.
        const VMSAVE = 1 << 3;
        /// STGI.
        const STGI = 1 << 4;
        /// CLGI.
        const CLGI = 1 << 5;
        /// SKINIT.
        const SKINIT = 1 << 6;
        /// WBINVD and WBNOINVD.
        const WBINVD = 1 << 9;
        /// MONITOR and MONITORX.
        const MONITOR = 1 << 10;
        /// MWAIT and MWAITX.
        const MWAIT = 1 << 11;
        /// MWAIT when the monitor is armed.
        const MWAIT_ARMED = 1 << 12;
        /// XSETBV.
        const XSETBV = 1 << 13;
        /// RDPRU.
        const RDPRU = 1 << 14;
    }

    /// Instructions (offset 0x014).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    #[repr(transparent)]
    pub struct Intercept5: u32 {
        /// INVLPGB.
        const INVLPGB = 1 << 0;
        /// INVLPGB with operands that it does not take.
        const INVLPGB_ILLEGAL = 1 << 1;
        /// MCOMMIT.
        const MCOMMIT = 1 << 3;
        /// TLBSYNC.
        const TLBSYNC = 1 << 4;
    }
}

impl Control0 {
    /// What always exits. With nested paging CR3 is the guest's, and so are reads of what the
    /// control block holds as the guest wrote it. CR8 is the interrupt controller's.
    pub const ALWAYS: Self = Self::READ_CR8.union(Self::WRITE_CR8).union(Self::WRITE_CR4);
    /// What exits as well while the CPU's CR0 differs from what the guest wrote.
    pub const CR0_DIFFERS: Self = Self::READ_CR0.union(Self::WRITE_CR0);
}

impl Exceptions {
    /// What always exits.
    pub const ALWAYS: Self = Self::DEBUG
        .union(Self::ALIGNMENT)
        .union(Self::MACHINE_CHECK);
}

impl Intercept3 {
    /// What always exits.
    pub const ALWAYS: Self = Self::INTR
        .union(Self::NMI)
        .union(Self::SMI)
        .union(Self::INIT)
        .union(Self::CR0_SELECTIVE)
        .union(Self::RDPMC)
        .union(Self::CPUID)
        .union(Self::RSM)
        .union(Self::INVD)
        .union(Self::HLT)
        .union(Self::INVLPGA)
        .union(Self::IOIO)
        .union(Self::MSR)
        .union(Self::TASK_SWITCH)
        .union(Self::FERR_FREEZE)
        .union(Self::SHUTDOWN);
}
