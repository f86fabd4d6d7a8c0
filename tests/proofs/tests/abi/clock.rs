//! The clock that a guest reads from its memory.
use waterbear_core::Error;
use waterbear_core::abi::kvm;
use waterbear_core::abi::{Answer, Reply};
use waterbear_core::clock::Scale;
use waterbear_core::exit::Exit;
use waterbear_core::memslot::SpaceId;
use waterbear_core::regs::Regs;
use waterbear_core::request::Request;
use waterbear_core::run::clock::{OLD_SYSTEM_TIME, OLD_WALL_CLOCK, SYSTEM_TIME, WALL_CLOCK};
use waterbear_hal::{Cpu, Gpa};
use waterbear_mock::MockHost;
use waterbear_proofs::Scripted;

use crate::support::{DONE, HERE, Monitor, Vcpu, refused};

const RECORD: u64 = 0x2000;
const MILLISECOND: u64 = 1_000_000;

/// A record as the guest has it in its memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Record {
    version: u32,
    tsc: u64,
    time: u64,
    scale: Scale,
    flags: u8,
}

fn record_at(monitor: &Monitor, gpa: u64) -> Record {
    let mut bytes = [0; 32];
    let vm = monitor.vm.vm();
    vm.read_guest(SpaceId::NORMAL, Gpa(gpa), &mut bytes)
        .unwrap();
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    Record {
        version: word(0) as u32,
        tsc: word(8),
        time: word(16),
        scale: Scale {
            multiplier: word(24) as u32,
            shift: bytes[28] as i8,
        },
        flags: bytes[29],
    }
}

impl Record {
    /// What the guest makes of it.
    fn at(&self, tsc: u64) -> u64 {
        let ticks = tsc.wrapping_sub(self.tsc);
        self.time.wrapping_add(self.scale.nanoseconds(ticks))
    }
}

fn set_msr(monitor: &Monitor, vcpu: &Vcpu, number: u32, value: u64) -> Answer {
    let words = [1, u64::from(number), value];
    monitor.put(0, &words.map(u64::to_le_bytes).concat());
    monitor.command(vcpu, kvm::KVM_SET_MSRS, HERE)
}

fn msr(monitor: &Monitor, number: u32) -> u64 {
    let words = [1, u64::from(number), 0];
    monitor.put(0, &words.map(u64::to_le_bytes).concat());
    let answer = monitor.vcpu(kvm::KVM_GET_MSRS, HERE);
    assert_eq!(answer, Ok(Reply::Value(1)), "{number:#x}");
    monitor.word(16)
}

/// Runs the guest up to a HLT.
fn run(monitor: &Monitor, vcpu: &Vcpu) {
    monitor.vendor.script([Scripted::exit(Exit::Halt, 1)]);
    assert_eq!(monitor.command(vcpu, kvm::KVM_RUN, 0), DONE);
}

/// A VM whose vCPU wants its record.
fn with_record() -> Monitor {
    let monitor = Monitor::new();
    let answer = set_msr(&monitor, &monitor.vcpu, SYSTEM_TIME, RECORD | 1);
    assert_eq!(answer, Ok(Reply::Value(1)));
    monitor
}

/// GET_CLOCK: the clock, the flags, the date, the host's counter.
fn get_clock(monitor: &Monitor) -> [u64; 4] {
    assert_eq!(monitor.vm(kvm::KVM_GET_CLOCK, HERE), DONE);
    [0, 8, 16, 24].map(|at| monitor.word(at))
}

fn set_clock(monitor: &Monitor, clock: u64, flags: u32, wall: u64) -> Answer {
    let words = [clock, flags.into(), wall, 0, 0, 0];
    monitor.put(0, &words.map(u64::to_le_bytes).concat());
    monitor.vm(kvm::KVM_SET_CLOCK, HERE)
}

#[test]
fn the_scale_is_that_of_the_counter() {
    for khz in [1, 999, 1000, 999_999, 1_000_000, 1_000_001] {
        check_scale(khz);
    }
    for khz in [1_999_999, 2_000_000, 2_000_001, 2_893_202, 5_000_000] {
        check_scale(khz);
    }
    check_scale(u32::MAX);
    assert_eq!(Scale::of(0).nanoseconds(u64::MAX), 0);
    let ghz = Scale::of(1_000_000);
    assert_eq!(ghz.nanoseconds(12_345), 12_345);
}

