//! The interface as a C header for FreeBSD, where commands have other numbers, and the list by which
//! the port finds the public ones: made from what was generated from the public header, so that all
//! say the same.

use std::collections::BTreeMap;
use std::fmt::Write;

/// What begins a command's number in the public header.
const COMMAND_GROUP: u64 = 0xae;
/// What begins a command's number on FreeBSD: there is nothing to copy. Source: ioctl(2),
/// `sys/ioccom.h`.
const VOID: u64 = 0x2000_0000;
/// Commands whose number and direction another command has too.
const SECOND: [&str; 2] = ["KVM_GET_PIT2", "KVM_SET_PIT2"];
/// How far from the others' groups theirs are.
const SECOND_GROUP: u64 = 4;

/// What stands before everything.
const BEGIN: &str = "\
/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The KVM interface on FreeBSD, with the names and structures of
 * <linux/kvm.h>. Written by `cargo xtask abi`.
 *
 * FreeBSD copies an argument itself, by the size and direction in a command's
 * number. So here each number says that there is nothing to copy, and the
 * argument is the user pointer that it is on Linux; the direction is in the
 * group. Pass commands to ioctl(2) as they are.
 */
#ifndef WATERBEAR_KVM_H
#define\tWATERBEAR_KVM_H

#include <sys/ioccom.h>
#include <stdint.h>

typedef int8_t __s8;
typedef int16_t __s16;
typedef int32_t __s32;
typedef int64_t __s64;
typedef uint8_t __u8;
typedef uint16_t __u16;
typedef uint32_t __u32;
typedef unsigned long long __u64;

#define\tKVMIO\t0xae
/* Groups: no direction, in, out, both; and the same again. */
#define\tWATERBEAR_COMMAND(group, number)\t_IO(KVMIO + (group), (number))

";

/// Structures that end in an array of unknown length, which the generated file leaves out.
const OPEN: &str = "\
struct kvm_msrs {
\t__u32 nmsrs;
\t__u32 pad;
\tstruct kvm_msr_entry entries[];
};

struct kvm_msr_list {
\t__u32 nmsrs;
\t__u32 indices[];
};

struct kvm_cpuid2 {
\t__u32 nent;
\t__u32 padding;
\tstruct kvm_cpuid_entry2 entries[];
};

struct kvm_signal_mask {
\t__u32 len;
\t__u8 sigset[];
};

struct kvm_coalesced_mmio_ring {
\t__u32 first, last;
\tstruct kvm_coalesced_mmio coalesced_mmio[];
};

";

/// A structure or union of the generated file.
struct Type<'a> {
    word: &'a str,
    fields: Vec<(&'a str, &'a str)>,
}

/// Writes the header, from the generated file.
pub fn write(generated: &str) -> String {
    let types = types(generated);
    let mut text = BEGIN.to_owned();
    for (name, value) in constants(generated) {
        let value = match command(name, value) {
            Some(command) => command,
            None => format!("{value}U"),
        };
        let _ = writeln!(text, "#define\t{name}\t{value}");
    }
    text.push('\n');
    let mut done = Vec::new();
    for name in names(generated) {
        print_named(&types, name, &mut done, &mut text);
    }
    text += OPEN;
    text + "#endif\n"
}

/// What a C compiler checks about the header: sizes, as the generated file has them.
pub fn checks(generated: &str) -> String {
    let mut text = "#include <waterbear/kvm.h>\n".to_owned();
    for line in generated.lines() {
        // ["Size of kvm_regs"][::core::mem::size_of::<kvm_regs>() - 144usize];
        let Some((name, rest)) = line
            .trim()
            .strip_prefix("[\"Size of ")
            .and_then(|rest| rest.split_once('"'))
        else {
            continue;
        };
        if let (false, Some((_, size))) = (name.contains("bindgen"), rest.split_once(" - ")) {
            let size = size.trim_end_matches("usize];");
            let _ = writeln!(
                text,
                "_Static_assert(sizeof(struct {name}) == {size}, \"{name}\");"
            );
        }
    }
    text
}

