// Everything that a guest should not do. It must come to no harm but its own.
#include "guest.inc"
    TO_PROTECTED
    TO_LONG
    SET_TRAPS64
    // Instructions of virtualisation, all #UD.
    mov eax, DATA
    TRAP(6, 0, .byte 0x0f, 0x01, 0xc2) // VMLAUNCH
    TRAP(6, 0, .byte 0x0f, 0x01, 0xc3) // VMRESUME
    TRAP(6, 0, .byte 0x0f, 0x01, 0xc4) // VMXOFF
    TRAP(6, 0, .byte 0xf3, 0x0f, 0xc7, 0x34, 0x25; .long DATA) // VMXON
    TRAP(6, 0, .byte 0x0f, 0xc7, 0x34, 0x25; .long DATA) // VMPTRLD
    TRAP(6, 0, .byte 0x66, 0x0f, 0xc7, 0x34, 0x25; .long DATA) // VMCLEAR
    TRAP(6, 0, .byte 0x0f, 0x78, 0xc8) // VMREAD
    TRAP(6, 0, .byte 0x0f, 0x79, 0xc8) // VMWRITE
    TRAP(6, 0, .byte 0x66, 0x0f, 0x38, 0x80, 0x04, 0x25; .long DATA) // INVEPT
    TRAP(6, 0, .byte 0x66, 0x0f, 0x38, 0x81, 0x04, 0x25; .long DATA) // INVVPID
    TRAP(6, 0, .byte 0x0f, 0x01, 0xd8) // VMRUN
    TRAP(6, 0, .byte 0x0f, 0x01, 0xda) // VMLOAD
    TRAP(6, 0, .byte 0x0f, 0x01, 0xdb) // VMSAVE
    TRAP(6, 0, .byte 0x0f, 0x01, 0xdc) // STGI
    TRAP(6, 0, .byte 0x0f, 0x01, 0xdd) // CLGI
    TRY(.byte 0x0f, 0x01, 0xde) // SKINIT
    TRY(.byte 0x0f, 0x01, 0xdf) // INVLPGA
    TRY(.byte 0x0f, 0x37) // GETSEC
    TRY(.byte 0x0f, 0xaa) // RSM
    TRY(.byte 0x0f, 0x01, 0xd4) // VMFUNC
    TRY(.byte 0x0f, 0x01, 0xcf) // ENCLS
    TRY(monitor)
    TRY(mwait)
    NO_TRAP(invd)
    NO_TRAP(wbinvd)
    xor ecx, ecx
    TRY(rdpmc)

    // Every port, for every size, except those that this program reports through.
    xor edx, edx
1:  cmp edx, 0x500
    jb 2f
    cmp edx, 0x580
    jb 3f
2:  in al, dx
    mov al, 0xff
    out dx, al
    mov al, 0xfe
    out dx, al
    mov eax, 0x80000000
    out dx, eax
3:  add edx, 1
    cmp edx, 0x400
    jne 4f
    mov edx, 0x4f0 // the rest in larger steps, to the end
4:  cmp edx, 0x600
    jb 1b
    add edx, 1020
    cmp edx, 0x10000
    jb 1b
    mov edx, 0xcf9
    mov al, 6
    out dx, al
    mov edx, 0xffff
    in eax, dx
    in ax, dx

    // Every MSR of some ranges: read, write back, write ones and zeroes. SYSENTER's, the segment
    // bases and EFER are put right again.
    mov esi, offset ranges
5:  mov ecx, [rsi]
6:  TRY(rdmsr)
    mov r8d, eax
    mov r9d, edx
    mov r10d, [vector]
    mov eax, -1
    mov edx, -1
    TRY(wrmsr)
    mov eax, 0x5555
    mov edx, 0
    TRY(wrmsr)
    cmp r10d, 0x100
    jne 7f
    mov eax, r8d
    mov edx, r9d
    TRY(wrmsr)
