//! Ports.
//!
//! Source: Intel SDM volume 2, "IN—Input From Port" and "OUT—Output to Port".
use waterbear_hal::Hal;

use super::exit::Step;
use super::leave::Leave;
use super::{GuestCpu, Pending};
use crate::emulate::Target;
use crate::exit::IoExit;
use crate::regs::Regs;
use crate::vendor::Vendor;
use crate::vm::Vm;

impl<H: Hal, V: Vendor> GuestCpu<H, V> {
    /// IN or OUT of RAX: the owner's devices act, and the next run goes on behind the
    /// instruction, unless the kernel takes what is written.
    pub(super) fn port(&mut self, vm: &Vm<H>, vendor: &V, io: IoExit, length: u8) -> Step {
        let IoExit {
            port, size, input, ..
        } = io;
        self.len = usize::from(size);
        if input {
            self.put_word(0);
            self.pending = Pending::In { size, length };
        } else {
            let rax = vendor.regs(self.runner.state()).get(Regs::RAX as u8);
            self.put_word(rax);
            if vm.bus().write(Target::Port(port), self.data()) {
                self.skip(vendor, length);
                return Step::Resume;
            }
            self.pending = Pending::Out { length };
        }
        Step::Leave(Leave::Io {
            port,
            size,
            input,
            count: 1,
        })
    }

    /// Fills the data, as many as count, from the beginning of `bytes`.
    pub(super) fn put_data(&mut self, bytes: &[u8]) {
        for (to, &from) in self.data().iter_mut().zip(bytes) {
            *to = from;
        }
    }

    /// The same for up to eight bytes, from a word's lowest on.
    pub(super) fn put_word(&mut self, word: u64) {
        if let Some(first) = self.data.first_chunk_mut() {
            *first = word.to_le_bytes();
        }
    }

    /// What the device answered, in a word's lowest bytes.
    pub(super) fn answer(&self) -> u64 {
        self.data
            .first_chunk()
            .map_or(0, |b| u64::from_le_bytes(*b))
    }

    /// Finishes an IN: one or two bytes leave the rest of RAX alone, four clear its upper half.
    pub(super) fn complete_in(&mut self, vendor: &V, size: u8) {
        let new = self.answer();
        let regs = vendor.regs(self.runner.state());
        let old = regs.get(Regs::RAX as u8);
        let value = match size {
            1 => old & !0xff | new & 0xff,
            2 => old & !0xffff | new & 0xffff,
            _ => new & 0xffff_ffff,
        };
        regs.set(Regs::RAX as u8, value);
    }
}
