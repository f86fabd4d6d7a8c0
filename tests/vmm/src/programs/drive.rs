//! One vCPU of a guest program: runs it, and answers its ports.
use std::io;
use std::ops::ControlFlow::{self, Break, Continue};
use std::sync::PoisonError;

use waterbear_core::abi::kvm::*;
use waterbear_guests::LOAD;
use waterbear_guests::devices::{Port, number, put};
use waterbear_guests::ports::*;

use super::commands;
use super::machine::{Machine, Verdict, Wanted, Wishes};
use crate::kvm::{Exit, Node, Vcpu};

/// A vCPU that runs a program.
#[derive(Debug)]
pub struct Drive<'m> {
    machine: &'m Machine,
    index: u32,
    vcpu: Vcpu,
    arguments: [u32; 3],
    /// What the last command came to.
    status: u32,
    result: u32,
    /// An interrupt, and an NMI, that come once it halts.
    later: Option<u8>,
    nmi_later: bool,
    /// Which of two guests this is.
    pub twin: u32,
}

type Flow = ControlFlow<Verdict>;

impl From<io::Error> for Verdict {
    fn from(error: io::Error) -> Self {
        Verdict::Error(error.to_string())
    }
}

impl<'m> Drive<'m> {
    /// Makes the vCPU; it has not begun.
    pub fn new(node: &Node, machine: &'m Machine, index: u32) -> io::Result<Self> {
        if index == 0 {
            machine.wanted[0].with(|wishes| wishes.start = Some(LOAD));
        }
        let vcpu = machine.vm.vcpu(node, index, LOAD)?;
        let _first = machine.wanted[index as usize].bell.set(vcpu.bell());
        Ok(Self {
            machine,
            index,
            vcpu,
            arguments: [0; 3],
            status: 0,
            result: 0,
            later: None,
            nmi_later: false,
            twin: 0,
        })
    }

