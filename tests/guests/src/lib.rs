//! Guest programs that check the machine they run on.
//!
//! Each is a blob for address 0x1000, entered in real mode at 0:0x1000 with every segment at
//! address 0. It reports through ports; `asm/guest.inc` lists them, and the commands through which
//! it asks its host to change memory under it. Whoever runs a program provides these, and the
//! [`STANDARD`] memory.
//!
//! Beside the programs there are the [`devices`] that all of them find.
#![no_std]

pub mod devices;
pub mod ports;

/// A program.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// What it proves, as a sentence.
    pub name: &'static str,
    /// Its bytes, for [`LOAD`].
    pub image: &'static [u8],
    /// How it must end.
    pub end: End,
    /// How many vCPUs it has. All but the first wait until it starts them.
    pub vcpus: u32,
    /// Two machines run it at the same time, on one CPU, in turns.
    pub twins: bool,
    /// Without these it says nothing.
    pub needs: &'static [Need],
    /// Its memory.
    pub slots: &'static [Slot],
    /// A run with more exits than these is stuck.
    pub max_exits: u32,
}

/// Where programs are and begin.
pub const LOAD: u64 = 0x1000;

/// How a program must end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// It says that it passed.
    Done,
    /// Its CPU shuts down.
    Shutdown,
    /// Not by itself.
    Never,
    /// With an instruction that the kernel leaves to the owner to understand.
    Unsupported,
}

/// What a program needs of the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Need {
    /// Segment limits and rights are checked on every access. QEMU's emulator does not.
    SegmentChecks,
    /// A triple fault in a guest is the guest's. Under Bochs's SVM the whole machine resets.
    OwnShutdown,
    /// Breakpoints and alignment checks in guests. QEMU has neither.
    DebugExceptions,
    /// Task switches exit. QEMU does them by itself.
    TaskSwitches,
    /// VMMCALL exits. QEMU raises #UD.
    Hypercalls,
    /// The host can track writes to pages.
    Tracker,
}

/// A slot of guest memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slot {
    /// Its name.
    pub id: u32,
    /// Where the guest sees it.
    pub gpa: u64,
    /// Bytes, in whole pages.
    pub size: u64,
    /// Bits 0 and 1: the dirty log is kept; read-only.
    pub flags: u32,
}

const fn slot(id: u32, gpa: u64, size: u64, flags: u32) -> Slot {
    Slot {
        id,
        gpa,
        size,
        flags,
    }
}

/// Memory up to the device at 640 KiB, from there to 4 MiB, read-only memory, and some to be moved
/// about.
pub const STANDARD: &[Slot] = &[
    slot(0, 0, 0xa0000, 0),
    slot(1, 0xb0000, 0x35_0000, 0),
    slot(2, 0x80_0000, 0x1_0000, 2),
    slot(3, 0xa0_0000, 0x1_0000, 0),
];

/// A program with one vCPU and standard memory, named after its file.
macro_rules! program {
    ($name:ident, $file:literal $(, $field:ident: $value:expr)* $(,)?) => {
        Program {
            $($field: $value,)*
            ..Program {
                name: stringify!($name),
                image: include_bytes!(concat!(env!("OUT_DIR"), "/", $file, ".bin")),
                end: End::Done,
                vcpus: 1,
                twins: false,
                needs: &[],
                slots: STANDARD,
                max_exits: 100_000,
            }
        }
    };
}

