//! Kicks against entry, against walks of page tables, and against sleep.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering::Relaxed};
use loom::thread;

use waterbear_core::request::Request;
use waterbear_core::vcpu::{Vcpu, Vcpus};
use waterbear_hal::Pinned;
use waterbear_hal::sync::twin::Part;
use waterbear_mock::{MockConfig, MockHost};
use waterbear_proofs::vcpu_thread::{enter, settle};

use crate::twins::{explore, explore_bounded, must_deadlock, must_fail};

fn machine() -> MockHost {
    MockHost::with(MockConfig::new().cpus(2))
}

/// A vCPU that has been on CPU 1.
fn vcpu(host: &MockHost) -> Arc<Vcpu<MockHost>> {
    let vcpu = Vcpu::new(host, 0).expect("memory");
    settle(host, &vcpu, 1);
    Arc::new(vcpu)
}

/// A guest that runs until it is interrupted, and a request. If the vCPU
/// neither saw the request before it entered nor was interrupted, it stays in
/// the guest for ever, and the checker finds a deadlock.
fn request_against_entry(request: Request) {
    explore(move || {
        let host = machine();
        let vcpu = vcpu(&host);
        let target = {
            let (host, vcpu) = (host.clone(), vcpu.clone());
            thread::spawn(move || {
                host.run_on(1, || {
                    while !vcpu.requests().check(request) {
                        enter(&host, &vcpu, || host.wait_for_interrupt());
                    }
                })
            })
        };
        vcpu.make_request(request);
        target.join().unwrap();
        assert!(host.interrupts_sent(1) <= 1);
    });
}

/// Proves KR-1, BUG-14.
#[test]
fn a_request_is_seen_before_entry_or_interrupts_the_guest() {
    request_against_entry(Request::TLB_FLUSH);
}

/// Proves KR-1, KR-2.
#[test]
fn a_request_that_wakes_is_seen_before_entry_or_interrupts_the_guest() {
    request_against_entry(Request::EVENT);
}

/// A page of a guest: who unmaps it and flushes may free it, and knows then
/// whether the guest has written to it.
#[derive(Default)]
struct Page {
    unmapped: AtomicBool,
    written: AtomicBool,
    freed: AtomicBool,
}

impl Page {
    /// The vCPU comes to CPU 1 and enters the guest, which writes to the page
    /// unless it sees that the page was unmapped.
    fn write(&self, host: &MockHost, vcpu: &Vcpu<MockHost>) {
        host.run_on(1, || {
            let mut entered = None;
            while entered.is_none() {
                vcpu.check_requests(|_| Ok(())).expect("the VM is alive");
                entered = enter(host, vcpu, || {
                    if !self.unmapped.load(Relaxed) {
                        self.written.store(true, Relaxed);
                        let gone = self.freed.load(Relaxed);
                        assert!(!gone, "twin: the guest uses a page that was freed");
                    }
                });
            }
        });
    }

    /// Unmaps, flushes and frees. Says whether the guest has written.
    fn free(&self, flush: impl FnOnce()) -> bool {
        self.unmapped.store(true, Relaxed);
        flush();
        let written = self.written.load(Relaxed);
        self.freed.store(true, Relaxed);
        written
    }
}

/// A guest that uses a page, and somebody who unmaps it, flushes and frees it.
fn flush_against_entry() {
    explore_bounded(5, || {
        let host = machine();
        let vcpu = vcpu(&host);
        let page = Arc::new(Page::default());
        let target = {
            let (host, vcpu, page) = (host.clone(), vcpu.clone(), page.clone());
            thread::spawn(move || page.write(&host, &vcpu))
        };
        let written = page.free(|| vcpu.make_request(Request::TLB_FLUSH));
        target.join().unwrap();
        assert_eq!(
            page.written.load(Relaxed),
            written,
            "twin: a write was missed"
        );
    });
}

/// Proves KR-1, KR-4, BUG-14.
#[test]
fn after_a_flush_no_guest_uses_what_was_unmapped() {
    flush_against_entry();
}

/// Proves KR-1, BUG-14.
#[test]
fn a_request_is_lost_without_the_barrier_at_entry_twin() {
    must_fail(Part::EntryBarrier, "twin: ", flush_against_entry);
}

