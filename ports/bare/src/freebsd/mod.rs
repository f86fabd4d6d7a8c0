//! A host for tests of the FreeBSD module, and not FreeBSD.
//!
//! Two objects come with the bare port: the module as it is built for FreeBSD, and the functions of
//! FreeBSD's kernel that it uses, written for these tests in C over this host
//! (`tests/freebsd-host/`). Both are loaded here as FreeBSD loads a module, and tests use the module
//! as processes would: they open its node, and give commands to descriptors.
//!
//! | file | idea |
//! |---|---|
//! | [`object`] | loading an object |
//! | [`place`] | the pages that it is in |
//! | [`exports`] | what C takes of the bare port |
//! | [`calls`] | what C does for tests: system calls, failures |
//! | [`kvm`] | the interface, as a monitor uses it |
//! | [`guests`] | guest programs |
//! | [`lifecycle`] | loading and unloading |
//! | [`refusals`] | what must be refused |
//! | [`owners`] | processes that share, lose and leave what they have |
//! | [`failures`] | everything that may fail does |
mod calls;
mod exports;
mod failures;
mod guests;
mod kvm;
mod lifecycle;
mod object;
mod owners;
mod place;
mod refusals;

use waterbear_guests::PROGRAMS;

use crate::boot;
use crate::console::say;
use crate::host::irq_lock::IrqLock;
use crate::host::memory;
use calls::{Calls, Errno, Outcome, Process, Sets};
use object::{Fault, Object};

