//! One vCPU of a guest program: runs it, and answers its ports.
use core::ops::ControlFlow::{self, Break, Continue};

use waterbear_core::Error;
use waterbear_core::arch::Exception;
use waterbear_core::mem::Box;
use waterbear_core::run::{GuestCpu, Leave};
use waterbear_core::vcpu::Vcpu;
use waterbear_core::vendor::Vendor;
use waterbear_guests::LOAD;
use waterbear_guests::devices::{Port, number, put};
use waterbear_guests::ports::*;

use super::commands;
use super::cpuid;
use super::machine::{Machine, Verdict};
use crate::console::say;
use crate::host::{self, Bare};

/// A vCPU that runs a program.
pub struct Drive<'m, 'v, V: Vendor> {
    machine: &'m Machine<'v, V>,
    index: usize,
    vcpu: &'m Vcpu<Bare>,
    cpu: Box<GuestCpu<Bare, V>, Bare>,
    arguments: [u32; 3],
    /// What the last command came to.
    status: u32,
    result: u32,
    /// Interrupts, and an NMI, that come once it halts.
    later: Option<u8>,
    nmi_later: bool,
    /// Which of two guests this is.
    pub twin: u32,
}

type Flow = ControlFlow<Verdict>;

impl<'m, 'v, V: Vendor> Drive<'m, 'v, V> {
    /// Makes the vCPU; it has not begun.
    pub fn new(machine: &'m Machine<'v, V>, index: usize) -> Result<Self, Error> {
        let vcpu = machine.vm.vcpus().add(index as u32)?;
        let mut cpu = GuestCpu::new(&Bare, machine.vendor, &cpuid::limited(machine.vendor))?;
        cpuid::give(machine.vendor, &mut cpu)?;
        let regs = machine.vendor.regs(cpu.state());
        regs.rip = LOAD;
        regs.rflags = 2;
        if index == 0 {
            machine.wanted[0].start_at(LOAD);
        }
        Ok(Self {
            machine,
            index,
            vcpu,
            cpu,
            arguments: [0; 3],
            status: 0,
            result: 0,
            later: None,
            nmi_later: false,
            twin: 0,
        })
    }

    /// Runs the vCPU until the program is over.
    pub fn run(&mut self) {
        let wanted = &self.machine.wanted[self.index];
        let machine = self.machine;
        if let Break(verdict) = self.sleep(|| wanted.started().is_some()) {
            return machine.finish(verdict);
        }
        if let Some(address) = wanted.started() {
            machine.vendor.regs(self.cpu.state()).rip = address;
        }
        while !machine.is_over() {
            self.step();
        }
    }

    /// Runs the vCPU until its next exit to us.
    pub fn step(&mut self) {
        if let Break(verdict) = self.try_step() {
            if !matches!(verdict, Verdict::Passed) {
                self.show(verdict);
            }
            self.machine.finish(verdict);
        }
    }

    fn try_step(&mut self) -> Flow {
        self.deliver();
        let leave = self
            .cpu
            .run(&self.machine.vm, self.vcpu, self.machine.vendor);
        if let Some(verdict) = self.machine.count_exit() {
            return Break(verdict);
        }
        match leave {
            Err(error) => Break(Verdict::Error(error)),
            Ok(Leave::Io {
                port,
                size,
                input,
                count,
            }) => self.port(port, size.into(), input, count as usize),
            Ok(Leave::Mmio { gpa, write, .. }) => {
                let mut devices = self.machine.devices.lock();
                devices.mmio(gpa.0, write, self.cpu.data());
                Continue(())
            }
            Ok(Leave::Halted) => self.halted(),
            Ok(Leave::Interrupted) => {
                host::take_signal();
                self.machine.too_long().map_or(Continue(()), Break)
            }
            Ok(Leave::InterruptWindow | Leave::TaskPriority) => Continue(()),
            Ok(other) => Break(Verdict::Left(other)),
        }
    }

    /// Hands the interrupts and NMIs over that are wanted and can be taken.
    fn deliver(&mut self) {
        let wanted = &self.machine.wanted[self.index];
        while wanted.take_nmi() {
            self.cpu.queue_nmi();
        }
        if self.cpu.ready_for_interrupt(self.machine.vendor)
            && let Some(vector) = wanted.take_interrupt()
        {
            // It has just said that none waits.
            let _ = self.cpu.queue_interrupt(vector);
        }
        self.cpu.want_interrupt_window(wanted.has_interrupt());
    }

