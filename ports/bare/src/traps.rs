//! Exceptions and interrupts of the host itself.
//!
//! The host expects no exception: each is reported and ends the run. Device
//! interrupts are off; the interrupt controllers are masked. What comes is
//! interrupts from other CPUs, the local timer, and NMIs that a test sends.
use core::arch::{asm, naked_asm};
use core::cell::UnsafeCell;
use core::sync::atomic::Ordering;

use x86::io::outb;

use crate::console::say;
use crate::host::{apic, call, percpu, timer};
use crate::machine;
use crate::segments::{DOUBLE_FAULT_STACK, NMI_STACK, TableRegister};

/// The interrupts that this host uses.
pub mod vector {
    pub const TIMER: u8 = 0xe0;
    /// Makes a CPU leave its guest or its sleep, and nothing else.
    pub const KICK: u8 = 0xf0;
    /// Makes a CPU answer calls.
    pub const CALL: u8 = 0xf1;
    /// An interrupt that went away before it was taken.
    pub const SPURIOUS: u8 = 0xff;
}

const VECTORS: usize = 256;
const EXCEPTIONS: usize = 32;
const NMI: usize = 2;
const DOUBLE_FAULT: usize = 8;

/// A gate of the interrupt descriptor table.
#[repr(C)]
#[derive(Clone, Copy)]
struct Gate {
    low: u64,
    high: u64,
}

impl Gate {
    const NONE: Self = Self { low: 0, high: 0 };

    /// An interrupt gate to `at`, on the stack with this number or, if it is
    /// 0, on the one in use.
    fn new(at: extern "C" fn() -> !, stack: u8) -> Self {
        let at = at as usize as u64;
        Self {
            // Present, interrupt gate, code segment 8.
            low: at & 0xffff
                | 8 << 16
                | u64::from(stack) << 32
                | 0x8e00 << 32
                | (at >> 16 & 0xffff) << 48,
            high: at >> 32,
        }
    }
}

/// All CPUs use one table.
struct Table(UnsafeCell<[Gate; VECTORS]>);

// SAFETY: written by the boot CPU before others run, and read by CPUs only.
unsafe impl Sync for Table {}

static TABLE: Table = Table(UnsafeCell::new([Gate::NONE; VECTORS]));

/// What the CPU pushes, with the error code where there is one.
#[repr(C)]
struct Frame {
    words: [u64; 6],
}

macro_rules! exceptions {
    ($($name:ident = $vector:literal,)*) => {
        $(
            #[unsafe(naked)]
            extern "C" fn $name() -> ! {
                naked_asm!(
                    "cld",
                    "mov edi, {vector}",
                    "mov rsi, rsp",
                    "and rsp, -16",
                    "call {report}",
                    vector = const $vector,
                    report = sym report,
                )
            }
        )*
        const STUBS: [extern "C" fn() -> !; EXCEPTIONS] = [$($name,)*];
    };
}

exceptions! {
    t0 = 0, t1 = 1, t2 = 2, t3 = 3, t4 = 4, t5 = 5, t6 = 6, t7 = 7,
    t8 = 8, t9 = 9, t10 = 10, t11 = 11, t12 = 12, t13 = 13, t14 = 14, t15 = 15,
    t16 = 16, t17 = 17, t18 = 18, t19 = 19, t20 = 20, t21 = 21, t22 = 22, t23 = 23,
    t24 = 24, t25 = 25, t26 = 26, t27 = 27, t28 = 28, t29 = 29, t30 = 30, t31 = 31,
}

/// GS may be what is broken, so the CPU is known by its APIC.
extern "C" fn report(vector: u64, frame: &Frame) -> ! {
    let cpu = percpu::by_apic(apic::id());
    let address: u64;
    // SAFETY: reads where a page fault happened.
    unsafe { asm!("mov {}, cr2", out(reg) address, options(nomem, nostack, preserves_flags)) }
    say!(
        "FAIL host: exception {vector} on CPU {cpu}, cr2 {address:x}, stack {:x?}",
        frame.words
    );
    machine::exit(false)
}

/// Saves what a function may change, calls one, and returns to what was
/// interrupted. The CPU aligns the stack to 16 bytes and pushes five words;
/// nine more align it again.
macro_rules! interrupts {
    ($($stub:ident calls $handler:ident,)*) => {
        $(
            #[unsafe(naked)]
            extern "C" fn $stub() -> ! {
                naked_asm!(
                    "push rax", "push rcx", "push rdx", "push rsi", "push rdi",
                    "push r8", "push r9", "push r10", "push r11",
                    "cld",
                    "call {handler}",
                    "pop r11", "pop r10", "pop r9", "pop r8",
                    "pop rdi", "pop rsi", "pop rdx", "pop rcx", "pop rax",
                    "iretq",
                    handler = sym $handler,
                )
            }
        )*
    };
}

interrupts! {
    nmi_stub calls nmi,
    timer_stub calls timer_interrupt,
    kick_stub calls kick,
    call_stub calls call,
    spurious_stub calls spurious,
}

extern "C" fn nmi() {
    percpu::this().nmis.fetch_add(1, Ordering::Relaxed);
}

extern "C" fn timer_interrupt() {
    apic::end_of_interrupt();
    timer::interrupt();
}

extern "C" fn kick() {
    apic::end_of_interrupt();
}

extern "C" fn call() {
    apic::end_of_interrupt();
    call::answer();
}

/// A spurious interrupt is not to be ended.
extern "C" fn spurious() {}

/// Fills the table and masks the interrupt controllers. Once.
pub fn init() {
    let stacks = |vector| match vector {
        NMI => NMI_STACK,
        DOUBLE_FAULT => DOUBLE_FAULT_STACK,
        _ => 0,
    };
    let exceptions = STUBS.into_iter().enumerate();
    let others = [
        (NMI, nmi_stub as extern "C" fn() -> !),
        (vector::TIMER.into(), timer_stub),
        (vector::KICK.into(), kick_stub),
        (vector::CALL.into(), call_stub),
        (vector::SPURIOUS.into(), spurious_stub),
    ];
    for (vector, stub) in exceptions.chain(others) {
        // SAFETY: in bounds, and no other CPU or handler runs yet.
        unsafe { (*TABLE.0.get())[vector] = Gate::new(stub, stacks(vector)) }
    }
    // SAFETY: masks every line of the first interrupt controller.
    unsafe { outb(0x21, 0xff) }
    // SAFETY: and of the second.
    unsafe { outb(0xa1, 0xff) }
}

/// Loads the table on this CPU.
pub fn init_cpu() {
    let register = TableRegister {
        limit: (size_of::<[Gate; VECTORS]>() - 1) as u16,
        base: TABLE.0.get() as u64,
    };
    // SAFETY: the table is static and complete.
    unsafe { asm!("lidt [{}]", in(reg) &raw const register, options(nostack)) }
}
