//! The run loop: what is done about each exit, and when the owner gets its vCPU back.
#![cfg(not(loom))]

mod bus;
mod control;
mod cpuid;
mod debug;
mod double_fault;
mod emulation;
mod events;
mod glance;
mod io;
mod memory_runs_out;
mod msr;
mod operands;
mod quick;
mod signals;
mod simple;
mod strings;
mod support;
