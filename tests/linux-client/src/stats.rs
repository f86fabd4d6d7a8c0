//! Descriptors of which statistics are read.
use std::os::fd::{AsRawFd, OwnedFd};

use waterbear_core::abi::kvm::*;

use crate::Outcome;
use crate::node::same;
use crate::sys::{self, ioctl};
use crate::vcpu::Guest;

/// mov cx, 100; cpuid; loop back; out 1, al; hlt; jmp to the beginning
const ASKS: &[u8] = &[
    0xb9, 0x64, 0x00, 0x51, 0x0f, 0xa2, 0x59, 0xe2, 0xfa, 0xe6, 0x01, 0xf4, 0xeb, 0xf2,
];

fn open(of: &OwnedFd) -> Result<OwnedFd, String> {
    let fd = ioctl(of, KVM_GET_STATS_FD, 0);
    fd.map(sys::owned)
        .map_err(|error| format!("no descriptor: error {error}"))
}

fn pread(file: &OwnedFd, offset: i64, size: usize) -> Result<Vec<u8>, i32> {
    let mut bytes = vec![0; size];
    let at = bytes.as_mut_ptr().cast();
    // SAFETY: that many bytes of ours.
    let read = unsafe { libc::pread(file.as_raw_fd(), at, size, offset) };
    if read < 0 {
        return Err(sys::errno());
    }
    bytes.truncate(read as usize);
    Ok(bytes)
}

fn word(bytes: &[u8], at: usize) -> usize {
    let word = bytes.get(at..at + 4).and_then(|word| word.try_into().ok());
    word.map_or(0, u32::from_le_bytes) as usize
}

/// A number by its name.
fn number(file: &OwnedFd, name: &str) -> Result<u64, String> {
    let bytes = pread(file, 0, 1 << 16).map_err(|error| format!("error {error}"))?;
    let [size, count, descriptions, data] = [4, 8, 16, 20].map(|at| word(&bytes, at));
    for n in 0..count {
        let at = descriptions + n * (16 + size);
        if bytes[at + 16..].starts_with(&[name.as_bytes(), &[0]].concat()) {
            let number = (data + word(&bytes, at + 8)) as i64;
            let value = pread(file, number, 8).unwrap_or_default();
            let value = value.try_into().map_err(|_| "no number")?;
            return Ok(u64::from_le_bytes(value));
        }
    }
    Err(format!("there is no {name}"))
}

pub fn statistics_count_what_the_guest_does() -> Outcome {
    let guest = Guest::new(ASKS)?;
    let (vm, vcpu) = (open(&guest.vm)?, open(&guest.vcpu)?);
    same("exits", number(&vcpu, "exits")?, 0)?;
    for _ in 0..2 {
        same("reason", guest.run()?, KVM_EXIT_IO)?;
        same("reason", guest.run()?, KVM_EXIT_HLT)?;
    }
    same("cpuid", number(&vcpu, "cpuid_exits")?, 200)?;
    same("ports", number(&vcpu, "io_exits")?, 2)?;
    same("halts", number(&vcpu, "halt_exits")?, 2)?;
    let faults = number(&vcpu, "pf_taken")? + number(&vcpu, "pf_fast")?;
    same("faults", faults > 0, true)?;
    let mapped = ["pages_4k", "pages_2m", "pages_1g"].map(|name| number(&vm, name));
    let mapped = mapped.into_iter().sum::<Result<u64, String>>()?;
    same("pages", mapped > 0, true)?;
    let _ = guest.memory.advise(libc::MADV_DONTNEED);
    same("zapped", number(&vm, "mmu_zapped")? > 0, true)?;
    // Both outlive what they tell of.
    drop(guest);
    same("later", number(&vcpu, "cpuid_exits")?, 200)?;
    same("later", number(&vm, "pages_4k").is_ok(), true)
}

pub fn statistics_are_read_as_a_file_and_not_written() -> Outcome {
    let guest = Guest::new(ASKS)?;
    for of in [&guest.vm, &guest.vcpu] {
        let file = open(of)?;
        let whole = pread(&file, 0, 1 << 16).map_err(|error| error.to_string())?;
        let mut read: Vec<u8> = Vec::new();
        loop {
            let mut part = [0; 100];
            // SAFETY: that many bytes of ours.
            let count = unsafe { libc::read(file.as_raw_fd(), part.as_mut_ptr().cast(), 100) };
            if count <= 0 {
                break;
            }
            read.extend(&part[..count as usize]);
        }
        same("read", read == whole, true)?;
        same("behind the end", pread(&file, 1 << 40, 8), Ok(Vec::new()))?;
        same("before the start", pread(&file, -1, 8), Err(libc::EINVAL))?;
        // SAFETY: no memory of ours.
        let nowhere = unsafe { libc::syscall(libc::SYS_pread64, file.as_raw_fd(), 8, 8, 0) };
        same("nowhere", (nowhere, sys::errno()), (-1, libc::EFAULT))?;
        // SAFETY: one byte of ours.
        let written = unsafe { libc::write(file.as_raw_fd(), [0_u8].as_ptr().cast(), 1) };
        same("written", (written, sys::errno()), (-1, libc::EBADF))?;
        let wrong = ioctl(of, KVM_GET_STATS_FD, 1);
        same("with an argument", wrong, Err(libc::EINVAL))?;
        same("a command", ioctl(&file, KVM_RUN, 0), Err(libc::ENOTTY))?;
    }
    Ok(())
}
