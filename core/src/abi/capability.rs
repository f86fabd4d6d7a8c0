//! What the interface says of itself.
use waterbear_hal::Hal;

use super::fpu::AREA as XSAVE_SIZE;
use super::prefault::KVM_CAP_PRE_FAULT_MEMORY;
use super::{clock, kvm};
use crate::memslot::MAX_SLOTS;
use crate::run::machine_check::MAX_BANKS;
use crate::vcpu::MAX_VCPUS;

/// The bits of the manual dirty log that work: bitmaps that begin with every
/// bit set are not among them.
pub(super) const MANUAL_LOG: u64 = 1;

/// What is there, and has nothing more to say of itself.
const THERE: [u32; 28] = [
    kvm::KVM_CAP_USER_MEMORY,
    kvm::KVM_CAP_DESTROY_MEMORY_REGION_WORKS,
    kvm::KVM_CAP_JOIN_MEMORY_REGIONS_WORKS,
    kvm::KVM_CAP_SYNC_MMU,
    kvm::KVM_CAP_READONLY_MEM,
    kvm::KVM_CAP_SET_TSS_ADDR,
    kvm::KVM_CAP_SET_IDENTITY_MAP_ADDR,
    kvm::KVM_CAP_CHECK_EXTENSION_VM,
    kvm::KVM_CAP_ENABLE_CAP_VM,
    kvm::KVM_CAP_HLT,
    kvm::KVM_CAP_EXT_CPUID,
    kvm::KVM_CAP_MP_STATE,
    kvm::KVM_CAP_USER_NMI,
    kvm::KVM_CAP_XSAVE,
    kvm::KVM_CAP_VCPU_EVENTS,
    kvm::KVM_CAP_INTR_SHADOW,
    kvm::KVM_CAP_DEBUGREGS,
    kvm::KVM_CAP_XCRS,
    kvm::KVM_CAP_IMMEDIATE_EXIT,
    kvm::KVM_CAP_SREGS2,
    kvm::KVM_CAP_GET_TSC_KHZ,
    kvm::KVM_CAP_GET_MSR_FEATURES,
    kvm::KVM_CAP_EXT_EMUL_CPUID,
    kvm::KVM_CAP_COALESCED_PIO,
    kvm::KVM_CAP_CLOCKSOURCE,
    kvm::KVM_CAP_KVMCLOCK_CTRL,
    kvm::KVM_CAP_BINARY_STATS_FD,
    KVM_CAP_PRE_FAULT_MEMORY,
];

/// The same as bits, by number.
const THERE_BITS: [u64; 4] = {
    let mut bits = [0; 4];
    let mut at = 0;
    while at < THERE.len() {
        bits[THERE[at] as usize / 64] |= 1 << (THERE[at] % 64);
        at += 1;
    }
    bits
};

/// What CHECK_EXTENSION answers: 0 for what does not work, or is not known.
#[inline]
pub fn value<H: Hal>(hal: &H, number: u64) -> u32 {
    let bits = THERE_BITS.get((number / 64) as usize);
    match bits {
        Some(bits) if bits >> (number % 64) & 1 != 0 => 1,
        _ => special_value(hal, number),
    }
}

/// The same for what is not simply there.
#[cold]
fn special_value<H: Hal>(hal: &H, number: u64) -> u32 {
    let Ok(number) = u32::try_from(number) else {
        return 0;
    };
    match number {
        kvm::KVM_CAP_MCE => MAX_BANKS as u32,
        kvm::KVM_CAP_XSAVE2 => XSAVE_SIZE as u32,
        kvm::KVM_CAP_IOEVENTFD
        | kvm::KVM_CAP_IOEVENTFD_NO_LENGTH
        | kvm::KVM_CAP_IOEVENTFD_ANY_LENGTH => H::HAS_BELLS.into(),
        kvm::KVM_CAP_ADJUST_CLOCK => clock::flags(hal),
        // The answer is where the page is in what a vCPU's descriptor maps.
        kvm::KVM_CAP_COALESCED_MMIO => kvm::KVM_COALESCED_MMIO_PAGE_OFFSET,
        // There are no interrupt controllers here whose inputs could be routed, and the call says
        // so; but owners that have their own want to hear that routing is known.
        kvm::KVM_CAP_IRQ_ROUTING => 4096,
        kvm::KVM_CAP_NR_VCPUS | kvm::KVM_CAP_MAX_VCPUS | kvm::KVM_CAP_MAX_VCPU_ID => {
            MAX_VCPUS as u32
        }
        kvm::KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 => MANUAL_LOG as u32,
        kvm::KVM_CAP_NR_MEMSLOTS => MAX_SLOTS as u32,
        _ => 0,
    }
}
