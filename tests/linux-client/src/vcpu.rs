//! A vCPU's descriptor, and guests.
use std::mem::offset_of;
use std::os::fd::OwnedFd;
use std::ptr;

use waterbear_core::abi::kvm::*;

use crate::memory;
use crate::node::{self, same};
use crate::sys::{self, Mapping, ioctl, ioctl_with};
use crate::{Outcome, vm};

/// Where guests find their code, and how much memory they have.
const CODE: usize = 0x1000;
const MEMORY: usize = 1 << 20;

/// A guest that never ends: sti; cli; jmp back. Bochs 2.7 looks for the host's interrupts only
/// after a guest has switched its own; behind STI and CLI they are off all the time.
pub const FOREVER: &[u8] = &[0xfb, 0xfa, 0xeb, 0xfc];

/// A VM with memory at 0 and one vCPU.
pub struct Guest {
    pub vm: OwnedFd,
    pub vcpu: OwnedFd,
    pub memory: Mapping,
    run: Mapping,
}

/// Makes a vCPU.
pub fn make(vm: &OwnedFd, index: u64) -> Result<OwnedFd, i32> {
    ioctl(vm, KVM_CREATE_VCPU, index).map(sys::owned)
}

impl Guest {
    /// One that begins at [`CODE`] in real mode.
    pub fn new(code: &[u8]) -> Result<Self, String> {
        let vm = vm::make()?;
        let memory = Mapping::new(MEMORY);
        memory.write(CODE, code);
        let slot = (0, 0, 0, MEMORY as u64, memory.address());
        same("the slot", memory::set(&vm, slot), Ok(0))?;
        let vcpu = make(&vm, 0).map_err(|error| format!("no vCPU: error {error}"))?;
        let run = Mapping::of(&vcpu, 3 * 4096)?;
        let guest = Self {
            vm,
            vcpu,
            memory,
            run,
        };
        let mut sregs: kvm_sregs = guest.get(KVM_GET_SREGS)?;
        sregs.cs.base = 0;
        sregs.cs.selector = 0;
        guest.set(KVM_SET_SREGS, &sregs)?;
        let mut regs: kvm_regs = guest.get(KVM_GET_REGS)?;
        regs.rip = CODE as u64;
        regs.rflags = 2;
        regs.rsp = 0x8000;
        guest.set(KVM_SET_REGS, &regs)?;
        Ok(guest)
    }

    /// What a command fills in.
    pub fn get<T>(&self, command: u32) -> Result<T, String> {
        // SAFETY: the types of the interface are made of integers.
        let mut value: T = unsafe { std::mem::zeroed() };
        match ioctl(&self.vcpu, command, ptr::from_mut(&mut value) as u64) {
            Ok(_) => Ok(value),
            Err(error) => Err(format!("command {command:#x}: error {error}")),
        }
    }

    /// Hands a structure over.
    pub fn set<T>(&self, command: u32, value: &T) -> Outcome {
        let answer = ioctl_with(&self.vcpu, command, value);
        same(&format!("command {command:#x}"), answer, Ok(0))
    }

    /// Runs until the vCPU comes back, and says why.
    pub fn run(&self) -> Result<u32, String> {
        match ioctl(&self.vcpu, KVM_RUN, 0) {
            Ok(_) => Ok(self.reason()),
            Err(error) => Err(format!("KVM_RUN: error {error}")),
        }
    }

    /// Why it came back last.
    pub fn reason(&self) -> u32 {
        self.run.read(offset_of!(kvm_run, exit_reason))
    }

    /// A field of the shared memory.
    pub fn shared<T: Copy>(&self, offset: usize) -> T {
        self.run.read(offset)
    }

    /// Changes the shared memory.
    pub fn share(&self, offset: usize, bytes: &[u8]) {
        self.run.write(offset, bytes);
    }

