//! Every command with arguments that nobody means well.
use std::os::fd::{AsRawFd, OwnedFd};

use waterbear_core::abi::kvm::*;
use waterbear_core::abi::prefault::KVM_PRE_FAULT_MEMORY;

use crate::Outcome;
use crate::node::{self, same};
use crate::sys::{self, Mapping, ioctl, ioctl_long};
use crate::vcpu::Guest;

/// Where a command is known: at the node, at a VM, at a vCPU.
type Places = [bool; 3];
const NODE: Places = [true, false, false];
const VM: Places = [false, true, false];
const VCPU: Places = [false, false, true];

/// What a command's argument is.
#[derive(Clone, Copy, PartialEq)]
enum Argument {
    /// A number, or nothing.
    Number,
    /// A structure of the size that is part of the command's number.
    Fixed,
    /// A structure that begins with a count.
    Counted,
}
use Argument::{Counted, Fixed, Number};

/// Every command that there is.
const COMMANDS: &[(u32, Places, Argument)] = &[
    (KVM_GET_API_VERSION, NODE, Number),
    (KVM_CREATE_VM, NODE, Number),
    (KVM_GET_VCPU_MMAP_SIZE, NODE, Number),
    (KVM_GET_MSR_INDEX_LIST, NODE, Counted),
    (KVM_GET_MSR_FEATURE_INDEX_LIST, NODE, Counted),
    (KVM_GET_SUPPORTED_CPUID, NODE, Counted),
    (KVM_GET_EMULATED_CPUID, NODE, Counted),
    (KVM_CHECK_EXTENSION, [true, true, false], Number),
    (KVM_GET_MSRS, [true, false, true], Counted),
    (KVM_CREATE_VCPU, VM, Number),
    (KVM_SET_USER_MEMORY_REGION, VM, Fixed),
    (KVM_GET_DIRTY_LOG, VM, Fixed),
    (KVM_CLEAR_DIRTY_LOG, VM, Fixed),
    (KVM_IOEVENTFD, VM, Fixed),
    (KVM_REGISTER_COALESCED_MMIO, VM, Fixed),
    (KVM_UNREGISTER_COALESCED_MMIO, VM, Fixed),
    (KVM_SET_TSS_ADDR, VM, Number),
    (KVM_SET_IDENTITY_MAP_ADDR, VM, Fixed),
    (KVM_ENABLE_CAP, [false, true, true], Fixed),
    (KVM_GET_TSC_KHZ, [false, true, true], Number),
    (KVM_SET_TSC_KHZ, [false, true, true], Number),
    (KVM_RUN, VCPU, Number),
    (KVM_NMI, VCPU, Number),
    (KVM_GET_REGS, VCPU, Fixed),
    (KVM_SET_REGS, VCPU, Fixed),
    (KVM_GET_SREGS, VCPU, Fixed),
    (KVM_SET_SREGS, VCPU, Fixed),
    (KVM_GET_SREGS2, VCPU, Fixed),
    (KVM_SET_SREGS2, VCPU, Fixed),
    (KVM_SET_MSRS, VCPU, Counted),
    (KVM_GET_CPUID2, VCPU, Counted),
    (KVM_SET_CPUID2, VCPU, Counted),
    (KVM_GET_FPU, VCPU, Fixed),
    (KVM_SET_FPU, VCPU, Fixed),
    (KVM_GET_XSAVE, VCPU, Fixed),
    (KVM_GET_XSAVE2, VCPU, Fixed),
    (KVM_SET_XSAVE, VCPU, Fixed),
    (KVM_GET_XCRS, VCPU, Fixed),
    (KVM_SET_XCRS, VCPU, Fixed),
    (KVM_GET_VCPU_EVENTS, VCPU, Fixed),
    (KVM_SET_VCPU_EVENTS, VCPU, Fixed),
    (KVM_GET_DEBUGREGS, VCPU, Fixed),
    (KVM_SET_DEBUGREGS, VCPU, Fixed),
    (KVM_GET_MP_STATE, VCPU, Fixed),
    (KVM_SET_MP_STATE, VCPU, Fixed),
    (KVM_INTERRUPT, VCPU, Fixed),
    (KVM_SET_SIGNAL_MASK, VCPU, Fixed),
    (KVM_X86_GET_MCE_CAP_SUPPORTED, NODE, Fixed),
    (KVM_X86_SETUP_MCE, VCPU, Fixed),
    (KVM_X86_SET_MCE, VCPU, Fixed),
    (KVM_PRE_FAULT_MEMORY, VCPU, Fixed),
];

