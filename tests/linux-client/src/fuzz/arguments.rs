//! Arguments that are mostly nearly right.
use std::mem::offset_of;
use std::os::fd::RawFd;
use std::sync::PoisonError;

use waterbear_core::abi::kvm::*;

use super::calls::PAIRS;
use super::{ARGUMENTS, Borrowed, GUEST, World};
use crate::memory;
use crate::pressure::map::{PAGE, Place};
use crate::random::Random;

impl World {
    /// A copy of an argument in which EFER.LME goes with CR4.PAE only. A guest may have the one
    /// without the other, but when it exits, QEMU's emulator forgets to load the host's CR0.
    pub(super) fn without_long_mode(
        &self,
        command: u32,
        argument: u64,
        copy: &mut [u64; 128],
    ) -> u64 {
        const EFER: u64 = 0xc000_0080;
        const LME: u64 = 1 << 8;
        let offset = argument.wrapping_sub(self.arguments.address()) as usize & !7;
        if offset.saturating_add(size_of_val(copy)) > ARGUMENTS {
            // A number that is no address, or one with nothing behind it.
            return 0;
        }
        for (index, word) in copy.iter_mut().enumerate() {
            let half = |at| u64::from(self.arguments.word(offset + index * 8 + at));
            *word = half(0) | half(4) << 32;
        }
        if command == KVM_SET_MSRS {
            for entry in 1..copy.len() / 2 {
                if copy[2 * entry - 1] as u32 == EFER as u32 {
                    copy[2 * entry] &= !LME;
                }
            }
        } else if copy[offset_of!(kvm_sregs, cr4) / 8] & 1 << 5 == 0 {
            copy[offset_of!(kvm_sregs, efer) / 8] &= !LME;
        }
        copy.as_ptr() as u64
    }

    /// An address or a number.
    pub(super) fn argument(&self, random: &mut Random) -> u64 {
        let inside = self.arguments.address() + (random.below(ARGUMENTS / 8) * 8) as u64;
        match random.below(16) {
            0 => 0,
            1 => random.below(8) as u64,
            2 => random.next(),
            // Ends too early.
            3 => self.arguments.address() + ARGUMENTS as u64 - random.below(64) as u64,
            4 => 0xffff_8880_0000_0000 | random.next() >> 24,
            // Memory that the guest writes to.
            5 => self.guest.address() + random.below(GUEST) as u64,
            6 => {
                let shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
                shared
                    .first()
                    .map_or(inside, |place| place.address() + random.below(PAGE) as u64)
            }
            _ => inside,
        }
    }

    /// Fills an argument with numbers: most of them small, or like an address.
    pub(super) fn fill(&self, at: u64, random: &mut Random) {
        let Some(offset) = at.checked_sub(self.arguments.address()) else {
            return;
        };
        let offset = offset as usize & !7;
        for at in (offset..ARGUMENTS.min(offset + 256)).step_by(4) {
            let word = match random.below(10) {
                0..4 => 0,
                4..7 => random.below(17) as u64,
                7 => 1 << random.below(32),
                8 => random.one(&[
                    0x10,
                    0x174,
                    0xc000_0080,
                    0xc000_0100,
                    0x4b56_4d00,
                    0x4000_0001,
                ]),
                _ => random.next(),
            };
            self.arguments.set_word(at, word as u32);
        }
    }

    /// A region that is nearly right.
    pub(super) fn region(&self, vm: RawFd, random: &mut Random) {
        let pages = random.below(GUEST / PAGE);
        let first = random.below(GUEST / PAGE - pages);
        let slot = random.one(&[0, 0, 0, 1, 2, 3, 1 << 16, 32763, 32764]);
        let flags = random.one(&[0, 0, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, 3, 4]);
        let guest = random.one(&[0, 0, 0x1000, 0x10_0000, 0xf000_0000, 1 << 40, !0xfff]);
        let size = (pages * PAGE) as u64;
        let here = match random.below(8) {
            // The memory that a vCPU shares.
            0 => {
                let shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
                shared.first().map_or(0, Place::address)
            }
            _ => self.guest.address() + (first * PAGE) as u64,
        };
        let _ = memory::set(&Borrowed(vm), (slot, flags, guest, size, here));
    }

    /// A zone, or somebody who listens to writes, where guests may write.
    pub(super) fn device(&self, vm: RawFd, random: &mut Random) {
        let (size, port) = (random.one(&[0, 1, 2, 4, 8, 0x1000]), random.below(2) as u32);
        let addr = random.one(&[0, 0xe9, 0x10_0000, 0xf_f000, 0xf000_0000, 1 << 40, !7]);
        let zone = [addr, u64::from(size) | u64::from(port) << 32];
        let listener = kvm_ioeventfd {
            datamatch: random.below(3) as u64,
            addr,
            len: size,
            fd: self.bell,
            flags: (port * KVM_IOEVENTFD_FLAG_PIO)
                | random.one(&[
                    0,
                    0,
                    KVM_IOEVENTFD_FLAG_DATAMATCH,
                    KVM_IOEVENTFD_FLAG_DEASSIGN,
                    8,
                ]),
            pad: [0; 36],
        };
        let listener = std::ptr::from_ref(&listener) as u64;
        let _ = match random.below(4) {
            0 => self.call(vm, KVM_REGISTER_COALESCED_MMIO, zone.as_ptr() as u64),
            1 => self.call(vm, KVM_UNREGISTER_COALESCED_MMIO, zone.as_ptr() as u64),
            _ => self.call(vm, KVM_IOEVENTFD, listener),
        };
    }

    /// Takes something that is, changes a little, and sets it.
    pub(super) fn nearly(&self, vcpu: RawFd, random: &mut Random) {
        let (get, set) = random.one(PAIRS);
        let room = random.below(3) * 2 * PAGE;
        let at = self.arguments.address() + room as u64;
        let _ = self.call(vcpu, get, at);
        for _ in 0..random.below(4) {
            let at = room + random.below(100) * 4;
            let bit = 1 << random.below(32);
            self.arguments.set_word(at, self.arguments.word(at) ^ bit);
        }
        let _ = self.call(vcpu, set, at);
    }
}
