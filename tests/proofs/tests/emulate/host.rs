//! This CPU, executing one instruction with given registers and memory.
use std::ptr;

use waterbear_core::regs::Regs;

const PAGE: usize = 4096;
/// The bytes that instructions may use.
pub const DATA: usize = 2 * PAGE;
/// Where the state lies: behind the page of code.
const STATE: usize = PAGE;
/// RFLAGS in the state, and the stack pointer of whoever called.
const RFLAGS: usize = 16 * 8;
const CALLER: usize = 17 * 8;
const VECTORS: usize = 18 * 8;
const RSP: usize = Regs::RSP;

/// A page of code, a page of state and some pages of data, below 4 GiB.
pub struct Host {
    pages: *mut u8,
}

impl Host {
    pub fn new() -> Self {
        let size = 2 * PAGE + DATA;
        let protection = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT;
        // SAFETY: a new mapping, which touches no other memory.
        let pages = unsafe { libc::mmap(ptr::null_mut(), size, protection, flags, -1, 0) };
        assert_ne!(pages, libc::MAP_FAILED);
        Self {
            pages: pages.cast(),
        }
    }

    /// The address of the data.
    pub fn data(&self) -> u64 {
        self.pages as u64 + 2 * PAGE as u64
    }

    /// Where the instruction will be.
    pub fn rip(&self) -> u64 {
        let mut code = Code::default();
        code.enter();
        self.pages as u64 + code.bytes.len() as u64
    }

    /// Executes one instruction that does not fault and goes on behind itself. RIP is left alone.
    pub fn execute(
        &self,
        instruction: &[u8],
        regs: &mut Regs,
        vectors: &mut [[u64; 2]; 16],
        memory: &mut [u8],
    ) {
        assert_eq!(memory.len(), DATA);
        let mut code = Code::default();
        code.enter();
        code.bytes.extend(instruction);
        code.leave();
        assert!(code.bytes.len() <= PAGE);
        let copy = |from: *const u8, to: *mut u8, length: usize| {
            // SAFETY: the callers below give ranges that are valid, and no two that overlap.
            unsafe { ptr::copy_nonoverlapping(from, to, length) };
        };
        let at = |offset: usize| self.pages.wrapping_add(offset);
        let mut flags = regs.rflags;
        let general = regs.general.as_mut_ptr().cast::<u8>();
        let vectors = vectors.as_mut_ptr().cast::<u8>();
        copy(code.bytes.as_ptr(), at(0), code.bytes.len());
        copy(general, at(STATE), RFLAGS);
        copy(ptr::from_mut(&mut flags).cast(), at(STATE + RFLAGS), 8);
        copy(vectors, at(STATE + VECTORS), 256);
        copy(memory.as_ptr(), at(2 * PAGE), DATA);
        // SAFETY: the page begins with the code just written, which is a function: it keeps what a
        // function of the C ABI keeps, whatever the one instruction does to registers and data.
        let call: extern "C" fn() = unsafe { std::mem::transmute(self.pages) };
        call();
        copy(at(STATE), general, RFLAGS);
        copy(at(STATE + RFLAGS), ptr::from_mut(&mut flags).cast(), 8);
        copy(at(STATE + VECTORS), vectors, 256);
        copy(at(2 * PAGE), memory.as_mut_ptr(), DATA);
        regs.rflags = flags;
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, of this size.
        unsafe { libc::munmap(self.pages.cast(), 2 * PAGE + DATA) };
    }
}

/// The function around the instruction.
#[derive(Default)]
struct Code {
    bytes: Vec<u8>,
}

impl Code {
    /// The four bytes that lead from behind them to a place in the state.
    fn state_at(&mut self, offset: usize) {
        let distance = STATE + offset - (self.bytes.len() + 4);
        self.bytes.extend((distance as u32).to_le_bytes());
    }

    /// MOV between a general register and the state.
    fn general(&mut self, opcode: u8, register: usize, offset: usize) {
        let rex = 0x48 | (register as u8 >> 3) << 2;
        self.bytes
            .extend([rex, opcode, 5 | (register as u8 & 7) << 3]);
        self.state_at(offset);
    }

    /// MOVUPS between a vector register and the state.
    fn vector(&mut self, opcode: u8, register: usize) {
        let rex = 0x40 | (register as u8 >> 3) << 2;
        self.bytes
            .extend([rex, 0x0f, opcode, 5 | (register as u8 & 7) << 3]);
        self.state_at(VECTORS + 16 * register);
    }

    fn enter(&mut self) {
        // PUSH of RBX, RBP, R12 to R15.
        self.bytes
            .extend([0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57]);
        self.general(0x89, RSP, CALLER);
        for register in 0..16 {
            self.vector(0x10, register);
        }
        // PUSH of the flags, POPF.
        self.bytes.extend([0xff, 0x35]);
        self.state_at(RFLAGS);
        self.bytes.push(0x9d);
        for register in 0..16 {
            self.general(0x8b, register, register * 8);
        }
    }

    fn leave(&mut self) {
        for register in 0..16 {
            self.general(0x89, register, register * 8);
        }
        self.general(0x8b, RSP, CALLER);
        // PUSHF, POP to the state, CLD.
        self.bytes.extend([0x9c, 0x8f, 0x05]);
        self.state_at(RFLAGS);
        self.bytes.push(0xfc);
        for register in 0..16 {
            self.vector(0x11, register);
        }
        self.bytes.extend([
            0x41, 0x5f, 0x41, 0x5e, 0x41, 0x5d, 0x41, 0x5c, 0x5d, 0x5b, 0xc3,
        ]);
    }
}
