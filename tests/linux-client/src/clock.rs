//! The clock that a guest reads from its memory.
use std::ptr;

use waterbear_core::abi::kvm::*;

use crate::Outcome;
use crate::node::same;
use crate::sys::{ioctl, ioctl_with};
use crate::vcpu::Guest;
use crate::vm;

/// Where the guest has its record.
const RECORD: usize = 0x4000;
const SYSTEM_TIME: u32 = 0x4b56_4d01;
const WALL_CLOCK: u32 = 0x4b56_4d00;

/// hlt; jmp back
const HALTS: &[u8] = &[0xf4, 0xeb, 0xfd];

fn get(guest: &Guest) -> Result<kvm_clock_data, String> {
    // SAFETY: integers.
    let mut clock: kvm_clock_data = unsafe { std::mem::zeroed() };
    let at = ptr::from_mut(&mut clock) as u64;
    same("GET_CLOCK", ioctl(&guest.vm, KVM_GET_CLOCK, at), Ok(0))?;
    Ok(clock)
}

/// Sets one register; how many were set.
fn set_msr(guest: &Guest, number: u32, value: u64) -> Result<i32, i32> {
    let sent: [u64; 3] = [1, number.into(), value];
    ioctl_with(&guest.vcpu, KVM_SET_MSRS, &sent)
}

pub fn a_clock_is_read_and_set() -> Outcome {
    let guest = Guest::new(HALTS)?;
    let first = get(&guest)?;
    let second = get(&guest)?;
    same("it goes on", second.clock >= first.clock, true)?;
    let told = KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC;
    same("flags", first.flags & told, told)?;
    // Later than this was written.
    same("the date", first.realtime > 1_700_000_000_000_000_000, true)?;
    let hour = 3_600_000_000_000;
    let mut wanted = first;
    (wanted.clock, wanted.flags) = (24 * hour, 0);
    let set = ioctl_with(&guest.vm, KVM_SET_CLOCK, &wanted);
    same("SET_CLOCK", set, Ok(0))?;
    let day = get(&guest)?.clock / hour;
    same("hours", day, 24)?;
    // An hour ago it showed that.
    wanted.realtime = get(&guest)?.realtime - hour;
    wanted.flags = KVM_CLOCK_REALTIME;
    let set = ioctl_with(&guest.vm, KVM_SET_CLOCK, &wanted);
    same("SET_CLOCK with a date", set, Ok(0))?;
    same("hours", get(&guest)?.clock / hour, 25)?;
    for flags in [1, 16, u32::MAX] {
        wanted.flags = flags;
        let set = ioctl_with(&guest.vm, KVM_SET_CLOCK, &wanted);
        same("unknown flags", set, Err(libc::EINVAL))?;
    }
    for command in [KVM_GET_CLOCK, KVM_SET_CLOCK] {
        let answer = ioctl(&vm::make()?, command, 8);
        same("nowhere", answer, Err(libc::EFAULT))?;
    }
    Ok(())
}

pub fn a_guest_finds_the_time_in_its_memory() -> Outcome {
    let guest = Guest::new(HALTS)?;
    let stopped = || ioctl(&guest.vcpu, KVM_KVMCLOCK_CTRL, 0);
    same("without a record", stopped(), Err(libc::EINVAL))?;
    let at = RECORD as u64;
    same("wall clock", set_msr(&guest, WALL_CLOCK, at + 64), Ok(1))?;
    same("record", set_msr(&guest, SYSTEM_TIME, at | 1), Ok(1))?;
    same("reason", guest.run()?, KVM_EXIT_HLT)?;
    let version: u32 = guest.memory.read(RECORD);
    same("a version", version != 0 && version.is_multiple_of(2), true)?;
    let scale: u32 = guest.memory.read(RECORD + 24);
    same("a scale", scale >> 31, 1)?;
    let seconds: u32 = guest.memory.read(RECORD + 68);
    same("the date", seconds > 1_700_000_000, true)?;
    let mut clock = get(&guest)?;
    (clock.clock, clock.flags) = (1 << 60, 0);
    let set = ioctl_with(&guest.vm, KVM_SET_CLOCK, &clock);
    same("SET_CLOCK", set, Ok(0))?;
    same("KVMCLOCK_CTRL", stopped(), Ok(0))?;
    same("reason", guest.run()?, KVM_EXIT_HLT)?;
    let flags: u8 = guest.memory.read(RECORD + 29);
    same("stopped", flags & 2, 2)?;
    let newer: u32 = guest.memory.read(RECORD);
    same("another version", newer != version, true)?;
    // Where there is no memory, and where it wraps.
    for nowhere in [1 << 40 | 1, u64::MAX, 0xf_fffd] {
        for number in [SYSTEM_TIME, WALL_CLOCK, 0x11, 0x12] {
            same("nowhere", set_msr(&guest, number, nowhere), Ok(1))?;
        }
        same("reason", guest.run()?, KVM_EXIT_HLT)?;
    }
    same("off", set_msr(&guest, SYSTEM_TIME, 0), Ok(1))?;
    same("without a record", stopped(), Err(libc::EINVAL))
}
