//! Nothing is freed under a reader.
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use waterbear_hal::{Memory, Pfn, Rcu, RcuGuard, Srcu};

use super::{Miss, Together, Verdict, must, needs_two_cpus, soon};
use crate::host::{self, Bare, memory, rcu, timer};

/// How long a reader stays when it may go, in nanoseconds.
const LINGER: u64 = 300_000;

fn frame() -> Result<Pfn, Miss> {
    Bare.alloc_table().map_err(|_| Miss::Failed("no memory"))
}

pub fn a_frame_is_freed_only_after_every_cpu_left_its_section() -> Verdict {
    let before = memory::used();
    // In a section of its own, and of nested ones.
    {
        let _outer = RcuGuard::new(&Bare);
        let inner = RcuGuard::new(&Bare);
        // SAFETY: ours, and linked nowhere.
        unsafe { Bare.free_table_deferred(frame()?) }
        must(
            rcu::waiting() == 1,
            "a frame went while its section was open",
        )?;
        drop(inner);
        must(rcu::waiting() == 1, "a frame went with an inner section")?;
    }
    must(rcu::waiting() == 0, "a frame stayed")?;
    // In a section of each other CPU.
    for reader in 1..host::count() {
        let frame = frame()?;
        let (inside, leave) = (AtomicBool::new(false), AtomicBool::new(false));
        let (waited, left) = (AtomicBool::new(false), AtomicU64::new(0));
        host::run_on_all(|cpu| {
            if cpu == reader {
                let _section = RcuGuard::new(&Bare);
                inside.store(true, Ordering::Relaxed);
                soon(|| leave.load(Ordering::Relaxed));
                // Time for a barrier that does not wait to show.
                timer::delay(LINGER);
            } else if cpu == 0 {
                soon(|| inside.load(Ordering::Relaxed));
                // SAFETY: ours, and linked nowhere.
                unsafe { Bare.free_table_deferred(frame) }
                // Sections of other CPUs come and go meanwhile.
                drop(RcuGuard::new(&Bare));
                waited.store(rcu::waiting() == 1, Ordering::Relaxed);
                leave.store(true, Ordering::Relaxed);
                Bare.rcu_barrier();
                left.store(rcu::waiting(), Ordering::Relaxed);
            }
        });
        must(
            waited.into_inner(),
            "a frame went while another CPU's section was open",
        )?;
        must(left.into_inner() == 0, "a barrier left a frame")?;
    }
    must(memory::used() == before, "memory leaked")
}

pub fn readers_never_see_a_freed_frame() -> Verdict {
    const ROUNDS: u32 = 600;
    const MAGIC: u64 = 0x600d;
    needs_two_cpus()?;
    let before = memory::used();
    let word = |frame: Pfn| {
        // SAFETY: the frame is a table of ours.
        let table = unsafe { Bare.table(frame) };
        // SAFETY: the words of a table are atomic ones, on every CPU.
        unsafe { &*table.as_ptr().cast::<AtomicU64>() }
    };
    let fresh = || {
        let frame = frame()?;
        word(frame).store(MAGIC, Ordering::Relaxed);
        Ok(frame)
    };
    let published = AtomicU64::new(fresh()?.0);
    let (done, freed, full) = (
        AtomicBool::new(false),
        AtomicU32::new(0),
        AtomicBool::new(false),
    );
    let together = Together::new();
    host::run_on_all(|cpu| {
        together.begin();
        if cpu == 0 {
            for _ in 0..ROUNDS {
                let Ok(new) = fresh() else {
                    full.store(true, Ordering::Relaxed);
                    break;
                };
                // Pairs with the load below.
                let old = Pfn(published.swap(new.0, Ordering::AcqRel));
                // SAFETY: ours, and linked nowhere any more.
                unsafe { Bare.free_table_deferred(old) }
            }
            done.store(true, Ordering::Relaxed);
        } else {
            while !done.load(Ordering::Relaxed) {
                let _section = RcuGuard::new(&Bare);
                // Pairs with the swap above.
                let frame = Pfn(published.load(Ordering::Acquire));
                for _ in 0..20 {
                    if word(frame).load(Ordering::Relaxed) != MAGIC {
                        freed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        }
    });
    Bare.rcu_barrier();
    // SAFETY: nobody reads any more.
    unsafe { Bare.free_table(Pfn(published.into_inner())) }
    must(!full.into_inner(), "no memory")?;
    must(freed.into_inner() == 0, "a reader saw a freed frame")?;
    must(memory::used() == before, "memory leaked")
}

pub fn a_synchronizer_waits_for_the_readers_before_it() -> Verdict {
    needs_two_cpus()?;
    let sections = Bare.new_srcu().map_err(|_| Miss::Failed("no memory"))?;
    // Twice, because the readers change sides.
    for _ in 0..2 {
        let (inside, leave) = (AtomicBool::new(false), AtomicBool::new(false));
        let (closed, waited) = (AtomicBool::new(false), AtomicBool::new(false));
        host::run_on_all(|cpu| match cpu {
            0 => {
                soon(|| inside.load(Ordering::Relaxed));
                leave.store(true, Ordering::Relaxed);
                sections.synchronize();
                waited.store(closed.load(Ordering::Relaxed), Ordering::Relaxed);
            }
            1 => {
                let token = sections.lock();
                inside.store(true, Ordering::Relaxed);
                soon(|| leave.load(Ordering::Relaxed));
                timer::delay(LINGER);
                closed.store(true, Ordering::Relaxed);
                // SAFETY: from `lock`, once.
                unsafe { sections.unlock(token) }
            }
            _ => (),
        });
        must(waited.into_inner(), "a synchronizer did not wait")?;
    }
    Ok(())
}

pub fn readers_never_see_what_a_synchronizer_took_away() -> Verdict {
    const ROUNDS: u32 = 100;
    needs_two_cpus()?;
    let sections = Bare.new_srcu().map_err(|_| Miss::Failed("no memory"))?;
    let current = AtomicUsize::new(0);
    let alive = [AtomicBool::new(true), AtomicBool::new(false)];
    let (done, dead) = (AtomicBool::new(false), AtomicU32::new(0));
    let together = Together::new();
    host::run_on_all(|cpu| {
        together.begin();
        if cpu == 0 {
            for _ in 0..ROUNDS {
                let old = current.load(Ordering::Relaxed);
                let new = 1 - old;
                alive[new].store(true, Ordering::Relaxed);
                // Pairs with the load below.
                current.store(new, Ordering::Release);
                sections.synchronize();
                alive[old].store(false, Ordering::Relaxed);
            }
            done.store(true, Ordering::Relaxed);
        } else {
            while !done.load(Ordering::Relaxed) {
                let token = sections.lock();
                // Pairs with the store above.
                let at = current.load(Ordering::Acquire);
                for _ in 0..20 {
                    if !alive[at].load(Ordering::Relaxed) {
                        dead.fetch_add(1, Ordering::Relaxed);
                    }
                }
                // SAFETY: from `lock`, once.
                unsafe { sections.unlock(token) }
            }
        }
    });
    must(
        dead.into_inner() == 0,
        "a reader saw what it was too early to see go",
    )
}
