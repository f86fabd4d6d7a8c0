//! How much of the stack each function takes for itself, as `objdump` shows its code.
//!
//! A frame is made by one subtraction from the stack pointer, or by an addition of a negative
//! number or a LEA to the same effect. One above a page may be made page by page in a loop: then
//! its pages count, or the LEA that finds its end. A number of bytes that is in a register may be
//! any. Registers that are pushed are few and do not count.

use crate::Outcome;

/// The functions with a frame of more than `limit` bytes, with its size.
///
/// # Errors
///
/// No function is in the text: nothing would be known of the module.
pub fn above(disassembly: &str, limit: u64) -> Outcome<Vec<String>> {
    let mut function = None;
    let mut large = Vec::new();
    for line in disassembly.lines() {
        if let Some(name) = begins(line) {
            function = Some(name);
        } else if let (Some(name), Some(bytes)) = (function, taken(line))
            && bytes > limit
        {
            large.push(format!("{name} takes {bytes} bytes"));
        }
    }
    match function {
        Some(_) => Ok(large),
        None => Err("objdump shows no function of the module".into()),
    }
}

/// The function that begins here: `0000000000006148 <name>:`.
fn begins(line: &str) -> Option<&str> {
    let (address, rest) = line.split_once(" <")?;
    u64::from_str_radix(address, 16).ok()?;
    rest.strip_suffix(">:")
}

/// How far the instruction of a line moves the stack pointer down, or aims below it.
fn taken(line: &str) -> Option<u64> {
    let (_, instruction) = line.split_once(":\t")?;
    let (name, operands) = instruction.trim().split_once(char::is_whitespace)?;
    let operands = operands.trim_start();
    match name {
        "sub" => match operands.strip_suffix(",%rsp")?.strip_prefix('$') {
            // Subtracting -128 is how a compiler adds 128.
            Some(bytes) => number(bytes).filter(|bytes| !is_negative(*bytes)),
            None => Some(u64::MAX),
        },
        "add" => number(operands.strip_suffix(",%rsp")?.strip_prefix('$')?)
            .filter(|bytes| is_negative(*bytes))
            .map(u64::wrapping_neg),
        // Into the stack pointer itself, or into the register that a probing loop compares with.
        "lea" => {
            let (distance, _) = operands.split_once("(%rsp),")?;
            number(distance.strip_prefix('-')?)
        }
        _ => None,
    }
}

fn is_negative(value: u64) -> bool {
    value > i64::MAX as u64
}

fn number(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A function whose frame is made by this instruction.
    fn with(instruction: &str) -> String {
        format!(
            "\nwaterbear.ko:     file format elf64-x86-64\n\n\nDisassembly of section .text:\n\n\
             0000000000000010 <small>:\n      10:\tpush   %rbp\n      11:\tsub    $0x800,%rsp\n\n\
             0000000000006148 <other>:\n    6148:\tpush   %rbp\n    6155:\t{instruction}\n"
        )
    }

    #[test]
    fn a_frame_above_the_limit_is_told_with_its_function() {
        for instruction in [
            "sub    $0xa48,%rsp",
            "add    $0xfffffffffffff5b8,%rsp",
            "lea    -0xa48(%rsp),%rsp",
            "lea    -0xa48(%rsp),%r11",
        ] {
            assert_eq!(
                above(&with(instruction), 2048).unwrap(),
                ["other takes 2632 bytes"],
                "{instruction}"
            );
        }
    }

    #[test]
    fn a_frame_whose_size_is_in_a_register_is_too_large() {
        let large = above(&with("sub    %rax,%rsp"), 2048).unwrap();
        assert_eq!(large.len(), 1);
    }

    #[test]
    fn what_takes_nothing_from_the_stack_is_no_frame() {
        for instruction in [
            "sub    $0x800,%rsp",
            "add    $0xa48,%rsp",
            "sub    $0xffffffffffffff80,%rsp",
            "lea    0xa48(%rsp),%rdi",
            "lea    -0xa48(%rbp),%rdi",
            "sub    $0xa48,%rax",
            "ret",
        ] {
            let large = above(&with(instruction), 2048).unwrap();
            assert!(large.is_empty(), "{instruction}");
        }
    }

    #[test]
    fn a_text_without_functions_is_an_error() {
        above("waterbear.ko:     file format elf64-x86-64\n", 2048).unwrap_err();
    }
}
