//! The guest programs, through the interface.
use std::path::Path;

use waterbear_guests::PROGRAMS;
use waterbear_vmm::programs::{Emulator, Host, Miss};

use crate::node::NODE;
use crate::{kernel, report};

/// Runs them on the module; says whether none failed.
pub fn run() -> bool {
    println!("PLAN {}", PROGRAMS.len() + 3);
    let mut passed = report(
        "the_module_loads_and_says_so",
        kernel::the_module_loads_and_says_so(),
    );
    match Host::new(Path::new(NODE), Emulator::detect()) {
        Ok(host) => {
            for program in PROGRAMS {
                let result = match host.run(program) {
                    Err(Miss::Skipped(why)) => {
                        println!("SKIP {}: {why}", program.name);
                        continue;
                    }
                    Err(Miss::Failed(verdict)) => Err(verdict.to_string()),
                    Ok(()) => Ok(()),
                };
                passed &= report(program.name, result);
            }
        }
        Err(error) => passed = report("guest programs", Err(error.to_string())),
    }
    passed &= report(
        "the_module_unloads_and_the_node_goes",
        kernel::the_module_unloads_and_the_node_goes(),
    );
    passed
        & report(
            "the_kernel_has_nothing_to_complain_about",
            kernel::the_kernel_has_nothing_to_complain_about(),
        )
}
