//! vCPUs: requests, kicks, entering the guest, sleeping.
#![cfg(not(loom))]

mod block;
mod enter;
mod request;
mod runner;
mod set;
mod wait;
