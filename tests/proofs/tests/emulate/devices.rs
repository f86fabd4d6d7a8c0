//! Devices that answer between two executions of an instruction.
use std::collections::VecDeque;

use waterbear_core::arch::{Cr0, Cr4, Efer, Segment, SegmentName};
use waterbear_core::emulate::{
    Access, Devices, Done, Fragment, Machine, Stop, Target, execute, pieces,
};
use waterbear_core::regs::Regs;

use crate::flat::Flat;

/// Memory from here to [`DEVICE`], then a device, then memory again.
const MEMORY: u64 = 0x1_0000;
const DEVICE: u64 = 0x1_2000;
const BEHIND: u64 = 0x1_3000;
const END: u64 = 0x1_4000;

/// What user space sees.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Seen {
    Read(u64, u8),
    Write(u64, u8, u64),
}

/// A machine with a device in the middle, by the way of [`Devices`].
struct Rig {
    flat: Flat,
    devices: Devices,
}

impl Rig {
    fn new() -> Self {
        let mut flat = Flat::long(MEMORY, (END - MEMORY) as usize);
        for (index, byte) in flat.memory.iter_mut().enumerate() {
            *byte = index as u8 ^ 0x55;
        }
        flat.regs.rip = 0x100;
        Self {
            flat,
            devices: Devices::new(),
        }
    }

    fn set(&mut self, register: usize, value: u64) {
        self.flat.regs.general[register] = value;
    }

    fn get(&self, register: usize) -> u64 {
        self.flat.regs.general[register]
    }

    fn is_device(linear: u64) -> bool {
        (DEVICE..BEHIND).contains(&linear)
    }

    /// Executes the instruction until it is done, with user space doing its part in between.
    /// User space answers with the given numbers. Returns what it saw.
    fn run(&mut self, bytes: &[u8], answers: &[u64]) -> (Done, Vec<Seen>) {
        let mut answers = VecDeque::from(answers.to_vec());
        let mut seen = Vec::new();
        let instruction = self.flat.decode(bytes);
        loop {
            let before = (self.flat.regs, self.flat.memory.clone());
            self.devices.begin();
            match execute(&instruction, self) {
                Ok(done) => {
                    self.devices.finish();
                    while let Some(write) = self.devices.take_write() {
                        let mut data = [0; 8];
                        data[..write.bytes().len()].copy_from_slice(write.bytes());
                        let value = u64::from_le_bytes(data);
                        seen.push(Seen::Write(address(&write), write.length, value));
                    }
                    assert_eq!(answers, [], "all answers are used");
                    return (done, seen);
                }
                Err(Stop::Device) => {
                    assert_eq!((self.flat.regs, self.flat.memory.clone()), before);
                    let question = self.devices.question().unwrap();
                    seen.push(Seen::Read(address(&question), question.length));
                    let answer = answers.pop_front().unwrap();
                    self.devices.answer(&answer.to_le_bytes());
                }
                Err(stop) => panic!("{stop:?}"),
            }
        }
    }
}

fn address(fragment: &Fragment) -> u64 {
    match fragment.target {
        Target::Memory(address) => address,
        Target::Port(port) => u64::from(port),
    }
}

impl Machine for Rig {
    const HAS_VECTORS: bool = true;

    fn regs(&mut self) -> &mut Regs {
        self.flat.regs()
    }

    fn segment(&mut self, name: SegmentName) -> Segment {
        self.flat.segment(name)
    }

    fn cr0(&mut self) -> Cr0 {
        self.flat.cr0
    }

    fn cr4(&mut self) -> Cr4 {
        self.flat.cr4
    }

    fn efer(&mut self) -> Efer {
        self.flat.efer
    }

    fn cpl(&mut self) -> u8 {
        self.flat.cpl
    }