/// Proves KR-1, BUG-14.
#[test]
fn a_request_is_lost_without_the_barrier_of_the_sender_twin() {
    must_fail(Part::KickBarrier, "twin: ", flush_against_entry);
}

/// As [`flush_against_entry`], while somebody else interrupts the guest.
fn flush_against_entry_and_another_sender() {
    explore_bounded(2, || {
        let host = machine();
        let vcpu = vcpu(&host);
        let page = Arc::new(Page::default());
        let target = {
            let (host, vcpu, page) = (host.clone(), vcpu.clone(), page.clone());
            thread::spawn(move || page.write(&host, &vcpu))
        };
        let other = {
            let vcpu = vcpu.clone();
            thread::spawn(move || vcpu.make_request(Request::EVENT))
        };
        let written = page.free(|| vcpu.make_request(Request::TLB_FLUSH));
        target.join().unwrap();
        other.join().unwrap();
        assert_eq!(
            page.written.load(Relaxed),
            written,
            "twin: a write was missed"
        );
    });
}

/// Proves KR-2, KR-4.
#[test]
fn a_flush_waits_although_another_interrupt_is_on_its_way() {
    flush_against_entry_and_another_sender();
}

/// As [`flush_against_entry`], for all vCPUs, while the only one comes online.
fn broadcast_against_a_new_vcpu() {
    explore_bounded(4, || {
        let host = machine();
        let vcpus = Arc::new(Vcpus::new(&host));
        let page = Arc::new(Page::default());
        let target = {
            let (host, vcpus, page) = (host.clone(), vcpus.clone(), page.clone());
            thread::spawn(move || page.write(&host, vcpus.add(0).expect("memory")))
        };
        let written = page.free(|| vcpus.flush_tlbs());
        target.join().unwrap();
        assert_eq!(
            page.written.load(Relaxed),
            written,
            "twin: a write was missed"
        );
    });
}

/// Proves KR-4, KR-5, BUG-16.
#[test]
fn a_vcpu_that_comes_online_during_a_flush_uses_nothing_old() {
    broadcast_against_a_new_vcpu();
}

/// Proves KR-4, BUG-16.
#[test]
fn a_vcpu_that_comes_online_uses_old_pages_without_the_barrier_twin() {
    must_fail(Part::KickBarrier, "twin: ", broadcast_against_a_new_vcpu);
}

/// A walk of page tables, and somebody who unlinks a table, makes a request
/// that waits, and frees the table.
fn wait_against_a_reader() {
    explore(|| {
        let host = machine();
        let vcpu = vcpu(&host);
        let linked = Arc::new(AtomicBool::new(true));
        let freed = Arc::new(AtomicBool::new(false));
        let reader = {
            let (host, vcpu) = (host.clone(), vcpu.clone());
            let (linked, freed) = (linked.clone(), freed.clone());
            thread::spawn(move || {
                host.run_on(1, || {
                    let pinned = Pinned::new(&host);
                    vcpu.load(&pinned).reading_page_tables(|_| {
                        if linked.load(Relaxed) {
                            let gone = freed.load(Relaxed);
                            assert!(!gone, "twin: a walker met a table that was freed");
                        }
                    });
                })
            })
        };
        linked.store(false, Relaxed);
        vcpu.make_request(Request::OUTSIDE_GUEST_MODE);
        freed.store(true, Relaxed);
        reader.join().unwrap();
    });
}

/// Proves KR-4.
#[test]
fn a_request_that_waits_waits_for_walks_of_page_tables() {
    wait_against_a_reader();
}

/// Proves KR-4.
#[test]
fn a_walker_meets_a_freed_table_if_nobody_waits_for_walkers_twin() {
    must_fail(Part::WaitForReaders, "twin: ", wait_against_a_reader);
}

/// Proves KR-4.
#[test]
fn a_walker_meets_a_freed_table_without_the_barrier_of_the_sender_twin() {
    must_fail(Part::KickBarrier, "twin: ", wait_against_a_reader);
}

