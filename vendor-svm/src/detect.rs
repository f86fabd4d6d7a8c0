//! What this CPU has, or why it cannot host guests.
//!
//! Source: AMD APM volume 2, "Enabling SVM", and volume 3, "Obtaining
//! Processor Information Via the CPUID Instruction".
use waterbear_core::spte::EntryFormat;
use waterbear_core::vendor::Unsupported;
use waterbear_hal::Level;

use crate::npt::{self, NptFeatures};

/// The words of CPUID that count, in the order of [`Facts::words`]: leaf, sub-leaf, and the number
/// of the register, from EAX to EDX.
pub const WORDS: [(u32, u8, u8); 9] = [
    (0x8000_0001, 0, 2),
    (0x8000_0001, 0, 3),
    (0x8000_0008, 0, 0),
    (0x8000_0008, 0, 1),
    (0x8000_0021, 0, 0),
    (1, 0, 2),
    (0xd, 1, 0),
    (0x8000_000a, 0, 1),
    (0x8000_000a, 0, 3),
];
const FEATURES_ECX: usize = 0;
const FEATURES_EDX: usize = 1;
const ADDRESS_EAX: usize = 2;
const EXTENDED_EBX: usize = 3;
const EXTENDED2_EAX: usize = 4;
const BASIC_ECX: usize = 5;
const XSAVE_EAX: usize = 6;
const SVM_EBX: usize = 7;
const SVM_EDX: usize = 8;

/// What CPUID and the firmware's switch say, as one CPU said it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Facts {
    /// The answers, as [`WORDS`] asks; 0 for a leaf that the CPU does not have.
    pub words: [u32; WORDS.len()],
    /// VM_CR, or 0 on a CPU without SVM.
    pub vm_cr: u64,
}

bitflags::bitflags! {
    /// What a CPU may have.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Has: u16 {
        /// SVM.
        const SVM = 1 << 0;
        /// Nested paging.
        const NESTED_PAGING = 1 << 1;
        /// The CPU saves the address of the next instruction on exits.
        const NEXT_RIP = 1 << 2;
        /// The TLB can be flushed for one ASID.
        const FLUSH_BY_ASID = 1 << 3;
        /// The CPU saves the bytes of the instruction on some exits.
        const DECODE_ASSISTS = 1 << 4;
        /// The CPU may keep parts of a control block between runs.
        const CLEAN_BITS = 1 << 5;
        /// The CPU counts PAUSEs.
        const PAUSE_FILTER = 1 << 6;
        /// It counts only those that follow each other closely.
        const PAUSE_THRESHOLD = 1 << 7;
        /// RDTSCP and its register TSC_AUX.
        const TSC_AUX = 1 << 8;
        /// XSAVE and its register XCR0.
        const XSAVE = 1 << 9;
        /// XSAVES and its register IA32_XSS.
        const XSAVES = 1 << 10;
        /// PRED_CMD.IBPB: branch predictors can be made to forget.
        const PREDICTION_BARRIER = 1 << 11;
        /// EFER.AIBRSE: the CPU can protect the host's predictions by itself.
        const AUTOMATIC_IBRS = 1 << 12;
        /// Leaves of 1 GiB.
        const LARGE_1G = 1 << 13;
    }
}

/// Where CPUID tells of each, in the order of the bits of [`Has`]: the word and the bit in it.
const BITS: [(u8, u8); 14] = [
    (FEATURES_ECX as u8, 2),
    (SVM_EDX as u8, 0),
    (SVM_EDX as u8, 3),
    (SVM_EDX as u8, 6),
    (SVM_EDX as u8, 7),
    (SVM_EDX as u8, 5),
    (SVM_EDX as u8, 10),
    (SVM_EDX as u8, 12),
    (FEATURES_EDX as u8, 27),
    (BASIC_ECX as u8, 26),
    (XSAVE_EAX as u8, 3),
    (EXTENDED_EBX as u8, 12),
    (EXTENDED2_EAX as u8, 8),
    (FEATURES_EDX as u8, 26),
];
/// VM_CR.SVMDIS: EFER.SVME cannot be set.
const SVM_DISABLED: u64 = 1 << 4;