    fn read(&mut self, linear: u64, data: &mut [u8], access: Access) -> Result<(), Stop> {
        let (first, second) = pieces(linear, data.len(), true);
        for piece in [Some(first), second].into_iter().flatten() {
            let data = &mut data[piece.start..piece.end];
            if !Self::is_device(piece.linear) {
                self.flat.read(piece.linear, data, access)?;
            } else if access != Access::Probe {
                self.devices.read(Target::Memory(piece.linear), data)?;
            }
        }
        Ok(())
    }

    fn write(&mut self, linear: u64, data: &[u8]) -> Result<(), Stop> {
        let (first, second) = pieces(linear, data.len(), true);
        // Whether it may, first.
        for piece in [Some(first), second].into_iter().flatten() {
            let mut unused = data[piece.start..piece.end].to_vec();
            self.read(piece.linear, &mut unused, Access::Probe)?;
        }
        for piece in [Some(first), second].into_iter().flatten() {
            let data = &data[piece.start..piece.end];
            if Self::is_device(piece.linear) {
                self.devices.write(Target::Memory(piece.linear), data)?;
            } else {
                self.flat.write(piece.linear, data)?;
            }
        }
        Ok(())
    }

    fn compare_exchange(&mut self, linear: u64, _: &[u8], new: &[u8]) -> Result<bool, Stop> {
        self.write(linear, new)?;
        Ok(true)
    }

    fn port_in(&mut self, port: u16, data: &mut [u8]) -> Result<(), Stop> {
        self.devices.read(Target::Port(port), data)
    }

    fn port_out(&mut self, port: u16, data: &[u8]) -> Result<(), Stop> {
        self.devices.write(Target::Port(port), data)
    }

    fn again(&mut self) -> bool {
        self.devices.is_idle()
    }

    fn vector(&mut self, number: u8) -> Result<[u64; 2], Stop> {
        self.flat.vector(number)
    }

    fn set_vector(&mut self, number: u8, value: [u64; 2]) -> Result<(), Stop> {
        self.flat.set_vector(number, value)
    }
}

#[test]
fn a_read_from_a_device_waits_for_its_answer() {
    let mut rig = Rig::new();
    rig.set(Regs::RBX, DEVICE + 4);
    rig.set(Regs::RAX, u64::MAX);
    // MOV EAX, [RBX]
    let seen = rig.run(&[0x8b, 0x03], &[0x1122_3344_5566_7788]);
    assert_eq!(seen, (Done::Retired, vec![Seen::Read(DEVICE + 4, 4)]));
    assert_eq!(rig.get(Regs::RAX), 0x5566_7788);
    assert_eq!(rig.flat.regs.rip, 0x102);
}

#[test]
fn a_write_to_a_device_is_seen_when_the_instruction_has_happened() {
    let mut rig = Rig::new();
    rig.set(Regs::RBX, DEVICE);
    rig.set(Regs::RAX, 0x1122_3344_5566_7788);
    // MOV [RBX], RAX
    let seen = rig.run(&[0x48, 0x89, 0x03], &[]);
    let write = Seen::Write(DEVICE, 8, 0x1122_3344_5566_7788);
    assert_eq!(seen, (Done::Retired, vec![write]));
}

#[test]
fn a_change_of_a_device_reads_once_and_writes_once() {
    let mut rig = Rig::new();
    rig.set(Regs::RBX, DEVICE + 8);
    rig.set(Regs::RAX, 3);
    let read = Seen::Read(DEVICE + 8, 4);
    // ADD [RBX], EAX
    let seen = rig.run(&[0x01, 0x03], &[7]);
    assert_eq!(
        seen,
        (Done::Retired, vec![read, Seen::Write(DEVICE + 8, 4, 10)])
    );
    // LOCK XADD [RBX], EAX
    let seen = rig.run(&[0xf0, 0x0f, 0xc1, 0x03], &[20]);
    assert_eq!(
        seen,
        (Done::Retired, vec![read, Seen::Write(DEVICE + 8, 4, 23)])
    );
    assert_eq!(rig.get(Regs::RAX), 20);
    // CMP [RBX], EAX
    let seen = rig.run(&[0x39, 0x03], &[20]);
    assert_eq!(seen, (Done::Retired, vec![read]));
    // BTS QWORD [RBX], RCX, 64 bits further.
    rig.set(Regs::RCX, 65);
    let seen = rig.run(&[0x48, 0x0f, 0xab, 0x0b], &[0]);
    let (read, write) = (Seen::Read(DEVICE + 16, 8), Seen::Write(DEVICE + 16, 8, 2));
    assert_eq!(seen, (Done::Retired, vec![read, write]));
}