/// The programs, simple ones first.
pub const PROGRAMS: &[Program] = &[
    program!(real_mode_calls_and_interrupts, "real_mode"),
    program!(protected_mode_gates_and_rings, "protected_mode"),
    program!(segments_end_at_their_limits, "segment_limits", needs: &[Need::SegmentChecks]),
    program!(pae_pages_and_their_rights, "pae"),
    program!(long_mode_pages_of_all_sizes, "long_mode_pages"),
    program!(exceptions_reach_their_handlers, "exceptions"),
    program!(control_registers_take_what_they_may, "control_registers"),
    program!(code_that_changes_itself, "self_modifying"),
    program!(ports_of_every_size_and_strings, "port_io"),
    program!(instructions_on_a_device, "mmio_forms"),
    program!(cpuid_and_model_specific_registers, "cpuid_msr"),
    program!(interrupts_nmis_and_what_holds_them_off, "events"),
    program!(exceptions_that_the_host_injects, "injected"),
    program!(an_exception_without_handlers_shuts_down, "triple_fault", end: End::Shutdown, needs: &[Need::OwnShutdown]),
    program!(hypercalls_that_nobody_knows, "hypercalls", needs: &[Need::Hypercalls]),
    program!(every_write_is_in_the_dirty_log, "dirty_log"),
    program!(writes_to_tracked_pages_are_told_of, "page_track", needs: &[Need::Tracker]),
    program!(memory_vanishes_moves_and_turns_read_only, "memory_changes"),
    program!(every_right_of_every_page, "access_rights"),
    program!(page_tables_in_memory_that_is_protected, "odd_tables"),
    program!(translations_that_have_changed, "translations"),
    program!(forbidden_things_harm_nobody_else, "forbidden"),
    program!(an_interrupt_without_a_table_shuts_down, "no_way_back",
        end: End::Shutdown, needs: &[Need::OwnShutdown]),
    program!(a_guest_that_does_not_stop_is_interrupted, "endless", end: End::Never),
    program!(every_access_right, "rights"),
    program!(a_guest_that_spins_is_interrupted, "spin", end: End::Never),
    program!(breakpoints_on_their_own_handler_s_stack, "endless_debug",
        end: End::Never, needs: &[Need::DebugExceptions]),
    program!(alignment_checks_in_their_own_delivery, "endless_alignment",
        end: End::Never, needs: &[Need::DebugExceptions]),
    program!(a_string_that_is_longer_than_everything, "endless_string", end: End::Never),
    program!(page_tables_that_are_nowhere, "tables_nowhere", end: End::Unsupported),
    program!(a_task_switch_is_left_to_the_owner, "task_switch",
        end: End::Unsupported, needs: &[Need::TaskSwitches]),
    program!(odd_descriptors_and_tables_of_themselves, "odd_state"),
    program!(two_cpus_count_wake_and_interrupt_each_other, "smp", vcpus: 2),
    program!(four_cpus_count_wake_and_interrupt_each_other, "smp", vcpus: 4),
    // Where there is no memory, each access is an exit.
    program!(memory_changes_under_two_vcpus, "vcpus_memory", vcpus: 2, max_exits: 2_000_000),
    program!(no_write_of_two_vcpus_is_lost_to_the_log, "vcpus_dirty", vcpus: 2),
    program!(every_tracked_write_of_two_vcpus_is_told_of, "vcpus_track", vcpus: 2, needs: &[Need::Tracker]),
    // Where there is no memory, each access is an exit.
    program!(memory_changes_under_four_vcpus, "vcpus_memory", vcpus: 4, max_exits: 2_000_000),
    program!(no_write_of_four_vcpus_is_lost_to_the_log, "vcpus_dirty", vcpus: 4),
    program!(every_tracked_write_of_four_vcpus_is_told_of, "vcpus_track", vcpus: 4, needs: &[Need::Tracker]),
    program!(fpu_and_vector_state_is_kept_apart, "fpu", twins: true),
    program!(debug_registers_are_the_guests_own, "debug", twins: true),
];

/// The program that measures. It tells number and cost of each of [`MEASURED`] through ports 0x570
/// and 0x574, and wants an interrupt, vector 0x40, whenever it halts.
pub const BENCH: Program = program!(bench, "bench", slots: &[
    slot(0, 0, 0xa0000, 0),
    slot(4, 0x100_0000, 0x20_0000, 1),
]);

/// What it measures, in the order of the numbers.
pub const MEASURED: &[&str] = &[
    "an empty loop",
    "CPUID",
    "OUT, to the owner and back",
    "IN, to the owner and back",
    "MMIO write, to the owner and back",
    "MMIO read, to the owner and back",
    "RDMSR",
    "HLT, to the owner and back with an interrupt",
    "nested-page fault, 4 KiB, read",
    "write-protect fault under the dirty log",
];

/// The program that is kicked: its second vCPU, the only one that runs, counts at [`KICK_COUNT`]
/// for ever, with interrupts on and without exits.
pub const KICKED: Program = program!(kick, "kick", vcpus: 2);

/// Where it counts, 32 bits.
pub const KICK_COUNT: u64 = 0x4_0000;

/// What is measured with it.
pub const KICK: &str = "kick round trip";