/// An hour is an hour, but for a millionth.
fn check_scale(khz: u32) {
    let hour = 3_600_000_000_000_u64;
    let ticks = u64::from(khz) * 3_600_000;
    let off = Scale::of(khz).nanoseconds(ticks).abs_diff(hour);
    assert!(off < hour / 1_000_000, "{khz} kHz: {off} ns");
}

#[test]
fn a_record_tells_the_time_that_the_owner_sees() {
    let monitor = with_record();
    assert_eq!(record_at(&monitor, RECORD).version, 0, "not before it runs");
    run(&monitor, &monitor.vcpu);
    let record = record_at(&monitor, RECORD);
    assert_eq!(record.version, 2);
    assert_eq!(record.flags, 1, "stable");
    assert_eq!(record.scale, Scale::of(2_000_000));
    for ticks in [10, 1 << 20, 1 << 40] {
        monitor.host.set_tsc(1_000_000_000 + ticks);
        let [clock, flags, _, tsc] = get_clock(&monitor);
        assert_eq!(flags, 2 | 4 | 8);
        let offset = msr(&monitor, 0x10).wrapping_sub(monitor.host.tsc());
        // The counter goes on between two looks at it.
        let offset = offset.wrapping_add(1_000);
        assert_eq!(record.at(tsc.wrapping_add(offset)), clock);
    }
    run(&monitor, &monitor.vcpu);
    assert_eq!(record_at(&monitor, RECORD), record, "right for good");
}

#[test]
fn a_clock_that_is_set_goes_on_from_there() {
    let monitor = with_record();
    run(&monitor, &monitor.vcpu);
    let before = record_at(&monitor, RECORD);
    let second = 1_000 * MILLISECOND;
    for start in [0, 100 * second, 3 * second] {
        assert_eq!(set_clock(&monitor, start, 0, 0), DONE);
        let [clock, ..] = get_clock(&monitor);
        assert!((start..start + MILLISECOND).contains(&clock), "{clock}");
        let vcpu = monitor.vm.vm().vcpus().get(0).unwrap();
        assert!(vcpu.requests().test(Request::CLOCK));
        run(&monitor, &monitor.vcpu);
        let record = record_at(&monitor, RECORD);
        assert_eq!(record.version % 2, 0);
        assert_ne!(record.version, before.version);
        let [clock, _, _, tsc] = get_clock(&monitor);
        let offset = record.tsc.wrapping_sub(before.tsc);
        assert_eq!(offset, 0, "the counter has not changed");
        let guest_tsc = tsc.wrapping_add(record.tsc - host_origin(&monitor));
        assert_eq!(record.at(guest_tsc), clock);
    }
}

/// What the host's counter showed when the VM was made, as the record of a vCPU says whose counter
/// is the host's.
fn host_origin(monitor: &Monitor) -> u64 {
    let offset = msr(monitor, 0x10).wrapping_sub(monitor.host.tsc());
    record_at(monitor, RECORD)
        .tsc
        .wrapping_sub(offset.wrapping_add(1_000))
}

#[test]
fn a_date_with_the_clock_adds_what_has_passed_since() {
    let monitor = with_record();
    monitor.host.set_boot_time(1_000_000 * MILLISECOND);
    let wall = 999_000 * MILLISECOND;
    let realtime = kvm::KVM_CLOCK_REALTIME;
    assert_eq!(set_clock(&monitor, 5, realtime, wall), DONE);
    let [clock, _, now, _] = get_clock(&monitor);
    let wanted = now - wall;
    assert!(clock.abs_diff(wanted) < MILLISECOND, "{clock} {wanted}");
    // The date went back.
    assert_eq!(set_clock(&monitor, 5, realtime, u64::MAX), DONE);
    let [clock, ..] = get_clock(&monitor);
    assert!(clock < MILLISECOND);
    // As it came from GET_CLOCK.
    get_clock(&monitor);
    assert_eq!(monitor.vm(kvm::KVM_SET_CLOCK, HERE), DONE);
}

#[test]
fn wrong_clocks_are_refused() {
    let monitor = Monitor::new();
    for flags in [1, 16, 1 << 31] {
        assert_eq!(set_clock(&monitor, 5, flags, 0), refused(Error::Invalid));
    }
    for command in [kvm::KVM_GET_CLOCK, kvm::KVM_SET_CLOCK] {
        assert_eq!(monitor.vm(command, 0x10), refused(Error::Fault));
    }
    let capability = monitor.vm(kvm::KVM_CHECK_EXTENSION, kvm::KVM_CAP_ADJUST_CLOCK.into());
    assert_eq!(capability, Ok(Reply::Value(2 | 4 | 8)));
}

