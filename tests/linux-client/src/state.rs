//! A vCPU's state beyond its registers, and what is asked of the node about it.
use std::mem::offset_of;
use std::ptr;

use waterbear_core::abi::kvm::*;
use waterbear_core::abi::prefault::{KVM_CAP_PRE_FAULT_MEMORY, KVM_PRE_FAULT_MEMORY};

use crate::Outcome;
use crate::node::{self, same};
use crate::sys::{Mapping, ioctl, ioctl_with};
use crate::vcpu::{self, Guest};

const EINVAL: Result<i32, i32> = Err(libc::EINVAL);

pub fn special_registers_have_two_forms() -> Outcome {
    let guest = Guest::new(&[])?;
    let one: kvm_sregs = guest.get(KVM_GET_SREGS)?;
    let mut two: kvm_sregs2 = guest.get(KVM_GET_SREGS2)?;
    same("cs", two.cs.base, one.cs.base)?;
    same("cr0", two.cr0, one.cr0)?;
    same("apic_base", two.apic_base, one.apic_base)?;
    same("flags in real mode", two.flags, 0)?;
    two.flags = 1;
    let answer = ioctl_with(&guest.vcpu, KVM_SET_SREGS2, &two);
    same("pointers in real mode", answer, EINVAL)?;
    let pointers = [0x3001_u64, 0x4001, 0, 0x5001];
    guest
        .memory
        .write(0x2000, pointers.map(u64::to_le_bytes).as_flattened());
    (two.cr0, two.cr3, two.cr4) = (0x8000_0011, 0x2000, 0x20);
    for flags in [0, 1] {
        (two.flags, two.pdptrs) = (flags, pointers);
        guest.set(KVM_SET_SREGS2, &two)?;
        let seen: kvm_sregs2 = guest.get(KVM_GET_SREGS2)?;
        same("in PAE mode", (seen.flags, seen.pdptrs), (1, pointers))?;
    }
    for (what, flags, cr4, cr8, apic_base) in [
        ("a flag", 2, 0x20, 0, two.apic_base),
        ("a bit of CR4", 0, 1 << 40, 0, two.apic_base),
        ("a task priority", 0, 0x20, 16, two.apic_base),
        ("a place of the APIC", 0, 0x20, 0, u64::MAX),
    ] {
        let wrong = kvm_sregs2 {
            flags,
            cr4,
            cr8,
            apic_base,
            cr2: 77,
            ..two
        };
        let answer = ioctl_with(&guest.vcpu, KVM_SET_SREGS2, &wrong);
        same(what, answer, EINVAL)?;
        let seen: kvm_sregs2 = guest.get(KVM_GET_SREGS2)?;
        let state = (seen.cr2, seen.cr4, seen.apic_base);
        same("nothing changed", state, (0, 0x20, two.apic_base))?;
    }
    Ok(())
}

pub fn the_xsave_area_has_the_size_that_is_advertised() -> Outcome {
    let guest = Guest::new(&[])?;
    let size = ioctl(&guest.vm, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2.into());
    same("its size", size, Ok(4096))?;
    let mut fpu: kvm_fpu = guest.get(KVM_GET_FPU)?;
    fpu.xmm[5] = [0x77; 16];
    guest.set(KVM_SET_FPU, &fpu)?;
    let one: [u32; 1024] = guest.get(KVM_GET_XSAVE)?;
    let two: [u32; 1024] = guest.get(KVM_GET_XSAVE2)?;
    same("both tell the same", one == two, true)?;
    same("xmm5", two[(160 + 80) / 4], 0x7777_7777)
}

pub fn a_frequency_is_told_and_only_that_is_taken() -> Outcome {
    let guest = Guest::new(&[])?;
    for fd in [&guest.vm, &guest.vcpu] {
        let khz = ioctl(fd, KVM_GET_TSC_KHZ, 0).map_err(|error| error.to_string())?;
        if khz < 1000 {
            return Err(format!("{khz} kHz"));
        }
        let khz = khz as u64;
        for (value, wanted) in [
            (khz, Ok(0)),
            (khz + khz / 5000, Ok(0)),
            (khz / 2, EINVAL),
            (khz * 2, EINVAL),
            (1, EINVAL),
            (u32::MAX.into(), EINVAL),
            (0, Ok(0)),
        ] {
            let answer = ioctl(fd, KVM_SET_TSC_KHZ, value);
            same(&format!("{value} kHz"), answer, wanted)?;
        }
        same("afterwards", ioctl(fd, KVM_GET_TSC_KHZ, 0), Ok(khz as i32))?;
    }
    Ok(())
}