    /// The port access that the vCPU came back for: direction, size, port,
    /// count.
    pub fn port(&self) -> (u8, u8, u16, u32) {
        (
            self.shared(offset_of!(kvm_run, __bindgen_anon_1.io.direction)),
            self.shared(offset_of!(kvm_run, __bindgen_anon_1.io.size)),
            self.shared(offset_of!(kvm_run, __bindgen_anon_1.io.port)),
            self.shared(offset_of!(kvm_run, __bindgen_anon_1.io.count)),
        )
    }
}

const OUT: u8 = 1;
const IN: u8 = 0;

pub fn vcpus_are_made_once_and_in_range() -> Outcome {
    let vm = vm::make()?;
    let first = make(&vm, 0);
    same("the first", first.is_ok(), true)?;
    for (index, wanted) in [
        (0, libc::EEXIST),
        (1 << 31, libc::EINVAL),
        (1 << 32, libc::EINVAL),
        (u64::MAX, libc::EINVAL),
    ] {
        let answer = make(&vm, index).map(drop);
        same(&format!("{index:#x}"), answer, Err(wanted))?;
    }
    let vcpu = first.map_err(|error| error.to_string())?;
    // The VM stays as long as its vCPU.
    drop(vm);
    same(
        "RUN with an argument",
        ioctl(&vcpu, KVM_RUN, 1),
        Err(libc::EINVAL),
    )?;
    for command in [0, KVM_CREATE_VM, KVM_SET_USER_MEMORY_REGION, u32::MAX] {
        let answer = ioctl(&vcpu, command, 0);
        same(&format!("{command:#x}"), answer, Err(libc::ENOTTY))?;
    }
    for command in [
        KVM_GET_REGS,
        KVM_SET_REGS,
        KVM_GET_SREGS,
        KVM_SET_SREGS,
        KVM_SET_MSRS,
    ] {
        let answer = ioctl(&vcpu, command, 0xffff_8880_0000_0000);
        same(&format!("{command:#x} nowhere"), answer, Err(libc::EFAULT))?;
    }
    Ok(())
}

pub fn registers_come_back_as_they_were_set() -> Outcome {
    let guest = Guest::new(&[])?;
    let mut regs: kvm_regs = guest.get(KVM_GET_REGS)?;
    regs.rax = 1;
    regs.rsi = 0x1122_3344_5566_7788;
    regs.r15 = u64::MAX;
    regs.rflags = 0x246;
    guest.set(KVM_SET_REGS, &regs)?;
    let seen: kvm_regs = guest.get(KVM_GET_REGS)?;
    same("rax", seen.rax, regs.rax)?;
    same("rsi", seen.rsi, regs.rsi)?;
    same("r15", seen.r15, regs.r15)?;
    same("rflags", seen.rflags, regs.rflags)?;
    let mut sregs: kvm_sregs = guest.get(KVM_GET_SREGS)?;
    sregs.ds.base = 0x12340;
    sregs.ds.selector = 0x1234;
    sregs.gdt.base = 0x5000;
    sregs.gdt.limit = 0x37;
    guest.set(KVM_SET_SREGS, &sregs)?;
    let seen: kvm_sregs = guest.get(KVM_GET_SREGS)?;
    same(
        "ds",
        (seen.ds.base, seen.ds.selector, seen.ds.present),
        (0x12340, 0x1234, 1),
    )?;
    same("gdt", (seen.gdt.base, seen.gdt.limit), (0x5000, 0x37))?;
    sregs.cr4 = 1 << 40;
    let answer = ioctl_with(&guest.vcpu, KVM_SET_SREGS, &sregs);
    same(
        "a control register with a bit that nobody has",
        answer,
        Err(libc::EINVAL),
    )
}

