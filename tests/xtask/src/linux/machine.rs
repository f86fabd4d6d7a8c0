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

/// What it is told on QEMU besides: the client starts the other processors. A kernel patches itself
/// while it starts, and QEMU's do not always notice that a patch is complete: one takes the
/// breakpoint that guarded it for the code, and the kernel does not know it any more.
const ONE_AT_FIRST: &str = "maxcpus=1";

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
    /// Whether it has one CPU whose time-stamp counter counts instructions. For QEMU; on Bochs it
    /// always does.
    pub exact: bool,
    /// Whether it starts anew when its kernel wants that, and does not end. For QEMU.
    pub restarts: bool,
}

/// On which the module serves.
pub const ABLE: Machine = Machine {
    emulator: Emulator::Qemu,
    cpu: "EPYC,+svm,+npt",
    say: "",
    memory: 1024,
    exact: false,
    restarts: false,
};

/// On which an unmodified QEMU boots a guest on the module.
pub const MONITOR: Machine = Machine {
    say: "waterbear=monitor",
    memory: 2048,
    ..ABLE
};

/// On which the guest programs run.
pub const PROGRAMS: Machine = Machine {
    say: "waterbear=programs",
    ..ABLE
};

/// On which the module serves with VMX. It is slow: it wants a small kernel, and few tests.
pub const INTEL: Machine = Machine {
    emulator: Emulator::Bochs,
    // Its successor tells its frequency, which is not the emulator's: the kernel believes it, and
    // has its timer fire all the time.
    cpu: "corei7_haswell_4770",
    say: "waterbear=core",
    memory: 512,
    exact: false,
    restarts: false,
};

/// How many processors of a machine run guests.
const CPUS: u32 = 2;
/// And how many do not: the client's `cpus.rs` says why QEMU's first one must not.
const SPARE: u32 = 1;

/// QEMU's options for one tick per instruction. While the machine sleeps its time flies.
const EXACT: &[&str] = &[
    "-icount",
    "shift=0,align=off,sleep=off",
    "-rtc",
    "base=2026-01-01,clock=vm",
    "-seed",
    "1",
];

impl Machine {
    /// Boots the kernel and returns what was written to the serial line.
    pub fn run(&self, kernel: &Kernel, disc: &Disc, on_line: impl FnMut(&str)) -> Outcome<String> {
        let mut command = match self.emulator {
            Emulator::Qemu => self.qemu(kernel, disc)?,
            Emulator::Bochs => self.bochs(kernel, disc)?,
        };
        let name = format!("{} {}", self.cpu, self.say);
        let finished = process::captured(&mut command, Some(LIMIT), name.trim(), on_line)?;
        Ok(finished.stdout.replace('\r', ""))
    }

    fn qemu(&self, kernel: &Kernel, disc: &Disc) -> Outcome<Command> {
        need::tool("qemu-system-x86_64", "qemu-system-x86")?;
        let (cpus, options) = if self.exact {
            (1, EXACT)
        } else {
            (SPARE + CPUS, &[][..])
        };
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args(["-machine", "q35,accel=tcg", "-cpu", self.cpu])
            .args(["-m", &self.memory.to_string(), "-smp", &cpus.to_string()])
            .args(options)
            .args([
                "-append",
                &format!("{OPTIONS} {ONE_AT_FIRST} {}", self.say),
                "-kernel",
            ])
            .arg(&kernel.image)
            .arg("-initrd")
            .arg(&disc.file)
            .args(["-display", "none", "-serial", "stdio"])
            .args(["-net", "none"]);
        if !self.restarts {
            command.arg("-no-reboot");
        }
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
