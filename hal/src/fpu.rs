//! The FPU: x87, SSE, AVX and whatever else XSAVE knows.
use crate::memory::AllocError;

/// Keeping a guest's FPU state apart from its host's.
///
/// # Safety
///
/// The implementor promises that between [`load_guest_fpu`](Fpu::load_guest_fpu) and
/// [`unload_guest_fpu`](Fpu::unload_guest_fpu) the registers hold the guest's state whenever the
/// thread runs, whatever CPU it runs on and whatever ran there in between, and that outside they
/// hold nothing of a guest's.
pub unsafe trait Fpu {
    /// Where a guest's state is while it is not in the CPU.
    type GuestFpu: Send;

    /// Makes room for a guest's state, which begins as after a reset. May sleep.
    ///
    /// Linux: `fpu_alloc_guest_fpstate`. FreeBSD: `fpu_save_area_alloc`.
    ///
    /// # Errors
    ///
    /// [`AllocError`] when there is no memory.
    fn new_guest_fpu(&self) -> Result<Self::GuestFpu, AllocError>;

    /// Puts the host's state away and the guest's into the CPU. The host's XCR0 is in force here
    /// and in `unload_guest_fpu`. Process context, interrupts on; does not nest.
    ///
    /// Linux: `fpu_swap_kvm_fpstate(.., true)`. FreeBSD: `fpuexit`, `fpurestore`.
    fn load_guest_fpu(&self, fpu: &mut Self::GuestFpu);

    /// Puts the guest's state away and the host's into the CPU. Process context, interrupts on.
    ///
    /// Linux: `fpu_swap_kvm_fpstate(.., false)`. FreeBSD: `fpusave`, `fpurestore`.
    fn unload_guest_fpu(&self, fpu: &mut Self::GuestFpu);

    /// Makes sure that the guest's state is in the CPU: between `load_guest_fpu` and
    /// `unload_guest_fpu` the host may have put it away and not back yet. Interrupts are off, and
    /// stay off until the guest is entered.
    ///
    /// Linux: `switch_fpu_return` if the thread's state is elsewhere. FreeBSD: nothing.
    fn refresh_guest_fpu(&self) {}

    /// Copies the guest's state out, as XSAVE writes it without compaction; what is beyond the
    /// state's end is zero. Says whether there was room for it. Not between `load_guest_fpu` and
    /// `unload_guest_fpu`. Process context.
    ///
    /// Linux: `fpu_copy_guest_fpstate_to_uabi`. FreeBSD: a copy of the save area.
    fn read_guest_fpu(&self, fpu: &Self::GuestFpu, into: &mut [u8]) -> bool {
        let _ = (fpu, into);
        false
    }

    /// Replaces the guest's state by one as XRSTOR reads it without compaction. Says whether the
    /// CPU takes it; if not, nothing has changed. Context as for `read_guest_fpu`.
    ///
    /// Linux: `fpu_copy_uabi_to_guest_fpstate`. FreeBSD: a check, and a copy to the save area.
    fn write_guest_fpu(&self, fpu: &mut Self::GuestFpu, from: &[u8]) -> bool {
        let _ = (fpu, from);
        false
    }
}
