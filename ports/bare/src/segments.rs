//! Each CPU's descriptor table and task-state segment, with stacks of their
//! own for NMI and double fault: those may come when the stack is not sound.
use core::arch::asm;
use core::cell::UnsafeCell;

use waterbear_hal::CpuId;

use crate::host::percpu::MOST;

/// Flat, 64-bit.
const CODE: u64 = 0x00af_9b00_0000_ffff;
const DATA: u64 = 0x00cf_9300_0000_ffff;
/// The selector of the task-state segment's descriptor, behind code and data.
const TSS_SELECTOR: u16 = 24;

/// The stacks in the task-state segment, by the number that a gate has.
pub const NMI_STACK: u8 = 1;
pub const DOUBLE_FAULT_STACK: u8 = 2;

const STACK_SIZE: usize = 8192;

/// The task-state segment (Intel SDM, "TSS in 64-bit Mode").
#[repr(C, packed(4))]
struct Tss {
    reserved: u32,
    privileged: [u64; 3],
    reserved_too: u64,
    interrupt: [u64; 7],
    rest: [u32; 3],
}

const _: () = assert!(size_of::<Tss>() == 104);

#[repr(C, align(16))]
struct Segments {
    descriptors: [u64; 5],
    tss: Tss,
    stacks: [[u8; STACK_SIZE]; 2],
}

#[repr(transparent)]
struct Own(UnsafeCell<Segments>);

// SAFETY: only the CPU whose number it is touches one.
unsafe impl Sync for Own {}

static SEGMENTS: [Own; MOST] = [const {
    Own(UnsafeCell::new(Segments {
        descriptors: [0, CODE, DATA, 0, 0],
        tss: Tss {
            reserved: 0,
            privileged: [0; 3],
            reserved_too: 0,
            interrupt: [0; 7],
            rest: [0; 3],
        },
        stacks: [[0; STACK_SIZE]; 2],
    }))
}; MOST];

/// What `lgdt` and `lidt` load.
#[repr(C, packed)]
pub struct TableRegister {
    pub limit: u16,
    pub base: u64,
}

/// Loads this CPU's descriptor table and task register.
pub fn init(cpu: CpuId) {
    let segments = SEGMENTS[cpu as usize].0.get();
    // SAFETY: inside the segments of this CPU.
    let tss = unsafe { &raw mut (*segments).tss };
    for stack in [NMI_STACK, DOUBLE_FAULT_STACK] {
        let index = usize::from(stack) - 1;
        // SAFETY: as above.
        let top = unsafe { &raw const (*segments).stacks[index] } as u64 + STACK_SIZE as u64;
        // SAFETY: as above.
        let place = unsafe { &raw mut (*tss).interrupt[index] };
        // SAFETY: nothing refers to the segment, which is packed.
        unsafe { place.write_unaligned(top) }
    }
    let at = tss as u64;
    let last = size_of::<Tss>() as u64 - 1;
    // Present, available 64-bit task-state segment.
    let low = last | (at & 0xff_ffff) << 16 | 0x89 << 40 | (at >> 24 & 0xff) << 56;
    // SAFETY: inside the segments of this CPU.
    let descriptors = unsafe { &raw mut (*segments).descriptors };
    // SAFETY: the table is not in use yet.
    unsafe { (*descriptors)[3] = low }
    // SAFETY: as above.
    unsafe { (*descriptors)[4] = at >> 32 }
    let register = TableRegister {
        limit: size_of::<[u64; 5]>() as u16 - 1,
        base: descriptors as u64,
    };
    // SAFETY: the table is complete, and has at each selector in use what is
    // loaded there now.
    unsafe { asm!("lgdt [{}]", in(reg) &raw const register, options(nostack, preserves_flags)) }
    // SAFETY: the descriptor was just written.
    unsafe { asm!("ltr {:x}", in(reg) TSS_SELECTOR, options(nostack, preserves_flags)) }
}