#[test]
fn a_move_from_device_to_device_reads_all_before_it_writes() {
    let mut rig = Rig::new();
    rig.set(Regs::RSI, DEVICE);
    rig.set(Regs::RDI, DEVICE + 0x800);
    // MOVSQ
    let seen = rig.run(&[0x48, 0xa5], &[0xabcd]);
    let write = Seen::Write(DEVICE + 0x800, 8, 0xabcd);
    assert_eq!(seen, (Done::Retired, vec![Seen::Read(DEVICE, 8), write]));
    assert_eq!(rig.get(Regs::RSI), DEVICE + 8);
}

#[test]
fn a_comparison_of_two_device_registers_asks_for_both_in_order() {
    let mut rig = Rig::new();
    rig.set(Regs::RSI, DEVICE + 1);
    rig.set(Regs::RDI, DEVICE + 2);
    // CMPSB
    let seen = rig.run(&[0xa6], &[5, 5]);
    let reads = vec![Seen::Read(DEVICE + 1, 1), Seen::Read(DEVICE + 2, 1)];
    assert_eq!(seen, (Done::Retired, reads));
    assert_eq!(rig.flat.regs.rflags & 0x40, 0x40);
}

#[test]
fn a_repeated_move_touches_one_device_register_per_call() {
    let mut rig = Rig::new();
    rig.set(Regs::RSI, DEVICE);
    rig.set(Regs::RDI, MEMORY);
    rig.set(Regs::RCX, 3);
    // REP MOVSD
    for (step, done) in [Done::Repeats, Done::Repeats, Done::Retired]
        .into_iter()
        .enumerate()
    {
        let seen = rig.run(&[0xf3, 0xa5], &[step as u64 + 100]);
        let read = Seen::Read(DEVICE + 4 * step as u64, 4);
        assert_eq!(seen, (done, vec![read]));
    }
    assert_eq!(
        rig.flat.memory[..12],
        [100, 0, 0, 0, 101, 0, 0, 0, 102, 0, 0, 0]
    );
    // In memory it goes on by itself, until it reaches the device.
    rig.set(Regs::RSI, MEMORY);
    rig.set(Regs::RDI, DEVICE - 8);
    rig.set(Regs::RCX, 3);
    let seen = rig.run(&[0xf3, 0xa5], &[]);
    assert_eq!(seen, (Done::Retired, vec![Seen::Write(DEVICE, 4, 102)]));
}

#[test]
fn a_call_that_stops_at_a_device_keeps_the_iterations_in_memory_before_it() {
    let mut rig = Rig::new();
    rig.set(Regs::RSI, DEVICE - 8);
    rig.set(Regs::RDI, MEMORY);
    rig.set(Regs::RCX, 3);
    let instruction = rig.flat.decode(&[0xf3, 0xa5]);
    rig.devices.begin();
    assert_eq!(execute(&instruction, &mut rig), Err(Stop::Device));
    assert_eq!((rig.get(Regs::RCX), rig.get(Regs::RSI)), (1, DEVICE));
    let seen = rig.run_answered(&instruction, 9);
    assert_eq!(seen, Ok(Done::Retired));
    assert_eq!((rig.flat.memory[8], rig.flat.regs.rip), (9, 0x102));
}

impl Rig {
    /// Gives an answer and executes once more.
    fn run_answered(
        &mut self,
        instruction: &waterbear_core::emulate::Instruction,
        answer: u64,
    ) -> Result<Done, Stop> {
        self.devices.answer(&answer.to_le_bytes());
        self.devices.begin();
        execute(instruction, self)
    }
}

