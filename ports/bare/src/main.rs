//! Waterbear on the bare machine.
//!
//! Boots by itself under an emulator, makes the machine a host, registers the
//! vendor whose CPU it is, and runs guests on it. Prints one line per test,
//! `PASS name` or `FAIL name: why`, and ends the emulator with a status.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod acpi;
#[cfg(target_os = "none")]
mod boot;
#[cfg(target_os = "none")]
mod console;
#[cfg(target_os = "none")]
mod cpu_name;
#[cfg(target_os = "none")]
mod freebsd;
#[cfg(target_os = "none")]
mod guests;
#[cfg(target_os = "none")]
mod hooks;
#[cfg(target_os = "none")]
mod host;
#[cfg(target_os = "none")]
mod machine;
#[cfg(target_os = "none")]
mod segments;
#[cfg(target_os = "none")]
mod selftest;
#[cfg(target_os = "none")]
mod smp;
#[cfg(target_os = "none")]
mod traps;

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("This program is a kernel. Build it with --target x86_64-unknown-none.");
    std::process::exit(2);
}
