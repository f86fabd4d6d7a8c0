//! Monitors on the module: an unmodified one, and our small one.
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use waterbear_vmm::boot::Guest;
use waterbear_vmm::kvm::Node;

use crate::node::{NODE, same};
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
        .args(["-cpu", "qemu64", "-m", "128", "-smp", "1"])
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

/// A console that has heard enough once certain words have come.
struct Until {
    words: &'static str,
    heard: Vec<u8>,
}

impl Write for &mut Until {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.heard.extend(bytes);
        let words = self.words.as_bytes();
        if self
            .heard
            .windows(words.len())
            .any(|window| window == words)
        {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// In real mode: writes "Flat." to the serial line; then HLT.
const FLAT: &[u8] = &[
    0xbe, 0x0f, 0x10, 0xba, 0xf8, 0x03, 0xb9, 0x05, 0x00, 0xfc, 0xf3, 0x6e, 0xf4, 0xeb, 0xfd, b'F',
    b'l', b'a', b't', b'.',
];

/// A kernel in the format of Linux, whose code, in 64-bit mode, writes "Packed." to the serial line;
/// then HLT.
fn packed() -> Vec<u8> {
    const CODE: &[u8] = &[
        0x48, 0x8d, 0x35, 0x0f, 0x00, 0x00, 0x00, 0x66, 0xba, 0xf8, 0x03, 0xb9, 0x07, 0x00, 0x00,
        0x00, 0xfc, 0xf3, 0x6e, 0xf4, 0xeb, 0xfd, b'P', b'a', b'c', b'k', b'e', b'd', b'.',
    ];
    let mut file = vec![0; 0x800];
    // One sector of setup behind the first; "HdrS", version 2.12, loaded at 1 MiB.
    for (at, bytes) in [
        (0x1f1, &[1][..]),
        (0x1fe, &[0x55, 0xaa]),
        (0x202, b"HdrS"),
        (0x206, &[0x0c, 0x02]),
        (0x211, &[1]),
        (0x214, &[0, 0, 0x10, 0]),
        (0x600, CODE),
    ] {
        file[at..at + bytes.len()].copy_from_slice(bytes);
    }
    file
}

pub fn the_small_monitor_starts_kernels_of_every_kind() -> Outcome {
    same("loading", sys::load(kernel::MODULE, ""), Ok(()))?;
    for (file, bytes) in [("/tmp/flat", FLAT), ("/tmp/packed", &packed())] {
        fs::write(file, bytes).map_err(|error| error.to_string())?;
    }
    for (file, words) in [
        ("/tmp/flat", "Flat."),
        ("/tmp/packed", "Packed."),
        ("/guest-kernel", "Linux version"),
    ] {
        let guest = Guest {
            kernel: file.into(),
            initrd: Some("/guest-disc".into()),
            line: "earlyprintk=serial,ttyS0 console=ttyS0 panic=-1".to_owned(),
            memory: 128 << 20,
        };
        let node = Node::open(Path::new(NODE)).map_err(|error| error.to_string())?;
        let mut console = Until {
            words,
            heard: Vec::new(),
        };
        let end = guest
            .run(&node, &mut console)
            .map_err(|end| end.to_string());
        let heard = String::from_utf8_lossy(&console.heard);
        if !heard.contains(words) {
            return Err(format!("{file} ended with {end:?} and said {heard:?}"));
        }
    }
    same("unloading", sys::unload(kernel::NAME), Ok(()))
}
