//! CPUs, kicks, hotplug.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use waterbear_hal::cpu::CpusHeld;
use waterbear_hal::{Cpu, CpuSet, IrqOff, Pinned};

use crate::{MockConfig, MockHost};

fn set(cpus: &[u32]) -> CpuSet {
    let mut set = CpuSet::new();
    cpus.iter().for_each(|&cpu| set.insert(cpu));
    set
}

#[test]
fn a_thread_runs_where_it_is_told_to() {
    let host = MockHost::new();
    assert_eq!(Pinned::new(&host).cpu(), 0);
    host.run_on(3, || {
        assert_eq!(Pinned::new(&host).cpu(), 3);
        host.run_on(1, || assert_eq!(host.current_cpu(), 1));
        assert_eq!(host.current_cpu(), 3);
    });
    assert_eq!(host.current_cpu(), 0);
}

#[test]
#[should_panic(expected = "a pinned thread does not change CPU")]
fn a_pinned_thread_stays() {
    let host = MockHost::new();
    let _pinned = Pinned::new(&host);
    host.run_on(1, || ());
}

#[test]
fn a_kick_is_pending_until_interrupts_go_on() {
    let host = MockHost::new();
    let off = IrqOff::new(&host);
    assert!(!host.interrupt_pending());
    host.kick(&set(&[0, 2]));
    host.kick(&set(&[0]));
    assert!(host.interrupt_pending());
    {
        let _nested = IrqOff::new(&host);
    }
    assert!(host.interrupt_pending());
    assert_eq!((host.interrupts_sent(0), host.interrupts_taken(0)), (2, 0));
    drop(off);
    assert!(!host.interrupt_pending());
    assert_eq!((host.interrupts_sent(0), host.interrupts_taken(0)), (2, 1));
    assert_eq!((host.interrupts_sent(2), host.interrupts_taken(2)), (1, 1));
    assert_eq!(host.kick_calls(), 2);
}

#[test]
fn kick_and_wait_waits_for_a_cpu_with_interrupts_off() {
    let host = MockHost::new();
    let (off, left) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|s| {
        s.spawn(|| {
            host.run_on(1, || {
                let guard = IrqOff::new(&host);
                off.store(true, SeqCst);
                host.wait_for_interrupt();
                std::thread::sleep(Duration::from_millis(20));
                left.store(true, SeqCst);
                drop(guard);
            });
        });
        while !off.load(SeqCst) {
            std::thread::yield_now();
        }
        host.kick_and_wait(&set(&[0, 1, 2]));
        assert!(left.load(SeqCst));
    });
}

#[test]
#[should_panic(expected = "kick_and_wait with interrupts off")]
fn kick_and_wait_needs_interrupts_on() {
    let host = MockHost::new();
    let _off = IrqOff::new(&host);
    host.kick_and_wait(&set(&[1]));
}

#[test]
fn two_threads_share_a_cpu_by_turns() {
    let host = MockHost::new();
    let running = AtomicU64::new(0);
    std::thread::scope(|s| {
        for _ in 0..3 {
            s.spawn(|| {
                for _ in 0..10 {
                    let _off = IrqOff::new(&host);
                    assert_eq!(running.fetch_add(1, SeqCst), 0);
                    std::thread::yield_now();
                    running.fetch_sub(1, SeqCst);
                }
            });
        }
    });
}

#[test]
fn a_thread_that_wants_a_cpu_interrupts_the_guest_there() {
    let host = MockHost::new();
    let off = AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| {
            let _off = IrqOff::new(&host);
            off.store(true, SeqCst);
            host.wait_for_interrupt();
        });
        while !off.load(SeqCst) {
            std::thread::yield_now();
        }
        let _pinned = Pinned::new(&host);
    });
}

#[test]
fn a_call_runs_on_each_online_cpu_with_interrupts_off() {
    let host = MockHost::with(MockConfig::new().cpus(4));
    assert!(host.set_online(2, false, |_| true));
    let seen = std::sync::Mutex::new(Vec::new());
    host.call_on(&set(&[1, 2, 3, 9]), &|cpu| {
        assert_eq!(host.current_cpu(), cpu);
        assert!(!host.irq_disable());
        seen.lock().unwrap().push(cpu);
    });
    assert_eq!(*seen.lock().unwrap(), [1, 3]);
    assert_eq!(host.current_cpu(), 0);
}

#[test]
fn cpus_come_and_go_and_say_so() {
    let host = MockHost::with(MockConfig::new().cpus(2));
    let online = |cpu| host.online().contains(cpu);
    let gone = host.set_online(1, false, |cpu| {
        assert_eq!(host.current_cpu(), cpu);
        assert!(online(1));
        true
    });
    assert!(gone && !online(1));
    let refused = host.set_online(1, true, |_| false);
    assert!(!refused && !online(1));
    let came = host.set_online(1, true, |_| true);
    assert!(came && online(1));
}

#[test]
fn no_cpu_comes_or_goes_while_they_are_held() {
    let host = MockHost::new();
    let gone = AtomicBool::new(false);
    std::thread::scope(|s| {
        let held = CpusHeld::new(&host);
        s.spawn(|| {
            host.set_online(1, false, |_| true);
            gone.store(true, SeqCst);
        });
        std::thread::sleep(Duration::from_millis(20));
        assert!(!gone.load(SeqCst) && host.online().contains(1));
        drop(held);
    });
    assert!(!host.online().contains(1));
}