pub fn a_guest_in_real_mode_talks_to_ports_and_halts() -> Outcome {
    // mov al, 'W'; out 0xe9, al; in ax, 0x10; mov [0x2000], ax; hlt; jmp back
    let guest = Guest::new(&[
        0xb0, b'W', 0xe6, 0xe9, 0xe5, 0x10, 0xa3, 0x00, 0x20, 0xf4, 0xeb, 0xf4,
    ])?;
    for round in 0..3_u16 {
        same("reason", guest.run()?, KVM_EXIT_IO)?;
        same("port", guest.port(), (OUT, 1, 0xe9, 1))?;
        same("data", guest.shared::<u8>(4096), b'W')?;
        same("reason", guest.run()?, KVM_EXIT_IO)?;
        same("port", guest.port(), (IN, 2, 0x10, 1))?;
        guest.share(4096, &(0x5a00 + round).to_le_bytes());
        same("reason", guest.run()?, KVM_EXIT_HLT)?;
        same("memory", guest.memory.read::<u16>(0x2000), 0x5a00 + round)?;
    }
    let regs: kvm_regs = guest.get(KVM_GET_REGS)?;
    same("rip", regs.rip, CODE as u64 + 10)
}

pub fn an_owner_sends_the_guest_elsewhere_during_an_exit() -> Outcome {
    // in al, 0x10; or mov [0xffff:0x10], al; then hlt. At 0x1100: inc bx; hlt.
    for code in [
        &[0xe4, 0x10, 0xf4][..],
        &[0xe6, 0x10, 0xf4],
        &[0xb9, 0xff, 0xff, 0x8e, 0xd9, 0xa2, 0x10, 0x00, 0xf4],
    ] {
        let guest = Guest::new(code)?;
        guest.memory.write(0x1100, &[0x43, 0xf4]);
        guest.run()?;
        let mut regs: kvm_regs = guest.get(KVM_GET_REGS)?;
        (regs.rip, regs.rax, regs.rbx) = (0x1100, 0x1234, 7);
        guest.set(KVM_SET_REGS, &regs)?;
        same("reason", guest.run()?, KVM_EXIT_HLT)?;
        let regs: kvm_regs = guest.get(KVM_GET_REGS)?;
        same(
            "registers",
            (regs.rip, regs.rax, regs.rbx),
            (0x1102, 0x1234, 8),
        )?;
    }
    Ok(())
}

pub fn a_guest_reaches_devices_where_it_has_no_memory() -> Outcome {
    // mov ax, 0xf000; mov ds, ax; mov ax, 0x1234; mov [0xffff0 + 0x10], ax -> 0xffff:0x10
    // mov ax, 0xffff; mov ds, ax; mov ax, 0x1234; mov [0x10], ax; mov bx, [0x20]; hlt
    let guest = Guest::new(&[
        0xb8, 0xff, 0xff, 0x8e, 0xd8, 0xb8, 0x34, 0x12, 0xa3, 0x10, 0x00, 0x8b, 0x1e, 0x20, 0x00,
        0xf4,
    ])?;
    let access = || {
        (
            guest.shared::<u64>(offset_of!(kvm_run, __bindgen_anon_1.mmio.phys_addr)),
            guest.shared::<u32>(offset_of!(kvm_run, __bindgen_anon_1.mmio.len)),
            guest.shared::<u8>(offset_of!(kvm_run, __bindgen_anon_1.mmio.is_write)),
        )
    };
    const DATA: usize = offset_of!(kvm_run, __bindgen_anon_1.mmio.data);
    same("reason", guest.run()?, KVM_EXIT_MMIO)?;
    same("access", access(), (0x10_0000, 2, 1))?;
    same("data", guest.shared::<u16>(DATA), 0x1234)?;
    same("reason", guest.run()?, KVM_EXIT_MMIO)?;
    same("access", access(), (0x10_0010, 2, 0))?;
    guest.share(DATA, &0xbeef_u16.to_le_bytes());
    same("reason", guest.run()?, KVM_EXIT_HLT)?;
    let regs: kvm_regs = guest.get(KVM_GET_REGS)?;
    same("bx", regs.rbx, 0xbeef)
}

