//! Whether the kernel has everything back.
use std::fs;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::Outcome;
use crate::node::same;

/// What the kernel has given away.
#[derive(Debug)]
pub struct Used {
    /// Its own memory, in KiB.
    own: u64,
    /// All memory, in KiB.
    all: u64,
    files: u64,
}

fn number(text: &str) -> Result<u64, String> {
    text.trim()
        .parse()
        .map_err(|error| format!("{text:?}: {error}"))
}

fn read(file: &str) -> Result<String, String> {
    fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))
}

/// How many descriptors, VMs and vCPUs there are: they hold the module.
fn holders() -> Result<u64, String> {
    number(&read("/sys/module/waterbear/refcnt")?)
}

impl Used {
    /// What is given away now, without what the kernel could take back.
    pub fn now() -> Result<Self, String> {
        let _ = fs::write("/proc/sys/vm/drop_caches", "3");
        let text = read("/proc/meminfo")?;
        let of = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let line = line.ok_or_else(|| format!("no {name}"))?;
            number(line.trim_start_matches(':').trim_end_matches(" kB"))
        };
        // Free pages that a CPU keeps at hand.
        let zones = read("/proc/zoneinfo")?;
        let counts = zones
            .lines()
            .filter_map(|line| line.trim().strip_prefix("count:"));
        let at_hand: u64 = counts.map(|count| number(count).unwrap_or(0) * 4).sum();
        Ok(Self {
            own: of("SUnreclaim")? + of("VmallocUsed")? + of("PageTables")?,
            all: of("MemTotal")? - of("MemFree")? - at_hand,
            files: number(
                read("/proc/sys/fs/file-nr")?
                    .split('\t')
                    .next()
                    .unwrap_or_default(),
            )?,
        })
    }

    /// Fails if much more is given away than before. What is freed after a grace period is
    /// given some time.
    pub fn nothing_more(&self) -> Outcome {
        // What the kernel keeps for each CPU and for later.
        const OWN: u64 = 1 << 10;
        const ALL: u64 = 4 << 10;
        const FILES: u64 = 64;
        let mut now = Self::now()?;
        for _ in 0..50 {
            let less = now.own < self.own + OWN && now.all < self.all + ALL;
            if less && now.files < self.files + FILES {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(100));
            now = Self::now()?;
        }
        Err(format!("{self:?} before, {now:?} after"))
    }
}

/// What was in use when the tests began.
static NOTED: Mutex<Option<Used>> = Mutex::new(None);

pub fn what_is_in_use_is_noted() -> Outcome {
    *NOTED.lock().unwrap_or_else(PoisonError::into_inner) = Some(Used::now()?);
    Ok(())
}

pub fn everything_has_been_given_back() -> Outcome {
    nobody_holds_the_module()?;
    let noted = NOTED.lock().unwrap_or_else(PoisonError::into_inner);
    noted.as_ref().ok_or("nothing was noted")?.nothing_more()
}

/// Fails unless nobody holds the module.
pub fn nobody_holds_the_module() -> Outcome {
    // A file that another CPU was closing.
    for _ in 0..200 {
        if holders()? == 0 {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(1));
    }
    same("who holds the module", holders()?, 0)
}
