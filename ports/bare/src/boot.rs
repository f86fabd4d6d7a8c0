//! From the boot loader to Rust.
//!
//! QEMU's `-kernel` finds the entry through the PVH note, GRUB through the
//! multiboot2 header. Both jump to `start32` in 32-bit protected mode with
//! paging off. It maps the first 4 GiB one to one in pages of 2 MiB, switches
//! to long mode and calls [`kernel_main`](crate::machine::kernel_main).
use core::arch::global_asm;
use core::ffi::{CStr, c_char};
use core::slice;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::host::memory;

global_asm!(
    r#"
    .section .boot.header, "a"
    .balign 8
multiboot2:
    .long 0xe85250d6, 0, multiboot2_end - multiboot2
    .long -(0xe85250d6 + (multiboot2_end - multiboot2))
    .short 0, 0
    .long 8
multiboot2_end:

    .section .note.pvh, "a", @note
    .balign 4
    .long 4, 4, 18
    .asciz "Xen"
    .long start32

    .section .boot.text, "ax"
    .code32
    .globl start32
start32:
    cli
    cld
    mov esp, offset boot_stack_end
    // Who loaded us, and where it says what else.
    mov [boot_loader], eax
    mov [boot_information], ebx
    // Level 4 and level 3: one entry each level 2 table.
    mov eax, offset boot_l3 + 3
    mov [boot_l4], eax
    mov edi, offset boot_l3
    mov eax, offset boot_l2 + 3
    mov ecx, 4
2:  mov [edi], eax
    add eax, 4096
    add edi, 8
    loop 2b
    // Level 2: 4 GiB in pages of 2 MiB.
    mov edi, offset boot_l2
    mov eax, 0x83
    mov ecx, 2048
3:  mov [edi], eax
    add eax, 0x200000
    add edi, 8
    loop 3b
    // PAE, OSFXSR, OSXMMEXCPT.
    mov eax, cr4
    or eax, 0x620
    mov cr4, eax
    mov eax, offset boot_l4
    mov cr3, eax
    // EFER: LME and NXE.
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x900
    wrmsr
    // CR0: PG, WP, NE and MP on, EM off.
    mov eax, cr0
    or eax, 0x80010022
    and eax, 0xfffffffb
    mov cr0, eax
    lgdt [boot_gdtr]
    ljmp 8, offset start64

    .code64
start64:
    mov eax, 16
    mov ds, eax
    mov es, eax
    mov ss, eax
    xor eax, eax
    mov fs, eax
    mov gs, eax
    mov rsp, offset boot_stack_end
    xor ebp, ebp
    call kernel_main
4:  hlt
    jmp 4b

    .section .data
    .balign 8
    .globl boot_gdt
boot_gdt:
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
    .quad 0, 0
boot_gdtr:
    .short boot_gdtr - boot_gdt - 1
    .long boot_gdt
    .long 0

    .globl boot_loader
boot_loader: .long 0
    .globl boot_information
boot_information: .long 0

    .section .bss
    .balign 4096
    .globl boot_l4
boot_l4: .skip 4096
boot_l3: .skip 4096
boot_l2: .skip 4 * 4096
    .skip 65536
boot_stack_end:
"#
);

/// How much memory is mapped, from address 0.
pub const MAPPED: u64 = 4 << 30;

unsafe extern "C" {
    /// The page table of level 4.
    static boot_l4: [AtomicU64; 512];
    static boot_loader: u32;
    static boot_information: u32;
}

/// The page table of level 4, which all CPUs use.
pub fn top_table() -> &'static [AtomicU64; 512] {
    // SAFETY: it is there for good, and everybody uses it as atomics.
    unsafe { &boot_l4 }
}

/// What EAX holds after GRUB.
const MULTIBOOT2: u32 = 0x36d7_6289;
/// What a PVH loader's information begins with.
const PVH: u32 = 0x336e_c578;

fn word(address: u64) -> u32 {
    // SAFETY: the loader's information is below 4 GiB, mapped, and nobody writes to it.
    unsafe { (address as *const u32).read() }
}

/// Where the command line begins, in the information of either loader. ("Boot information format"
/// of the Multiboot2 specification; "hvm_start_info" of the PVH boot protocol.)
fn command_line() -> Option<u64> {
    // SAFETY: written once, before there was Rust.
    let (loader, at) = unsafe { (boot_loader, u64::from(boot_information)) };
    if loader != MULTIBOOT2 {
        let line = u64::from(word(at + 24));
        return (word(at) == PVH && line != 0).then_some(line);
    }
    let end = at + u64::from(word(at));
    let mut tag = at + 8;
    while tag < end {
        match word(tag) {
            0 => return None,
            1 => return Some(tag + 8),
            _ => tag += u64::from(word(tag + 4)).next_multiple_of(8),
        }
    }
    None
}

/// Where a PVH loader has left a file for us, and its bytes: address and length.
fn loaded_file() -> Option<(u64, u64)> {
    // SAFETY: written once, before there was Rust.
    let (loader, at) = unsafe { (boot_loader, u64::from(boot_information)) };
    if loader == MULTIBOOT2 || word(at) != PVH || word(at + 12) == 0 {
        return None;
    }
    let list = u64::from(word(at + 16));
    Some((word(list).into(), word(list + 8).into()))
}

/// The file, once it is known.
static FILE: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

/// The file that came with us. Only QEMU's `-initrd` brings one.
pub fn file() -> Option<&'static [u8]> {
    let [start, length] = FILE.each_ref().map(|word| word.load(Ordering::Relaxed));
    if length == 0 {
        return None;
    }
    assert!(start >= memory::END, "the heap is where the file is");
    let start = start as *const u8;
    // SAFETY: the loader put it there, it is mapped, and nobody writes to it.
    Some(unsafe { slice::from_raw_parts(start, length as usize) })
}

/// Room for the command line; a longer one is cut.
const LINE: usize = 1024;
/// The command line, up to the first zero byte.
static mut COMMAND_LINE: [u8; LINE] = [0; LINE];

/// Copies the command line from where the loader left it, and remembers where the file is: the heap
/// will use that memory. Once, before anything else.
pub fn keep_information() {
    if let Some((start, length)) = loaded_file() {
        FILE[0].store(start, Ordering::Relaxed);
        FILE[1].store(length, Ordering::Relaxed);
    }
    let Some(at) = command_line() else { return };
    // SAFETY: ends with a zero byte; nobody writes to it.
    let line = unsafe { CStr::from_ptr(at as *const c_char) }.to_bytes();
    let kept = &raw mut COMMAND_LINE;
    // SAFETY: no other CPU runs yet, and nobody has looked.
    let kept = unsafe { &mut *kept };
    for (to, from) in kept.iter_mut().zip(line) {
        *to = *from;
    }
}

/// The value of `name=value` on the command line.
pub fn option(name: &str) -> Option<&'static str> {
    let kept = &raw const COMMAND_LINE;
    // SAFETY: nobody writes to it any more.
    let line = unsafe { &*kept };
    let line = line.split(|&byte| byte == 0).next()?;
    let mut words = str::from_utf8(line).ok()?.split_ascii_whitespace();
    words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}
