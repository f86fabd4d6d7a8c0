//! A vCPU's thread that runs a simulated guest.

use waterbear_core::vcpu::Vcpu;
use waterbear_hal::Pinned;
use waterbear_mock::MockHost;

/// A vCPU that has been on CPU `cpu` and has no request pending.
pub fn settle(host: &MockHost, vcpu: &Vcpu<MockHost>, cpu: u32) {
    host.run_on(cpu, || {
        let pinned = Pinned::new(host);
        drop(vcpu.load(&pinned));
        drop(pinned);
        vcpu.check_requests(|_| Ok(())).expect("the VM is alive");
    });
    assert!(!vcpu.requests().any());
}

/// Enters the guest once on the thread's CPU, unless a request is pending.
pub fn enter<R>(host: &MockHost, vcpu: &Vcpu<MockHost>, guest: impl FnOnce() -> R) -> Option<R> {
    let pinned = Pinned::new(host);
    vcpu.load(&pinned).enter(|_| guest())
}
