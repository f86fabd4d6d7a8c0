/*
 * The public header of the KVM interface, of which kvm.rs holds what the core
 * uses. `cargo xtask abi` writes that file anew.
 */
#include <linux/kvm.h>
