//! The registers of a CPU that begins.
use std::io;

use vm_memory::{Bytes, GuestAddress, GuestMemoryError};
use waterbear_core::abi::kvm::*;

use super::memory::Memory;
use crate::kvm::Vcpu;

/// Where and how a kernel begins.
#[derive(Clone, Copy, Debug)]
pub enum Start {
    /// In real mode with every segment at 0.
    Real {
        /// Where.
        ip: u64,
    },
    /// In protected mode with flat segments, as PVH has it.
    Protected {
        /// Where.
        eip: u64,
        /// Where it is told what it wants to know.
        ebx: u64,
    },
    /// In 64-bit mode with the first 4 GiB mapped to themselves, as Linux has it.
    Long {
        /// Where.
        rip: u64,
        /// Where it is told what it wants to know.
        rsi: u64,
    },
}

impl Start {
    /// Makes a vCPU begin like this.
    pub fn set(self, vcpu: &Vcpu) -> io::Result<()> {
        let mut regs: kvm_regs = vcpu.get(KVM_GET_REGS)?;
        let mut sregs: kvm_sregs = vcpu.get(KVM_GET_SREGS)?;
        regs.rflags = 2;
        match self {
            Start::Real { ip } => regs.rip = ip,
            Start::Protected { eip, ebx } => {
                (regs.rip, regs.rbx) = (eip, ebx);
                flat(&mut sregs, false);
            }
            Start::Long { rip, rsi } => {
                (regs.rip, regs.rsi) = (rip, rsi);
                flat(&mut sregs, true);
            }
        }
        vcpu.set(KVM_SET_SREGS, &sregs)?;
        vcpu.set(KVM_SET_REGS, &regs)
    }
}

/// Where the page tables are: one of the fourth level, one of the third, four of the second.
const TABLES: u64 = 0x9000;
const PAGE: u64 = 0x1000;

/// Maps the first 4 GiB to themselves.
pub fn map(memory: &Memory) -> Result<(), GuestMemoryError> {
    const LINK: u64 = 0x3;
    const LARGE_PAGE: u64 = 0x83;
    let third = TABLES + PAGE;
    let second = third + PAGE;
    memory.write_obj(third | LINK, GuestAddress(TABLES))?;
    for table in 0..4 {
        let entry = (second + table * PAGE) | LINK;
        memory.write_obj(entry, GuestAddress(third + table * 8))?;
    }
    for page in 0..4 * 512 {
        let entry = page << 21 | LARGE_PAGE;
        memory.write_obj(entry, GuestAddress(second + page * 8))?;
    }
    Ok(())
}

/// Segments without limits, in protected or 64-bit mode.
fn flat(sregs: &mut kvm_sregs, long: bool) {
    const PROTECTED: u64 = 1;
    const PAGING: u64 = 1 << 31;
    const PAE: u64 = 1 << 5;
    const LONG_MODE: u64 = 1 << 8;
    const LONG_MODE_ACTIVE: u64 = 1 << 10;
    let data = kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector: 0x18,
        // Data, writable, used.
        type_: 3,
        present: 1,
        dpl: 0,
        db: 1,
        s: 1,
        l: 0,
        g: 1,
        avl: 0,
        unusable: 0,
        padding: 0,
    };
    sregs.cs = kvm_segment {
        selector: 0x10,
        // Code, readable, used.
        type_: 11,
        db: u8::from(!long),
        l: u8::from(long),
        ..data
    };
    for segment in [
        &mut sregs.ds,
        &mut sregs.es,
        &mut sregs.fs,
        &mut sregs.gs,
        &mut sregs.ss,
    ] {
        *segment = data;
    }
    sregs.cr0 |= PROTECTED;
    if long {
        sregs.cr0 |= PAGING;
        sregs.cr3 = TABLES;
        sregs.cr4 |= PAE;
        sregs.efer |= LONG_MODE | LONG_MODE_ACTIVE;
    }
}