7:  inc ecx
    cmp ecx, [rsi + 4]
    jb 6b
    add esi, 8
    cmp esi, offset ranges_end
    jb 5b

    // Debug and control registers, with everything that there is.
    mov rbx, -1
    TRY(mov dr0, rbx)
    TRY(mov dr6, rbx)
    TRY(mov dr7, rbx)
    mov eax, 0x400
    mov dr7, rax
    mov rbp, cr4
    mov ecx, 32
8:  mov rax, rbp
    lea edx, [rcx - 1]
    bts rax, rdx
    // SMEP and SMAP would keep this program from its own pages.
    and eax, ~0x300000
    TRY(mov cr4, rax)
    mov cr4, rbp
    dec ecx
    jnz 8b
    mov rbx, cr0
    mov rax, -1
    TRY(mov cr0, rax)
    mov cr0, rbx

    // A stack that is nowhere; jumps to nowhere; SYSENTER without a segment.
    mov byte ptr [idt + 12 * 16 + 4], 1
    mov byte ptr [idt + 13 * 16 + 4], 1
    mov byte ptr [idt + 14 * 16 + 4], 1
    mov byte ptr [idt + 6 * 16 + 4], 1
    mov dword ptr [gdt + TSS], 0x67
    mov word ptr [gdt + TSS + 2], offset tss
    mov dword ptr [gdt + TSS + 4], 0x00008900
    mov eax, TSS
    ltr ax
    mov rbp, rsp
    mov rsp, 1 << 63
    TRY(push rax)
    mov rsp, rbp
    or dword ptr [vector], 1 // QEMU raises #GP
    EQ(dword ptr [vector], 13)
    mov rsp, 0xc0000000
    TRY(push rax)
    mov rsp, rbp
    mov rax, 1 << 63
    TRY(jmp rax)
    mov rsp, rbp
    mov eax, 0x40000000
    TRY(jmp rax)
    mov rsp, rbp
    mov dword ptr [DATA], 0x1234
    mov word ptr [DATA + 4], 0xfff8
    TRY(ljmp [DATA])
    mov ecx, 0x174
    xor eax, eax
    xor edx, edx
    wrmsr
    TRY(sysenter)
    mov rsp, rbp
    // A descriptor table at an address that there cannot be.
    mov rax, -1
    mov [DATA], rax
    mov [DATA + 8], rax
    TRY(lgdt [DATA])
    lgdt [gdt_register]
    // Instructions in memory that is a device, or nothing, or fifteen bytes and more.
    mov eax, DEVICE
    mov dword ptr [rax], 0xc3c3c3c3
    mov edi, DATA + 0x100
    mov ecx, 15
    mov al, 0x66
    cld
    rep stosb
    mov byte ptr [rdi], 0x90
    mov byte ptr [rdi + 1], 0xc3
    mov eax, DATA + 0x100
    TRAP_AT(13, 0, DATA + 0x100, call rax)
    mov rsp, rbp
    // The host is there, and does what it is asked.
    OUT32(SCRATCH, 0x1234)
    IN32(SCRATCH)
    EQ(eax, 0x1234)
    PASS

.balign 8
ranges:
    .long 0, 0x18
    .long 0x1c, 0x174
    .long 0x177, 0x300
    .long 0x300, 0x4a0
    .long 0x560, 0x5a0
    .long 0x600, 0x640
    .long 0x800, 0x840
    .long 0xc80, 0xca0
    .long 0xd90, 0xdc0
    .long 0x40000000, 0x40000020
    .long 0x4b564d00, 0x4b564d08
    .long 0xc0000081, 0xc0000085
    .long 0xc0000102, 0xc0000110
    .long 0xc0010000, 0xc0010140
    .long 0xc0011000, 0xc0011040
    .long 0xfffffff0, 0xffffffff
ranges_end:
.balign 8
tss:
    .long 0
    .quad STACK0, 0, 0, 0, STACK_IST, 0, 0, 0, 0, 0, 0, 0
    .word 0, 104
#include "traps64.inc"
#include "tables.inc"