#[test]
fn the_registers_have_two_numbers_each_and_are_listed() {
    let monitor = Monitor::new();
    for (one, other) in [(SYSTEM_TIME, OLD_SYSTEM_TIME), (WALL_CLOCK, OLD_WALL_CLOCK)] {
        for (written, read, value) in [(one, other, 0x3000), (other, one, 0x3040)] {
            let set = set_msr(&monitor, &monitor.vcpu, written, value);
            assert_eq!(set, Ok(Reply::Value(1)));
            assert_eq!(msr(&monitor, read), value);
            assert_eq!(msr(&monitor, written), value);
        }
    }
    let listed = waterbear_core::run::msr::MSRS;
    for number in [0x11, 0x12, 0x4b56_4d00, 0x4b56_4d01] {
        assert!(listed.contains(&number), "{number:#x}");
    }
}

#[test]
fn a_guest_turns_its_clock_on_and_off_by_itself() {
    let monitor = Monitor::new();
    let write = |value: u64| {
        Scripted::exit(Exit::WriteMsr, 2).after(move |guest| {
            guest.regs.general[Regs::RCX] = SYSTEM_TIME.into();
            guest.regs.general[Regs::RAX] = value;
            guest.regs.general[Regs::RDX] = 0;
        })
    };
    monitor.vendor.script([write(RECORD | 1)]);
    run(&monitor, &monitor.vcpu);
    assert_eq!(record_at(&monitor, RECORD).version, 2);
    monitor.vendor.script([write(RECORD)]);
    run(&monitor, &monitor.vcpu);
    assert_eq!(set_clock(&monitor, 0, 0, 0), DONE);
    run(&monitor, &monitor.vcpu);
    assert_eq!(record_at(&monitor, RECORD).version, 2, "it is off");
    assert_eq!(
        monitor.vcpu(kvm::KVM_KVMCLOCK_CTRL, 0),
        refused(Error::Invalid)
    );
    monitor.vendor.script([write((RECORD + 0x100) | 1)]);
    run(&monitor, &monitor.vcpu);
    assert_eq!(record_at(&monitor, RECORD + 0x100).version, 2);
}

#[test]
fn a_version_that_is_odd_begins_anew() {
    let monitor = with_record();
    run(&monitor, &monitor.vcpu);
    let vm = monitor.vm.vm();
    for (old, new) in [(7_u32, 10), (8, 10), (u32::MAX, 2), (u32::MAX - 1, 0)] {
        let bytes = old.to_le_bytes();
        vm.write_guest(SpaceId::NORMAL, Gpa(RECORD), &bytes)
            .unwrap();
        assert_eq!(set_clock(&monitor, 0, 0, 0), DONE);
        run(&monitor, &monitor.vcpu);
        assert_eq!(record_at(&monitor, RECORD).version, new, "{old}");
    }
}

#[test]
fn a_guest_is_told_that_it_was_stopped_until_it_says_it_knows() {
    let monitor = with_record();
    run(&monitor, &monitor.vcpu);
    assert_eq!(monitor.vcpu(kvm::KVM_KVMCLOCK_CTRL, 0), DONE);
    run(&monitor, &monitor.vcpu);
    assert_eq!(record_at(&monitor, RECORD).flags, 1 | 2);
    assert_eq!(set_clock(&monitor, 0, 0, 0), DONE);
    run(&monitor, &monitor.vcpu);
    assert_eq!(record_at(&monitor, RECORD).flags, 1 | 2, "not yet");
    let vm = monitor.vm.vm();
    vm.write_guest(SpaceId::NORMAL, Gpa(RECORD + 29), &[1])
        .unwrap();
    assert_eq!(set_clock(&monitor, 0, 0, 0), DONE);
    run(&monitor, &monitor.vcpu);
    assert_eq!(record_at(&monitor, RECORD).flags, 1);
}

#[test]
fn a_record_where_no_memory_is_harms_nobody() {
    for gpa in [1 << 40, u64::MAX, 0x3_fffc, u64::MAX - 10] {
        let monitor = Monitor::new();
        for number in [SYSTEM_TIME, WALL_CLOCK] {
            let answer = set_msr(&monitor, &monitor.vcpu, number, gpa | 1);
            assert_eq!(answer, Ok(Reply::Value(1)));
        }
        run(&monitor, &monitor.vcpu);
        assert_eq!(set_clock(&monitor, u64::MAX, 0, 0), DONE);
        run(&monitor, &monitor.vcpu);
    }
}

