//! The switch into the guest and back.
//!
//! Which register is switched where is a table: [`host_state`](crate::host_state). Here it is
//!
//! - the general registers but RAX and RSP: on the way back the callee-saved ones come from the
//!   stack, and the others are cleared, so that no guest value steers what the host does next;
//! - what VMSAVE and VMLOAD know, both ways;
//! - interrupts. CLGI holds everything off from here to VMRUN, which turns GIF on for the guest.
//!   The host's IF is on meanwhile, so an interrupt ends the guest's run; so does an NMI. Both stay
//!   pending: the exit turns GIF off. With IF off again STGI lets the NMI through to the host's
//!   handler, on the host's own segments, and the interrupt waits until the caller turns
//!   interrupts on.
//!
//! Source: AMD APM volume 2, "VMRUN", "VMSAVE and VMLOAD", "Global Interrupt
//! Flag".
#![expect(unsafe_code, reason = "the world switch")]
use core::arch::naked_asm;

use waterbear_core::regs::Regs;
use waterbear_hal::Hpa;

/// Runs the guest until its next exit.
///
/// # Safety
///
/// EFER.SVME is set and VM_HSAVE_PA is this CPU's own page. `vmcb` is a valid
/// control block whose memory the guest cannot reach, `host` a page of this
/// CPU's own, and interrupts are off. `stuff` says that the return predictions
/// have to be overwritten afterwards.
pub unsafe fn run(vmcb: Hpa, host: Hpa, regs: &mut Regs, stuff: bool) {
    // SAFETY: as the caller promises; `Regs` has the layout that the assembly
    // knows.
    unsafe { switch(vmcb.0, host.0, regs, stuff.into()) }
}

#[unsafe(naked)]
unsafe extern "C" fn switch(vmcb: u64, host: u64, regs: *mut Regs, stuff: u64) {
    naked_asm!(
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "push rcx",
        "push rsi",
        "push rdx",
        // The host's half of what VMRUN does not save.
        "mov rax, rsi",
        "vmsave rax",
        "mov rax, rdi",
        "mov rcx, [rdx + 8]",
        "mov rbx, [rdx + 24]",
        "mov rbp, [rdx + 40]",
        "mov rsi, [rdx + 48]",
        "mov rdi, [rdx + 56]",
        "mov r8, [rdx + 64]",
        "mov r9, [rdx + 72]",
        "mov r10, [rdx + 80]",
        "mov r11, [rdx + 88]",
        "mov r12, [rdx + 96]",
        "mov r13, [rdx + 104]",
        "mov r14, [rdx + 112]",
        "mov r15, [rdx + 120]",
        "mov rdx, [rdx + 16]",
        "clgi",
        "sti",
        "vmload rax",
        "vmrun rax",
        // RAX is the host's again: the control block.
        "vmsave rax",
        "cli",
        "mov rax, [rsp]",
        "mov [rax + 8], rcx",
        "mov [rax + 16], rdx",
        "mov [rax + 24], rbx",
        "mov [rax + 40], rbp",
        "mov [rax + 48], rsi",
        "mov [rax + 56], rdi",
        "mov [rax + 64], r8",
        "mov [rax + 72], r9",
        "mov [rax + 80], r10",
        "mov [rax + 88], r11",
        "mov [rax + 96], r12",
        "mov [rax + 104], r13",
        "mov [rax + 112], r14",
        "mov [rax + 120], r15",
        "mov rax, [rsp + 8]",
        "vmload rax",
        "xor ecx, ecx",
        "xor edx, edx",
        "xor edi, edi",
        "xor r8d, r8d",
        "xor r9d, r9d",
        "xor r10d, r10d",
        "xor r11d, r11d",
        "mov rax, [rsp + 16]",
        "test eax, eax",
        "jz 3f",
        // Each call leaves a prediction for a return, and none of the guest's is left.
        // A tool that checks that calls are to functions learns of these by their section.
        ".rept 32",
        "4:",
        ".pushsection .discard.intra_function_calls, \"\"",
        ".long 4b",
        ".popsection",
        "call 2f",
        "int3",
        "2:",
        ".endr",
        "add rsp, 256",
        "3:",
        "stgi",
        "add rsp, 24",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        waterbear_hal::return_instruction!(),
    )
}
