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
    /// The number of RCX.
    pub const RCX: usize = 1;
    /// The number of RDX.
    pub const RDX: usize = 2;
    /// The number of RBX.
    pub const RBX: usize = 3;
    /// The number of RSP.
    pub const RSP: usize = 4;
    /// The number of RBP.
    pub const RBP: usize = 5;
    /// The number of RSI.
    pub const RSI: usize = 6;
    /// The number of RDI.
    pub const RDI: usize = 7;

    /// A general register by its number, of which the lowest four bits count.
    pub fn get(&self, number: u8) -> u64 {
        self.general[usize::from(number & 0xf)]
    }

    /// Sets one.
    pub fn set(&mut self, number: u8, value: u64) {
        self.general[usize::from(number & 0xf)] = value;
    }

    /// EAX.
    pub fn eax(&self) -> u32 {
        self.general[Self::RAX] as u32
    }

    /// ECX.
    pub fn ecx(&self) -> u32 {
        self.general[Self::RCX] as u32
    }

    /// EDX:EAX.
    pub fn edx_eax(&self) -> u64 {
        self.general[Self::RDX] << 32 | u64::from(self.eax())
    }

    /// Sets EDX:EAX; the upper halves of both registers become zero.
    pub fn set_edx_eax(&mut self, value: u64) {
        self.general[Self::RAX] = value & 0xffff_ffff;
        self.general[Self::RDX] = value >> 32;
    }
}

/// Registers that no hardware switches between host and guest, or not every vendor's does. The
/// vendor puts the guest's into the CPU before an entry and the host's back after the exit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Switched {
    /// CR2.
    pub cr2: u64,
    /// XCR0: which parts of the extended state the guest has switched on.
    pub xcr0: u64,
    /// IA32_XSS: the same for the supervisor's parts.
    pub xss: u64,
    /// DR0 to DR3. They are in the CPU only while [`dr7`](Switched::dr7) uses one of them.
    pub breakpoints: [u64; 4],
    /// DR6.
    pub dr6: u64,
    /// DR7.
    pub dr7: u64,
}

impl Switched {
    /// What a CPU has after a reset.
    pub const RESET: Self = Self {
        cr2: 0,
        xcr0: 1,
        xss: 0,
        breakpoints: [0; 4],
        dr6: 0xffff_0ff0,
        dr7: 0x400,
    };
}
