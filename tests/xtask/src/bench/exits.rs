//! `cargo xtask bench exits`: what the interface's operations cost on Linux, beside the kernel's
//! own KVM.
//!
//! Both serve the same program, in the same kind of machine, which counts instructions: those of
//! the program, of the kernel and of the guest.

use crate::linux::{ABLE, Client, Disc, Flavour, Kernel, Machine, Module, VERSIONS};
use crate::workspace::{self, Workspace};
use crate::{Outcome, Verdict, need, pool, process};
use std::path::PathBuf;
use std::process::Command;

const STOCK: Machine = Machine {
    say: "waterbear=stock-costs",
    exact: true,
    ..ABLE
};

const OWN: Machine = Machine {
    say: "waterbear=own-costs",
    ..STOCK
};

/// How many pages of each size the program's memory has.
const SMALL: u64 = 16384;
const LARGE: u64 = 32;

/// A line of the table: the operation, what the program calls it, how many it measured at once,
/// and what we want it to cost.
type Row = (&'static str, &'static str, u64, Option<u64>);

/// Nothing may cost more than on stock KVM.
const ROWS: &[Row] = &[
    ("CPUID", "cpuid_leaf0.median", 1, Some(900)),
    (
        "CPUID, leaf 0x80000008",
        "cpuid_leaf80000008.median",
        1,
        None,
    ),
    ("RDMSR", "rdmsr_apic_base.median", 1, None),
    ("OUT to the owner and back", "pio_out.median", 1, Some(1500)),
    ("IN from the owner and back", "pio_in.median", 1, None),
    (
        "MMIO write to the owner and back",
        "mmio_write.median",
        1,
        Some(2000),
    ),
    (
        "MMIO read from the owner and back",
        "mmio_read.median",
        1,
        None,
    ),
    ("HLT to the owner and back", "hlt.median", 1, Some(1700)),
    (
        "KVM_CHECK_EXTENSION",
        "ioctl_check_extension.median",
        1,
        None,
    ),
    (
        "KVM_RUN that is to return at once",
        "run_immediate_exit.median",
        1,
        Some(850),
    ),
    (
        "4 KiB pages: write fault",
        "mem4k.first_write.median",
        1,
        Some(1500),
    ),
    (
        "  on average, tables included",
        "mem4k.first_write.mean",
        1,
        None,
    ),
    (
        "  after the slot was made anew",
        "mem4k.refault_write.median",
        1,
        Some(1400),
    ),
    ("  on average", "mem4k.refault_write.mean", 1, None),
    (
        "  read fault after that",
        "mem4k.refault_read.median",
        1,
        None,
    ),
    (
        "  first write under dirty logging",
        "mem4k.log_first_write.median",
        1,
        Some(600),
    ),
    (
        "  write after GET_DIRTY_LOG",
        "mem4k.log_rewrite.median",
        1,
        None,
    ),
    (
        "  write after logging went off",
        "mem4k.log_off_write.median",
        1,
        None,
    ),
    (
        "  slot delete, per page",
        "mem4k.slot_delete.median",
        SMALL,
        Some(40),
    ),
    ("  slot add", "mem4k.slot_add.median", 1, None),
    (
        "  dirty log on, per page",
        "mem4k.dirty_log_on.median",
        SMALL,
        Some(40),
    ),
    ("  dirty log off", "mem4k.dirty_log_off.median", 1, None),
    (
        "  GET_DIRTY_LOG, all dirty, per page",
        "mem4k.get_dirty_log_all.median",
        SMALL,
        Some(50),
    ),
    (
        "  GET_DIRTY_LOG, none dirty",
        "mem4k.get_dirty_log_none.median",
        1,
        None,
    ),
    (
        "2 MiB pages: write fault",
        "memthp.first_write.median",
        1,
        None,
    ),
    (
        "  after the slot was made anew",
        "memthp.refault_write.median",
        1,
        None,
    ),
    (
        "  read fault after that",
        "memthp.refault_read.median",
        1,
        None,
    ),
    (
        "  first write under dirty logging",
        "memthp.log_first_write.median",
        1,
        None,
    ),
    (
        "  on average, splits included",
        "memthp.log_first_write.mean",
        1,
        None,
    ),
    (
        "  write after GET_DIRTY_LOG",
        "memthp.log_rewrite.median",
        1,
        None,
    ),
    (
        "  write after logging went off, all",
        "memthp.log_off_write.total",
        1,
        None,
    ),
    (
        "  slot delete, per page",
        "memthp.slot_delete.median",
        LARGE,
        None,
    ),
    ("  slot add", "memthp.slot_add.median", 1, None),
    (
        "  dirty log on, per page",
        "memthp.dirty_log_on.median",
        LARGE,
        None,
    ),
    (
        "  dirty log off, per page",
        "memthp.dirty_log_off.median",
        LARGE,
        None,
    ),
    (
        "  GET_DIRTY_LOG, all dirty, per 4 KiB",
        "memthp.get_dirty_log_all.median",
        SMALL,
        None,
    ),
    (
        "  GET_DIRTY_LOG, none dirty",
        "memthp.get_dirty_log_none.median",
        1,
        None,
    ),
];

