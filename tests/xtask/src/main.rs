//! The project's commands, behind the alias `cargo xtask`.
//!
//! One file is one command: a command is an entry of [`COMMANDS`] and a module with a `run`
//! function. Errors are sentences that say what happened and what to do.

mod abi;
mod artifacts;
mod bench;
mod bochs;
mod build;
mod demo;
mod freebsd;
mod guest;
mod libtest;
mod linux;
mod machine;
mod need;
mod pool;
mod process;
mod rules;
mod size;
mod source;
mod test;
mod workspace;

use std::process::ExitCode;

/// What a step gives back; the error is a sentence for the reader.
type Outcome<T = ()> = Result<T, String>;

/// How a command that could do its work ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Everything it looked at is in order.
    Good,
    /// It has found faults and has printed them.
    Bad,
}

/// One command.
struct Command {
    name: &'static str,
    /// One line for the list of commands.
    summary: &'static str,
    /// The options, one per line.
    options: &'static str,
    run: fn(lexopt::Parser) -> Outcome<Verdict>,
}

const COMMANDS: &[Command] = &[
    demo::COMMAND,
    build::COMMAND,
    test::COMMAND,
    build::COMMAND,
    guest::COMMAND,
    rules::COMMAND,
    bench::COMMAND,
    size::COMMAND,
    abi::COMMAND,
];

fn main() -> ExitCode {
    match dispatch() {
        Ok(Verdict::Good) => ExitCode::SUCCESS,
        Ok(Verdict::Bad) => ExitCode::FAILURE,
        Err(sentence) => {
            eprintln!("error: {sentence}");
            ExitCode::from(2)
        }
    }
}

fn dispatch() -> Outcome<Verdict> {
    use lexopt::prelude::*;
    let mut arguments = lexopt::Parser::from_env();
    match arguments.next().map_err(|error| usage(&error))? {
        None | Some(Short('h') | Long("help")) => {
            print!("{}", help());
            Ok(Verdict::Good)
        }
        Some(Value(name)) => match COMMANDS.iter().find(|command| name == command.name) {
            Some(command) => (command.run)(arguments),
            None => Err(format!(
                "there is no command {}. Run `cargo xtask` for the list.",
                name.display()
            )),
        },
        Some(other) => Err(usage(&other.unexpected())),
    }
}

/// The sentence for arguments that make no sense.
fn usage(error: &lexopt::Error) -> String {
    format!("{error}. Run `cargo xtask` for the commands and their options.")
}

fn help() -> String {
    let mut text = String::from("Usage: cargo xtask COMMAND [OPTION...]\n");
    for command in COMMANDS {
        text += &format!("\n  {:<8}{}\n", command.name, command.summary);
        for line in command.options.lines() {
            text += &format!("          {line}\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_names_every_command() {
        let text = help();
        for command in COMMANDS {
            assert!(text.contains(command.name), "{} is missing", command.name);
        }
    }
}