/// Addresses at which no process has memory.
const NOWHERE: [u64; 6] = [
    8,
    4095,
    1 << 47,
    0xffff_8880_0000_0000,
    0xffff_ffff_8000_0000,
    u64::MAX,
];

/// The node, a VM and a vCPU.
fn descriptors(guest: &Guest) -> Result<[OwnedFd; 3], String> {
    let copy = |fd: &OwnedFd| fd.try_clone().map_err(|error| error.to_string());
    Ok([node::open()?.into(), copy(&guest.vm)?, copy(&guest.vcpu)?])
}

pub fn commands_of_other_descriptors_are_refused() -> Outcome {
    let guest = Guest::new(&[0xf4])?;
    let good = Mapping::new(4 * 4096);
    for (place, fd) in descriptors(&guest)?.iter().enumerate() {
        for (command, places, _) in COMMANDS.iter().filter(|(_, places, _)| !places[place]) {
            for argument in [0, good.address(), u64::MAX] {
                let answer = ioctl(fd, *command, argument);
                same(
                    &format!("{command:#x} at {place}"),
                    answer,
                    Err(libc::ENOTTY),
                )?;
            }
            // With other sizes and directions it is another command.
            let changed = command ^ 1 << 17;
            let known = COMMANDS.iter().any(|(other, ..)| *other == changed);
            if !known && places.iter().any(|known| *known) {
                let answer = ioctl(fd, changed, good.address());
                same(
                    &format!("{changed:#x} at {place}"),
                    answer,
                    Err(libc::ENOTTY),
                )?;
            }
        }
    }
    Ok(())
}

/// Calls `check` with each descriptor that knows a command.
fn each(mut check: impl FnMut(&OwnedFd, u32, Argument) -> Outcome) -> Outcome {
    let guest = Guest::new(&[0xf4])?;
    let descriptors = descriptors(&guest)?;
    for (command, places, argument) in COMMANDS {
        for (fd, _) in descriptors.iter().zip(places).filter(|(_, known)| **known) {
            check(fd, *command, *argument)?;
        }
    }
    // Nothing of it has changed the guest.
    same("reason", guest.run()?, KVM_EXIT_HLT)
}

pub fn arguments_that_are_nowhere_are_refused() -> Outcome {
    each(|fd, command, argument| {
        for at in NOWHERE.iter().filter(|_| argument != Number) {
            let answer = ioctl(fd, command, *at);
            same(&format!("{command:#x}, {at:#x}"), answer, Err(libc::EFAULT))?;
        }
        Ok(())
    })
}

pub fn arguments_that_are_cut_short_are_refused() -> Outcome {
    let memory = Mapping::new(3 * 4096);
    let beyond = memory.part(2 * 4096, 4096);
    beyond.protect(libc::PROT_NONE).map_err(|e| e.to_string())?;
    let end = beyond.address();
    each(|fd, command, argument| {
        let size = match argument {
            Number => return Ok(()),
            // The count of what is not there.
            Counted => 8,
            Fixed => u64::from(command >> 16 & 0x3fff),
        };
        memory.part(0, 8192).touch(0);
        let wanted = Err(libc::EFAULT);
        for missing in [1, size / 2].into_iter().filter(|_| argument == Fixed) {
            let answer = ioctl(fd, command, end - size + missing.max(1));
            same(&format!("{command:#x} less {missing}"), answer, wanted)?;
        }
        let whole = (end - size - memory.address()) as usize;
        if argument == Counted && command != KVM_GET_EMULATED_CPUID {
            // A new vCPU's table is empty, so nothing is missing.
            let empty = command == KVM_GET_CPUID2;
            memory.write(whole, &100_u32.to_le_bytes());
            let answer = ioctl(fd, command, end - size);
            let wanted = if empty { Ok(0) } else { wanted };
            same(&format!("{command:#x} with 100"), answer, wanted)?;
        }
        Ok(())
    })
}

