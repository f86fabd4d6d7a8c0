//! Machines that run a kernel.

use super::{Disc, Kernel};
use crate::machine::Emulator;
use crate::{Outcome, bochs, need, process};
use std::process::Command;
use std::time::Duration;

/// Longer than the slowest machine takes on a busy host.
const LIMIT: Duration = Duration::from_secs(300);

/// What a kernel is told on every machine. No test is about its mitigations, which take time.
const OPTIONS: &str = "console=ttyS0 panic=-1 oops=panic mitigations=off no_timer_check quiet";

/// What it is told on Bochs besides: what would take most of the time, and is about other things.
const HASTE: &str = "initcall_blacklist=trace_eval_init,dev_map_init cryptomgr.notests";

/// A machine for the client.
#[derive(Clone, Copy)]
pub struct Machine {
    /// Who emulates it.
    pub emulator: Emulator,
    /// The processor, by the emulator's name for it.
    pub cpu: &'static str,
    /// What the kernel's command line tells the client, if anything.
    pub say: &'static str,
    /// How much memory it has, in MiB.
    pub memory: u32,
}

/// On which the module serves.
pub const ABLE: Machine = Machine {
    emulator: Emulator::Qemu,
    cpu: "EPYC,+svm,+npt",
    say: "",
    memory: 1024,
};

/// On which an unmodified QEMU boots a guest on the module.
pub const MONITOR: Machine = Machine {
    say: "waterbear=monitor",
    memory: 2048,
    ..ABLE
};

/// On which the module serves with VMX. It is slow: it wants a small kernel, and few tests.
pub const INTEL: Machine = Machine {
    emulator: Emulator::Bochs,
    cpu: "corei7_skylake_x",
    say: "waterbear=core",
    memory: 512,
};

/// Every machine has two processors.
const CPUS: u32 = 2;

impl Machine {
    /// Boots the kernel and returns what was written to the serial line.
    pub fn run(&self, kernel: &Kernel, disc: &Disc, on_line: impl FnMut(&str)) -> Outcome<String> {
        let mut command = match self.emulator {
            Emulator::Qemu => self.qemu(kernel, disc)?,
            Emulator::Bochs => self.bochs(kernel, disc)?,
        };
        let finished = process::captured(&mut command, Some(LIMIT), self.cpu, on_line)?;
        Ok(finished.stdout.replace('\r', ""))
    }

    fn qemu(&self, kernel: &Kernel, disc: &Disc) -> Outcome<Command> {
        need::tool("qemu-system-x86_64", "qemu-system-x86")?;
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args(["-machine", "q35,accel=tcg", "-cpu", self.cpu])
            .args(["-m", &self.memory.to_string(), "-smp", &CPUS.to_string()])
            .args(["-append", &format!("{OPTIONS} {}", self.say), "-kernel"])
            .arg(&kernel.image)
            .arg("-initrd")
            .arg(&disc.file)
            .args(["-display", "none", "-serial", "stdio"])
            .args(["-no-reboot", "-net", "none"]);
        Ok(command)
    }

    fn bochs(&self, kernel: &Kernel, disc: &Disc) -> Outcome<Command> {
        bochs::tools()?;
        let work = disc.file.with_extension("bochs");
        let image = work.with_extension("iso");
        bochs::disc(
            &image,
            &work.join("disc"),
            &[(&kernel.image, "kernel"), (&disc.file, "initrd")],
            &format!(
                "linux /boot/kernel {OPTIONS} {HASTE} {}\ninitrd /boot/initrd",
                self.say
            ),
        )?;
        bochs::machine(&work, &image, self.cpu, CPUS, self.memory)
    }
}
