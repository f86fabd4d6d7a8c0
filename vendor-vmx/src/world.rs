//! The switch into the guest and back.
//!
//! General registers are switched here; the CPU itself and [`crate::swap`] do the rest, as
//! [`crate::host_state`] lists. After an exit the registers that the host's calling convention
//! does not keep are cleared, so that no guest value steers what the host does next.
//!
//! Source: Intel SDM volume 3, "VM Entries" and "VM Exits".
#![expect(unsafe_code, reason = "the world switch")]
use core::arch::naked_asm;

use waterbear_core::regs::Regs;

/// The control-structure fields that the assembly writes.
const HOST_RSP: u32 = x86::vmx::vmcs::host::RSP;
const HOST_RIP: u32 = x86::vmx::vmcs::host::RIP;

/// Runs the guest of the current control structure until its next exit; says
/// whether it was entered.
///
/// `host_rsp` is what the structure has for the host's RSP, or 0 when it has neither that nor RIP.
///
/// # Safety
///
/// VMX operation is on, the current control structure is in the clear state, or has been
/// `launched` since it was loaded, and describes this CPU's host state but for RSP and RIP;
/// interrupts are off.
#[inline(always)]
pub unsafe fn run(regs: &mut Regs, launched: bool, host_rsp: &mut u64) -> bool {
    // SAFETY: as the caller promises; `Regs` has the layout that the assembly
    // knows.
    unsafe { switch(regs, launched.into(), host_rsp) == 0 }
}

#[unsafe(naked)]
unsafe extern "C" fn switch(regs: *mut Regs, launched: u64, host_rsp: *mut u64) -> u64 {
    naked_asm!(
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "push rdi",
        "cmp [rdx], rsp",
        "je 4f",
        "mov [rdx], rsp",
        "mov eax, {host_rsp}",
        "vmwrite rax, rsp",
        "lea rcx, [rip + 2f]",
        "mov eax, {host_rip}",
        "vmwrite rax, rcx",
        "4:",
        // The moves that follow leave the flags alone.
        "test esi, esi",
        "mov rax, [rdi]",
        "mov rcx, [rdi + 8]",
        "mov rdx, [rdi + 16]",
        "mov rbx, [rdi + 24]",
        "mov rbp, [rdi + 40]",
        "mov rsi, [rdi + 48]",
        "mov r8, [rdi + 64]",
        "mov r9, [rdi + 72]",
        "mov r10, [rdi + 80]",
        "mov r11, [rdi + 88]",
        "mov r12, [rdi + 96]",
        "mov r13, [rdi + 104]",
        "mov r14, [rdi + 112]",
        "mov r15, [rdi + 120]",
        "mov rdi, [rdi + 56]",
        "jz 5f",
        "vmresume",
        "jmp 6f",
        "5:",
        "vmlaunch",
        "6:",
        // Only reached when the CPU did not enter.
        "mov eax, 1",
        // Never taken. Linux's check of kernel code follows jumps, and no jump leads to where the
        // CPU goes on after an exit.
        "test eax, eax",
        "jz 2f",
        "add rsp, 8",
        "jmp 3f",
        "2:",
        "push rdi",
        "mov rdi, [rsp + 8]",
        "mov [rdi], rax",
        "mov [rdi + 8], rcx",
        "mov [rdi + 16], rdx",
        "mov [rdi + 24], rbx",
        "mov [rdi + 40], rbp",
        "mov [rdi + 48], rsi",
        "pop qword ptr [rdi + 56]",
        "mov [rdi + 64], r8",
        "mov [rdi + 72], r9",
        "mov [rdi + 80], r10",
        "mov [rdi + 88], r11",
        "mov [rdi + 96], r12",
        "mov [rdi + 104], r13",
        "mov [rdi + 112], r14",
        "mov [rdi + 120], r15",
        "add rsp, 8",
        "xor eax, eax",
        "3:",
        "xor ecx, ecx",
        "xor edx, edx",
        "xor esi, esi",
        "xor edi, edi",
        "xor r8d, r8d",
        "xor r9d, r9d",
        "xor r10d, r10d",
        "xor r11d, r11d",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        waterbear_hal::return_instruction!(),
        host_rsp = const HOST_RSP,
        host_rip = const HOST_RIP,
    )
}
