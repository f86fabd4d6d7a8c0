//! Every register that a guest can change, and who puts the host's back.
//!
//! A register that is not here cannot be changed by a guest: its accesses exit, or the instruction
//! that writes it does.
//!
//! Source: Intel SDM volume 3, "Saving Guest State", "Loading Host State" and, for what an entry
//! loads, "Loading Guest State".
use waterbear_core::arch::SegmentName;
use waterbear_core::host_state::{HostState, Read};

const fn state(name: &'static str, read: Read, restored: &'static str) -> HostState {
    HostState {
        name,
        read,
        restored,
    }
}

const EXIT_COMPARED: &str =
    "the exit, from the host-state area; compared before every entry (host::Host::refresh)";
const EXIT_LOADED: &str =
    "the exit, from the host-state area, as it was when the control structure was loaded";
const SELECTOR: &str = "the exit where the selector has no privilege bits, else by hand \
                        (host::Host::restore)";
const SYSCALL: &str = "by hand, when the guest could use it (swap::out)";
const BY_HAND: &str = "by hand (swap::out)";

/// Every register that a guest can change.
pub const HOST_STATE: &[HostState] = &[
    state(
        "RBX, RBP, RSP, R12 to R15, RIP",
        Read::General,
        "RSP and RIP: the exit; the others from the stack, the rest cleared (world)",
    ),
    state(
        "RFLAGS",
        Read::Flags,
        "the exit clears it: interrupts stay off, DF is clear",
    ),
    state("CR0", Read::Cr(0), EXIT_COMPARED),
    state("CR3", Read::Cr(3), EXIT_COMPARED),
    state("CR4", Read::Cr(4), EXIT_COMPARED),
    state(
        "CR2",
        Read::Dead,
        "nobody: a handler of page faults reads what its own fault wrote",
    ),
    state("CS", Read::Segment(SegmentName::Cs), EXIT_LOADED),
    state("SS", Read::Segment(SegmentName::Ss), EXIT_LOADED),
    state("DS", Read::Segment(SegmentName::Ds), SELECTOR),
    state("ES", Read::Segment(SegmentName::Es), SELECTOR),
    state("FS", Read::Segment(SegmentName::Fs), SELECTOR),
    state("GS", Read::Segment(SegmentName::Gs), SELECTOR),
    state(
        "LDTR",
        Read::Segment(SegmentName::Ldtr),
        "by hand where it is not null (host::Host::restore)",
    ),
    state("TR", Read::Segment(SegmentName::Tr), EXIT_LOADED),
    state(
        "the limit of TR",
        Read::Dead,
        "the host, when it needs more than the 103 of an exit (hal::Cpu::task_register_was_cut)",
    ),
    state(
        "GDTR",
        Read::Gdtr,
        "base: the exit; limit: by hand (host::Host::restore)",
    ),
    state(
        "IDTR",
        Read::Idtr,
        "base: the exit; limit: by hand (host::Host::restore)",
    ),
    state("IA32_FS_BASE", Read::Msr(0xc000_0100), EXIT_COMPARED),
    state("IA32_GS_BASE", Read::Msr(0xc000_0101), EXIT_LOADED),
    state(
        "IA32_KERNEL_GS_BASE",
        Read::Msr(0xc000_0102),
        "by hand, when the guest is in long mode; else its accesses exit (swap::out)",
    ),
    state("IA32_EFER", Read::Msr(0xc000_0080), EXIT_LOADED),
    state("IA32_STAR", Read::Msr(0xc000_0081), SYSCALL),
    state("IA32_LSTAR", Read::Msr(0xc000_0082), SYSCALL),
    state("IA32_CSTAR", Read::Msr(0xc000_0083), SYSCALL),
    state("IA32_FMASK", Read::Msr(0xc000_0084), SYSCALL),
    state("IA32_TSC_AUX", Read::Msr(0xc000_0103), BY_HAND),
    state("IA32_SYSENTER_CS", Read::Msr(0x174), EXIT_LOADED),
    state("IA32_SYSENTER_ESP", Read::Msr(0x175), EXIT_LOADED),
    state("IA32_SYSENTER_EIP", Read::Msr(0x176), EXIT_LOADED),
    state(
        "IA32_DEBUGCTL",
        Read::Msr(0x1d9),
        "the exit clears it; by hand where the host uses it (swap::out)",
    ),
    state(
        "IA32_PAT",
        Read::Msr(0x277),
        "never changed: EPT entries overrule the guest's, which is only held",
    ),
    state(
        "IA32_SPEC_CTRL",
        Read::Msr(0x48),
        "never changed: accesses exit, and the guest's CPU has no such register",
    ),
    state(
        "IA32_TIME_STAMP_COUNTER",
        Read::Clock(0x10),
        "never changed: writes exit, and the guest reads it with an offset",
    ),
    state("IA32_XSS", Read::Msr(0xda0), BY_HAND),
    state("XCR0", Read::Xcr0, BY_HAND),
    state(
        "DR0",
        Read::Dr(0),
        "by hand, when the guest's DR7 used one of them (swap::out)",
    ),
    state("DR1", Read::Dr(1), "with DR0"),
    state("DR2", Read::Dr(2), "with DR0"),
    state("DR3", Read::Dr(3), "with DR0"),
    state(
        "DR6",
        Read::Dr(6),
        "never changed: accesses and debug exceptions exit",
    ),
    state(
        "DR7",
        Read::Dr(7),
        "the exit resets it; by hand where the host uses it (swap::out)",
    ),
    state(
        "x87, SSE, AVX and further state, PKRU",
        Read::ByFpu,
        "the host, when it unloads the guest's (hal::Fpu)",
    ),
];