/// Proves KR-4.
#[test]
fn a_walker_meets_a_freed_table_without_its_own_barrier_twin() {
    must_fail(Part::EntryBarrier, "twin: ", wait_against_a_reader);
}

/// Two senders at once: one interrupt at most each time that the vCPU is
/// about to enter, and both
/// requests are taken up.
fn two_senders() {
    explore_bounded(3, || {
        let host = machine();
        let vcpu = vcpu(&host);
        let target = {
            let (host, vcpu) = (host.clone(), vcpu.clone());
            thread::spawn(move || {
                let (mut event, mut unblock, mut attempts) = (false, false, 0);
                host.run_on(1, || {
                    while !(event && unblock) {
                        event |= vcpu.requests().check(Request::EVENT);
                        unblock |= vcpu.requests().check(Request::UNBLOCK);
                        if !(event && unblock) {
                            enter(&host, &vcpu, || host.wait_for_interrupt());
                            attempts += 1;
                        }
                    }
                });
                attempts
            })
        };
        let other = {
            let vcpu = vcpu.clone();
            thread::spawn(move || vcpu.make_request(Request::EVENT))
        };
        vcpu.make_request(Request::UNBLOCK);
        other.join().unwrap();
        let attempts = target.join().unwrap();
        assert!(host.interrupts_sent(1) <= attempts);
    });
}

/// Proves KR-2.
#[test]
fn two_senders_are_both_heard() {
    two_senders();
}

/// A vCPU that enters, leaves and is put, and a sender that finds it in the
/// guest. The mock refuses an interrupt for a CPU that cannot exist.
fn request_against_put() {
    explore(|| {
        let host = machine();
        let vcpu = vcpu(&host);
        let target = {
            let (host, vcpu) = (host.clone(), vcpu.clone());
            thread::spawn(move || host.run_on(1, || enter(&host, &vcpu, || ())))
        };
        vcpu.make_request(Request::TLB_FLUSH);
        target.join().unwrap();
        assert_eq!(host.interrupts_sent(0), 0);
    });
}

/// Proves KR-3, BUG-15.
#[test]
fn the_cpu_to_interrupt_is_read_once() {
    request_against_put();
}

/// Proves KR-3, BUG-15.
#[test]
fn reading_the_cpu_twice_interrupts_no_cpu_at_all_twin() {
    must_fail(Part::CpuReadOnce, "out of range", request_against_put);
}

/// What a sender did before its request, and what the vCPU reads after taking
/// it up.
fn check_against_make() {
    explore(|| {
        let host = machine();
        let vcpu = vcpu(&host);
        let data = Arc::new(AtomicBool::new(false));
        let sender = {
            let (vcpu, data) = (vcpu.clone(), data.clone());
            thread::spawn(move || {
                data.store(true, Relaxed);
                vcpu.make_request(Request::TLB_FLUSH);
            })
        };
        if vcpu.requests().check(Request::TLB_FLUSH) {
            assert!(data.load(Relaxed), "the request came before its reason");
        }
        sender.join().unwrap();
    });
}

/// Proves KR-6.
#[test]
fn a_check_orders_what_the_vcpu_reads_afterwards() {
    check_against_make();
}

/// A halted vCPU, and an event that makes it runnable.
fn wake_against_block() {
    explore(|| {
        let host = machine();
        let vcpu = vcpu(&host);
        let runnable = Arc::new(AtomicBool::new(false));
        let sleeper = {
            let (vcpu, runnable) = (vcpu.clone(), runnable.clone());
            thread::spawn(move || vcpu.block(|| runnable.load(Relaxed)))
        };
        runnable.store(true, Relaxed);
        vcpu.make_request(Request::EVENT);
        assert_eq!(sleeper.join().unwrap(), Ok(()));
    });
}

/// Proves KR-2, KR-8.
#[test]
fn an_event_wakes_a_vcpu_that_falls_asleep() {
    wake_against_block();
}

/// Proves KR-2.
#[test]
fn a_vcpu_sleeps_for_ever_if_nobody_wakes_it_twin() {
    let name = "kick::a_vcpu_sleeps_for_ever_if_nobody_wakes_it_twin";
    must_deadlock(name, Part::WakeSleeper, wake_against_block);
}
