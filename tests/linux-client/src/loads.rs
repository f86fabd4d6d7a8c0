//! What loading, guests and unloading leave behind: nothing.
use std::collections::BTreeMap;
use std::fs::{self, DirEntry, File};
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Duration;

use waterbear_core::abi::kvm::*;

use crate::kernel::{MODULE, NAME};
use crate::node::same;
use crate::sys::{self, Mapping};
use crate::vcpu::Guest;
use crate::{Outcome, memory};

/// How often all of it is done.
const ROUNDS: u64 = 100;
/// Of everything that is counted, this much comes and goes by itself.
const NOISE: u64 = ROUNDS / 2;

/// A group of processes for which the kernel counts the memory that it allocates for them.
const GROUP: &str = "/tmp/group";

/// Files through which each kind of object gives back what it keeps for later. Each CPU keeps some
/// free objects, which count as used. To open them is to use objects, so they stay open.
type Caches = Vec<File>;

/// Has the kernel count what it allocates for this process, and for those that it starts.
fn count_from_now_on() -> Result<Caches, String> {
    sys::mount("cgroup2", "/tmp");
    let write =
        |name: &str, text: &str| fs::write(name, text).map_err(|error| format!("{name}: {error}"));
    write("/tmp/cgroup.subtree_control", "+memory")?;
    fs::create_dir_all(GROUP).map_err(|error| format!("{GROUP}: {error}"))?;
    write(&format!("{GROUP}/cgroup.procs"), "0")?;
    let caches = fs::read_dir("/sys/kernel/slab").map_err(|error| error.to_string())?;
    let shrink = |cache: DirEntry| {
        File::options()
            .write(true)
            .open(cache.path().join("shrink"))
    };
    Ok(caches.flatten().flat_map(shrink).collect())
}

/// What is in use, by name: objects of each kind in the kernel's heap, pages, and open files.
fn in_use(caches: &Caches) -> Result<BTreeMap<String, u64>, String> {
    // What is freed behind the readers of a structure is freed a little later, and the pages are
    // added up every other second.
    thread::sleep(Duration::from_millis(2500));
    for cache in caches {
        cache.write_at(b"1", 0).map_err(|error| error.to_string())?;
    }
    let read = |name: &str| fs::read_to_string(name).map_err(|error| format!("{name}: {error}"));
    let mut counts = BTreeMap::new();
    for line in read("/proc/slabinfo")?.lines().skip(2) {
        let mut words = line.split_whitespace();
        if let (Some(name), Some(objects)) = (words.next(), words.next()) {
            counts.insert(format!("objects {name}"), number(objects)?);
        }
    }
    for (file, wanted, size) in [
        ("/proc/meminfo", "VmallocUsed:", 4),
        ("/proc/meminfo", "Percpu:", 4),
        (&format!("{GROUP}/memory.stat"), "kernel", 4096),
    ] {
        let text = read(file)?;
        let mut words = text.split_whitespace();
        let count = words.find(|word| *word == wanted).and(words.next());
        let count = count.ok_or_else(|| format!("{file} has no {wanted}"))?;
        counts.insert(format!("pages {wanted}"), number(count)? / size);
    }
    let files = read("/proc/sys/fs/file-nr")?;
    let files = files.split_whitespace().next().unwrap_or_default();
    counts.insert("files".to_owned(), number(files)?);
    Ok(counts)
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{text:?} is no number"))
}

/// Loads the module, runs a guest, and unloads it.
fn round() -> Outcome {
    same("loading", sys::load(MODULE, ""), Ok(()))?;
    // out 1, al; hlt
    let guest = Guest::new(&[0xe6, 0x01, 0xf4])?;
    let log = Mapping::new(1 << 16);
    let slot = (1, KVM_MEM_LOG_DIRTY_PAGES, 1 << 30, 1 << 16, log.address());
    same("a slot", memory::set(&guest.vm, slot), Ok(0))?;
    same("reason", guest.run()?, KVM_EXIT_IO)?;
    same("reason", guest.run()?, KVM_EXIT_HLT)?;
    drop(guest);
    same("unloading", sys::unload(NAME), Ok(()))
}

pub fn a_hundred_loads_and_unloads_leave_nothing() -> Outcome {
    let caches = count_from_now_on()?;
    // What the kernel sets up for everything that is done for the first time.
    for _ in 0..10 {
        round()?;
    }
    // The free objects that a CPU has at hand count as used, so one growth says little. What is lost
    // grows every time.
    const TIMES: usize = 3;
    let mut before = in_use(&caches)?;
    let mut left: Option<Vec<(String, u64)>> = None;
    for _ in 0..TIMES {
        for _ in 0..ROUNDS {
            round()?;
        }
        let after = in_use(&caches)?;
        let mut grown = growth(&before, &after);
        if let Some(left) = left {
            grown.retain(|(name, _)| left.iter().any(|(before, _)| before == name));
        }
        if grown.is_empty() {
            return Ok(());
        }
        left = Some(grown);
        before = after;
    }
    same("what is left", left.unwrap_or_default(), Vec::new())
}

/// Of what there is much more than before, and how much.
fn growth(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> Vec<(String, u64)> {
    let more = |(name, count): (&String, &u64)| {
        let more = count.saturating_sub(before.get(name).copied().unwrap_or(0));
        (more > NOISE).then(|| (name.clone(), more))
    };
    after.iter().filter_map(more).collect()
}
