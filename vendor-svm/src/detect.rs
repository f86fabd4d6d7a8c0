//! What this CPU has, or why it cannot host guests.
//!
//! Source: AMD APM volume 2, "Enabling SVM", and volume 3, "Obtaining
//! Processor Information Via the CPUID Instruction".
use waterbear_core::spte::EntryFormat;
use waterbear_core::vendor::Unsupported;
use waterbear_hal::Level;

use crate::npt::{self, NptFeatures};

/// What CPUID and the firmware's switch say, as one CPU said it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Facts {
    /// CPUID 8000_0001, ECX.
    pub features_ecx: u32,
    /// CPUID 8000_0001, EDX.
    pub features_edx: u32,
    /// CPUID 8000_0008, EAX.
    pub address_eax: u32,
    /// CPUID 8000_0008, EBX.
    pub extended_ebx: u32,
    /// CPUID 8000_0021, EAX.
    pub extended2_eax: u32,
    /// CPUID 1, ECX.
    pub basic_ecx: u32,
    /// CPUID D, sub-leaf 1, EAX.
    pub xsave_eax: u32,
    /// CPUID 8000_000A, EBX.
    pub svm_ebx: u32,
    /// CPUID 8000_000A, EDX.
    pub svm_edx: u32,
    /// VM_CR, or 0 on a CPU without SVM.
    pub vm_cr: u64,
}

const SVM: u32 = 1 << 2;
const GIBIBYTE_PAGES: u32 = 1 << 26;
const NESTED_PAGING: u32 = 1 << 0;
const NEXT_RIP: u32 = 1 << 3;
const CLEAN_BITS: u32 = 1 << 5;
const FLUSH_BY_ASID: u32 = 1 << 6;
const DECODE_ASSISTS: u32 = 1 << 7;
const PAUSE_FILTER: u32 = 1 << 10;
const PAUSE_THRESHOLD: u32 = 1 << 12;
const RDTSCP: u32 = 1 << 27;
const XSAVE: u32 = 1 << 26;
const XSAVES: u32 = 1 << 3;
const PREDICTION_BARRIER: u32 = 1 << 12;
/// IBRS, STIBP or SSBD, each of which has a bit of SPEC_CTRL.
const SPEC_CTRL: u32 = 1 << 14 | 1 << 15 | 1 << 24;
const AUTOMATIC_IBRS: u32 = 1 << 8;
/// VM_CR.SVMDIS: EFER.SVME cannot be set.
const SVM_DISABLED: u64 = 1 << 4;

/// What the CPU has of SVM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Features {
    /// The number of address-space identifiers, the host's included.
    pub asids: u32,
    /// The CPU saves the address of the next instruction on exits.
    pub next_rip: bool,
    /// The TLB can be flushed for one ASID.
    pub flush_by_asid: bool,
    /// The CPU saves the bytes of the instruction on some exits.
    pub decode_assists: bool,
    /// The CPU may keep parts of a control block between runs.
    pub clean_bits: bool,
    /// The CPU counts PAUSEs.
    pub pause_filter: bool,
    /// It counts only those that follow each other closely.
    pub pause_threshold: bool,
    /// RDTSCP and its register TSC_AUX.
    pub tsc_aux: bool,
    /// XSAVE and its register XCR0.
    pub xsave: bool,
    /// XSAVES and its register IA32_XSS.
    pub xsaves: bool,
    /// The register SPEC_CTRL.
    pub spec_ctrl: bool,
    /// PRED_CMD.IBPB: branch predictors can be made to forget.
    pub prediction_barrier: bool,
    /// EFER.AIBRSE: the CPU can protect the host's predictions by itself.
    pub automatic_ibrs: bool,
    /// Width of physical addresses in bits.
    pub physical_bits: u32,
    /// Leaves of 1 GiB.
    pub large_1g: bool,
}

impl Facts {
    /// What of SVM there is.
    ///
    /// # Errors
    ///
    /// Why the CPU cannot host guests.
    pub fn features(&self) -> Result<Features, Unsupported> {
        if self.features_ecx & SVM == 0 {
            return Err(Unsupported::NoVirtualization);
        }
        if self.vm_cr & SVM_DISABLED != 0 {
            return Err(Unsupported::DisabledByFirmware);
        }
        if self.svm_edx & NESTED_PAGING == 0 {
            return Err(Unsupported::NoSecondLevelPaging);
        }
        Ok(Features {
            asids: self.svm_ebx,
            next_rip: self.svm_edx & NEXT_RIP != 0,
            flush_by_asid: self.svm_edx & FLUSH_BY_ASID != 0,
            decode_assists: self.svm_edx & DECODE_ASSISTS != 0,
            clean_bits: self.svm_edx & CLEAN_BITS != 0,
            pause_filter: self.svm_edx & PAUSE_FILTER != 0,
            pause_threshold: self.svm_edx & PAUSE_THRESHOLD != 0,
            tsc_aux: self.features_edx & RDTSCP != 0,
            xsave: self.basic_ecx & XSAVE != 0,
            xsaves: self.xsave_eax & XSAVES != 0,
            spec_ctrl: self.extended_ebx & SPEC_CTRL != 0,
            prediction_barrier: self.extended_ebx & PREDICTION_BARRIER != 0,
            automatic_ibrs: self.extended2_eax & AUTOMATIC_IBRS != 0,
            // Before CPUID told the width it was 36.
            physical_bits: match self.address_eax & 0xff {
                0 => 36,
                bits => bits.min(52),
            },
            large_1g: self.features_edx & GIBIBYTE_PAGES != 0,
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
            large_1g: self.large_1g,
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// The facts of a QEMU `EPYC,+svm,+npt`.
    const EPYC: Facts = Facts {
        features_ecx: 0x0040_03f7,
        features_edx: 0x2fd3_fbff,
        address_eax: 0x0000_3028,
        extended_ebx: 0,
        extended2_eax: 0,
        basic_ecx: 0,
        xsave_eax: 0,
        svm_ebx: 16,
        svm_edx: NESTED_PAGING,
        vm_cr: 0,
    };

    #[test]
    fn a_cpu_with_nested_paging_is_able() {
        let features = EPYC.features().unwrap();
        assert_eq!(features.asids, 16);
        assert_eq!(features.physical_bits, 40);
        assert!(features.large_1g && !features.next_rip);
        assert!(features.entry_format(Level::L4).is_ok());
    }

    #[test]
    fn a_cpu_that_lacks_something_is_refused_with_the_first_reason() {
        use Unsupported::*;
        let without_svm = Facts {
            features_ecx: 0,
            ..EPYC
        };
        let locked = Facts {
            vm_cr: SVM_DISABLED,
            ..EPYC
        };
        let shadow_only = Facts { svm_edx: 0, ..EPYC };
        assert_eq!(without_svm.features(), Err(NoVirtualization));
        assert_eq!(locked.features(), Err(DisabledByFirmware));
        assert_eq!(shadow_only.features(), Err(NoSecondLevelPaging));
    }
}