#[test]
fn the_time_of_the_start_is_the_date_without_the_clock() {
    let monitor = Monitor::new();
    monitor.host.set_boot_time(1_700_000_000_123_456_789);
    assert_eq!(set_clock(&monitor, 10_000 * MILLISECOND, 0, 0), DONE);
    let set = set_msr(&monitor, &monitor.vcpu, WALL_CLOCK, 0x3000);
    assert_eq!(set, Ok(Reply::Value(1)));
    let mut bytes = [0; 12];
    let vm = monitor.vm.vm();
    vm.read_guest(SpaceId::NORMAL, Gpa(0x3000), &mut bytes)
        .unwrap();
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    assert_eq!(word(0), 2);
    let start = u64::from(word(4)) * 1_000 * MILLISECOND + u64::from(word(8));
    let wanted = 1_700_000_000_123_456_789 - 10_000 * MILLISECOND;
    assert!(start.abs_diff(wanted) < MILLISECOND, "{start}");
}

#[test]
fn counters_that_are_apart_are_told_to_every_vcpu() {
    let monitor = with_record();
    let second = Monitor::add_vcpu(&monitor.vm, &monitor.vendor, 1);
    let other = RECORD + 0x40;
    assert!(set_msr(&monitor, &second, SYSTEM_TIME, other | 1).is_ok());
    run(&monitor, &monitor.vcpu);
    run(&monitor, &second);
    let flags = || [RECORD, other].map(|at| record_at(&monitor, at).flags);
    assert_eq!(flags(), [1, 1]);
    // Its own counter, far from the other's.
    assert!(set_msr(&monitor, &second, 0x10, 1 << 50).is_ok());
    run(&monitor, &second);
    assert_eq!(flags(), [1, 0]);
    run(&monitor, &monitor.vcpu);
    assert_eq!(flags(), [0, 0]);
    let [clock, known, _, tsc] = get_clock(&monitor);
    assert_eq!(known, 4 | 8, "no longer the same on all");
    // Still, each of them is right.
    let host = tsc - host_origin(&monitor);
    for at in [RECORD, other] {
        let record = record_at(&monitor, at);
        assert_eq!(record.at(record.tsc.wrapping_add(host)), clock);
    }
}

#[test]
fn without_a_counter_to_rely_on_each_entry_has_a_new_record() {
    let host = MockHost::new();
    host.make_tsc_unstable();
    let monitor = Monitor::on(host, []);
    let capability = monitor.vm(kvm::KVM_CHECK_EXTENSION, kvm::KVM_CAP_ADJUST_CLOCK.into());
    assert_eq!(capability, Ok(Reply::Value(4 | 8)));
    let answer = set_msr(&monitor, &monitor.vcpu, SYSTEM_TIME, RECORD | 1);
    assert_eq!(answer, Ok(Reply::Value(1)));
    let mut before = 0;
    for round in 1..5 {
        monitor.host.set_time(round * 1_000 * MILLISECOND);
        // The counter jumps, and the record does not care.
        monitor.host.set_tsc((10 - round) << 40);
        run(&monitor, &monitor.vcpu);
        let record = record_at(&monitor, RECORD);
        assert_eq!(record.flags, 0);
        assert_ne!(record.version, before);
        assert!(record.time.abs_diff(round * 1_000 * MILLISECOND) < MILLISECOND);
        assert_eq!(get_clock(&monitor)[1], 4 | 8);
        before = record.version;
    }
}

/// EAX of the leaf that says what the hypervisor has.
fn features(monitor: &Monitor) -> u64 {
    monitor.put(0, &256_u64.to_le_bytes());
    assert_eq!(monitor.node(kvm::KVM_GET_SUPPORTED_CPUID, HERE), DONE);
    let count = monitor.word(0) as u32;
    let entry = |n: u64| 8 + 40 * n;
    let found = (0..count.into()).find(|&n| monitor.word(entry(n)) as u32 == 0x4000_0001);
    monitor.word(entry(found.expect("the leaf")) + 8) >> 32
}

#[test]
fn the_clock_is_offered_and_stable_only_where_it_is() {
    assert_eq!(features(&Monitor::new()), 1 << 24 | 0b1011);
    let host = MockHost::new();
    host.make_tsc_unstable();
    assert_eq!(features(&Monitor::on(host, [])), 0b1011);
    let host = MockHost::new();
    host.set_tsc_khz(0);
    assert_eq!(features(&Monitor::on(host, [])), 0b1011);
}