/// Measures both and prints one table. It is bad when a row costs more than on stock KVM.
pub fn run() -> Outcome<Verdict> {
    let workspace = Workspace::find()?;
    println!("fetching a stock Debian kernel and its headers");
    let kernel = Kernel::fetch(&workspace, VERSIONS[0], Flavour::Amd64)?;
    println!("building the module and the program that measures it");
    let module = Module::build(&workspace, &kernel)?;
    let client = Client::build(&workspace)?;
    let disc = Disc::with_program(&workspace, &client, &kernel, &module, &program(&workspace)?)?;
    println!("booting two machines");
    let results = pool::run(
        vec![(OWN, "Waterbear"), (STOCK, "KVM")],
        |(machine, name)| {
            let text = machine.run(&kernel, &disc, |line| {
                if let Some(what) = line.strip_prefix("MEASURING ") {
                    println!("  {name}: {what}");
                }
            });
            (name, text.and_then(|text| costs(name, &text)))
        },
    );
    let (mut stock, mut own) = (Costs::new(), Costs::new());
    for (name, costs) in results {
        *(if name == "KVM" { &mut stock } else { &mut own }) = costs?;
    }
    let (text, late) = table(&stock, &own)?;
    print!("{text}");
    println!("Instructions, those of the owner included; the median where nothing else is said.");
    Ok(if late { Verdict::Bad } else { Verdict::Good })
}

/// Builds the program.
fn program(workspace: &Workspace) -> Outcome<PathBuf> {
    need::tool("cc", "gcc")?;
    let file = workspace.target().join("linux/exits-program");
    let mut compile = Command::new("cc");
    compile
        .args(["-O2", "-Wall", "-Werror", "-static", "-o"])
        .arg(&file);
    compile.args(workspace::files(
        &workspace.folder("tests/bench/exits"),
        &["c"],
    )?);
    let finished = process::captured(&mut compile, None, "cc", |_| {})?;
    if finished.success {
        Ok(file)
    } else {
        Err(format!("the program does not build:\n{}", finished.output))
    }
}

/// What the program said: names and numbers.
type Costs = Vec<(String, f64)>;

/// Reads the lines `name: number`.
fn costs(name: &str, text: &str) -> Outcome<Costs> {
    if !text.lines().any(|line| line == "END passed") {
        return Err(format!(
            "{name} was not measured. The machine said:\n{text}"
        ));
    }
    let cost = |line: &str| {
        let (name, cost) = line.split_once(": ")?;
        Some((name.to_owned(), cost.parse().ok()?))
    };
    Ok(text.lines().filter_map(cost).collect())
}

/// The table, and whether something costs more than on stock KVM.
fn table(stock: &Costs, own: &Costs) -> Outcome<(String, bool)> {
    let mut text = format!(
        "{:<39}{:>8}{:>11}{:>7}{:>8}\n",
        "operation", "KVM", "Waterbear", "ratio", "target"
    );
    let mut any_late = false;
    for &(operation, name, times, target) in ROWS {
        let of = |costs: &Costs| {
            let found = costs.iter().find(|(of, _)| of == name);
            let cost = found.map(|&(_, cost)| cost / times as f64);
            cost.ok_or_else(|| format!("the program did not measure {name}"))
        };
        let (stock, own) = (of(stock)?, of(own)?);
        let late = own > stock;
        any_late |= late;
        text += &format!("{operation:<39}{stock:>8.0}{own:>11.0}{:>7.2}", own / stock);
        if let Some(target) = target {
            text += &format!("{:>8}", format!("≤ {target}"));
            text += if own > target as f64 { "  missed" } else { "" };
        }
        text += if late { "  MORE THAN KVM\n" } else { "\n" };
    }
    Ok((text, any_late))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(cost: f64) -> Costs {
        ROWS.iter().map(|row| (row.1.to_owned(), cost)).collect()
    }

    #[test]
    fn lines_become_costs() {
        let text = "waterbear: loaded\ncpuid.mean: 10.5\nEND passed\n";
        assert_eq!(
            costs("KVM", text).unwrap(),
            [("cpuid.mean".to_owned(), 10.5)]
        );
        assert!(costs("KVM", "cpuid.mean: 10.5\nEND failed\n").is_err());
    }

    #[test]
    fn one_row_above_stock_kvm_is_late() {
        assert!(!table(&all(100.0), &all(100.0)).unwrap().1);
        let mut own = all(100.0);
        own[5].1 = 101.0;
        let (text, late) = table(&all(100.0), &own).unwrap();
        assert!(late && text.matches("MORE THAN KVM").count() == 1, "{text}");
    }

    #[test]
    fn a_row_that_was_not_measured_is_an_error() {
        let mut own = all(100.0);
        own.pop();
        assert!(table(&all(100.0), &own).is_err());
    }

    #[test]
    fn a_target_that_is_missed_is_said() {
        let (text, _) = table(&all(1000.0), &all(1000.0)).unwrap();
        let missed = text.lines().find(|line| line.starts_with("CPUID "));
        assert!(missed.unwrap().ends_with("≤ 900  missed"), "{text}");
    }
}
