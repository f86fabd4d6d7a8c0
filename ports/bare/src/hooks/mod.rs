//! Tests of a vendor's hooks, one by one, below the core's run loop: guests in real mode that do
//! one thing each, and a host that looks at every exit.
mod events;
mod exits;
pub mod host_state;
mod rig;

use waterbear_core::host_state::HostState;
use waterbear_core::registry::Registry;
use waterbear_core::vendor::{Hardware, Vendor};

use crate::host::Bare;

/// What came of a test.
pub type Verdict = Result<(), &'static str>;

macro_rules! tests {
    ($($module:ident::$test:ident,)*) => {
        const NAMES: &[&str] = &[$(stringify!($test),)*];

        fn tests<V: Vendor>() -> [fn(&V) -> Verdict; NAMES.len()] {
            [$($module::$test,)*]
        }
    };
}

tests! {
    events::an_interrupt_goes_in_when_its_window_opens,
    events::an_nmi_is_over_when_its_handler_has_returned,
    events::an_nmi_waits_for_the_end_of_a_shadow,
    events::a_software_interrupt_returns_behind_its_instruction,
    events::a_page_fault_brings_its_address,
    events::single_steps_exit_and_are_passed_on,
    exits::instructions_exit_where_they_stand,
    exits::control_registers_are_what_the_guest_wrote,
    exits::what_is_set_is_what_is_read,
    exits::a_state_that_is_not_valid_is_refused,
    exits::a_triple_fault_is_a_shutdown,
}

/// How many tests there are.
pub const COUNT: usize = NAMES.len() + 1;

/// Runs them all.
pub fn run<V: Vendor>(
    vendor: &V,
    states: &[HostState],
    mut report: impl FnMut(&str, Verdict),
) -> Verdict {
    let vendors: [&dyn Hardware; 1] = [vendor];
    let registry = Registry::new(&Bare, &vendors).map_err(|_| "no registry")?;
    registry
        .register(0, || Ok(()))
        .map_err(|_| "not registered")?;
    let token = registry
        .vm_created()
        .map_err(|_| "the CPU is not enabled")?;
    for (name, test) in NAMES.iter().zip(tests::<V>()) {
        report(name, test(vendor));
    }
    report(
        "nothing_of_the_host_s_is_changed_by_a_guest_that_changes_all",
        host_state::all_is_as_before(vendor, states),
    );
    drop(token);
    registry.unregister(|| ()).map_err(|_| "not unregistered")
}
