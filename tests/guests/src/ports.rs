//! The ports that concern the vCPU that uses them, as in `asm/guest.inc`.

/// 32 bits, 1: the program has passed.
pub const DONE: u16 = 0x500;
/// 32 bits: the line of the check that failed; above 10000 an exception, whose vector is the rest.
pub const FAILED: u16 = 0x504;
/// 8 bits: an interrupt with this vector, now.
pub const INJECT: u16 = 0x530;
/// 8 bits: an interrupt with this vector, once the vCPU halts.
pub const INJECT_LATER: u16 = 0x531;
/// An NMI, now.
pub const NMI: u16 = 0x532;
/// An NMI, once the vCPU halts.
pub const NMI_LATER: u16 = 0x533;
/// 32 bits: an exception; vector, 1 << 8 with an error code, which is in 31:16.
pub const RAISE: u16 = 0x534;
/// 32 bits: a command; reading: 0 or the error.
pub const COMMAND: u16 = 0x540;
/// A command's first argument; reading: its result.
pub const ARGUMENT_0: u16 = 0x544;
/// A command's second argument.
pub const ARGUMENT_1: u16 = 0x548;
/// A command's third argument.
pub const ARGUMENT_2: u16 = 0x54c;
/// Reading: the number of this vCPU.
pub const VCPU: u16 = 0x560;
/// Reading: what the emulated CPU, or the host, takes lightly.
pub const QUIRKS: u16 = 0x564;
/// Reading: which of two guests this is; writing: the other one runs.
pub const TWIN: u16 = 0x568;
/// Reading: how many vCPUs there are.
pub const VCPUS: u16 = 0x56c;
