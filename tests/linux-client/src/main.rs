//! The only process of a machine on which the Linux module is tested.
//!
//! The kernel starts it as `/init`. It loads the module, calls it as a virtual
//! machine monitor would, well and badly, prints one line per test as the bare
//! port does (`PLAN n`, `PASS name`, `FAIL name: why`, `END passed`), and
//! switches the machine off.
mod beside;
mod clock;
mod cpus;
mod crash;
mod devices;
mod fuzz;
mod hostile;
mod kernel;
mod leaks;
mod loads;
mod measure;
mod memory;
mod monitor;
mod node;
mod pressure;
mod programs;
mod random;
mod running;
mod signals;
mod state;
mod stats;
mod sys;
mod vcpu;
mod vm;
mod watch;

use std::fs;

use pressure::{backing, change, crowd, device, slots, uffd};

/// What a test gives back: why it failed.
type Outcome = Result<(), String>;

/// A test: its name, which is a sentence, and what it does.
type Test = (&'static str, fn() -> Outcome);

macro_rules! tests {
    ($($module:ident::$name:ident,)*) => {
        &[$((stringify!($name), $module::$name),)*]
    };
}

/// On a machine whose CPU can host guests.
const ABLE: &[Test] = tests![
    kernel::the_module_loads_and_says_so,
    kernel::a_second_load_is_refused,
    node::the_node_speaks_version_12,
    node::what_the_node_does_not_know_is_enotty,
    node::capabilities_are_advertised_that_work,
    vm::a_vm_is_made_and_only_of_type_0,
    vm::what_a_vm_does_not_know_is_enotty,
    vm::nothing_but_the_owner_commands_a_vm,
    vm::capabilities_are_enabled_that_work,
    vm::addresses_for_old_cpus_are_taken_and_checked,
    memory::slots_are_made_moved_and_deleted,
    memory::wrong_slots_are_refused,
    memory::hostile_slots_are_refused,
    memory::many_slots_can_be_made,
    memory::a_log_is_read_and_cleared,
    memory::wrong_logs_are_refused,
    memory::owners_memory_comes_and_goes,
    vcpu::vcpus_are_made_once_and_in_range,
    vcpu::registers_come_back_as_they_were_set,
    vcpu::a_guest_in_real_mode_talks_to_ports_and_halts,
    vcpu::an_owner_sends_the_guest_elsewhere_during_an_exit,
    vcpu::a_guest_reaches_devices_where_it_has_no_memory,
    vcpu::a_run_comes_back_at_once_when_asked_to,
    vcpu::interrupts_are_delivered_when_the_guest_takes_them,
    vcpu::cpuid_is_offered_and_taken,
    vcpu::msrs_are_listed_read_and_set,
    vcpu::memory_goes_away_under_a_guest,
    vcpu::every_write_of_a_guest_is_logged,
    vcpu::events_and_debug_registers_come_back_as_they_were_set,
    clock::a_clock_is_read_and_set,
    clock::a_guest_finds_the_time_in_its_memory,
    stats::statistics_count_what_the_guest_does,
    stats::statistics_are_read_as_a_file_and_not_written,
    devices::writes_wait_in_the_third_page,
    devices::a_page_that_is_not_believed_stays_a_page,
    devices::wrong_zones_are_refused,
    devices::an_eventfd_counts_the_guests_writes,
    devices::wrong_listeners_are_refused,
    devices::eventfds_come_and_go_under_a_running_guest,
    running::the_fpu_comes_back_as_it_was_set,
    running::guests_keep_their_fpu_apart_on_shared_cpus,
    running::memory_changes_under_a_running_guest,
    running::the_shared_memory_is_not_believed,
    running::hostile_states_of_a_vcpu_harm_nobody,
    state::special_registers_have_two_forms,
    state::the_xsave_area_has_the_size_that_is_advertised,
    state::a_frequency_is_told_and_only_that_is_taken,
    state::the_counters_of_two_vcpus_agree,
    state::registers_of_the_node_tell_what_a_guest_can_have,
    state::memory_is_mapped_before_the_guest_asks,
    state::a_vcpu_is_always_runnable,
    state::a_vcpus_table_comes_back_as_it_was_set,
    hostile::commands_of_other_descriptors_are_refused,
    hostile::arguments_that_are_nowhere_are_refused,
    hostile::arguments_that_are_cut_short_are_refused,
    hostile::a_sign_before_a_command_changes_nothing,
    hostile::random_commands_harm_nobody,
    signals::masks_of_other_sizes_are_refused,
    signals::a_signal_that_only_the_mask_lets_through_ends_a_run_and_waits,
    signals::a_signal_that_the_mask_blocks_does_not_end_a_run,
    signals::who_waits_for_a_running_vcpu_can_be_killed,
    running::a_killed_owner_takes_its_running_guest_along,
    running::cpus_go_while_guests_run_on_them,
    beside::an_owner_keeps_its_ports_after_its_guest_ran,
    beside::others_keep_their_ports_while_guests_run_on_their_cpu,
    beside::others_without_a_clock_run_on_a_cpu_with_guests,
    beside::an_owners_segments_come_back_after_its_guest_ran,
    kernel::the_module_stays_while_a_vm_is_open,
    kernel::a_vm_goes_with_its_killed_owner,
    kernel::cpus_come_and_go_under_a_vm,
    kernel::the_module_unloads_and_the_node_goes,
    loads::a_hundred_loads_and_unloads_leave_nothing,
    kernel::a_second_node_appears_when_asked_for,
    kernel::stock_kvm_and_the_module_keep_apart,
    kernel::the_kernel_has_nothing_to_complain_about,
];

/// On a machine whose CPU can, but slowly: what touches the hardware.
const CORE: &[Test] = tests![
    kernel::the_module_loads_and_says_so,
    node::the_node_speaks_version_12,
    memory::a_log_is_read_and_cleared,
    vcpu::vcpus_are_made_once_and_in_range,
    vcpu::registers_come_back_as_they_were_set,
    vcpu::a_guest_in_real_mode_talks_to_ports_and_halts,
    vcpu::an_owner_sends_the_guest_elsewhere_during_an_exit,
    vcpu::a_guest_reaches_devices_where_it_has_no_memory,
    vcpu::a_run_comes_back_at_once_when_asked_to,
    vcpu::interrupts_are_delivered_when_the_guest_takes_them,
    vcpu::cpuid_is_offered_and_taken,
    vcpu::msrs_are_listed_read_and_set,
    vcpu::memory_goes_away_under_a_guest,
    vcpu::every_write_of_a_guest_is_logged,
    vcpu::events_and_debug_registers_come_back_as_they_were_set,
    running::the_fpu_comes_back_as_it_was_set,
    running::guests_keep_their_fpu_apart_on_shared_cpus,
    running::the_shared_memory_is_not_believed,
    running::a_killed_owner_takes_its_running_guest_along,
    running::cpus_go_while_guests_run_on_them,
    beside::an_owner_keeps_its_ports_after_its_guest_ran,
    beside::others_keep_their_ports_while_guests_run_on_their_cpu,
    beside::others_without_a_clock_run_on_a_cpu_with_guests,
    beside::an_owners_segments_come_back_after_its_guest_ran,
    kernel::the_module_stays_while_a_vm_is_open,
    kernel::the_module_unloads_and_the_node_goes,
    kernel::the_kernel_has_nothing_to_complain_about,
];

/// On a machine whose CPU cannot.
const UNABLE: &[Test] = tests![
    kernel::a_cpu_without_virtualisation_is_refused_in_words,
    kernel::the_kernel_has_nothing_to_complain_about,
];

/// On a machine with QEMU, and a guest for it.
const MONITOR: &[Test] = tests![
    monitor::an_unmodified_qemu_boots_a_stock_kernel,
    monitor::the_small_monitor_starts_kernels_of_every_kind,
    kernel::the_kernel_has_nothing_to_complain_about,
];

/// On a machine whose memory is short, in two nodes, and partly in large pages.
const PRESSURE: &[Test] = tests![
    kernel::the_module_loads_and_says_so,
    leaks::what_is_in_use_is_noted,
    change::a_guest_finds_zeros_where_memory_was_given_back,
    change::a_guest_waits_where_memory_is_protected,
    change::a_guest_waits_where_memory_is_unmapped,
    change::a_guest_finds_its_memory_again_that_was_moved_away,
    change::a_guest_finds_zeros_where_memory_was_moved_and_left,
    change::a_child_keeps_what_the_guest_had_when_it_was_born,
    backing::a_guest_finds_its_memory_again_that_was_swapped_out,
    backing::a_guest_does_not_notice_that_its_pages_migrate,
    backing::a_guest_does_not_notice_that_pages_are_gathered_and_split,
    backing::a_guest_runs_on_pages_of_2_mib,
    backing::a_guest_runs_on_a_page_of_1_gib,
    backing::a_guest_sees_what_becomes_of_a_file_in_memory,
    backing::a_guests_writes_to_a_private_mapping_stay_out_of_the_file,
    backing::a_guest_reads_what_the_owner_may_only_read_and_cannot_write_it,
    uffd::a_guest_waits_for_pages_that_another_thread_brings,
    uffd::an_owner_is_killed_while_its_guest_waits_for_a_page,
    device::a_guest_runs_on_the_memory_of_a_device,
    device::a_guest_reads_a_device_that_the_owner_may_only_read,
    device::a_guest_reads_what_a_driver_brings_when_it_is_asked,
    leaks::everything_has_been_given_back,
    kernel::the_module_unloads_and_the_node_goes,
    kernel::the_kernel_has_nothing_to_complain_about,
];

/// On a machine whose CPUs are crowded.
const CROWD: &[Test] = tests![
    kernel::the_module_loads_and_says_so,
    leaks::what_is_in_use_is_noted,
    slots::slots_come_and_go_under_vcpus_that_write,
    slots::no_write_is_lost_by_a_log_that_clears_itself,
    slots::no_write_is_lost_by_a_log_that_is_cleared,
    crowd::more_vcpus_than_cpus_get_on,
    crowd::vcpus_migrate_between_cpus,
    crowd::cpus_come_and_go_under_a_crowd,
    crowd::signals_come_all_the_time,
    crowd::an_owner_killed_at_any_moment_leaves_nothing,
    leaks::everything_has_been_given_back,
    kernel::the_module_unloads_and_the_node_goes,
    kernel::the_kernel_has_nothing_to_complain_about,
];

/// On a machine whose kernel looks closely at what is done to its memory.
const FUZZ: &[Test] = tests![
    kernel::the_module_loads_and_says_so,
    fuzz::calls_at_random_do_the_kernel_no_harm,
    kernel::the_module_unloads_and_the_node_goes,
    kernel::the_kernel_has_nothing_to_complain_about,
];

/// On a machine that has crashed under guests.
const CRASH: &[Test] = tests![
    crash::a_machine_that_crashes_under_guests_starts_anew,
    kernel::the_module_loads_and_says_so,
    vcpu::a_guest_in_real_mode_talks_to_ports_and_halts,
    running::a_killed_owner_takes_its_running_guest_along,
    kernel::the_module_unloads_and_the_node_goes,
    kernel::the_kernel_has_nothing_to_complain_about,
];

/// On machines that count instructions.
const OWN_COSTS: &[Test] = tests![measure::the_module_is_measured,];
const STOCK_COSTS: &[Test] = tests![measure::stock_kvm_is_measured,];

/// The tests of each machine, by what its kernel's command line says.
const LISTS: &[(&str, &[Test])] = &[
    ("core", CORE),
    ("unable", UNABLE),
    ("monitor", MONITOR),
    ("pressure", PRESSURE),
    ("crowd", CROWD),
    ("fuzz", FUZZ),
    ("crash", CRASH),
    ("own-costs", OWN_COSTS),
    ("stock-costs", STOCK_COSTS),
];

fn main() {
    if std::process::id() != 1 {
        eprintln!(
            "This program is the init of a test machine. Run `cargo xtask test --layer linux`."
        );
        std::process::exit(2);
    }
    sys::prepare_machine();
    if let Err(why) = cpus::start() {
        println!("FAIL the_cpus_start: {why}");
        sys::power_off();
    }
    let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let said = |word: &str| line.contains(&format!("waterbear={word}"));
    if said("guest") {
        monitor::speak();
        sys::power_off();
    }
    if said("programs") {
        let passed = programs::run();
        println!("END {}", if passed { "passed" } else { "failed" });
        sys::power_off();
    }
    if said("crash") && !crash::happened() {
        let failure = crash::crash();
        println!("PLAN 1");
        report("the_machine_crashes", failure);
        sys::power_off();
    }
    let tests = LISTS
        .iter()
        .find_map(|(word, tests)| said(word).then_some(*tests));
    let tests = tests.unwrap_or(ABLE);
    // `waterbear_only=WORD`: the tests whose names have it, and those of the module itself.
    let only = line
        .split_whitespace()
        .find_map(|word| word.strip_prefix("waterbear_only="));
    let tests: Vec<_> = tests
        .iter()
        .filter(|(name, _)| only.is_none_or(|only| name.contains("module") || name.contains(only)))
        .collect();
    println!("PLAN {}", tests.len());
    let mut watched = watch::Watched::start();
    let mut passed = true;
    for (name, test) in tests {
        watched.next();
        passed &= report(name, test());
        // For whoever looks for a leak.
        if line.contains("waterbear_used") {
            println!("{:?}", leaks::Used::now());
        }
    }
    println!("END {}", if passed { "passed" } else { "failed" });
    sys::power_off();
}

/// Says what became of a test, and whether it passed.
fn report(name: &str, outcome: Outcome) -> bool {
    match &outcome {
        Ok(()) => println!("PASS {name}"),
        Err(why) => println!("FAIL {name}: {why}"),
    }
    outcome.is_ok()
}