/// One register with a number and a value.
#[repr(C)]
struct OneMsr {
    count: u32,
    nothing: u32,
    entry: kvm_msr_entry,
}

fn one(index: u32, data: u64) -> OneMsr {
    OneMsr {
        count: 1,
        nothing: 0,
        entry: kvm_msr_entry {
            index,
            reserved: 0,
            data,
        },
    }
}

/// Reads a register of the node's or of a vCPU's.
fn read(fd: &std::os::fd::OwnedFd, index: u32) -> Result<u64, String> {
    let mut msr = one(index, 0);
    let answer = ioctl(fd, KVM_GET_MSRS, ptr::from_mut(&mut msr) as u64);
    same(&format!("register {index:#x}"), answer, Ok(1))?;
    // SAFETY: the kernel wrote to it.
    Ok(unsafe { (&raw const msr.entry.data).read_volatile() })
}

pub fn the_counters_of_two_vcpus_agree() -> Outcome {
    const TSC: u32 = 0x10;
    let guest = Guest::new(&[])?;
    let other = vcpu::make(&guest.vm, 1).map_err(|error| error.to_string())?;
    let khz = ioctl(&guest.vm, KVM_GET_TSC_KHZ, 0).map_err(|error| error.to_string())?;
    let second = khz as u64 * 1000;
    let agree = |what: &str| -> Outcome {
        // What is read later is later, and not by much.
        let (one, two) = (read(&guest.vcpu, TSC)?, read(&other, TSC)?);
        let three = read(&guest.vcpu, TSC)?;
        same(what, one <= two && two <= three, true)
    };
    agree("new ones")?;
    for value in [1 << 45, 1 << 55, 10_000 * second] {
        for fd in [&guest.vcpu, &other] {
            let answer = ioctl_with(fd, KVM_SET_MSRS, &one(TSC, value));
            same("setting the counter", answer, Ok(1))?;
        }
        agree("set one after another")?;
        let apart = read(&other, TSC)?.wrapping_sub(value);
        same("it is what was set", apart < 100 * second, true)?;
    }
    // A counter that is to be ahead is.
    let ahead = ioctl_with(&other, KVM_SET_MSRS, &one(TSC, 1 << 60));
    same("setting the counter", ahead, Ok(1))?;
    same("ahead", read(&other, TSC)? >= 1 << 60, true)?;
    same("not ahead", read(&guest.vcpu, TSC)? < 1 << 60, true)
}

pub fn registers_of_the_node_tell_what_a_guest_can_have() -> Outcome {
    let node = node::open()?.into();
    let mut list = [0_u32; 64];
    let mut ask = |room: u32| {
        list[0] = room;
        let answer = ioctl(
            &node,
            KVM_GET_MSR_FEATURE_INDEX_LIST,
            list.as_mut_ptr() as u64,
        );
        // SAFETY: the kernel wrote to it.
        (answer, unsafe { (&raw const list).read_volatile() })
    };
    let (answer, list) = ask(0);
    same("room for none", answer, Err(libc::E2BIG))?;
    let (answer, list) = ask(list[0]);
    same("room", answer, Ok(0))?;
    for index in &list[1..=list[0] as usize] {
        read(&node, *index)?;
    }
    let none = ioctl_with(&node, KVM_GET_MSRS, &one(0x7fff_ffff, 0));
    same("one that does not exist", none, Ok(0))?;
    let mut many = one(0, 0);
    many.count = 256;
    let many = ioctl_with(&node, KVM_GET_MSRS, &many);
    same("too many", many, Err(libc::E2BIG))
}

/// A range of guest memory as the interface has it: address, size, flags, nothing.
type Range = [u64; 8];

