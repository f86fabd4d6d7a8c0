//! What the host's part in C takes of the bare port. `tests/freebsd-host/host.h` declares the same.
use core::alloc::Layout;
use core::ffi::{c_char, c_void};
use core::ptr::{self, NonNull};
use core::slice;

use waterbear_hal::{Cpu, CpuSet, Memory};

use crate::console::say;
use crate::host::{Bare, percpu, timer, wait};
use crate::machine;
use crate::traps::vector;

macro_rules! exports {
    ($($name:ident,)*) => {
        /// Where a function is that C knows by this name.
        pub fn find(name: &str) -> Option<u64> {
            match name {
                $(stringify!($name) => Some($name as *const () as u64),)*
                _ => None,
            }
        }
    };
}

exports! {
    bare_alloc, bare_free, bare_print, bare_fail, bare_now, bare_tsc_hertz, bare_cpu_count, bare_gs,
    bare_kick, bare_kick_vector, bare_call_on, bare_sleep, bare_wake,
}

extern "C" fn bare_alloc(size: usize, alignment: usize) -> *mut u8 {
    let layout = Layout::from_size_align(size, alignment).ok();
    let memory = layout.and_then(|layout| Bare.alloc_bytes(layout).ok());
    memory.map_or(ptr::null_mut(), NonNull::as_ptr)
}

unsafe extern "C" fn bare_free(memory: *mut u8, size: usize, alignment: usize) {
    if let (Some(memory), Ok(layout)) = (
        NonNull::new(memory),
        Layout::from_size_align(size, alignment),
    ) {
        // SAFETY: from `bare_alloc` with the same numbers, and nobody has it any more.
        unsafe { Bare.free_bytes(memory, layout) }
    }
}

unsafe fn text<'a>(text: *const c_char, length: usize) -> &'a str {
    // SAFETY: the caller's bytes, for the call.
    let bytes = unsafe { slice::from_raw_parts(text.cast(), length) };
    str::from_utf8(bytes).unwrap_or("(no text)").trim_end()
}

unsafe extern "C" fn bare_print(bytes: *const c_char, length: usize) {
    // SAFETY: as the caller promises.
    say!("{}", unsafe { text(bytes, length) });
}

unsafe extern "C" fn bare_fail(bytes: *const c_char, length: usize) -> ! {
    // SAFETY: as the caller promises.
    say!("FAIL host: {}", unsafe { text(bytes, length) });
    machine::exit(false)
}

extern "C" fn bare_now() -> u64 {
    timer::now()
}

extern "C" fn bare_tsc_hertz() -> u64 {
    timer::tsc_rate() * 1000
}

extern "C" fn bare_cpu_count() -> u32 {
    percpu::count()
}

extern "C" fn bare_gs(cpu: u32) -> *mut u8 {
    percpu::of(cpu).foreign()
}

fn set(bits: u64) -> CpuSet {
    let mut cpus = CpuSet::new();
    let wanted = |cpu: &u32| bits >> cpu & 1 != 0;
    (0..percpu::count())
        .filter(wanted)
        .for_each(|cpu| cpus.insert(cpu));
    cpus
}

extern "C" fn bare_kick(cpus: u64) {
    Bare.kick(&set(cpus));
}

extern "C" fn bare_kick_vector() -> u32 {
    vector::KICK.into()
}

/// What is behind a pointer is safe to use on several CPUs.
#[derive(Clone, Copy)]
struct Shared(*mut c_void);

// SAFETY: as the caller of `bare_call_on` promises.
unsafe impl Sync for Shared {}

impl Shared {
    fn get(&self) -> *mut c_void {
        self.0
    }
}

unsafe extern "C" fn bare_call_on(
    cpus: u64,
    call: unsafe extern "C" fn(*mut c_void),
    context: *mut c_void,
) {
    let context = Shared(context);
    // SAFETY: the caller's function, with what it is for.
    Bare.call_on(&set(cpus), &|_| unsafe { call(context.get()) });
}

unsafe extern "C" fn bare_sleep(
    ready: unsafe extern "C" fn(*mut c_void) -> bool,
    context: *mut c_void,
) {
    // SAFETY: as above.
    wait::until(false, || unsafe { ready(context) });
}

extern "C" fn bare_wake(cpu: u32) {
    wait::wake(cpu);
}
