//! An unmodified virtual machine monitor on the module.
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::node::same;
use crate::{Outcome, kernel, sys};

/// What the guest's first process says.
pub const GUEST: &str = "The guest's user space speaks.";

/// What it says of its clock.
const CLOCK: &str = "Its clock is ";

/// Says what machine the guest believes to be on.
pub fn speak() {
    let version = fs::read_to_string("/proc/version").unwrap_or_default();
    println!("{}", version.trim());
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    for line in cpu.lines().filter(|line| line.starts_with("model name")) {
        println!("{line}");
    }
    let clock = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    let clock = fs::read_to_string(clock).unwrap_or_default();
    println!("{CLOCK}{}", clock.trim());
    println!("{GUEST}");
}

pub fn an_unmodified_qemu_boots_a_stock_kernel() -> Outcome {
    same("loading", sys::load(kernel::MODULE, "kvm_node=1"), Ok(()))?;
    let monitor = Command::new("/monitor")
        .args(["-M", "pc,accel=kvm,kernel-irqchip=off"])
        .args(["-cpu", "qemu64,-mce,-mca", "-m", "128", "-smp", "1"])
        .args(["-nodefaults", "-no-user-config", "-nographic", "-no-reboot"])
        .args(["-serial", "stdio", "-L", "/", "-kernel", "/guest-kernel"])
        .args(["-initrd", "/guest-disc", "-append"])
        .arg("console=ttyS0 quiet mitigations=off panic=-1 no_timer_check waterbear=guest")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn();
    let mut monitor = monitor.map_err(|error| format!("QEMU does not start: {error}"))?;
    let (mut spoke, mut clock) = (false, String::new());
    if let Some(output) = monitor.stdout.take() {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            println!("guest | {line}");
            spoke |= line.contains(GUEST);
            if let Some((_, name)) = line.split_once(CLOCK) {
                clock = name.trim().to_owned();
            }
        }
    }
    let status = monitor.wait().map_err(|error| error.to_string())?;
    same("the guest spoke", spoke, true)?;
    same("its clock", clock.as_str(), "kvm-clock")?;
    same("QEMU ended well", status.success(), true)?;
    same("unloading", sys::unload(kernel::NAME), Ok(()))
}