/// What the CPU has of SVM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Features {
    /// What it has.
    pub has: Has,
    /// The number of address-space identifiers, the host's included.
    pub asids: u32,
    /// Width of physical addresses in bits.
    pub physical_bits: u32,
}

impl Facts {
    /// Whether there is SVM, and with it VM_CR.
    pub fn has_svm(&self) -> bool {
        self.words.first().is_some_and(|word| word & 1 << 2 != 0)
    }

    /// What of SVM there is.
    ///
    /// # Errors
    ///
    /// Why the CPU cannot host guests.
    pub fn features(&self) -> Result<Features, Unsupported> {
        let word = |number: usize| self.words.get(number).copied().unwrap_or(0);
        let mut has = Has::empty();
        for (number, &(at, bit)) in (0..).zip(&BITS) {
            let bit = word(at.into()) >> (bit & 31) & 1;
            has |= Has::from_bits_retain((bit as u16) << number);
        }
        if !has.contains(Has::SVM) {
            return Err(Unsupported::NoVirtualization);
        }
        if self.vm_cr & SVM_DISABLED != 0 {
            return Err(Unsupported::DisabledByFirmware);
        }
        if !has.contains(Has::NESTED_PAGING) {
            return Err(Unsupported::NoSecondLevelPaging);
        }
        Ok(Features {
            has,
            asids: word(SVM_EBX),
            // Before CPUID told the width it was 36.
            physical_bits: match word(ADDRESS_EAX) & 0xff {
                0 => 36,
                bits => bits.min(52),
            },
        })
    }
}

impl Features {
    /// The format of nested page-table entries, under a host whose own root
    /// tables are at `root_level`.
    ///
    /// # Errors
    ///
    /// Says what is wrong with the features.
    pub const fn entry_format(&self, root_level: Level) -> Result<EntryFormat, &'static str> {
        npt::entry_format(NptFeatures {
            root_level,
            physical_bits: self.physical_bits,
            large_1g: self.has.contains(Has::LARGE_1G),
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// The facts of a QEMU `EPYC,+svm,+npt`.
    const EPYC: Facts = Facts {
        words: [0x0040_03f7, 0x2fd3_fbff, 0x0000_3028, 0, 0, 0, 0, 16, 1],
        vm_cr: 0,
    };

    #[test]
    fn a_cpu_with_nested_paging_is_able() {
        let features = EPYC.features().unwrap();
        assert_eq!(features.asids, 16);
        assert_eq!(features.physical_bits, 40);
        let has = Has::SVM | Has::NESTED_PAGING | Has::TSC_AUX | Has::LARGE_1G;
        assert_eq!(features.has, has);
        assert!(features.entry_format(Level::L4).is_ok());
    }

    #[test]
    fn each_feature_has_a_bit_of_its_own() {
        let all = Facts {
            words: [u32::MAX; WORDS.len()],
            vm_cr: 0,
        };
        let features = all.features().unwrap();
        assert_eq!((features.has, features.physical_bits), (Has::all(), 52));
        let mut seen = BITS.to_vec();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), Has::all().iter().count());
    }

    #[test]
    fn a_cpu_that_lacks_something_is_refused_with_the_first_reason() {
        use Unsupported::*;
        let mut without_svm = EPYC;
        without_svm.words[FEATURES_ECX] = 0;
        let locked = Facts {
            vm_cr: SVM_DISABLED,
            ..EPYC
        };
        let mut shadow_only = EPYC;
        shadow_only.words[SVM_EDX] = 0;
        assert_eq!(without_svm.features(), Err(NoVirtualization));
        assert_eq!(locked.features(), Err(DisabledByFirmware));
        assert_eq!(shadow_only.features(), Err(NoSecondLevelPaging));
    }
}