pub fn a_sign_before_a_command_changes_nothing() -> Outcome {
    each(|fd, command, argument| {
        if argument == Number {
            return Ok(());
        }
        for above in [1 << 32, 0xffff_ffff_0000_0000] {
            let answer = ioctl_long(fd, above | u64::from(command), 8);
            same(&format!("{command:#x}"), answer, Err(libc::EFAULT))?;
        }
        Ok(())
    })
}

/// Numbers that look random and are the same each time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 16) % end
    }

    /// Mostly small: others are refused early.
    fn word(&mut self) -> u64 {
        match self.below(8) {
            0 => self.next(),
            1 => self.next() & 0xffff_ffff,
            2 => 1 << self.below(64),
            3 => u64::MAX << self.below(64),
            _ => self.below(64),
        }
    }
}

const JUNK: usize = 16 * 4096;
/// No slot is larger, so no slot that begins in the junk reaches anything else of the process: the
/// guest would change the program that tests it.
const LARGEST: usize = 1 << 43;
const STEPS: u64 = 6000;

/// Commands one after another, to descriptors of all kinds, with arguments that somebody else
/// changes meanwhile.
fn sequence(seed: u64) -> Outcome {
    let mut random = Random(seed);
    let around = Mapping::reserved(LARGEST + 2 * JUNK)?;
    let junk = Mapping::shared_at(around.address(), JUNK)?;
    let mut scribble = Random(!seed);
    let scribbler = sys::fork(|| {
        loop {
            let at = scribble.below(JUNK as u64 / 8) as usize * 8;
            let word = scribble.word();
            junk.write(at, &word.to_le_bytes());
        }
    });
    let scribbler = scribbler.map_err(|error| format!("no child: error {error}"))?;
    let guest = Guest::new(&[0xeb, 0xfe])?;
    let [node, vm, vcpu] = descriptors(&guest)?;
    let mut others: Vec<OwnedFd> = Vec::new();
    sys::alarm_every(5);
    for _ in 0..STEPS {
        let (mut command, ..) = COMMANDS[random.below(COMMANDS.len() as u64) as usize];
        if random.below(16) == 0 {
            command ^= 1 << random.below(32);
        }
        let argument = match random.below(8) {
            0 => random.word(),
            1 => NOWHERE[random.below(6) as usize],
            2 => junk.address() + JUNK as u64 - random.below(64),
            _ => junk.address() + random.below(JUNK as u64 / 8) * 8,
        };
        let at = argument.wrapping_sub(junk.address()) as usize;
        if command == KVM_SET_USER_MEMORY_REGION && at < JUNK - 64 {
            // Sometimes what could be meant: pages of the junk.
            let page = random.below(16) << 12;
            let slot = [random.below(4), page, 4096, junk.address() + page];
            junk.write(at, slot.map(u64::to_le_bytes).as_flattened());
        }
        let fd = match random.below(9) {
            0 => &node,
            1..4 => &vm,
            4..8 => &vcpu,
            _ => others.first().unwrap_or(&vcpu),
        };
        let answer = ioctl(fd, command, argument);
        if command == KVM_SET_SIGNAL_MASK {
            // Or the alarm would not end a run.
            let _ = ioctl(fd, command, 0);
        }
        let made = matches!(command, KVM_CREATE_VM | KVM_CREATE_VCPU);
        if let (true, Ok(new)) = (made, answer)
            && new > vcpu.as_raw_fd()
        {
            others.insert(0, sys::owned(new));
            others.truncate(8);
        }
    }
    // The alarm would end the wait.
    sys::alarm_in(0);
    sys::kill(scribbler);
    sys::wait(scribbler).map(drop).map_err(|e| e.to_string())
}

pub fn random_commands_harm_nobody() -> Outcome {
    for seed in [0x1234_5678_9abc_def1, 0xfeed_f00d_dead_beef] {
        let child = sys::fork(|| match sequence(seed) {
            Ok(()) => 0,
            Err(why) => {
                println!("{why}");
                1
            }
        });
        same("a child", child.and_then(sys::wait), Ok(0))?;
    }
    // A good one still runs.
    let guest = Guest::new(&[0xf4])?;
    same("reason", guest.run()?, KVM_EXIT_HLT)
}
