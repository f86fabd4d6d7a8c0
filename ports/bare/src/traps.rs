//! Exceptions and interrupts of the host itself.
//!
//! The host expects no exception: each is reported and ends the run. Device
//! interrupts are off; the interrupt controllers are masked.
use core::arch::{asm, naked_asm};

use x86::io::outb;

use crate::console::say;
use crate::machine;

const VECTORS: usize = 32;

/// A gate of the interrupt descriptor table.
#[repr(C)]
#[derive(Clone, Copy)]
struct Gate {
    low: u64,
    high: u64,
}

/// The task-state segment. Nothing in it is used, but a CPU that runs guests
/// must have one.
#[repr(C, align(16))]
struct Tss {
    words: [u32; 26],
}

static mut TSS: Tss = Tss { words: [0; 26] };
/// The selector of its descriptor, behind code and data.
const TSS_SELECTOR: u16 = 24;

unsafe extern "C" {
    static mut boot_gdt_tss: [u64; 2];
}

#[repr(C, packed)]
struct TableRegister {
    limit: u16,
    base: u64,
}

static mut IDT: [Gate; VECTORS] = [Gate { low: 0, high: 0 }; VECTORS];

/// What the CPU pushes, with the error code where there is one.
#[repr(C)]
struct Frame {
    words: [u64; 6],
}

macro_rules! stubs {
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
        const STUBS: [extern "C" fn() -> !; VECTORS] = [$($name,)*];
    };
}

stubs! {
    t0 = 0, t1 = 1, t2 = 2, t3 = 3, t4 = 4, t5 = 5, t6 = 6, t7 = 7,
    t8 = 8, t9 = 9, t10 = 10, t11 = 11, t12 = 12, t13 = 13, t14 = 14, t15 = 15,
    t16 = 16, t17 = 17, t18 = 18, t19 = 19, t20 = 20, t21 = 21, t22 = 22, t23 = 23,
    t24 = 24, t25 = 25, t26 = 26, t27 = 27, t28 = 28, t29 = 29, t30 = 30, t31 = 31,
}

extern "C" fn report(vector: u64, frame: &Frame) -> ! {
    say!("FAIL host: exception {vector}, stack {:x?}", frame.words);
    machine::exit(false)
}

/// Loads the task register, which needs a descriptor that says where the
/// segment is.
fn load_tss() {
    let at = &raw const TSS as u64;
    let last = size_of::<Tss>() as u64 - 1;
    // Present, available 64-bit task-state segment.
    let low = last | (at & 0xff_ffff) << 16 | 0x89 << 40 | (at >> 24 & 0xff) << 56;
    let descriptor = &raw mut boot_gdt_tss;
    // SAFETY: the place is in the GDT, and nobody uses it yet.
    unsafe { descriptor.write([low, at >> 32]) }
    // SAFETY: the descriptor was just written.
    unsafe { asm!("ltr {:x}", in(reg) TSS_SELECTOR, options(nostack, preserves_flags)) }
}

/// Loads the task register and the interrupt descriptor table, and masks the interrupt controllers.
pub fn init() {
    load_tss();
    let idt = &raw mut IDT;
    for (vector, stub) in STUBS.into_iter().enumerate() {
        let at = stub as usize as u64;
        let gate = Gate {
            // Present, interrupt gate, code segment 8.
            low: at & 0xffff | 8 << 16 | 0x8e00 << 32 | (at >> 16 & 0xffff) << 48,
            high: at >> 32,
        };
        // SAFETY: in bounds, and no other CPU or handler runs yet.
        unsafe { (*idt)[vector] = gate }
    }
    let register = TableRegister {
        limit: (size_of::<[Gate; VECTORS]>() - 1) as u16,
        base: idt as u64,
    };
    // SAFETY: the table is static and complete.
    unsafe { asm!("lidt [{}]", in(reg) &raw const register, options(nostack)) }
    // SAFETY: masks every line of the first interrupt controller.
    unsafe { outb(0x21, 0xff) }
    // SAFETY: and of the second.
    unsafe { outb(0xa1, 0xff) }
}
