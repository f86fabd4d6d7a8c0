//! The local APIC: interrupts between CPUs, and the timer (Intel SDM,
//! "Advanced Programmable Interrupt Controller (APIC)").
use core::sync::atomic::{Ordering, compiler_fence};

use waterbear_hal::Cpu;
use x86::msr::{IA32_APIC_BASE, rdmsr, wrmsr};

use super::Bare;
use super::percpu::PerCpu;
use crate::traps::vector;

const REGISTERS: u64 = 0xfee0_0000;
const APIC_ON: u64 = 1 << 11;

const ID: u64 = 0x20;
const PRIORITY: u64 = 0x80;
const END_OF_INTERRUPT: u64 = 0xb0;
const SPURIOUS: u64 = 0xf0;
const COMMAND: u64 = 0x300;
const COMMAND_TARGET: u64 = 0x310;
const LINE_0: u64 = 0x350;
const LINE_1: u64 = 0x360;
const TIMER: u64 = 0x320;
const TIMER_START: u64 = 0x380;
const TIMER_LEFT: u64 = 0x390;
const TIMER_DIVISOR: u64 = 0x3e0;

const SOFTWARE_ON: u32 = 1 << 8;
const MASKED: u32 = 1 << 16;
const PERIODIC: u32 = 1 << 17;
const BY_16: u32 = 3;

const PENDING: u32 = 1 << 12;
const ASSERT: u32 = 1 << 14;
const NMI: u32 = 4 << 8;
const INIT: u32 = 5 << 8;
const STARTUP: u32 = 6 << 8;

fn read(register: u64) -> u32 {
    // SAFETY: the registers are mapped, and those above can be read.
    unsafe { ((REGISTERS + register) as *const u32).read_volatile() }
}

fn write(register: u64, value: u32) {
    // SAFETY: as above; what a write does is its caller's purpose.
    unsafe { ((REGISTERS + register) as *mut u32).write_volatile(value) }
}

/// This CPU's APIC number.
pub fn id() -> u8 {
    (read(ID) >> 24) as u8
}

/// Switches this CPU's APIC on, with every source of its own off.
pub fn init_cpu() {
    // SAFETY: every processor that this host runs on has the register.
    let base = unsafe { rdmsr(IA32_APIC_BASE) };
    // SAFETY: only the global switch changes.
    unsafe { wrmsr(IA32_APIC_BASE, base | APIC_ON) }
    write(SPURIOUS, SOFTWARE_ON | u32::from(vector::SPURIOUS));
    write(PRIORITY, 0);
    for source in [LINE_0, LINE_1, TIMER] {
        write(source, MASKED);
    }
    write(TIMER_DIVISOR, BY_16);
}

/// Says that the interrupt being handled is.
pub fn end_of_interrupt() {
    write(END_OF_INTERRUPT, 0);
}

/// Sends one command to one APIC. Everything that this CPU wrote before is
/// seen by the handler: the access is uncached, which waits for the writes
/// before it.
fn command(apic: u32, what: u32) {
    // A handler that sends as well would change the target in between.
    let were_on = Bare.irq_disable();
    compiler_fence(Ordering::SeqCst);
    while read(COMMAND) & PENDING != 0 {
        core::hint::spin_loop();
    }
    write(COMMAND_TARGET, apic << 24);
    write(COMMAND, what | ASSERT);
    // SAFETY: pairs with the above.
    unsafe { Bare.irq_restore(were_on) }
}

/// Interrupts a CPU.
pub fn send(cpu: &PerCpu, vector: u8) {
    command(cpu.apic.load(Ordering::Relaxed), vector.into());
}

/// Sends a CPU an NMI.
pub fn send_nmi(cpu: &PerCpu) {
    command(cpu.apic.load(Ordering::Relaxed), NMI);
}

/// Resets a CPU that has not been started.
pub fn send_init(apic: u8) {
    command(apic.into(), INIT);
}

/// Starts a CPU after `send_init`, in real mode at the begin of this page.
pub fn send_startup(apic: u8, page: u8) {
    command(apic.into(), STARTUP | u32::from(page));
}

/// Lets this CPU's timer run down from `count`, once or for ever, with an
/// interrupt at each end. 0 stops it.
pub fn start_timer(count: u32, periodic: bool) {
    let mode = if periodic { PERIODIC } else { 0 };
    write(TIMER, u32::from(vector::TIMER) | mode);
    write(TIMER_START, count);
}

/// Lets this CPU's timer run down from the top, without an interrupt.
pub fn start_timer_masked() {
    write(TIMER, u32::from(vector::TIMER) | MASKED);
    write(TIMER_START, u32::MAX);
}

/// What is left of this CPU's timer.
pub fn timer_left() -> u32 {
    read(TIMER_LEFT)
}