pub fn a_run_comes_back_at_once_when_asked_to() -> Outcome {
    let guest = Guest::new(FOREVER)?;
    const ASK: usize = offset_of!(kvm_run, immediate_exit);
    guest.share(ASK, &[1]);
    let answer = ioctl(&guest.vcpu, KVM_RUN, 0);
    same("with immediate_exit", answer, Err(libc::EINTR))?;
    same("reason", guest.reason(), KVM_EXIT_INTR)?;
    guest.share(ASK, &[0]);
    // A signal does the same.
    sys::alarm_in(50);
    let answer = ioctl(&guest.vcpu, KVM_RUN, 0);
    same("with a signal", answer, Err(libc::EINTR))?;
    same("reason", guest.reason(), KVM_EXIT_INTR)
}

pub fn interrupts_are_delivered_when_the_guest_takes_them() -> Outcome {
    // sti; nop; nop; hlt;  the handler at 0x3000: mov al, 7; out 1, al; iret
    let guest = Guest::new(&[0xfa, 0xe6, 2, 0xfb, 0x90, 0x90, 0xf4])?;
    guest.memory.write(0x3000, &[0xb0, 7, 0xe6, 1, 0xcf]);
    guest.memory.write(0x20 * 4, &[0x00, 0x30, 0x00, 0x00]);
    same("reason", guest.run()?, KVM_EXIT_IO)?;
    same(
        "if_flag",
        guest.shared::<u8>(offset_of!(kvm_run, if_flag)),
        0,
    )?;
    const WINDOW: usize = offset_of!(kvm_run, request_interrupt_window);
    const READY: usize = offset_of!(kvm_run, ready_for_interrupt_injection);
    guest.share(WINDOW, &[1]);
    same("reason", guest.run()?, KVM_EXIT_IRQ_WINDOW_OPEN)?;
    same("ready", guest.shared::<u8>(READY), 1)?;
    guest.share(WINDOW, &[0]);
    let vector = kvm_interrupt { irq: 0x20 };
    guest.set(KVM_INTERRUPT, &vector)?;
    same("reason", guest.run()?, KVM_EXIT_IO)?;
    same("port", guest.port(), (OUT, 1, 1, 1))?;
    same("data", guest.shared::<u8>(4096), 7)?;
    same("reason", guest.run()?, KVM_EXIT_HLT)?;
    let far = kvm_interrupt { irq: 256 };
    let answer = ioctl_with(&guest.vcpu, KVM_INTERRUPT, &far);
    same("a vector of more than 8 bits", answer, Err(libc::EINVAL))
}

/// A count, and entries behind it.
#[repr(C)]
struct Counted<T, const N: usize> {
    count: u32,
    nothing: u32,
    entries: [T; N],
}

pub fn cpuid_is_offered_and_taken() -> Outcome {
    // SAFETY: integers.
    let mut table: Counted<kvm_cpuid_entry2, 256> = unsafe { std::mem::zeroed() };
    let node = node::open()?;
    let at = ptr::from_mut(&mut table) as u64;
    let small = ioctl(&node, KVM_GET_SUPPORTED_CPUID, at);
    same("room for none", small, Err(libc::E2BIG))?;
    // SAFETY: the kernel wrote to it.
    let wanted = unsafe { (&raw const table.count).read_volatile() };
    if !(10..200).contains(&wanted) {
        return Err(format!("{wanted} entries"));
    }
    table.count = 256;
    same("room", ioctl(&node, KVM_GET_SUPPORTED_CPUID, at), Ok(0))?;
    // SAFETY: as above.
    let seen: Counted<kvm_cpuid_entry2, 256> = unsafe { ptr::from_ref(&table).read_volatile() };
    same("count", seen.count, wanted)?;
    let leaves = &seen.entries[..wanted as usize];
    for leaf in [
        0,
        1,
        7,
        0xa,
        0xd,
        0x8000_0000,
        0x8000_0008,
        0x8000_001d,
        0x8000_001e,
    ] {
        if !leaves.iter().any(|entry| entry.function == leaf) {
            return Err(format!("no leaf {leaf:#x}"));
        }
    }
    // mov eax, 0x40000000; cpuid; hlt
    let guest = Guest::new(&[0x66, 0xb8, 0, 0, 0, 0x40, 0x0f, 0xa2, 0xf4])?;
    table.count = 1;
    table.entries[0].function = 0x4000_0000;
    table.entries[0].ebx = 0x1234_5678;
    guest.set(KVM_SET_CPUID2, &table)?;
    same("reason", guest.run()?, KVM_EXIT_HLT)?;
    let regs: kvm_regs = guest.get(KVM_GET_REGS)?;
    same("ebx", regs.rbx, 0x1234_5678)?;
    table.count = 257;
    let answer = ioctl_with(&guest.vcpu, KVM_SET_CPUID2, &table);
    same("too many", answer, Err(libc::E2BIG))
}