    fn wanted(&self) -> &'m Wanted {
        &self.machine.wanted[self.index as usize]
    }

    /// Runs the vCPU until the program is over.
    pub fn run(&mut self) {
        let _home = self.wanted().home.enter();
        self.sleep(|wishes| wishes.start.is_some());
        if let Some(address) = self.wanted().with(|wishes| wishes.start)
            && let Err(error) = self.vcpu.begin_at(address)
        {
            self.machine.finish(error.into());
        }
        while !self.machine.is_over() {
            self.step();
        }
    }

    /// Runs the vCPU until its next exit, on a thread that runs others too.
    pub fn turn(&mut self) {
        if !self.machine.is_over() {
            let _home = self.wanted().home.enter();
            self.step();
        }
    }

    fn step(&mut self) {
        let result = self.try_step().unwrap_or_else(|error| Break(error.into()));
        if let Break(verdict) = result {
            self.machine.finish(verdict);
        }
    }

    fn try_step(&mut self) -> io::Result<Flow> {
        // Whoever has told before is seen in the second line; whoever tells from there on rings
        // the bell that the first line has stopped.
        self.vcpu.come_back_at_once(false);
        if self.wanted().looked() {
            self.vcpu.come_back_at_once(true);
        }
        self.deliver()?;
        let exit = self.vcpu.run()?;
        if let Some(verdict) = self.machine.count_exit() {
            return Ok(Break(verdict));
        }
        match exit {
            Exit::Port {
                port,
                size,
                input,
                count,
                data,
            } => self.port(port, size, input, (data, count)),
            Exit::Device {
                gpa,
                size,
                write,
                data,
            } => {
                let mut bytes = [0; 8];
                let bytes = &mut bytes[..size.min(8)];
                self.vcpu.area().read(data, bytes);
                let devices = &self.machine.devices;
                let mut devices = devices.lock().unwrap_or_else(PoisonError::into_inner);
                devices.mmio(gpa, write, bytes);
                if !write {
                    self.vcpu.area().write(data, bytes);
                }
                Ok(Continue(()))
            }
            Exit::Halt => Ok(self.halted()),
            Exit::Window | Exit::TaskPriority | Exit::Interrupted => Ok(Continue(())),
            other => Ok(Break(Verdict::Left(other))),
        }
    }

    /// Hands the interrupts and NMIs over that are wanted and can be taken.
    fn deliver(&mut self) -> io::Result<()> {
        let wanted = self.wanted();
        for _ in 0..wanted.with(|wishes| std::mem::take(&mut wishes.nmis)) {
            self.vcpu.nmi()?;
        }
        if self.vcpu.ready()
            && let Some(vector) = wanted.with(Wishes::take_interrupt)
        {
            self.vcpu.interrupt(vector)?;
        }
        self.vcpu
            .want_window(wanted.with(|wishes| wishes.has_interrupt()));
        Ok(())
    }

    fn halted(&mut self) -> Flow {
        let (later, nmi) = (self.later.take(), std::mem::take(&mut self.nmi_later));
        let wakes = self.wanted().with(|wishes| {
            if let Some(vector) = later {
                wishes.add_interrupt(vector);
            }
            wishes.nmis += u32::from(nmi);
            wishes.wakes()
        });
        if self.machine.program.vcpus == 1 && !wakes {
            return Break(Verdict::Asleep);
        }
        self.sleep(Wishes::wakes);
        Continue(())
    }

    /// Sleeps until `ready`, or until the program is over.
    fn sleep(&self, ready: impl Fn(&Wishes) -> bool) {
        let wanted = self.wanted();
        while !wanted.with(|wishes| ready(wishes)) && !self.machine.is_over() {
            wanted.sleep();
        }
    }

    /// Accesses of a port, with their data: where they are, and how many.
    fn port(
        &mut self,
        port: u16,
        size: usize,
        input: bool,
        (data, count): (usize, usize),
    ) -> io::Result<Flow> {
        let mut bytes = [0; 4];
        let bytes = &mut bytes[..size.min(4)];
        for at in (0..count).map(|index| data + index * size) {
            if !input {
                self.vcpu.area().read(at, bytes);
            }
            if let Some(device) = Port::at(port) {
                let devices = &self.machine.devices;
                let mut devices = devices.lock().unwrap_or_else(PoisonError::into_inner);
                if input {
                    devices.input(device, bytes);
                } else {
                    devices.output(device, bytes, |text| {
                        println!("NOTE guest: {}", text.escape_ascii());
                    });
                }
            } else if input {
                put(bytes, self.input(port).into());
            } else if let Break(verdict) = self.output(port, number(bytes) as u32)? {
                return Ok(Break(verdict));
            }
            if input {
                self.vcpu.area().write(at, bytes);
            }
        }
        Ok(Continue(()))
    }

    fn input(&self, port: u16) -> u32 {
        match port {
            COMMAND => self.status,
            ARGUMENT_0 => self.result,
            VCPU => self.index,
            QUIRKS => self.machine.quirks,
            TWIN => self.twin,
            VCPUS => self.machine.program.vcpus,
            _ => u32::MAX,
        }
    }

    fn output(&mut self, port: u16, value: u32) -> io::Result<Flow> {
        let wanted = self.wanted();
        match port {
            DONE => {
                return Ok(Break(if value == 1 {
                    Verdict::Passed
                } else {
                    Verdict::Check(0)
                }));
            }
            FAILED => return Ok(Break(Verdict::Check(value))),
            INJECT => wanted.with(|wishes| wishes.add_interrupt(value as u8)),
            INJECT_LATER => self.later = Some(value as u8),
            NMI => wanted.with(|wishes| wishes.nmis += 1),
            NMI_LATER => self.nmi_later = true,
            RAISE => self.raise(value)?,
            COMMAND => match commands::run(self.machine, value, self.arguments) {
                Ok(result) => (self.status, self.result) = (0, result),
                Err(_) => self.status = 1,
            },
            ARGUMENT_0 => self.arguments[0] = value,
            ARGUMENT_1 => self.arguments[1] = value,
            ARGUMENT_2 => self.arguments[2] = value,
            _ => {}
        }
        Ok(Continue(()))
    }

    /// Raises an exception behind the OUT that asked for it.
    fn raise(&mut self, wish: u32) -> io::Result<()> {
        const PAGE_FAULT: u32 = 14;
        self.vcpu.finish()?;
        if wish & 0xff == PAGE_FAULT {
            let mut sregs: kvm_sregs = self.vcpu.get(KVM_GET_SREGS)?;
            sregs.cr2 = self.arguments[0].into();
            self.vcpu.set(KVM_SET_SREGS, &sregs)?;
        }
        let mut events: kvm_vcpu_events = self.vcpu.get(KVM_GET_VCPU_EVENTS)?;
        events.exception.injected = 1;
        events.exception.nr = wish as u8;
        events.exception.has_error_code = (wish >> 8) as u8 & 1;
        events.exception.error_code = wish >> 16;
        self.vcpu.set(KVM_SET_VCPU_EVENTS, &events)
    }
}
