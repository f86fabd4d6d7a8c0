use super::*;

/// The fields that an exit sets; all others read as 0.
struct Set<'a>(&'a [(u32, u64)]);

impl Fields for Set<'_> {
    fn read(&self, field: u32) -> u64 {
        let found = self.0.iter().find(|(set, _)| *set == field);
        found.map_or(0, |(_, value)| *value)
    }
}

const NONE: u32 = 0;
const NMI_CUT_SHORT: u32 = 0x8000_0202;

fn qualified(why: u64, qualification: u64) -> Left {
    let fields = Set(&[
        (ro::EXIT_QUALIFICATION, qualification),
        (ro::VMEXIT_INSTRUCTION_LEN, 3),
        (ro::GUEST_PHYSICAL_ADDR_FULL, 0x1234_5000),
    ]);
    decode(&fields, why, NONE)
}

#[test]
fn instructions_have_a_length_and_other_causes_have_none() {
    for why in [10, 12, 13, 18, 28, 29, 30, 31, 32, 36, 39, 40, 54, 55] {
        assert_eq!(qualified(why, 0).length, 3, "reason {why}");
    }
    for why in [1, 2, 3, 7, 8, 48, 49, 52, 62] {
        assert_eq!(qualified(why, 0).length, 0, "reason {why}");
    }
}

#[test]
fn a_port_access_says_how() {
    let rep_insw = 0x1f0 << 16 | 1 << 5 | 1 << 4 | 1 << 3 | 1;
    let wanted = IoExit {
        port: 0x1f0,
        size: 2,
        input: true,
        string: true,
        repeat: true,
    };
    assert_eq!(qualified(30, rep_insw).exit, Exit::Io(wanted));
}

#[test]
fn an_ept_violation_says_what_the_guest_did() {
    let gpa = Gpa(0x1234_5000);
    let fault = |qualification| match qualified(48, qualification).exit {
        Exit::Fault { gpa: at, access } if at == gpa => access,
        other => panic!("{other:?}"),
    };
    let access = |write, exec, guest_walk| Access {
        write,
        exec,
        guest_walk,
        absent: true,
    };
    assert_eq!(fault(1 | 1 << 7 | 1 << 8), access(false, false, false));
    assert_eq!(fault(2 | 1 << 7 | 1 << 8), access(true, false, false));
    assert_eq!(fault(4 | 1 << 7 | 1 << 8), access(false, true, false));
    assert_eq!(fault(3 | 1 << 7), access(true, false, true));
    // An entry that can be read, and no more, is there.
    let denied = Access {
        absent: false,
        ..access(true, false, false)
    };
    assert_eq!(fault(2 | 1 << 3 | 1 << 7 | 1 << 8), denied);
    // Without a linear address it is no walk: the page-directory pointers of PAE mode.
    assert_eq!(fault(1), access(false, false, false));
}

#[test]
fn control_and_debug_register_exits_name_both_registers() {
    use ControlExit::*;
    let control = |qualification| qualified(28, qualification).exit;
    let write = Write {
        register: 4,
        source: Some(9),
    };
    assert_eq!(control(0x904), Exit::Control(write));
    let read = Read {
        register: 8,
        target: Some(1),
    };
    assert_eq!(control(0x118), Exit::Control(read));
    assert_eq!(control(0x20), Exit::Control(ClearTs));
    let lmsw = LoadStatus(Some(0xfff1));
    assert_eq!(control(0xfff1_0070), Exit::Control(lmsw));
    let debug = DebugExit {
        register: 7,
        read: true,
        general: Some(15),
    };
    assert_eq!(qualified(29, 0xf17).exit, Exit::Debug(debug));
}

#[test]
fn what_the_guests_cpu_has_not_is_forbidden() {
    for why in (19..=27).chain([11, 36, 39, 50, 53, 58, 59, 60, 63, 64]) {
        assert_eq!(qualified(why, 0).exit, Exit::Forbidden, "reason {why}");
    }
    let gp = Exit::Exception(Exception::general_protection(0));
    assert_eq!(qualified(15, 0).exit, gp);
}