/// The number of a command, or nothing for what is none.
fn command(name: &str, value: u64) -> Option<String> {
    let (group, number) = group_and_number(name, value)?;
    Some(format!("WATERBEAR_COMMAND({group}, {number:#04x})"))
}

fn group_and_number(name: &str, value: u64) -> Option<(u64, u64)> {
    if value >> 8 & 0xff != COMMAND_GROUP {
        return None;
    }
    let second = if SECOND.contains(&name) {
        SECOND_GROUP
    } else {
        0
    };
    Some(((value >> 30) + second, value & 0xff))
}

/// Writes the list of commands, FreeBSD's number and the public header's, from the generated file.
pub fn list(generated: &str) -> String {
    let mut lines = String::new();
    let mut count = 0;
    for (name, value) in constants(generated) {
        if let Some((group, number)) = group_and_number(name, value) {
            let low = (COMMAND_GROUP + group) << 8 | number;
            let _ = writeln!(lines, "    ({:#x}_{low:04x}, kvm::{name}),", VOID >> 16);
            count += 1;
        }
    }
    format!(
        "// Written by `cargo xtask abi`.\nuse waterbear_core::abi::kvm;\n\n/// Every command of the \
         interface: FreeBSD's number, and the public header's.\npub const COMMANDS: [(u64, u32); \
         {count}] = [\n{lines}];\n"
    )
}

fn constants(generated: &str) -> Vec<(&str, u64)> {
    let constant = |line: &'_ str| -> Option<(usize, u64)> {
        let (name, rest) = line.strip_prefix("pub const ")?.split_once(':')?;
        let value = rest.split_once(" = ")?.1.trim_end_matches(';');
        Some((name.len(), value.parse().ok()?))
    };
    const START: usize = "pub const ".len();
    generated
        .lines()
        .filter_map(|line| {
            let (length, value) = constant(line)?;
            Some((&line[START..START + length], value))
        })
        .collect()
}

/// The names of structures that have one, in order.
fn names(generated: &str) -> Vec<&str> {
    let declared = generated.lines().filter_map(declared);
    let named = declared.map(|(_, name)| name);
    named.filter(|name| !name.contains("bindgen")).collect()
}

fn declared(line: &str) -> Option<(&str, &str)> {
    let (word, rest) = line.strip_prefix("pub ")?.split_once(' ')?;
    let name = rest.strip_suffix(" {")?;
    matches!(word, "struct" | "union").then_some((word, name))
}

fn types(generated: &str) -> BTreeMap<&str, Type<'_>> {
    let mut types = BTreeMap::new();
    let mut lines = generated.lines();
    while let Some(line) = lines.next() {
        let Some((word, name)) = declared(line) else {
            continue;
        };
        let field = |line: &'_ str| -> Option<(usize, usize)> {
            let field = line.trim().strip_prefix("pub ")?;
            let (name, kind) = field.trim_end_matches(',').split_once(": ")?;
            Some((name.len(), kind.len()))
        };
        let mut fields = Vec::new();
        for line in lines.by_ref().take_while(|line| *line != "}") {
            if let Some((name, kind)) = field(line) {
                let rest = &line.trim()["pub ".len()..];
                fields.push((&rest[..name], &rest[name + 2..name + 2 + kind]));
            }
        }
        types.insert(name, Type { word, fields });
    }
    types
}

/// Prints a structure that has a name, after those that it contains.
fn print_named<'a>(
    types: &BTreeMap<&'a str, Type<'a>>,
    name: &'a str,
    done: &mut Vec<&'a str>,
    text: &mut String,
) {
    let Some(it) = types.get(name) else { return };
    if done.contains(&name) {
        return;
    }
    done.push(name);
    for other in contained(types, it) {
        print_named(types, other, done, text);
    }
    let _ = write!(text, "{} {name} ", it.word);
    print_fields(types, it, 1, text);
    *text += ";\n\n";
}

/// The structures with a name that a type contains, in those without one too.
fn contained<'a>(types: &BTreeMap<&'a str, Type<'a>>, it: &Type<'a>) -> Vec<&'a str> {
    let mut found = Vec::new();
    for &(_, kind) in &it.fields {
        let (element, _) = element(kind);
        match types.get(element) {
            Some(inner) if element.contains("bindgen") => found.extend(contained(types, inner)),
            Some(_) => found.push(element),
            None => {}
        }
    }
    found
}

