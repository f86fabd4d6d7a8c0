//! Statistics, as the interface has them: a descriptor of which a header, a name, descriptions and
//! numbers are read.
//!
//! Source: "The Definitive KVM API Documentation", KVM_GET_STATS_FD.
use waterbear_hal::{Hal, Level};

use super::bytes::{Caller, put, put_all, set_field};
use super::kvm::{self, kvm_stats_header};
use crate::Error;
use crate::mem::Shared;
use crate::stats::VcpuStats;
use crate::vm::Vm;

/// What a descriptor tells of.
pub struct StatsFile<H: Hal> {
    /// The vCPU, or the VM.
    vcpu: Option<(u32, Shared<VcpuStats, H>)>,
}

/// A number that is told: its name, and whether it only grows.
type Told = (&'static str, bool);

/// What is told of a VM.
const VM: [Told; 5] = [
    ("pages_4k", false),
    ("pages_2m", false),
    ("pages_1g", false),
    ("mmu_zapped", true),
    ("remote_tlb_flush", true),
];

/// What is told of a vCPU: its counts in their order, and what comes from elsewhere.
const VCPU: [Told; crate::stats::COUNTS + 2] = [
    ("pf_taken", true),
    ("pf_fast", true),
    ("pf_mmio", true),
    ("irq_exits", true),
    ("window_exits", true),
    ("exception_exits", true),
    ("cpuid_exits", true),
    ("msr_exits", true),
    ("io_exits", true),
    ("halt_exits", true),
    ("hypercalls", true),
    ("register_exits", true),
    ("other_exits", true),
    ("mmio_exits", true),
    ("insn_emulation", true),
    ("insn_emulation_fail", true),
    ("signal_exits", true),
    ("exits", true),
    ("kicks", true),
];

const HEADER: usize = size_of::<kvm_stats_header>();
/// The room for a name, its end included.
const NAME: usize = 48;
/// Of `struct kvm_stats_desc`: flags, exponent, how many numbers, where they are, the size of a
/// bucket; and the name.
const DESCRIPTION: usize = 16 + NAME;
const NUMBER: usize = 8;
/// The largest piece.
const PIECE: usize = DESCRIPTION;

impl<H: Hal> StatsFile<H> {
    /// What is told of a VM.
    pub(super) fn of_vm() -> Self {
        Self { vcpu: None }
    }

    /// What is told of a vCPU.
    pub(super) fn of_vcpu(index: u32, stats: Shared<VcpuStats, H>) -> Self {
        Self {
            vcpu: Some((index, stats)),
        }
    }

    fn told(&self) -> &'static [Told] {
        match self.vcpu {
            None => &VM,
            Some(_) => &VCPU,
        }
    }

    /// Reads from `offset` on, up to `size` bytes to `address` of the caller's; says how many there
    /// were. `vm` is the VM, or the vCPU's. May sleep.
    ///
    /// # Errors
    ///
    /// [`Error::Fault`] where the caller has no memory.
    pub fn read(
        &self,
        vm: &Vm<H>,
        caller: &impl Caller,
        mut offset: u64,
        address: u64,
        size: usize,
    ) -> Result<usize, Error> {
        let (mut start, mut done) = (0, 0);
        let told = self.told().len();
        for number in 0..2 + 2 * told {
            let mut bytes = [0; PIECE];
            let length = self.piece(vm, number, told, &mut bytes);
            let end = start + length as u64;
            let skipped = offset.saturating_sub(start) as usize;
            let wanted = size.saturating_sub(done);
            let part = bytes.get(skipped..length).unwrap_or_default();
            let part = part.get(..wanted).unwrap_or(part);
            if offset < end && !part.is_empty() {
                caller.copy_out(address.wrapping_add(done as u64), part)?;
                done += part.len();
                offset += part.len() as u64;
            }
            start = end;
        }
        Ok(done)
    }

    /// A piece of what can be read, and how long it is.
    fn piece(&self, vm: &Vm<H>, number: usize, told: usize, bytes: &mut [u8; PIECE]) -> usize {
        let descriptions = HEADER + NAME;
        let numbers = descriptions + told * DESCRIPTION;
        match number {
            0 => {
                set_field!(bytes, kvm_stats_header.name_size = (NAME as u32));
                set_field!(bytes, kvm_stats_header.num_desc = (told as u32));
                set_field!(bytes, kvm_stats_header.id_offset = (HEADER as u32));
                set_field!(
                    bytes[..],
                    kvm_stats_header.desc_offset = (descriptions as u32)
                );
                set_field!(bytes, kvm_stats_header.data_offset = (numbers as u32));
                HEADER
            }
            1 => {
                self.name(bytes);
                NAME
            }
            _ => {
                let number = number - 2;
                match self.told().get(number) {
                    Some((name, grows)) => {
                        let kind = if *grows {
                            kvm::KVM_STATS_TYPE_CUMULATIVE
                        } else {
                            kvm::KVM_STATS_TYPE_INSTANT
                        };
                        let unit = kvm::KVM_STATS_UNIT_NONE | kvm::KVM_STATS_BASE_POW10;
                        put(bytes, 0, (kind | unit).to_le_bytes());
                        // One number.
                        put(bytes, 6, 1_u16.to_le_bytes());
                        put(bytes, 8, ((number * NUMBER) as u32).to_le_bytes());
                        put_all(bytes, 16, name.as_bytes());
                        DESCRIPTION
                    }
                    None => {
                        let value = self.value(vm, number.saturating_sub(told));
                        put(bytes, 0, value.to_le_bytes());
                        NUMBER
                    }
                }
            }
        }
    }

    /// What the numbers are of.
    fn name(&self, bytes: &mut [u8]) {
        let Some((index, _)) = &self.vcpu else {
            return put_all(bytes, 0, b"waterbear-vm");
        };
        const BEFORE: &[u8] = b"waterbear-vcpu-";
        put_all(bytes, 0, BEFORE);
        let (mut rest, mut end) = (*index, BEFORE.len() + 1);
        while rest >= 10 {
            rest /= 10;
            end += 1;
        }
        rest = *index;
        while end > BEFORE.len() {
            end -= 1;
            put(bytes, end, [b'0' + (rest % 10) as u8]);
            rest /= 10;
        }
    }

    fn value(&self, vm: &Vm<H>, number: usize) -> u64 {
        match (&self.vcpu, number) {
            (None, 0..3) => {
                let level = Level::LEAVES.get(number).copied().unwrap_or(Level::L1);
                vm.mmu().mapped(level).max(0).cast_unsigned()
            }
            (None, 3) => vm.mmu().zapped(),
            (None, _) => vm.vcpus().flushes(),
            (Some((_, stats)), crate::stats::COUNTS) => stats.exits(),
            (Some((_, stats)), 0..crate::stats::COUNTS) => stats.at(number),
            (Some((index, _)), _) => vm.vcpus().get(*index).map_or(0, |vcpu| vcpu.kicks()),
        }
    }
}
