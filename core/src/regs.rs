//! A vCPU's registers.

/// The general registers in the order in which instructions encode them, the
/// instruction pointer and the flags.
///
/// Assembly knows this layout: a register is at its number times eight.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Regs {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
    pub general: [u64; 16],
    /// RIP.
    pub rip: u64,
    /// RFLAGS.
    pub rflags: u64,
}

impl Regs {
    /// The number of RAX.
    pub const RAX: usize = 0;
    /// The number of RSP.
    pub const RSP: usize = 4;
}
