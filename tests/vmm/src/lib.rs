//! A small virtual machine monitor over the KVM interface, for tests and as an example.
//!
//! It runs on every system that has the interface, stock KVM included, and knows nothing of who
//! serves it.
//!
//! | file | idea |
//! |---|---|
//! | [`sys`] | the operating system's calls |
//! | [`kvm`] | the interface: node, VM, vCPU |
//! | [`boot`] | a guest from a file |
//! | [`programs`] | the guest programs of `waterbear-guests`, each in a machine of its own |
pub mod boot;
pub mod kvm;
pub mod programs;
pub mod sys;
