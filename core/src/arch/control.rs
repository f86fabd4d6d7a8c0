//! Bits of the control registers, EFER and RFLAGS.
//!
//! Source: Intel SDM volume 3, "Control Registers"; AMD APM volume 2, "System-Control Registers".
bitflags::bitflags! {
    /// CR0.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Cr0: u64 {
        /// Protected mode.
        const PE = 1 << 0;
        /// WAIT obeys TS.
        const MP = 1 << 1;
        /// No FPU.
        const EM = 1 << 2;
        /// The FPU's state belongs to another task.
        const TS = 1 << 3;
        /// Always 1.
        const ET = 1 << 4;
        /// FPU errors are exceptions.
        const NE = 1 << 5;
        /// Read-only pages are so for the supervisor too.
        const WP = 1 << 16;
        /// Alignment checks.
        const AM = 1 << 18;
        /// Not write-through.
        const NW = 1 << 29;
        /// Caches disabled.
        const CD = 1 << 30;
        /// Paging.
        const PG = 1 << 31;
    }

    /// CR4.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Cr4: u64 {
        /// Virtual-8086 extensions.
        const VME = 1 << 0;
        /// Virtual interrupts in protected mode.
        const PVI = 1 << 1;
        /// RDTSC is for the supervisor.
        const TSD = 1 << 2;
        /// Debug extensions.
        const DE = 1 << 3;
        /// Pages of 4 MiB.
        const PSE = 1 << 4;
        /// Physical-address extension.
        const PAE = 1 << 5;
        /// Machine checks.
        const MCE = 1 << 6;
        /// Global pages.
        const PGE = 1 << 7;
        /// RDPMC is for everyone.
        const PCE = 1 << 8;
        /// FXSAVE and SSE.
        const OSFXSR = 1 << 9;
        /// SSE errors are #XM.
        const OSXMMEXCPT = 1 << 10;
        /// SGDT and relatives are for the supervisor.
        const UMIP = 1 << 11;
        /// Five levels of paging.
        const LA57 = 1 << 12;
        /// VMX.
        const VMXE = 1 << 13;
        /// SMX.
        const SMXE = 1 << 14;
        /// RDFSBASE and relatives.
        const FSGSBASE = 1 << 16;
        /// Process-context identifiers.
        const PCIDE = 1 << 17;
        /// XSAVE.
        const OSXSAVE = 1 << 18;
        /// The supervisor does not execute user pages.
        const SMEP = 1 << 20;
        /// The supervisor does not touch user pages.
        const SMAP = 1 << 21;
        /// Protection keys for user pages.
        const PKE = 1 << 22;
        /// Control-flow enforcement.
        const CET = 1 << 23;
        /// Protection keys for supervisor pages.
        const PKS = 1 << 24;
    }

    /// EFER.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Efer: u64 {
        /// SYSCALL.
        const SCE = 1 << 0;
        /// Long mode enabled.
        const LME = 1 << 8;
        /// Long mode active.
        const LMA = 1 << 10;
        /// No-execute.
        const NXE = 1 << 11;
        /// SVM.
        const SVME = 1 << 12;
        /// Segment limits in long mode.
        const LMSLE = 1 << 13;
        /// Fast FXSAVE.
        const FFXSR = 1 << 14;
    }

    /// RFLAGS.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Rflags: u64 {
        /// Carry.
        const CF = 1 << 0;
        /// Always 1.
        const ONE = 1 << 1;
        /// Parity.
        const PF = 1 << 2;
        /// Auxiliary carry.
        const AF = 1 << 4;
        /// Zero.
        const ZF = 1 << 6;
        /// Sign.
        const SF = 1 << 7;
        /// Trap after each instruction.
        const TF = 1 << 8;
        /// Interrupts on.
        const IF = 1 << 9;
        /// Strings go down.
        const DF = 1 << 10;
        /// Overflow.
        const OF = 1 << 11;
        /// The I/O privilege level.
        const IOPL = 3 << 12;
        /// Nested task.
        const NT = 1 << 14;
        /// No instruction breakpoint for one instruction.
        const RF = 1 << 16;
        /// Virtual-8086 mode.
        const VM = 1 << 17;
        /// Alignment checks.
        const AC = 1 << 18;
        /// Virtual IF.
        const VIF = 1 << 19;
        /// A virtual interrupt is pending.
        const VIP = 1 << 20;
        /// CPUID may be used.
        const ID = 1 << 21;
    }
}