pub fn msrs_are_listed_read_and_set() -> Outcome {
    let mut list = [0_u32; 512];
    let node = node::open()?;
    let at = list.as_mut_ptr() as u64;
    same(
        "room for none",
        ioctl(&node, KVM_GET_MSR_INDEX_LIST, at),
        Err(libc::E2BIG),
    )?;
    list[0] = 511;
    let at = list.as_mut_ptr() as u64;
    same("room", ioctl(&node, KVM_GET_MSR_INDEX_LIST, at), Ok(0))?;
    let guest = Guest::new(&[])?;
    // SAFETY: integers.
    let mut msrs: Counted<kvm_msr_entry, 3> = unsafe { std::mem::zeroed() };
    const STAR: u32 = 0xc000_0081;
    msrs.count = 3;
    msrs.entries[0].index = STAR;
    msrs.entries[0].data = 0x23_0010_0000_0000;
    msrs.entries[1].index = 0x7fff_ffff;
    let answer = ioctl_with(&guest.vcpu, KVM_SET_MSRS, &msrs);
    same("the second does not exist", answer, Ok(1))?;
    msrs.entries[0].data = 0;
    let at = ptr::from_mut(&mut msrs) as u64;
    same("reading", ioctl(&guest.vcpu, KVM_GET_MSRS, at), Ok(1))?;
    // SAFETY: the kernel wrote to it.
    let value = unsafe { (&raw const msrs.entries[0].data).read_volatile() };
    same("STAR", value, 0x23_0010_0000_0000)
}

pub fn memory_goes_away_under_a_guest() -> Outcome {
    // again: mov al, [0x4000]; out 1, al; jmp again
    let guest = Guest::new(&[0xa0, 0x00, 0x40, 0xe6, 1, 0xeb, 0xf9])?;
    for round in 1..20_u8 {
        guest.memory.write(0x4000, &[round]);
        same("reason", guest.run()?, KVM_EXIT_IO)?;
        same("data", guest.shared::<u8>(4096), round)?;
        // The page goes, and zeros come in its place.
        guest
            .memory
            .part(0x4000, 4096)
            .advise(libc::MADV_DONTNEED)
            .map_err(|e| e.to_string())?;
        same("reason", guest.run()?, KVM_EXIT_IO)?;
        same("data of a fresh page", guest.shared::<u8>(4096), 0)?;
        // A child makes it a copy-on-write page.
        let child = sys::fork(|| 0);
        same("a child", child.and_then(sys::wait), Ok(0))?;
    }
    guest
        .memory
        .part(0x4000, 4096)
        .protect(libc::PROT_NONE)
        .map_err(|e| e.to_string())?;
    let answer = ioctl(&guest.vcpu, KVM_RUN, 0);
    same("without the page", answer, Err(libc::EFAULT))?;
    let rights = libc::PROT_READ | libc::PROT_WRITE;
    guest
        .memory
        .part(0x4000, 4096)
        .protect(rights)
        .map_err(|e| e.to_string())?;
    same("reason", guest.run()?, KVM_EXIT_IO)
}

