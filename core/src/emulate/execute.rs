//! Executes an instruction: loads, computes, stores, then changes the registers.
use super::compute::compute;
use super::cpu::Cpu;
use super::instruction::{Instruction, Map, Prefixes};
use super::machine::{Access, Done, Feature, Machine, Stop};
use super::operation::{Op, Place, Plan, Use, plan};
use super::port::check_port;
use super::strings;
use crate::Error;
use crate::arch::Rflags;

/// Executes an instruction that [`decode`](super::decode()) has decoded at the machine's RIP.
///
/// What RIP and the registers are afterwards, [`Done`] says. Single stepping (RFLAGS.TF) and what
/// holds interrupts off after an instruction are the caller's.
///
/// # Errors
///
/// A [`Stop`], and the registers and the memory are as before, apart from the finished iterations
/// of a repeated string instruction. RIP is at the instruction.
pub fn execute(instruction: &Instruction, machine: &mut impl Machine) -> Result<Done, Stop> {
    let mut cpu = Cpu::new(instruction, machine);
    if strings::is_string(instruction) {
        return strings::execute(&mut cpu, machine);
    }
    cpu.has_feature = match needed(instruction) {
        Some(feature) => machine.has(feature),
        None => true,
    };
    let plan = plan(&mut cpu)?;
    perform(&mut cpu, &plan, machine)?;
    retire(&mut cpu, machine);
    Ok(Done::Retired)
}

fn needed(instruction: &Instruction) -> Option<Feature> {
    match (instruction.map, instruction.opcode) {
        (Map::Third38, 0xf0 | 0xf1) => Some(Feature::Movbe),
        (Map::Secondary, 0xb8) => Some(Feature::Popcnt),
        (Map::Secondary, 0xbc) => Some(Feature::Tzcnt),
        (Map::Secondary, 0xbd) => Some(Feature::Lzcnt),
        _ => None,
    }
}

/// The instruction has happened.
pub(super) fn retire(cpu: &mut Cpu<'_>, machine: &mut impl Machine) {
    cpu.regs.rip = cpu.next;
    cpu.regs.rflags &= !Rflags::RF.bits();
    *machine.regs() = cpu.regs;
}

/// Loads, computes and stores.
pub(super) fn perform(
    cpu: &mut Cpu<'_>,
    plan: &Plan,
    machine: &mut impl Machine,
) -> Result<(), Stop> {
    if let (Place::Port(_), Place::Memory(linear)) = (plan.source, plan.target) {
        // What is read from a port is gone: the write must not fail afterwards.
        read(machine, linear, plan.target_size, Access::Probe)?;
    }
    let source = match load(cpu, machine, plan.source, plan.source_size, Access::Read) {
        // Nor when a device in memory has answered; MOVS, PUSH and POP have such a source.
        Err(Stop::Device) if plan.using == Use::Write => {
            if let Place::Memory(linear) = plan.target {
                read(machine, linear, plan.target_size, Access::Probe)?;
            }
            return Err(Stop::Device);
        }
        source => source?,
    };
    let old = match plan.using {
        Use::Write => [0; 2],
        Use::Read => load(cpu, machine, plan.target, plan.target_size, Access::Read)?,
        Use::Modify => load(cpu, machine, plan.target, plan.target_size, Access::Modify)?,
    };
    let new = compute(cpu, plan, source, old)?;
    if plan.using == Use::Read || cpu.keep_target {
        return Ok(());
    }
    store(cpu, machine, plan, old, new)
}

fn load(
    cpu: &Cpu<'_>,
    machine: &mut impl Machine,
    place: Place,
    size: u8,
    access: Access,
) -> Result<[u64; 2], Stop> {
    match place {
        Place::None => Ok([0; 2]),
        Place::Register(number) => Ok([cpu.register(number, size), 0]),
        Place::Immediate(value) => Ok([value & super::cpu::mask(size), 0]),
        Place::Memory(linear) => read(machine, linear, size, access),
        Place::Vector(number) => machine.vector(number),
        Place::Port(port) => {
            check_port(cpu, machine, port, size)?;
            let mut data = [0; 16];
            machine.port_in(port, part(&mut data, size)?)?;
            Ok(words(&data))
        }
    }
}

fn store(
    cpu: &mut Cpu<'_>,
    machine: &mut impl Machine,
    plan: &Plan,
    old: [u64; 2],
    new: [u64; 2],
) -> Result<(), Stop> {
    let size = plan.target_size;
    match plan.target {
        Place::None | Place::Immediate(_) => {}
        Place::Register(number) => {
            let [value, _] = new;
            cpu.set_register(number, size, value);
        }
        Place::Vector(number) => machine.set_vector(number, new)?,
        Place::Memory(linear) => {
            let mut data = bytes(new);
            // XCHG with memory is always locked.
            let locked = cpu.instruction.has(Prefixes::LOCK) || plan.op == Op::Exchange;
            if locked && plan.using == Use::Modify {
                let mut before = bytes(old);
                let (before, data) = (part(&mut before, size)?, part(&mut data, size)?);
                if !machine.compare_exchange(linear, before, data)? {
                    return Err(Stop::Retry);
                }
            } else {
                machine.write(linear, part(&mut data, size)?)?;
            }
        }
        Place::Port(port) => {
            check_port(cpu, machine, port, size)?;
            let mut data = bytes(new);
            machine.port_out(port, part(&mut data, size)?)?;
        }
    }
    Ok(())
}

fn read(
    machine: &mut impl Machine,
    linear: u64,
    size: u8,
    access: Access,
) -> Result<[u64; 2], Stop> {
    let mut data = [0; 16];
    machine.read(linear, part(&mut data, size)?, access)?;
    Ok(words(&data))
}

/// The first bytes of an operand.
fn part(data: &mut [u8; 16], size: u8) -> Result<&mut [u8], Stop> {
    data.get_mut(..usize::from(size))
        .ok_or(Stop::Failed(Error::Invalid))
}

fn words(data: &[u8; 16]) -> [u64; 2] {
    let value = u128::from_le_bytes(*data);
    [value as u64, (value >> 64) as u64]
}

fn bytes([low, high]: [u64; 2]) -> [u8; 16] {
    (u128::from(low) | u128::from(high) << 64).to_le_bytes()
}
