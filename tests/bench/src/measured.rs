//! The frame around what is measured.

/// Runs `f`. Callgrind counts what happens inside this function.
///
/// One function for everything that is measured, so that its name alone
/// switches the counting: hence the closure behind a pointer.
#[inline(never)]
pub fn measured(f: &mut dyn FnMut()) {
    f();
    // Something after the call keeps it from becoming a jump out of here.
    std::hint::black_box(());
}