pub fn memory_is_mapped_before_the_guest_asks() -> Outcome {
    // mov al, [0x4000]; out 1, al; hlt
    let guest = Guest::new(&[0xa0, 0x00, 0x40, 0xe6, 1, 0xf4])?;
    let there = ioctl(
        &guest.vm,
        KVM_CHECK_EXTENSION,
        KVM_CAP_PRE_FAULT_MEMORY.into(),
    );
    same("the capability", there, Ok(1))?;
    let size = guest.memory.size() as u64;
    let map = |gpa: u64, size: u64, flags: u64| {
        let mut range: Range = [gpa, size, flags, 0, 0, 0, 0, 0];
        let at = ptr::from_mut(&mut range) as u64;
        let answer = ioctl(&guest.vcpu, KVM_PRE_FAULT_MEMORY, at);
        // SAFETY: the kernel wrote to it.
        (answer, unsafe { (&raw const range).read_volatile() })
    };
    guest.memory.write(0x4000, &[0x42]);
    let (answer, range) = map(0, size, 0);
    same("all of it", (answer, range[0], range[1]), (Ok(0), size, 0))?;
    let (answer, range) = map(size - 4096, 3 * 4096, 0);
    same(
        "up to its end",
        (answer, range[0], range[1]),
        (Ok(0), size, 8192),
    )?;
    for (gpa, len, flags, wanted) in [
        (size, 4096, 0, libc::ENOENT),
        (1 << 51, 4096, 0, libc::ENOENT),
        (!4095, 8192, 0, libc::EINVAL),
        (0, 0, 0, libc::EINVAL),
        (1, 4096, 0, libc::EINVAL),
        (0, 4095, 0, libc::EINVAL),
        (0, 4096, 1, libc::EINVAL),
        (0, !4095, 0, libc::EINVAL),
    ] {
        let (answer, range) = map(gpa, len, flags);
        if wanted == libc::EINVAL && len == !4095 {
            // It begins where there is memory, so a part of it is mapped.
            same("a part", (answer, range[0]), (Ok(0), size))?;
            continue;
        }
        let told = (answer, range[0], range[1]);
        same(&format!("{gpa:#x} {len:#x}"), told, (Err(wanted), gpa, len))?;
    }
    let gone = guest.memory.part(0x6000, 4096);
    gone.protect(libc::PROT_NONE).map_err(|e| e.to_string())?;
    let (answer, _) = map(0x6000, 4096, 0);
    same("memory that may not be read", answer, Err(libc::EFAULT))?;
    let rights = libc::PROT_READ | libc::PROT_WRITE;
    gone.protect(rights).map_err(|e| e.to_string())?;
    same("reason", guest.run()?, KVM_EXIT_IO)?;
    same("data", guest.shared::<u8>(4096), 0x42)
}

pub fn a_vcpu_is_always_runnable() -> Outcome {
    let guest = Guest::new(&[])?;
    let state: kvm_mp_state = guest.get(KVM_GET_MP_STATE)?;
    same("state", state.mp_state, KVM_MP_STATE_RUNNABLE)?;
    guest.set(KVM_SET_MP_STATE, &state)?;
    for mp_state in [
        KVM_MP_STATE_UNINITIALIZED,
        KVM_MP_STATE_HALTED,
        11,
        u32::MAX,
    ] {
        let answer = ioctl_with(&guest.vcpu, KVM_SET_MP_STATE, &kvm_mp_state { mp_state });
        same(&format!("state {mp_state}"), answer, EINVAL)?;
    }
    Ok(())
}

pub fn a_vcpus_table_comes_back_as_it_was_set() -> Outcome {
    const ENTRY: usize = size_of::<kvm_cpuid_entry2>();
    const COUNT: usize = 8;
    let guest = Guest::new(&[])?;
    let node = node::open()?;
    let table = Mapping::new(4 * 4096);
    table.write(0, &200_u32.to_le_bytes());
    let at = table.address();
    same("offered", ioctl(&node, KVM_GET_SUPPORTED_CPUID, at), Ok(0))?;
    let count = table.read::<u32>(0);
    same("taken", ioctl(&guest.vcpu, KVM_SET_CPUID2, at), Ok(0))?;
    let copy = Mapping::new(4 * 4096);
    let small = ioctl(&guest.vcpu, KVM_GET_CPUID2, copy.address());
    same("room for none", small, Err(libc::E2BIG))?;
    same("what it takes", copy.read::<u32>(0), count)?;
    let told = ioctl(&guest.vcpu, KVM_GET_CPUID2, copy.address());
    same("told", told, Ok(0))?;
    for entry in 0..count as usize {
        for word in (0..offset_of!(kvm_cpuid_entry2, padding)).step_by(4) {
            let at = COUNT + entry * ENTRY + word;
            let (seen, wanted) = (copy.read::<u32>(at), table.read::<u32>(at));
            same(&format!("entry {entry}, byte {word}"), seen, wanted)?;
        }
    }
    let none = ioctl(&node, KVM_GET_EMULATED_CPUID, at);
    same("emulated", (none, table.read::<u32>(0)), (Ok(0), 0))
}
