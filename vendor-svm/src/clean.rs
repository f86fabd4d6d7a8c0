//! What the CPU may keep of a control block between two runs.
//!
//! A CPU may cache parts of the block that ran on it. A bit that is set says that the part has not
//! changed since; so whoever changes a field clears its bit, and nothing is clean for a CPU on
//! which the block was not the last time it ran. Source: AMD APM volume 2, "VMCB State Caching".

bitflags::bitflags! {
    /// The clean field (offset 0x0c0).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    #[repr(transparent)]
    pub struct Clean: u32 {
        /// Intercepts, the TSC's offset, the PAUSE filter.
        const INTERCEPTS = 1 << 0;
        /// The addresses of the permission maps.
        const PERMISSION_MAPS = 1 << 1;
        /// The ASID.
        const ASID = 1 << 2;
        /// Virtual interrupts.
        const VIRTUAL_INTERRUPT = 1 << 3;
        /// Nested paging: its root, the guest's PAT.
        const NESTED_PAGING = 1 << 4;
        /// CR0, CR3, CR4, EFER.
        const CONTROL_REGISTERS = 1 << 5;
        /// DR6, DR7.
        const DEBUG_REGISTERS = 1 << 6;
        /// GDTR, IDTR.
        const TABLES = 1 << 7;
        /// CS, DS, SS, ES and the privilege level.
        const SEGMENTS = 1 << 8;
        /// CR2.
        const CR2 = 1 << 9;
        /// Last-branch records.
        const BRANCHES = 1 << 10;
    }
}
