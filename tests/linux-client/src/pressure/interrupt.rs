//! A signal that brings a thread out of the kernel, and does nothing else.

extern "C" fn nothing(_signal: i32) {}

/// Makes a signal interrupt what a thread does, and nothing else.
pub fn take_signals() {
    // SAFETY: integers.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = nothing as *const () as usize;
    // SAFETY: the handler does nothing, so it may run anywhere.
    unsafe { libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()) };
}

/// Sends a thread of this process the signal.
pub fn signal(thread: i32) {
    let process = std::process::id();
    // SAFETY: no memory is involved. A thread that has ended gets none.
    unsafe { libc::syscall(libc::SYS_tgkill, process, thread, libc::SIGUSR1) };
}
