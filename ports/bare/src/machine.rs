//! The machine: where Rust begins and where the run ends.
use core::arch::asm;
use core::panic::PanicInfo;

use x86::io::{outb, outw};

use crate::console::{self, say};
use crate::host::{self, percpu, timer};
use crate::{boot, cpu_name, freebsd, guests, selftest, smp, traps};

/// Where Rust begins, on the boot CPU, with the first 4 GiB mapped one to one.
#[unsafe(no_mangle)]
extern "C" fn kernel_main() -> ! {
    console::init();
    boot::keep_information();
    host::memory::init();
    traps::init();
    smp::init_cpu(0);
    percpu::come_online();
    timer::init();
    // SAFETY: the handlers are in place.
    unsafe { asm!("sti", options(nostack)) }
    smp::start();
    let (name, cpus) = (cpu_name::CpuName::read(), host::count());
    say!("NOTE this machine is {name}, CPUs: {cpus}");
    if let Some(file) = boot::file() {
        exit(freebsd::run(file));
    }
    // Who measures or wants certain guests has no time for tests of the host.
    let is_short = boot::option("bench").is_some() || boot::option("only").is_some();
    let host_is_sound = is_short || selftest::run();
    exit(guests::run() && host_is_sound)
}

/// Ends the run and the emulator.
///
/// QEMU, with its `isa-debug-exit` device at port 0xf4, ends with status 33
/// for success and 35 for failure. Bochs cannot carry a status, so the lines
/// on the console are what counts.
pub fn exit(success: bool) -> ! {
    say!("{}", if success { "END passed" } else { "END failed" });
    console::flush();
    let status = if success { 0x10 } else { 0x11 };
    // SAFETY: the port belongs to the exit device or to nobody.
    unsafe { outb(0xf4, status) }
    for byte in b"Shutdown" {
        // SAFETY: the port belongs to Bochs's shutdown device or to nobody.
        unsafe { outb(0x8900, *byte) }
    }
    // SAFETY: the ACPI control port of QEMU's machines, or nobody's.
    unsafe { outw(0x604, 0x2000) }
    loop {
        // SAFETY: stops this CPU for good.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) }
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    say!("FAIL host: {info}");
    exit(false)
}
