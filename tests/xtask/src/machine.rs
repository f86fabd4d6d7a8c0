//! Emulated machines, and the bare port running on them.
//!
//! QEMU's processors are AMD ones here, because its emulator has SVM and no
//! VMX; Bochs has both. QEMU starts the kernel itself, Bochs boots it from a
//! disc image made with GRUB.

use crate::workspace::Workspace;
use crate::{Outcome, bochs, need, process};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// Several times what the slowest machine takes, on a busy host: only one that hangs gets there.
const LIMIT: Duration = Duration::from_secs(300);

/// What must come of the bare port on a machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expect {
    /// This vendor registers, and guests run.
    Guests(&'static str),
    /// No vendor registers; the log says why in these words.
    Refused(&'static str),
}

/// Which emulator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Emulator {
    /// QEMU's own code generator.
    Qemu,
    /// Bochs.
    Bochs,
}

/// An emulated machine.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// Who emulates it.
    pub emulator: Emulator,
    /// The processor, by the emulator's name for it.
    pub cpu: &'static str,
    /// How many processors.
    pub cpus: u32,
    /// Whether QEMU counts instructions, which Bochs always does. With one processor only.
    pub exact: bool,
    /// What must come of the bare port.
    pub expect: Expect,
}

impl Machine {
    /// What the reader sees: the processor and how many there are.
    pub fn name(&self) -> String {
        match self.cpus {
            1 => self.cpu.to_owned(),
            cpus => format!("{cpus} × {}", self.cpu),
        }
    }
}

const NO_UNRESTRICTED: &str = "cannot run a guest in real mode (no unrestricted guest)";
const NO_PAGING: &str = "has no second-level paging";
const NO_VIRTUALIZATION: &str = "has no hardware virtualisation of this kind";

/// Where the cost of exits is measured.
pub const BENCH_MACHINES: &[Machine] = &[
    Machine {
        exact: true,
        ..qemu("EPYC,+svm,+npt", 1, Expect::Guests("SVM"))
    },
    bochs("ryzen", 1, Expect::Guests("SVM")),
    bochs("corei7_skylake_x", 1, Expect::Guests("VMX")),
];

/// Where the cost of a kick is measured, which takes two processors: each goes with the machine
/// above that has one of the same kind. QEMU counts instructions with one processor only.
pub const KICK_MACHINES: &[Machine] = &[
    bochs("ryzen", 2, Expect::Guests("SVM")),
    bochs("corei7_skylake_x", 2, Expect::Guests("VMX")),
];

/// Where the FreeBSD module is tested: one processor more than its guests have.
pub const FREEBSD_MACHINE: Machine = qemu("EPYC,+svm,+npt", 5, Expect::Guests("SVM"));

/// Every machine that the bare port is tested on. In QEMU the first processor is one too many for
/// the guests with several vCPUs, which must not run there (`Machine::first_cpu` of the bare port
/// says why). Bochs runs its processors in turns, so each more costs as much time again, and more;
/// one machine has two.
pub const MACHINES: &[Machine] = &[
    qemu("EPYC,+svm,+npt", 5, Expect::Guests("SVM")),
    qemu("max,+svm", 3, Expect::Guests("SVM")),
    qemu("qemu64,-svm", 1, Expect::Refused(NO_VIRTUALIZATION)),
    bochs("corei7_skylake_x", 2, Expect::Guests("VMX")),
    bochs("corei7_haswell_4770", 1, Expect::Guests("VMX")),
    bochs("corei7_sandy_bridge_2600k", 1, Expect::Guests("VMX")),
    bochs("zambezi", 1, Expect::Guests("SVM")),
    bochs("ryzen", 1, Expect::Guests("SVM")),
    bochs("corei5_lynnfield_750", 1, Expect::Refused(NO_UNRESTRICTED)),
    bochs("core2_penryn_t9600", 1, Expect::Refused(NO_PAGING)),
];

const fn qemu(cpu: &'static str, cpus: u32, expect: Expect) -> Machine {
    Machine {
        emulator: Emulator::Qemu,
        cpu,
        cpus,
        exact: false,
        expect,
    }
}

const fn bochs(cpu: &'static str, cpus: u32, expect: Expect) -> Machine {
    Machine {
        emulator: Emulator::Bochs,
        cpu,
        cpus,
        exact: false,
        expect,
    }
}

/// The bare port, built, and the disc image that Bochs boots it from.
pub struct Image {
    kernel: PathBuf,
    work: PathBuf,
    /// The kernel's command line.
    options: String,
    /// What else it gets, from QEMU only.
    file: Option<PathBuf>,
}

impl Image {
    /// Installs what is missing, builds the bare port and makes the image.
    /// `options` is the kernel's command line: `only=NAME` runs one guest program, `bench=1`
    /// measures. `profile` is one of the workspace's.
    pub fn build(workspace: &Workspace, options: &str, profile: &str) -> Outcome<Self> {
        need::tool("qemu-system-x86_64", "qemu-system-x86")?;
        bochs::tools()?;
        need::rust_part("target", "x86_64-unknown-none")?;
        let build = format!(
            "build --profile {profile} --package waterbear-bare --target x86_64-unknown-none"
        );
        if !process::shown(&mut workspace.cargo(&build))? {
            return Err("the bare port does not build; the messages are above".to_owned());
        }
        let target = workspace.target();
        let image = Self {
            kernel: target
                .join("x86_64-unknown-none")
                .join(profile)
                .join("waterbear-bare"),
            work: target.join("bare"),
            options: options.to_owned(),
            file: None,
        };
        image.make_disc()?;
        Ok(image)
    }

    /// The same with a file that the loader hands over.
    pub fn with_file(self, file: PathBuf) -> Self {
        Self {
            file: Some(file),
            ..self
        }
    }

    fn disc(&self) -> PathBuf {
        self.work.join("waterbear.iso")
    }

    fn make_disc(&self) -> Outcome {
        bochs::disc(
            &self.disc(),
            &self.work.join("disc"),
            &[(&self.kernel, "kernel")],
            &format!("multiboot2 /boot/kernel {}", self.options),
        )
    }

    /// Runs the bare port on a machine and returns what it wrote to its
    /// serial line; `on_line` sees each line as it comes.
    pub fn run(&self, machine: &Machine, on_line: impl FnMut(&str)) -> Outcome<String> {
        let mut command = match machine.emulator {
            Emulator::Qemu => self.qemu(machine),
            Emulator::Bochs => self.bochs(machine)?,
        };
        let finished = process::captured(&mut command, Some(LIMIT), &machine.name(), on_line)?;
        Ok(finished.stdout.replace('\r', ""))
    }

    fn qemu(&self, machine: &Machine) -> Command {
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args(["-machine", "q35,accel=tcg", "-m", "256"])
            .args(["-smp", &machine.cpus.to_string()])
            .args(["-cpu", machine.cpu, "-kernel"])
            .arg(&self.kernel)
            .args(["-append", &self.options])
            .args(["-display", "none", "-serial", "stdio", "-no-reboot"])
            .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]);
        if let Some(file) = &self.file {
            command.arg("-initrd").arg(file);
        }
        if machine.exact {
            // One tick of the time-stamp counter is one instruction.
            command
                .args(["-icount", "shift=0,align=off,sleep=off", "-seed", "1"])
                .args(["-rtc", "base=2026-01-01,clock=vm"]);
        }
        command
    }

    fn bochs(&self, machine: &Machine) -> Outcome<Command> {
        let folder = self.work.join(format!("{}-{}", machine.cpu, machine.cpus));
        bochs::machine(&folder, &self.disc(), machine.cpu, machine.cpus, 256)
    }
}
