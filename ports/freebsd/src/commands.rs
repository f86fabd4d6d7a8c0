//! The commands, as FreeBSD numbers them.
//!
//! FreeBSD copies an argument itself, by the size and the direction that are in
//! the command, and refuses a command without a direction. Arrays without a
//! fixed length cannot pass that way, so each command says that it has no
//! argument that the kernel should copy, and hands a user pointer over.
//! `include/waterbear/kvm.h` has the same numbers.
mod list;

pub use list::COMMANDS;

/// The command of the public header for what a FreeBSD process asks for, or 0,
/// which is none.
#[cfg_attr(target_os = "none", unsafe(export_name = "waterbear_decoded"))]
pub extern "C" fn decoded(command: u64) -> u32 {
    let known = COMMANDS.iter().find(|(ours, _)| *ours == command);
    known.map_or(0, |(_, command)| *command)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn no_two_commands_have_one_number() {
        assert!(COMMANDS.len() > 50);
        for (ours, command) in COMMANDS {
            assert_eq!(decoded(ours), command, "{command:#x}");
        }
    }

    #[test]
    fn the_numbers_of_the_public_header_are_refused() {
        for (_, command) in COMMANDS {
            assert_eq!(decoded(command.into()), 0);
        }
    }
}
