//! Who watches the tests: a process of its own that shows where everybody waits when a test does
//! not end. It changes nothing; whoever started the machine stops it some time later.
use std::fs;
use std::io::{PipeWriter, Read, Write, pipe};
use std::os::fd::AsRawFd;

use crate::sys;

/// How long a test may take before the reader wants to know why, in milliseconds.
const LONG: i32 = 60_000;

/// The watched side.
pub struct Watched(Option<PipeWriter>);

impl Watched {
    /// Starts the watching process, while there is only one thread.
    pub fn start() -> Self {
        let Ok((mut reader, writer)) = pipe() else {
            return Self(None);
        };
        let child = sys::fork(|| {
            loop {
                let mut poll = libc::pollfd {
                    fd: reader.as_raw_fd(),
                    events: libc::POLLIN,
                    revents: 0,
                };
                // SAFETY: one descriptor.
                if unsafe { libc::poll(&raw mut poll, 1, LONG) } == 0 {
                    show();
                } else if reader.read(&mut [0]).unwrap_or(0) == 0 {
                    return 0;
                }
            }
        });
        Self(child.ok().map(|_| writer))
    }

    /// A test begins.
    pub fn next(&mut self) {
        if let Some(writer) = &mut self.0 {
            let _ = writer.write_all(&[0]);
        }
    }
}

/// Shows every thread of every process: its name, its state, and where in the kernel it is.
fn show() {
    let numbers = |folder: &str| -> Vec<String> {
        let list = fs::read_dir(folder).into_iter().flatten().flatten();
        let names = list.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter(|name| name.parse::<u32>().is_ok()).collect()
    };
    println!("No test has begun or ended for long. Who is where:");
    for process in numbers("/proc") {
        let tasks = format!("/proc/{process}/task");
        for thread in numbers(&tasks) {
            let read = |name: &str| {
                fs::read_to_string(format!("{tasks}/{thread}/{name}")).unwrap_or_default()
            };
            let stack = read("stack");
            // The kernel's own threads are idle as a rule.
            let kernels_own = read("maps").is_empty() && stack.lines().count() < 6;
            if kernels_own {
                continue;
            }
            println!("{process}/{thread} {}", read("stat").trim());
            print!("{stack}");
        }
    }
}
