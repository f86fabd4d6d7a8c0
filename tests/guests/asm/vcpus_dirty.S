// The dirty log while several vCPUs write: whoever copies the pages that are in it, again and again,
// has a true copy in the end.
#include "guest.inc"
#include "vcpus.inc"
.set SLOT, 1
.set BASE, 0x100000        // the pages that are written
.set FIRST, (BASE - 0xb0000) / 0x1000 // the first of them in the log
.set PAGES, 24
.set LOOKS, 12
.set COPY, DATA            // 16 bytes a page: a word for each vCPU
.set SEEN, DATA + 0x1000   // the words after the last look
    TO_PROTECTED
    TO_LONG
    SET_TRAPS64
    DO(SET_FLAGS, SLOT, LOG_DIRTY, 0)
    START_ALL
    mov ebp, LOOKS
look:
    // What has changed since the last look was over must be in the log of this one.
    xor ebx, ebx
1:  mov edi, ebx
    shl edi, 12
    movdqu xmm0, [rdi + BASE]
    shl ebx, 4
    movdqu xmm1, [rbx + SEEN]
    shr ebx, 4
    pcmpeqd xmm0, xmm1
    pmovmskb eax, xmm0
    cmp eax, 0xffff
    setne [rbx + changed]
    inc ebx
    cmp ebx, PAGES
    jb 1b
    DO(FETCH_LOG, SLOT, 0, 0)
    xor ebx, ebx
2:  lea esi, [rbx + FIRST]
    DO(IS_DIRTY, esi, 0, 0)
    mov edi, ebx
    shl edi, 12
    mov ecx, ebx
    shl ecx, 4
    movdqu xmm0, [rdi + BASE]
    movdqu [rcx + SEEN], xmm0
    test eax, eax
    jz 3f
    movdqu [rcx + COPY], xmm0
    jmp 4f
3:  EQ(byte ptr [rbx + changed], 0)
4:  inc ebx
    cmp ebx, PAGES
    jb 2b
    cmp ebp, 2
    jne 5f
    // The writers stop; one more look, and the copy is a true one.
    mov dword ptr [stop], 1
    MEET
5:  dec ebp
    jnz look
    xor ebx, ebx
6:  mov edi, ebx
    shl edi, 12
    mov ecx, ebx
    shl ecx, 4
    mov rax, [rdi + BASE]
    EQ(rax, [rcx + COPY])
    mov rax, [rdi + BASE + 8]
    EQ(rax, [rcx + COPY + 8])
    NE(dword ptr [rcx + COPY + 4], 0)
    inc ebx
    cmp ebx, PAGES
    jb 6b
    // Nobody writes any more.
    DO(FETCH_LOG, SLOT, 0, 0)
    EQ(eax, 0)
    PASS

.balign 4
stop: .long 0
changed: .skip PAGES

work:
    xor ebx, ebx
    mov esi, 1
1:  // Pages in some order, by several instructions.
    imul ebx, ebx, 5
    add ebx, r15d
    add ebx, 7
    and ebx, 31
    cmp ebx, PAGES
    jae 1b
    mov edi, ebx
    shl edi, 12
    lea edi, [rdi + r15 * 4 + BASE]
    inc dword ptr [rdi]
    mov eax, 1
    lock xadd [rdi], eax
    mov eax, [rdi]
    inc eax
    mov [rdi], eax
    inc esi
    cmp dword ptr [stop], 0
    je 1b
    // Once more each, after the last look of which this one knows.
    xor ebx, ebx
2:  mov edi, ebx
    shl edi, 12
    inc dword ptr [rdi + r15 * 4 + BASE]
    inc ebx
    cmp ebx, PAGES
    jb 2b
    MEET
3:  hlt
    jmp 3b
#include "traps64.inc"
#include "tables.inc"