fn exception(info: u64, qualification: u64, vectoring: u32) -> Left {
    let fields = Set(&[
        (ro::VMEXIT_INTERRUPTION_INFO, info),
        (ro::VMEXIT_INTERRUPTION_ERR_CODE, 4),
        (ro::EXIT_QUALIFICATION, qualification),
        (ro::VMEXIT_INSTRUCTION_LEN, 1),
    ]);
    decode(&fields, 0, vectoring)
}

#[test]
fn exceptions_bring_their_payload_and_error_code() {
    let debug = exception(0x8000_0301, 0xffff_4ff1, NONE);
    let wanted = Exception {
        payload: 0x4001,
        ..Exception::plain(1)
    };
    assert_eq!(debug.exit, Exit::Exception(wanted));
    assert_eq!((debug.length, debug.to_do), (0, ToDo::empty()));
    let alignment = exception(0x8000_0b11, 0, NONE);
    let wanted = Exception::with_error(17, 4);
    assert_eq!(alignment.exit, Exit::Exception(wanted));
}

#[test]
fn int1_is_a_trap() {
    let left = exception(0x8000_0501, 0, NONE);
    assert_eq!(left.exit, Exit::Exception(Exception::plain(1)));
    assert_eq!((left.length, left.to_do), (1, ToDo::SKIP));
}

#[test]
fn the_hosts_nmis_and_machine_checks_go_to_the_host() {
    let nmi = exception(0x8000_0202, 0, NONE);
    assert_eq!((nmi.exit, nmi.to_do), (Exit::Interrupt, ToDo::HOST_NMI));
    let check = exception(0x8000_0312, 0, NONE);
    let to_do = ToDo::HOST_MACHINE_CHECK;
    assert_eq!((check.exit, check.to_do), (Exit::Interrupt, to_do));
    let at_entry = decode(&Set(&[]), ENTRY_FAILED | 41, NONE);
    assert_eq!((at_entry.exit, at_entry.to_do), (Exit::Interrupt, to_do));
}

#[test]
fn an_iret_that_faults_does_not_end_the_handling_of_an_nmi() {
    let unblocked = 1 << 12;
    assert_eq!(
        exception(0x8000_0311 | unblocked, 0, NONE).to_do,
        ToDo::BLOCK_NMIS
    );
    // Not when the double fault itself is reported, nor when an event was being delivered.
    let none = ToDo::empty();
    assert_eq!(exception(0x8000_0b08 | unblocked, 0, NONE).to_do, none);
    let during = exception(0x8000_0311 | unblocked, 0, NMI_CUT_SHORT);
    assert_eq!(during.to_do, none);
    assert_eq!(qualified(48, unblocked | 1).to_do, ToDo::BLOCK_NMIS);
}

#[test]
fn a_task_switch_has_a_length_unless_an_event_caused_it() {
    const GATE: u64 = 3 << 30;
    let left = |qualification, vectoring| {
        let fields = Set(&[
            (ro::EXIT_QUALIFICATION, qualification),
            (ro::VMEXIT_INSTRUCTION_LEN, 2),
        ]);
        decode(&fields, 9, vectoring)
    };
    let selector = 0x28;
    assert_eq!(left(0x28, NONE).exit, Exit::TaskSwitch { selector });
    assert_eq!(left(0x28, NONE).length, 2);
    let interrupt = 0x8000_0020;
    let software = 0x8000_0420;
    assert_eq!(left(GATE | 0x28, interrupt).length, 0);
    assert_eq!(left(GATE | 0x28, software).length, 2);
}

#[test]
fn an_entry_that_fails_is_refused_with_the_reason() {
    let why = ENTRY_FAILED | 33;
    assert_eq!(qualified(why, 0).exit, Exit::Refused(why));
    assert_eq!(qualified(37, 0).exit, Exit::Unknown(37));
}
