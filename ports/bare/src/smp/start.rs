//! Starting the other CPUs, one after the other (Intel SDM, "MP
//! Initialization").
use core::arch::{asm, global_asm};
use core::ptr;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use waterbear_hal::addr::PAGE_SIZE;
use waterbear_hal::{AllocError, Memory};

use super::work;
use crate::console::say;
use crate::host::{Bare, apic, fpu, percpu, timer};
use crate::{acpi, segments, traps};

// Where a CPU begins: in real mode, at the begin of a page below 1 MiB, to
// which this is copied. It goes to long mode in one step.
global_asm!(
    r#"
    .section .rodata.trampoline, "a"
    .code16
    .globl trampoline, trampoline_end
trampoline:
    cli
    cld
    // PAE, OSFXSR, OSXMMEXCPT, and the boot CPU's page tables.
    mov eax, 0x620
    mov cr4, eax
    mov eax, offset boot_l4
    mov cr3, eax
    // EFER: LME and NXE.
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x900
    wrmsr
    // The boot CPU's descriptor table: `data32 lgdt cs:[register]`.
    .byte 0x66, 0x2e, 0x0f, 0x01, 0x16
    .short 5f - trampoline
    // CR0: PG, WP, NE, ET, MP and PE; caches on.
    mov eax, 0x80010033
    mov cr0, eax
    // A far jump to a 32-bit offset.
    .byte 0x66, 0xea
    .long ap_start64
    .short 8
5:  .short 39
    .long boot_gdt
trampoline_end:

    .section .text
    .code64
ap_start64:
    mov eax, 16
    mov ds, eax
    mov es, eax
    mov ss, eax
    xor eax, eax
    mov fs, eax
    mov gs, eax
    mov rsp, [{stack}]
    xor ebp, ebp
    call {main}
    "#,
    stack = sym STACK,
    main = sym ap_main,
);

unsafe extern "C" {
    static trampoline: u8;
    static trampoline_end: u8;
}

/// Where the trampoline is copied to: memory that every PC has, and that the
/// boot loader does not need any more.
const TRAMPOLINE: u64 = 0x8000;
const STACK_PAGES: usize = 16;

/// The stack of the CPU that is being started, and its number.
static STACK: AtomicU64 = AtomicU64::new(0);
static NUMBER: AtomicU32 = AtomicU32::new(0);
/// How many CPUs the firmware lists.
static LISTED: AtomicU32 = AtomicU32::new(1);

const MILLISECOND: u64 = 1_000_000;
/// Between the reset of a CPU and its start.
const AFTER_INIT: u64 = 10 * MILLISECOND;
/// A CPU that does not come then is started once more.
const AFTER_STARTUP: u64 = MILLISECOND;
/// A CPU that does not come then is broken; generous, because an emulator may
/// have to wait for its own host.
const PATIENCE: u64 = 5_000 * MILLISECOND;

/// How many CPUs the firmware lists, as far as this host uses them.
pub fn listed() -> u32 {
    LISTED.load(Ordering::Relaxed)
}

/// Starts every CPU that the firmware lists. On the boot CPU, once.
pub fn start() {
    let start = &raw const trampoline;
    let end = &raw const trampoline_end;
    // SAFETY: both labels are in one section, in this order.
    let length = unsafe { end.offset_from_unsigned(start) };
    // SAFETY: the page is memory that nobody uses.
    unsafe { ptr::copy_nonoverlapping(start, TRAMPOLINE as *mut u8, length) }
    let mine = apic::id();
    let mut broken = false;
    let found = acpi::for_each_apic(|apic| {
        if apic == mine || listed() == percpu::MOST as u32 {
            return;
        }
        let number = LISTED.fetch_add(1, Ordering::Relaxed);
        // Numbers have no gaps; and a CPU that comes late must not find what
        // is meant for another.
        if !broken && start_one(number, apic).is_err() {
            broken = true;
            say!("NOTE the CPU with local APIC {apic} does not start");
        }
    });
    if !found {
        say!("NOTE the firmware lists no CPUs; the boot CPU is alone");
    }
}

fn start_one(number: u32, apic: u8) -> Result<(), AllocError> {
    let stack = Bare.alloc_pages(STACK_PAGES)?.hpa().0 + STACK_PAGES as u64 * PAGE_SIZE;
    // The CPU that these are for does not run yet. Sending it an interrupt
    // orders them before its start.
    STACK.store(stack, Ordering::Relaxed);
    NUMBER.store(number, Ordering::Relaxed);
    let came = |patience| {
        let begin = timer::now();
        while percpu::count() <= number {
            if timer::now().wrapping_sub(begin) > patience {
                return false;
            }
            core::hint::spin_loop();
        }
        true
    };
    apic::send_init(apic);
    timer::delay(AFTER_INIT);
    let page = (TRAMPOLINE / PAGE_SIZE) as u8;
    apic::send_startup(apic, page);
    if came(AFTER_STARTUP) {
        return Ok(());
    }
    apic::send_startup(apic, page);
    if came(PATIENCE) {
        Ok(())
    } else {
        Err(AllocError)
    }
}

/// Makes this CPU number `number` of the host, without interrupts as yet.
pub fn init_cpu(number: u32) {
    percpu::init(number, apic::id());
    segments::init(number);
    traps::init_cpu();
    apic::init_cpu();
    fpu::init_cpu();
}

extern "C" fn ap_main() -> ! {
    init_cpu(NUMBER.load(Ordering::Relaxed));
    percpu::come_online();
    // SAFETY: the handlers are in place.
    unsafe { asm!("sti", options(nostack)) }
    work::idle()
}
