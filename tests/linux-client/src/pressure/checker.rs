//! A vCPU that checks memory, and its program.
use std::arch::global_asm;
use std::mem::offset_of;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64};
use std::{ptr, slice};

use waterbear_core::abi::kvm::*;

use crate::node::same;
use crate::sys::{Mapping, ioctl, ioctl_with};
use crate::{Outcome, vcpu};

// It comes out only after several rounds: meanwhile its CPU uses translations again that it found
// before. 32 bits, no paging. ESI and ECX: begin and end of the memory; EBX: the round; EBP: where it
// says whether a page may have become zero, and behind that how far it is to the next word.
global_asm!(
    ".pushsection .rodata",
    ".global waterbear_checks, waterbear_checks_end",
    "waterbear_checks:",
    ".code32",
    "2: mov edi, esi",
    "3: mov eax, ebx",
    "xor eax, edi",
    "mov edx, [edi]",
    "cmp edx, eax",
    "jne 6f",
    "4: lea eax, [ebx + 1]",
    "xor eax, edi",
    "mov [edi], eax",
    "add edi, [ebp + 4]",
    "cmp edi, ecx",
    "jb 3b",
    "inc ebx",
    "test ebx, {more}",
    "jnz 2b",
    "mov eax, ebx",
    "out 1, eax",
    "jmp 2b",
    "6: test edx, edx",
    "jnz 7f",
    "cmp dword ptr [ebp], 0",
    "jne 4b",
    "7: out 2, eax",
    "hlt",
    ".code64",
    "waterbear_checks_end:",
    ".popsection",
    more = const ROUNDS - 1,
);

unsafe extern "C" {
    safe static waterbear_checks: u8;
    safe static waterbear_checks_end: u8;
}

/// After so many rounds a vCPU comes out. A power of two.
const ROUNDS: u32 = 16;
/// Every so many bytes a word is checked, if nothing else is said.
pub const STEP: usize = 512;
/// Where the memory begins for the guest: not where one large leaf maps it with the code.
pub const BASE: u64 = 1 << 30;
/// The number of the slot with the memory.
pub const SLOT: u32 = 1;
/// The first round. Together with an address below it never makes a zero.
pub const FIRST: u32 = 0x8000_0000;
/// Where the code and the word are that says whether there may be zeros.
pub const CODE: usize = 0x1000;
pub const ZEROS: usize = 0x2000;
pub const LOW: usize = 0x4000;

/// A vCPU, and what is known about it.
pub struct Checker {
    pub vcpu: OwnedFd,
    pub run: Mapping,
    /// Its part of the memory.
    pub part: Range<usize>,
    pub round: AtomicU32,
    /// How often it came out.
    pub turns: AtomicU64,
    /// How often it found no memory.
    pub faults: AtomicU64,
    /// The thread that runs it, while there is one.
    pub thread: AtomicI32,
}

/// What is done about accesses that find no slot.
pub type Device<'a> = &'a (dyn Fn(u64, Option<u32>) -> u32 + Sync);

pub fn code() -> &'static [u8] {
    let (start, end) = (&raw const waterbear_checks, &raw const waterbear_checks_end);
    // SAFETY: the two are the ends of one piece of constant memory.
    unsafe { slice::from_raw_parts(start, end.addr() - start.addr()) }
}

impl Checker {
    pub fn new(vm: &OwnedFd, index: u64, part: Range<usize>) -> Result<Self, String> {
        let vcpu = vcpu::make(vm, index).map_err(|error| format!("no vCPU: error {error}"))?;
        let run = Mapping::of(&vcpu, 3 * 4096)?;
        // SAFETY: integers.
        let mut sregs: kvm_sregs = unsafe { std::mem::zeroed() };
        let at = ptr::from_mut(&mut sregs) as u64;
        same("GET_SREGS", ioctl(&vcpu, KVM_GET_SREGS, at), Ok(0))?;
        let flat = kvm_segment {
            limit: u32::MAX,
            selector: 8,
            type_: 3,
            present: 1,
            db: 1,
            s: 1,
            g: 1,
            ..sregs.ds
        };
        let flat = kvm_segment { base: 0, ..flat };
        sregs.cs = kvm_segment { type_: 11, ..flat };
        sregs.ds = flat;
        sregs.es = flat;
        sregs.ss = flat;
        sregs.cr0 |= 1;
        same("SET_SREGS", ioctl_with(&vcpu, KVM_SET_SREGS, &sregs), Ok(0))?;
        // SAFETY: integers.
        let mut regs: kvm_regs = unsafe { std::mem::zeroed() };
        regs.rip = CODE as u64;
        regs.rflags = 2;
        regs.rbx = FIRST.into();
        regs.rsi = BASE + part.start as u64;
        regs.rcx = BASE + part.end as u64;
        regs.rbp = ZEROS as u64;
        same("SET_REGS", ioctl_with(&vcpu, KVM_SET_REGS, &regs), Ok(0))?;
        Ok(Self {
            vcpu,
            run,
            part,
            round: AtomicU32::new(FIRST),
            turns: AtomicU64::new(0),
            faults: AtomicU64::new(0),
            thread: AtomicI32::new(0),
        })
    }

    /// Runs until the vCPU comes back.
    pub fn run(&self) -> Result<u32, i32> {
        ioctl(&self.vcpu, KVM_RUN, 0)?;
        Ok(self.run.read(offset_of!(kvm_run, exit_reason)))
    }

    fn regs(&self) -> kvm_regs {
        // SAFETY: integers.
        let mut regs: kvm_regs = unsafe { std::mem::zeroed() };
        let at = ptr::from_mut(&mut regs) as u64;
        let _ = ioctl(&self.vcpu, KVM_GET_REGS, at);
        // SAFETY: the kernel wrote to it.
        unsafe { (&raw const regs).read_volatile() }
    }

    /// Where it is.
    pub fn place(&self) -> String {
        let regs = self.regs();
        format!(
            "RIP {:#x}, RSP {:#x}, EDI {:#x}",
            regs.rip, regs.rsp, regs.rdi
        )
    }

    /// What it found when it found something wrong.
    pub fn complaint(&self) -> String {
        let regs = self.regs();
        let (seen, address) = (regs.rdx as u32, regs.rdi as u32);
        format!(
            "a guest found {seen:#x} at {address:#x}, of round {:#x}, in round {:#x}",
            seen ^ address,
            regs.rbx,
        )
    }

    /// Serves an access that found no slot.
    pub fn serve(&self, device: Device<'_>) -> Outcome {
        const DATA: usize = offset_of!(kvm_run, __bindgen_anon_1.mmio.data);
        let at: u64 = self
            .run
            .read(offset_of!(kvm_run, __bindgen_anon_1.mmio.phys_addr));
        let size: u32 = self
            .run
            .read(offset_of!(kvm_run, __bindgen_anon_1.mmio.len));
        let write: u8 = self
            .run
            .read(offset_of!(kvm_run, __bindgen_anon_1.mmio.is_write));
        if size != 4 {
            return Err(format!("an access of {size} bytes, {}", self.place()));
        }
        if write != 0 {
            device(at, Some(self.run.read(DATA)));
        } else {
            self.run.write(DATA, &device(at, None).to_le_bytes());
        }
        Ok(())
    }
}
