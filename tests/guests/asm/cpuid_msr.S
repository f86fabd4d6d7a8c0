// CPUID and the model-specific registers, those that there are not among them.
#include "guest.inc"
    TO_PROTECTED
    TO_LONG
    SET_TRAPS64
    // CPUID: a vendor, the highest leaf, a hypervisor that says so and has leaves of its own.
    xor eax, eax
    cpuid
    ABOVE(eax, 0)
    mov [DATA], ebx
    mov [DATA + 4], edx
    mov [DATA + 8], ecx
    mov eax, 1
    cpuid
    bt ecx, 31
    IF(c)
    bt ecx, 5 // no VMX inside
    IF(nc)
    bt edx, 0
    IF(c)
    mov eax, 0x80000000
    cpuid
    ABOVE(eax, 0x80000007)
    mov eax, 0x80000001
    cpuid
    bt ecx, 2 // no SVM inside
    IF(nc)
    bt edx, 29
    IF(c)
    mov eax, 0x80000008
    cpuid
    ABOVE(al, 31)
    // The upper halves are cleared.
    mov rax, 0xffffffff00000000
    mov rbx, -1
    mov rcx, 0xffffffff00000000
    mov rdx, -1
    cpuid
    mov rsi, rax
    or rsi, rbx
    or rsi, rcx
    or rsi, rdx
    shr rsi, 32
    EQ(esi, 0)
    EQ(ebx, [DATA])

    // Registers of the base and of SYSCALL keep what is written.
    mov r8d, 0xc0000081 // STAR
    call keeps
    mov r8d, 0xc0000082 // LSTAR
    call keeps_address
    mov r8d, 0xc0000083 // CSTAR
    call keeps_address
    mov r8d, 0xc0000102 // KERNEL_GS_BASE
    call keeps_address
    mov r8d, 0xc0000100 // FS_BASE
    call keeps_address
    mov r8d, 0x175 // SYSENTER_ESP
    call keeps_address
    mov r8d, 0x176 // SYSENTER_EIP
    call keeps_address

    // GS bases are exchanged; FS base is used.
    mov ecx, 0xc0000101
    mov eax, DATA
    xor edx, edx
    wrmsr
    mov ecx, 0xc0000102
    mov eax, DATA + 0x1000
    wrmsr
    mov dword ptr [DATA + 8], 0x1111
    mov dword ptr [DATA + 0x1008], 0x2222
    EQ(dword ptr gs:[8], 0x1111)
    swapgs
    EQ(dword ptr gs:[8], 0x2222)
    rdmsr
    EQ(eax, DATA)
    swapgs

    // SYSCALL and SYSRET.
    mov ecx, 0xc0000081
    xor eax, eax
    mov edx, (USER_CODE32 << 16) | CODE64 // SS is DATA16
    wrmsr
    mov ecx, 0xc0000082
    mov eax, offset system_call
    xor edx, edx
    wrmsr
    mov ecx, 0xc0000084
    mov eax, 0x400 // SFMASK: DF
    wrmsr
    std
    syscall
after_system_call:
    FAIL
system_call:
    EQ(ecx, offset after_system_call)
    bt r11, 10
    IF(c)
    pushfq
    pop rax
    bt eax, 10
    IF(nc)

    // PAT keeps legal types and refuses others.
    mov ecx, 0x277
    rdmsr
    mov esi, eax
    mov edi, edx
    mov eax, 0x00070406
    mov edx, 0x00070406
    NO_TRAP(wrmsr)
    rdmsr
    EQ(eax, 0x00070406)
    mov eax, 0x00070402
    TRAP(13, 0, wrmsr)
    rdmsr
    EQ(eax, 0x00070406)
    mov eax, esi
    mov edx, edi
    wrmsr

    // The time-stamp counter runs.
    rdtsc
    mov esi, eax
    mov edi, edx
    mov ecx, 0x10
    rdmsr
    sub eax, esi
    sbb edx, edi
    EQ(edx, 0)

    // An APIC base, enabled, of the boot CPU.
    mov ecx, 0x1b
    NO_TRAP(rdmsr)

    // Registers that nobody has: #GP at the instruction, and nothing changes.
    mov ecx, 0x12345678
    mov eax, 0x77
    mov edx, 0x88
    TRAP(13, 0, rdmsr)
    EQ(eax, 0x77)
    EQ(edx, 0x88)
    TRAP(13, 0, wrmsr)
    mov ecx, 0xc0011fff
    TRAP(13, 0, rdmsr)
    mov ecx, 0x480 // IA32_VMX_BASIC
    TRAP(13, 0, rdmsr)
    mov ecx, 0xffffffff
    TRAP(13, 0, rdmsr)
    TRAP(13, 0, wrmsr)
    PASS

// Register R8D keeps two values; leaves it as it was.
keeps:
    mov ecx, r8d
    rdmsr
    mov esi, eax
    mov edi, edx
    mov eax, 0x12345678
    mov edx, 0x00001abc
    wrmsr
    xor eax, eax
    xor edx, edx
    rdmsr
    EQ(eax, 0x12345678)
    EQ(edx, 0x1abc)
    mov eax, esi
    mov edx, edi
    wrmsr
    ret

// The same, with an address in the upper half.
keeps_address:
    call keeps
    mov eax, 0x87654321
    mov edx, 0xffff8765
    wrmsr
    rdmsr
    EQ(eax, 0x87654321)
    EQ(edx, 0xffff8765)
    xor eax, eax
    xor edx, edx
    wrmsr
    ret
#include "traps64.inc"
#include "tables.inc"
