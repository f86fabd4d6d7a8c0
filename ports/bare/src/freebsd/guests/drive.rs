//! One vCPU of a guest program: runs it, and answers its ports.
use core::ops::ControlFlow::{self, Break, Continue};
use core::sync::atomic::Ordering;

use waterbear_core::abi::kvm::*;
use waterbear_guests::LOAD;
use waterbear_guests::devices::{Port, number, put};
use waterbear_guests::ports::*;

use super::commands;
use super::machine::{Machine, Reach, Verdict};
use crate::console::say;
use crate::freebsd::calls::Outcome;
use crate::freebsd::kvm::{DEVICE_DATA, Exit, Vcpu};
use crate::guests::cpuid;
use crate::guests::machine::Wanted;
use crate::host::wait;

/// There are no trackers in the interface; the bit of `guest.inc`.
const NO_TRACKER: u32 = 16;

/// A vCPU that runs a program.
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

impl<'m> Drive<'m> {
    /// Makes the vCPU; it has not begun.
    pub fn new(machine: &'m Machine, index: u32) -> Outcome<Self> {
        let vcpu = machine.vm.vcpu(&machine.node, index, LOAD)?;
        machine.announce(index as usize, &vcpu);
        if index == 0 {
            machine.reach[0].wanted.start_at(LOAD);
        }
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

    fn reach(&self) -> &'m Reach {
        &self.machine.reach[self.index as usize]
    }

    fn wanted(&self) -> &'m Wanted {
        &self.reach().wanted
    }

    /// Runs the vCPU until the program is over.
    pub fn run(&mut self) {
        self.sleep(|wanted| wanted.started().is_some());
        if let Some(address) = self.wanted().started()
            && let Err(error) = self.vcpu.begin_at(address)
        {
            self.machine.finish(Verdict::Error(error));
        }
        while !self.machine.is_over() {
            self.step();
        }
    }

    /// Runs the vCPU until its next exit.
    pub fn step(&mut self) {
        let flow = self.try_step();
        if let Break(verdict) = flow.unwrap_or_else(|error| Break(Verdict::Error(error))) {
            self.machine.finish(verdict);
        }
    }

    fn try_step(&mut self) -> Outcome<Flow> {
        // Whoever has told before is seen in the second line; whoever tells from there on makes the
        // run come back that the first line lets go on.
        self.vcpu.come_back_at_once(false)?;
        if self.reach().look.swap(false, Ordering::SeqCst) {
            self.vcpu.come_back_at_once(true)?;
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
            Exit::Device { gpa, size, write } => {
                let mut bytes: [u8; 8] = self.vcpu.field(DEVICE_DATA)?;
                let bytes = &mut bytes[..size.min(8)];
                let devices = &self.machine.devices;
                devices.with(|devices| devices.mmio(gpa, write, bytes));
                if !write {
                    self.vcpu.set_field(DEVICE_DATA, bytes)?;
                }
                Ok(Continue(()))
            }
            Exit::Halt => Ok(self.halted()),
            Exit::Window | Exit::Interrupted => Ok(Continue(())),
            other => Ok(Break(Verdict::Left(other))),
        }
    }

    /// Hands the interrupts and NMIs over that are wanted and can be taken.
    fn deliver(&self) -> Outcome<()> {
        let wanted = self.wanted();
        while wanted.take_nmi() {
            self.vcpu.command(KVM_NMI, 0)?;
        }
        if self.vcpu.ready()?
            && let Some(vector) = wanted.take_interrupt()
        {
            self.vcpu.interrupt(vector)?;
        }
        self.vcpu.want_window(wanted.has_interrupt())
    }

    fn halted(&mut self) -> Flow {
        let wanted = self.wanted();
        if let Some(vector) = self.later.take() {
            wanted.add_interrupt(vector);
        }
        if core::mem::take(&mut self.nmi_later) {
            wanted.add_nmi();
        }
        if self.machine.program.vcpus == 1 && !wanted.wakes() {
            return Break(Verdict::Asleep);
        }
        self.sleep(Wanted::wakes);
        Continue(())
    }

    /// Sleeps until `ready`, or until the program is over.
    fn sleep(&self, ready: impl Fn(&Wanted) -> bool) {
        let wanted = self.wanted();
        wait::until(false, || ready(wanted) || self.machine.is_over());
    }

    /// Accesses of a port, with their data: where they are, and how many.
    fn port(
        &mut self,
        port: u16,
        size: u64,
        input: bool,
        (data, count): (u64, u64),
    ) -> Outcome<Flow> {
        let mut bytes = [0; 4];
        let bytes = &mut bytes[..(size as usize).min(4)];
        for at in (0..count).map(|index| data + index * size) {
            if !input {
                let calls = self.machine.node.calls;
                calls.peek(self.vcpu.area + at, bytes)?;
            }
            if let Some(device) = Port::at(port) {
                let devices = &self.machine.devices;
                devices.with(|devices| {
                    if input {
                        devices.input(device, bytes);
                    } else {
                        devices.output(device, bytes, |text| {
                            say!("NOTE guest: {}", text.escape_ascii());
                        });
                    }
                });
            } else if input {
                put(bytes, self.input(port).into());
            } else if let Break(verdict) = self.output(port, number(bytes) as u32)? {
                return Ok(Break(verdict));
            }
            if input {
                self.vcpu.set_field(at, bytes)?;
            }
        }
        Ok(Continue(()))
    }

    fn input(&self, port: u16) -> u32 {
        match port {
            COMMAND => self.status,
            ARGUMENT_0 => self.result,
            VCPU => self.index,
            QUIRKS => cpuid::quirks() | NO_TRACKER,
            TWIN => self.twin,
            VCPUS => self.machine.program.vcpus,
            _ => u32::MAX,
        }
    }

    fn output(&mut self, port: u16, value: u32) -> Outcome<Flow> {
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
            INJECT => wanted.add_interrupt(value as u8),
            INJECT_LATER => self.later = Some(value as u8),
            NMI => wanted.add_nmi(),
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
    fn raise(&mut self, wish: u32) -> Outcome<()> {
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
