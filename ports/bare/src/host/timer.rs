//! Time: the time-stamp counter as a clock, and each CPU's APIC timer, which
//! can interrupt a guest that does not stop by itself.
use core::arch::x86_64::_rdtsc;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use waterbear_hal::{CpuId, Time};
use x86::io::{inb, outb};

use super::{Bare, apic, percpu};

// The PC's interval timer, whose second counter can be watched without
// interrupts.
const PIT_COMMAND: u16 = 0x43;
const PIT_COUNTER_2: u16 = 0x42;
const PIT_GATE: u16 = 0x61;
const GATE_OPEN: u8 = 1;
const SPEAKER: u8 = 2;
const RAN_DOWN: u8 = 1 << 5;
/// Counter 2, both bytes, once.
const COUNT_DOWN_ONCE: u8 = 0xb0;
const PIT_HERTZ: u64 = 1_193_182;

/// How often the clocks are compared. An emulator may stop in the middle of a
/// comparison, which makes it too long, so the shortest counts.
const COMPARISONS: u32 = 3;
const MILLISECONDS: u64 = 4;

/// Per millisecond.
static TSC_RATE: AtomicU64 = AtomicU64::new(1);
/// Whether the timer's interrupts are signals.
static SIGNALS: AtomicBool = AtomicBool::new(false);
static APIC_RATE: AtomicU64 = AtomicU64::new(1);

/// The time-stamp counter of this CPU.
pub fn tsc() -> u64 {
    // SAFETY: every 64-bit processor has it.
    unsafe { _rdtsc() }
}

/// Lets the interval timer run for some milliseconds.
fn pit_wait() {
    let count = (PIT_HERTZ * MILLISECONDS / 1000) as u16;
    // SAFETY: the second counter and its gate serve nobody else.
    let gate = unsafe { inb(PIT_GATE) } & !(SPEAKER | GATE_OPEN);
    for (port, value) in [
        (PIT_GATE, gate | GATE_OPEN),
        (PIT_COMMAND, COUNT_DOWN_ONCE),
        (PIT_COUNTER_2, count as u8),
        (PIT_COUNTER_2, (count >> 8) as u8),
    ] {
        // SAFETY: as above.
        unsafe { outb(port, value) }
    }
    // SAFETY: reading has no effect.
    while unsafe { inb(PIT_GATE) } & RAN_DOWN == 0 {
        core::hint::spin_loop();
    }
}

/// Finds out how fast the clocks are. Once, with the APIC on.
pub fn init() {
    let (mut tsc_best, mut apic_best) = (u64::MAX, u64::MAX);
    for _ in 0..COMPARISONS {
        apic::start_timer_masked();
        let start = tsc();
        pit_wait();
        let left = apic::timer_left();
        tsc_best = tsc_best.min(tsc() - start);
        apic_best = apic_best.min((u32::MAX - left).into());
    }
    stop();
    TSC_RATE.store((tsc_best / MILLISECONDS).max(1), Ordering::Relaxed);
    APIC_RATE.store((apic_best / MILLISECONDS).max(1), Ordering::Relaxed);
}

/// Ticks of the time-stamp counter per millisecond.
pub fn tsc_rate() -> u64 {
    TSC_RATE.load(Ordering::Relaxed)
}

/// Nanoseconds since some moment. CPUs agree as far as their counters do.
pub fn now() -> u64 {
    let rate: u128 = tsc_rate().into();
    (u128::from(tsc()) * 1_000_000 / rate) as u64
}

/// Waits, busy.
pub fn delay(nanoseconds: u64) {
    let start = now();
    while now().wrapping_sub(start) < nanoseconds {
        core::hint::spin_loop();
    }
}

fn apic_count(nanoseconds: u64) -> u32 {
    let rate: u128 = APIC_RATE.load(Ordering::Relaxed).into();
    let count = u128::from(nanoseconds) * rate / 1_000_000;
    u32::try_from(count).unwrap_or(u32::MAX).max(1)
}

/// Interrupts this CPU once, after this time.
pub fn after(nanoseconds: u64) {
    apic::start_timer(apic_count(nanoseconds), false);
}

/// Interrupts this CPU again and again, this far apart.
pub fn every(nanoseconds: u64) {
    apic::start_timer(apic_count(nanoseconds), true);
}

/// Interrupts this CPU again and again, and each time a signal comes for its thread.
pub fn signal_every(nanoseconds: u64) {
    SIGNALS.store(true, Ordering::Relaxed);
    every(nanoseconds);
}

/// Ends what `after` or `every` began on this CPU.
pub fn stop() {
    SIGNALS.store(false, Ordering::Relaxed);
    apic::start_timer(0, false);
}

/// How many timer interrupts a CPU has taken.
pub fn ticks(cpu: CpuId) -> u64 {
    percpu::of(cpu).ticks.load(Ordering::Relaxed)
}

/// The handler.
pub fn interrupt() {
    let me = percpu::this();
    me.ticks.fetch_add(1, Ordering::Relaxed);
    // A sleeper of this CPU may have looked just before, and is about to halt.
    me.woken.store(true, Ordering::Relaxed);
    if SIGNALS.load(Ordering::Relaxed) {
        me.signal.store(true, Ordering::Relaxed);
    }
}

impl Time for Bare {
    fn nanoseconds(&self) -> u64 {
        now()
    }

    /// Nobody tells the date.
    fn wall_nanoseconds(&self) -> u64 {
        now()
    }

    /// Emulated CPUs share one clock.
    fn tsc_is_stable(&self) -> bool {
        true
    }
}