#[test]
fn an_operand_that_straddles_memory_and_a_device_is_put_together() {
    let mut rig = Rig::new();
    rig.set(Regs::RBX, DEVICE - 3);
    let at = (DEVICE - 3 - MEMORY) as usize;
    rig.flat.memory[at..at + 3].copy_from_slice(&[1, 2, 3]);
    // MOV RAX, [RBX]
    let seen = rig.run(&[0x48, 0x8b, 0x03], &[0xff_aabb_ccdd_eeff]);
    assert_eq!(seen, (Done::Retired, vec![Seen::Read(DEVICE, 5)]));
    assert_eq!(rig.get(Regs::RAX), 0xbbcc_ddee_ff03_0201);
    // NOT QWORD [RBX], at the device's other end.
    rig.set(Regs::RBX, BEHIND - 2);
    let seen = rig.run(&[0x48, 0xf7, 0x13], &[0x1234]);
    let (read, write) = (
        Seen::Read(BEHIND - 2, 2),
        Seen::Write(BEHIND - 2, 2, 0xedcb),
    );
    assert_eq!(seen, (Done::Retired, vec![read, write]));
    let at = (BEHIND - MEMORY) as usize;
    assert_eq!(rig.flat.memory[at], !0x55);
}

#[test]
fn sixteen_bytes_are_several_device_accesses() {
    let mut rig = Rig::new();
    rig.set(Regs::RBX, DEVICE + 16);
    // MOVUPS XMM1, [RBX], and back.
    let seen = rig.run(&[0x0f, 0x10, 0x0b], &[1, 2]);
    let reads = vec![Seen::Read(DEVICE + 16, 8), Seen::Read(DEVICE + 24, 8)];
    assert_eq!(seen, (Done::Retired, reads));
    assert_eq!(rig.flat.vectors[1], [1, 2]);
    rig.set(Regs::RBX, BEHIND - 13);
    let (_, seen) = rig.run(&[0x0f, 0x11, 0x0b], &[]);
    assert_eq!(
        seen,
        [
            Seen::Write(BEHIND - 13, 8, 1),
            Seen::Write(BEHIND - 5, 5, 2)
        ]
    );
}

#[test]
fn a_push_of_a_device_register_reads_and_then_writes_the_stack() {
    let mut rig = Rig::new();
    rig.set(Regs::RBX, DEVICE);
    rig.set(Regs::RSP, DEVICE + 0x108);
    // PUSH QWORD [RBX]: even the stack may be a device.
    let (_, seen) = rig.run(&[0xff, 0x33], &[77]);
    assert_eq!(
        seen,
        [Seen::Read(DEVICE, 8), Seen::Write(DEVICE + 0x100, 8, 77)]
    );
    assert_eq!(rig.get(Regs::RSP), DEVICE + 0x100);
}

#[test]
fn input_strings_wait_for_the_port() {
    let mut rig = Rig::new();
    rig.set(Regs::RDX, 0x60);
    rig.set(Regs::RDI, DEVICE + 2);
    // INSB to a device.
    let (_, seen) = rig.run(&[0x6c], &[0x99]);
    assert_eq!(
        seen,
        [Seen::Read(0x60, 1), Seen::Write(DEVICE + 2, 1, 0x99)]
    );
}

#[test]
fn answers_to_other_questions_are_not_used() {
    let mut rig = Rig::new();
    rig.set(Regs::RBX, DEVICE);
    let instruction = rig.flat.decode(&[0x8b, 0x03]);
    rig.devices.begin();
    assert_eq!(execute(&instruction, &mut rig), Err(Stop::Device));
    // User space changes the registers before it runs the vCPU again.
    rig.set(Regs::RBX, DEVICE + 4);
    assert_eq!(rig.run_answered(&instruction, 1), Err(Stop::Retry));
    rig.devices.begin();
    assert_eq!(execute(&instruction, &mut rig), Err(Stop::Device));
    assert_eq!(rig.run_answered(&instruction, 2), Ok(Done::Retired));
    assert_eq!(rig.get(Regs::RAX), 2);
}
