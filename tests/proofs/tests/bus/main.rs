//! What an owner asks the kernel to do about writes to devices: KVM_IOEVENTFD and
//! KVM_REGISTER_COALESCED_MMIO.
#![cfg(not(loom))]

mod listeners;
mod support;
mod zones;