    fn halted(&mut self) -> Flow {
        let wanted = &self.machine.wanted[self.index];
        if let Some(vector) = self.later.take() {
            wanted.add_interrupt(vector);
        }
        if core::mem::take(&mut self.nmi_later) {
            wanted.add_nmi();
        }
        if self.machine.program.vcpus == 1 && !wanted.wakes() {
            return Break(Verdict::Asleep);
        }
        self.sleep(|| wanted.wakes())
    }

    /// Sleeps until `ready`, or until the program is over.
    fn sleep(&self, ready: impl Fn() -> bool) -> Flow {
        let machine = self.machine;
        while !ready() && !machine.is_over() {
            match self.vcpu.block(|| ready() || machine.is_over()) {
                Ok(()) => {}
                Err(Error::Interrupted) => {
                    host::take_signal();
                }
                Err(error) => return Break(Verdict::Error(error)),
            }
            if let Some(verdict) = machine.too_long() {
                return Break(verdict);
            }
        }
        Continue(())
    }

    fn port(&mut self, port: u16, size: usize, input: bool, count: usize) -> Flow {
        if let Some(device) = Port::at(port) {
            let mut devices = self.machine.devices.lock();
            for bytes in self.cpu.data().chunks_mut(size).take(count) {
                if input {
                    devices.input(device, bytes);
                } else {
                    devices.output(device, bytes, |text| {
                        say!("NOTE guest: {}", text.escape_ascii());
                    });
                }
            }
            return Continue(());
        }
        if input {
            let value = self.input(port);
            put(self.cpu.data(), value.into());
            Continue(())
        } else {
            let value = number(self.cpu.data()) as u32;
            self.output(port, value)
        }
    }

    fn input(&self, port: u16) -> u32 {
        match port {
            COMMAND => self.status,
            ARGUMENT_0 => self.result,
            VCPU => self.index as u32,
            QUIRKS => cpuid::quirks(),
            TWIN => self.twin,
            VCPUS => self.machine.program.vcpus,
            _ => u32::MAX,
        }
    }

    fn output(&mut self, port: u16, value: u32) -> Flow {
        let wanted = &self.machine.wanted[self.index];
        match port {
            DONE => {
                return Break(if value == 1 {
                    Verdict::Passed
                } else {
                    Verdict::Check(0)
                });
            }
            FAILED => return Break(Verdict::Check(value)),
            INJECT => wanted.add_interrupt(value as u8),
            INJECT_LATER => self.later = Some(value as u8),
            NMI => wanted.add_nmi(),
            NMI_LATER => self.nmi_later = true,
            RAISE => self.cpu.raise(Exception {
                vector: value as u8,
                error: (value & 1 << 8 != 0).then_some(value >> 16),
                payload: self.arguments[0].into(),
            }),
            COMMAND => match commands::run(self.machine, value, self.arguments) {
                Ok(result) => (self.status, self.result) = (0, result),
                Err(error) => self.status = 1 + error as u32,
            },
            ARGUMENT_0 => self.arguments[0] = value,
            ARGUMENT_1 => self.arguments[1] = value,
            ARGUMENT_2 => self.arguments[2] = value,
            _ => {}
        }
        Continue(())
    }

    /// Prints what may tell why.
    fn show(&mut self, verdict: Verdict) {
        let vendor = self.machine.vendor;
        if matches!(verdict, Verdict::Left(Leave::EmulationFailed)) {
            say!("NOTE instruction {:02x?}", self.cpu.data());
        }
        let state = self.cpu.state();
        let regs = *vendor.regs(state);
        say!(
            "NOTE vCPU {} RIP {:#x} RFLAGS {:#x}, RAX to R15 {:x?}",
            self.index,
            regs.rip,
            regs.rflags,
            regs.general
        );
        let noted = |at| match self.machine.slot(0).and_then(|slot| slot.word(at)) {
            // SAFETY: inside the slot's memory.
            Some(word) => unsafe { word.read_volatile() },
            None => 0,
        };
        // Where the programs' handlers keep them.
        say!(
            "NOTE last exception {:#x}, error {:#x}, at {:#x}, CR2 {:#x}",
            noted(0x608),
            noted(0x610),
            noted(0x618),
            noted(0x630)
        );
    }
}