pub fn every_write_of_a_guest_is_logged() -> Outcome {
    // again: inc byte [0x5000]; inc byte [0x9000]; out 1, al; jmp again
    let guest = Guest::new(&[
        0xfe, 0x06, 0x00, 0x50, 0xfe, 0x06, 0x00, 0x90, 0xe6, 1, 0xeb, 0xf4,
    ])?;
    same("before the log", guest.run()?, KVM_EXIT_IO)?;
    let slot = (
        0,
        KVM_MEM_LOG_DIRTY_PAGES,
        0,
        MEMORY as u64,
        guest.memory.address(),
    );
    same("logging", memory::set(&guest.vm, slot), Ok(0))?;
    let mut log = [0_u64; 4];
    let mut read = |what: &str, wanted: u64| {
        let at = log.as_mut_ptr() as u64;
        same(what, memory::get_log(&guest.vm, 0, at), Ok(0))?;
        // SAFETY: the kernel wrote to it.
        same(what, unsafe { log.as_ptr().read_volatile() }, wanted)
    };
    for _ in 0..10 {
        read("nothing yet", 0)?;
        same("reason", guest.run()?, KVM_EXIT_IO)?;
        read("both pages", 1 << 5 | 1 << 9)?;
    }
    Ok(())
}

pub fn events_and_debug_registers_come_back_as_they_were_set() -> Outcome {
    // nop; hlt
    let guest = Guest::new(&[0x90, 0xf4])?;
    // The handler of #GP at 0x3000: mov al, 13; out 1, al
    guest.memory.write(0x3000, &[0xb0, 13, 0xe6, 1]);
    guest.memory.write(13 * 4, &[0x00, 0x30, 0x00, 0x00]);
    let mut events: kvm_vcpu_events = guest.get(KVM_GET_VCPU_EVENTS)?;
    same(
        "a new one",
        (events.exception.injected, events.nmi.masked),
        (0, 0),
    )?;
    events.exception.injected = 1;
    events.exception.nr = 13;
    events.nmi.masked = 1;
    guest.set(KVM_SET_VCPU_EVENTS, &events)?;
    let seen: kvm_vcpu_events = guest.get(KVM_GET_VCPU_EVENTS)?;
    let told = (seen.exception.injected, seen.exception.nr, seen.nmi.masked);
    same("events", told, (1, 13, 1))?;
    same("reason", guest.run()?, KVM_EXIT_IO)?;
    same("the handler ran", guest.shared::<u8>(4096), 13)?;
    let seen: kvm_vcpu_events = guest.get(KVM_GET_VCPU_EVENTS)?;
    same("afterwards", seen.exception.injected, 0)?;
    events.flags = 1 << 20;
    let answer = ioctl_with(&guest.vcpu, KVM_SET_VCPU_EVENTS, &events);
    same("a flag that nobody knows", answer, Err(libc::EINVAL))?;
    let mut debug: kvm_debugregs = guest.get(KVM_GET_DEBUGREGS)?;
    same("dr6 and dr7", (debug.dr6, debug.dr7), (0xffff_0ff0, 0x400))?;
    debug.db = [1, 2, 3, 4];
    guest.set(KVM_SET_DEBUGREGS, &debug)?;
    let seen: kvm_debugregs = guest.get(KVM_GET_DEBUGREGS)?;
    same("breakpoints", seen.db, [1, 2, 3, 4])?;
    debug.dr7 = 1 << 32;
    let answer = ioctl_with(&guest.vcpu, KVM_SET_DEBUGREGS, &debug);
    same("dr7 of more than 32 bits", answer, Err(libc::EINVAL))
}
