//! The only process of a machine on which the Linux module is tested.
//!
//! The kernel starts it as `/init`. It loads the module, calls it as a virtual
//! machine monitor would, well and badly, prints one line per test as the bare
//! port does (`PLAN n`, `PASS name`, `FAIL name: why`, `END passed`), and
//! switches the machine off.
mod clock;
mod devices;
mod kernel;
mod measure;
mod memory;
mod monitor;
mod node;
mod programs;
mod running;
mod signals;
mod stats;
mod sys;
mod vcpu;
mod vm;

use std::fs;

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
    signals::masks_of_other_sizes_are_refused,
    signals::a_signal_that_only_the_mask_lets_through_ends_a_run_and_waits,
    signals::a_signal_that_the_mask_blocks_does_not_end_a_run,
    signals::who_waits_for_a_running_vcpu_can_be_killed,
    running::a_killed_owner_takes_its_running_guest_along,
    running::cpus_go_while_guests_run_on_them,
    kernel::the_module_stays_while_a_vm_is_open,
    kernel::a_vm_goes_with_its_killed_owner,
    kernel::cpus_come_and_go_under_a_vm,
    kernel::the_module_unloads_and_the_node_goes,
    kernel::twenty_loads_and_unloads_leave_nothing,
    kernel::a_second_node_appears_when_asked_for,
    kernel::stock_kvm_and_the_module_keep_apart,
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
    kernel::the_kernel_has_nothing_to_complain_about,
];

/// On machines that count instructions.
const OWN_COSTS: &[Test] = tests![measure::the_module_is_measured,];
const STOCK_COSTS: &[Test] = tests![measure::stock_kvm_is_measured,];

fn main() {
    if std::process::id() != 1 {
        eprintln!(
            "This program is the init of a test machine. Run `cargo xtask test --layer linux`."
        );
        std::process::exit(2);
    }
    sys::prepare_machine();
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
    let tests = if said("unable") {
        UNABLE
    } else if said("monitor") {
        MONITOR
    } else if said("own-costs") {
        OWN_COSTS
    } else if said("stock-costs") {
        STOCK_COSTS
    } else {
        ABLE
    };
    println!("PLAN {}", tests.len());
    let mut passed = true;
    for (name, test) in tests {
        passed &= report(name, test());
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