/// Why a test has not passed.
pub enum Miss {
    Failed(&'static str),
    /// A call that must work does not.
    Call(Errno),
}

impl From<Errno> for Miss {
    fn from(error: Errno) -> Self {
        Self::Call(error)
    }
}

type Verdict = Result<(), Miss>;

/// Fails a test unless `fact`.
fn must(fact: bool, else_why: &'static str) -> Verdict {
    if fact {
        Ok(())
    } else {
        Err(Miss::Failed(else_why))
    }
}

/// Fails a test unless a call is refused in this way.
fn must_be<T>(outcome: Outcome<T>, error: Errno, else_why: &'static str) -> Verdict {
    match outcome {
        Err(other) if other == error => Ok(()),
        Err(other) => {
            say!("NOTE error {} instead of {}", other.0, error.0);
            Err(Miss::Failed(else_why))
        }
        Ok(_) => Err(Miss::Failed(else_why)),
    }
}

/// The host and the module.
pub struct Host {
    calls: Calls,
    kernel: Object,
    file: &'static [u8],
    module: IrqLock<Option<Object>>,
}

macro_rules! tests {
    ($($module:ident::$test:ident,)*) => {
        const TESTS: &[(&str, fn(&Host) -> Verdict)] = &[$((stringify!($test), $module::$test),)*];
    };
}

tests! {
    lifecycle::the_module_loads_opens_and_unloads,
    lifecycle::unloading_is_refused_while_there_is_a_vm,
    lifecycle::a_load_that_fails_leaves_nothing,
    lifecycle::another_hypervisor_keeps_what_it_has,
    lifecycle::the_hardware_is_off_when_the_machine_goes_down,
    lifecycle::guests_go_on_when_the_machine_has_slept,
    refusals::the_numbers_of_linux_are_refused,
    refusals::every_other_encoding_is_refused,
    refusals::without_descriptors_nothing_is_made,
    refusals::user_pointers_to_nowhere_are_faults,
    refusals::slots_count_against_the_limit_of_locked_memory,
    owners::descriptors_are_closed_in_every_order,
    owners::another_process_gives_no_commands,
    owners::a_child_shares_the_guests_memory,
    owners::a_process_dies_while_its_guest_runs,
    owners::a_descriptor_is_closed_under_a_guest_that_runs,
    owners::a_vcpus_own_memory_is_no_guest_memory,
    failures::whatever_fails_is_undone,
}

/// Loads the objects of a file and runs the tests; says whether none failed.
pub fn run(file: &'static [u8]) -> bool {
    let host = match Host::new(file) {
        Ok(host) => host,
        Err(fault) => {
            say!("FAIL host: the objects cannot be loaded: {fault:?}");
            return false;
        }
    };
    let wanted = |name: &str| {
        boot::option("only").is_none_or(|only| only.split(',').any(|wanted| wanted == name))
    };
    let tests = || TESTS.iter().filter(|(name, _)| wanted(name));
    let programs = || PROGRAMS.iter().filter(|program| wanted(program.name));
    say!("PLAN {}", tests().count() + programs().count());
    let mut failed = false;
    for (name, test) in tests() {
        failed |= !report(&host, name, || {
            let verdict = test(&host);
            match verdict {
                Err(Miss::Failed(why)) => say!("FAIL {name}: {why}"),
                Err(Miss::Call(Errno(number))) => say!("FAIL {name}: error {number}"),
                Ok(()) => return Some(true),
            }
            Some(false)
        });
    }
    if host.load().is_err() {
        say!("FAIL host: the module cannot be loaded");
        return false;
    }
    for program in programs() {
        let name = program.name;
        failed |= !report(&host, name, || match guests::run(&host, program) {
            Ok(()) => Some(true),
            Err(guests::Miss::Lacks(why)) => {
                say!("SKIP {name}: {why}");
                None
            }
            Err(guests::Miss::Failed(verdict)) => {
                say!("FAIL {name}: {verdict}");
                Some(false)
            }
        });
    }
    !failed && host.unload().is_ok()
}

/// Runs one, which leaves as much in use as there was, and says whether it has not failed.
fn report(host: &Host, name: &str, run: impl FnOnce() -> Option<bool>) -> bool {
    let before = host.calls.counts();
    let result = run();
    let after = host.calls.counts();
    if result == Some(true) && before == after {
        say!("PASS {name}");
    } else if result == Some(true) {
        say!("FAIL {name}: {before:?} became {after:?}");
    }
    result.is_none_or(|passed| passed) && before == after
}

/// The file's objects: each is a length in 8 bytes and that many bytes.
fn split(file: &'static [u8]) -> Option<(&'static [u8], &'static [u8])> {
    let (length, rest) = file.split_first_chunk()?;
    rest.split_at_checked(u64::from_le_bytes(*length) as usize)
}

/// The kernel could not make sense of the module.
const ENOEXEC: Errno = Errno(8);

impl Host {
    fn new(file: &'static [u8]) -> Result<Self, Fault> {
        let (kernel, rest) = split(file).ok_or(Fault::Malformed)?;
        let (module, _) = split(rest).ok_or(Fault::Malformed)?;
        place::map_all();
        let kernel = Object::load(kernel, &exports::find)?;
        let table = kernel.find("calls").ok_or(Fault::Malformed)?;
        // SAFETY: the object has the table, and stays.
        let calls = unsafe { Calls::at(table) };
        calls.start(memory::FRAMES);
        Ok(Self {
            calls,
            kernel,
            file: module,
            module: IrqLock::new(None),
        })
    }

    /// Loads the module.
    ///
    /// # Errors
    ///
    /// What it says to it; then it is gone.
    fn load(&self) -> Outcome<()> {
        let object = Object::load(self.file, &|name| self.kernel.find(name));
        let object = object.map_err(|fault| {
            say!("NOTE the module cannot be loaded: {fault:?}");
            ENOEXEC
        })?;
        let set = |name| object.set(name).ok_or(ENOEXEC);
        let sets = Sets([
            set("set_modmetadata_set")?,
            set("set_sysinit_set")?,
            set("set_sysuninit_set")?,
        ]);
        self.calls.load(&sets)?;
        self.module.with(|place| *place = Some(object));
        Ok(())
    }

    /// Unloads the module: whoever calls it from now on finds nothing there.
    ///
    /// # Errors
    ///
    /// What it says to it; then it stays.
    fn unload(&self) -> Outcome<()> {
        self.calls.unload()?;
        drop(self.module.with(Option::take));
        Ok(())
    }

    /// Runs a test with the module loaded, as a process, which the test ends if it passes.
    fn with_process(&self, test: impl FnOnce(Process) -> Verdict) -> Verdict {
        self.load()?;
        let process = self.calls.process();
        self.calls.enter(process);
        let verdict = test(process);
        if verdict.is_err() {
            self.calls.exit(process);
        }
        let unloaded = self.unload();
        verdict?;
        Ok(unloaded?)
    }
}