/// An array's element and its length, or the type itself.
fn element(kind: &str) -> (&str, Option<&str>) {
    let inner = kind
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix("usize]"));
    match inner.and_then(|inner| inner.rsplit_once("; ")) {
        Some((element, length)) => (element, Some(length)),
        None => (kind, None),
    }
}

/// A type of the language, in C.
fn plain(kind: &str) -> &str {
    match kind {
        "*mut core::ffi::c_void" => "void *",
        "core::ffi::c_char" => "char",
        "core::ffi::c_ulong" => "unsigned long",
        other => other,
    }
}

fn print_fields<'a>(
    types: &BTreeMap<&'a str, Type<'a>>,
    it: &Type<'a>,
    depth: usize,
    text: &mut String,
) {
    *text += "{\n";
    for &(name, kind) in &it.fields {
        *text += &"\t".repeat(depth);
        // An array of arrays is written from the inside to the outside.
        let (mut element_kind, mut lengths) = (kind, String::new());
        while let (inner, Some(length)) = element(element_kind) {
            element_kind = inner;
            let _ = write!(lengths, "[{length}]");
        }
        match types.get(element_kind) {
            Some(inner) if element_kind.contains("bindgen") => {
                let _ = write!(text, "{} ", inner.word);
                print_fields(types, inner, depth + 1, text);
            }
            Some(inner) => {
                let _ = write!(text, "{} {element_kind}", inner.word);
            }
            None => *text += plain(element_kind),
        }
        if !name.starts_with("__bindgen_anon") {
            let _ = write!(text, " {}{lengths}", name.trim_end_matches('_'));
        }
        *text += ";\n";
    }
    *text += &"\t".repeat(depth - 1);
    *text += "}";
}

#[cfg(test)]
mod tests {
    use super::*;

    const GENERATED: &str = "\
pub const KVM_RUN: u32 = 44672;
pub const KVM_SET_PIT2: u32 = 1081126560;
pub const KVM_EXIT_IO: u32 = 2;
pub struct kvm_outer {
    pub type_: __u8,
    pub rows: [[__u16; 3usize]; 2usize],
    pub __bindgen_anon_1: kvm_outer__bindgen_ty_1,
    pub inner: kvm_inner,
}
pub union kvm_outer__bindgen_ty_1 {
    pub text: [core::ffi::c_char; 4usize],
}
pub struct kvm_inner {
    pub value: __u64,
}
";

    #[test]
    fn structures_come_with_what_they_contain_before_them() {
        let text = write(GENERATED);
        let wanted = "\
struct kvm_inner {
\t__u64 value;
};

struct kvm_outer {
\t__u8 type;
\t__u16 rows[2][3];
\tunion {
\t\tchar text[4];
\t};
\tstruct kvm_inner inner;
};
";
        assert!(text.contains(wanted), "{text}");
    }

    #[test]
    fn commands_have_the_numbers_of_the_port() {
        let text = write(GENERATED);
        for line in [
            "#define\tKVM_RUN\tWATERBEAR_COMMAND(0, 0x80)\n",
            "#define\tKVM_SET_PIT2\tWATERBEAR_COMMAND(5, 0xa0)\n",
            "#define\tKVM_EXIT_IO\t2U\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
        let text = list(GENERATED);
        for line in [
            "COMMANDS: [(u64, u32); 2]",
            "\n    (0x2000_ae80, kvm::KVM_RUN),\n    (0x2000_b3a0, kvm::KVM_SET_PIT2),\n];\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
    }

    #[test]
    fn the_header_and_the_list_are_what_would_be_written_now() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../");
        let read = |name: &str| std::fs::read_to_string(format!("{folder}{name}")).unwrap();
        let fresh = write(&read(crate::abi::GENERATED));
        assert!(
            read(crate::abi::C_HEADER) == fresh,
            "write it anew: cargo xtask abi",
        );
        assert!(
            read(crate::abi::COMMAND_LIST) == list(&read(crate::abi::GENERATED)),
            "write it anew: cargo xtask abi",
        );
    }
}
