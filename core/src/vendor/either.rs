//! Two vendors as one, for a module that brings both.
//!
//! Which of them it is was decided when the module was loaded. Code that is generic over the vendor
//! exists once then, instead of twice; a hook costs a comparison, and there is no indirect call.
use waterbear_hal::{CpuId, Pfn};

use super::{Code, Control, EnableError, Hardware, Left, Msr, Registers, Unsupported, Vendor};
use crate::Error;
use crate::arch::{Event, Segment, SegmentName, Shadow, TableName, TableRegister};
use crate::exit::Exit;
use crate::regs::{Regs, Switched};
use crate::spte::EntryFormat;

/// One of two vendors.
pub enum Either<A, B> {
    /// The first.
    A(A),
    /// The second.
    B(B),
}

/// What one of two vendors keeps per vCPU.
///
/// A vCPU is used with the vendor that made it. With the other one nothing happens: hooks return
/// zeros, and an entry is [`Exit::Refused`].
///
/// Both are at one place, and so are the registers in boxes of either that begin with them: then it
/// takes no look at which of them it is to find the registers.
#[repr(C)]
pub enum EitherVcpu<A, B> {
    /// The first vendor's.
    A(A),
    /// The second vendor's.
    B(B),
}

/// What [`Exit::Refused`] says of a vCPU that the other vendor has made.
const OF_THE_OTHER: Exit = Exit::Refused(u64::MAX);

impl<A: Hardware, B: Hardware> Either<A, B> {
    /// It as hardware that can be switched on and off.
    pub fn hardware(&self) -> &dyn Hardware {
        match self {
            Self::A(vendor) => vendor,
            Self::B(vendor) => vendor,
        }
    }
}

impl<A: Hardware, B: Hardware> Hardware for Either<A, B> {
    fn name(&self) -> &'static str {
        self.hardware().name()
    }

    fn entry_format(&self) -> EntryFormat {
        self.hardware().entry_format()
    }

    fn check_cpu(&self, cpu: CpuId) -> Result<(), Unsupported> {
        self.hardware().check_cpu(cpu)
    }

    fn limit_cpuid(&self, function: u32, index: u32, answer: [u32; 4]) -> [u32; 4] {
        self.hardware().limit_cpuid(function, index, answer)
    }

    fn is_enabled(&self, cpu: CpuId) -> bool {
        self.hardware().is_enabled(cpu)
    }

    fn enable_cpu(&self, cpu: CpuId) -> Result<(), EnableError> {
        self.hardware().enable_cpu(cpu)
    }

    fn disable_cpu(&self, cpu: CpuId) {
        self.hardware().disable_cpu(cpu);
    }
}

impl<A: Registers, B: Registers> Registers for EitherVcpu<A, B> {
    #[inline(always)]
    fn regs(&mut self) -> &mut Regs {
        match self {
            Self::A(vcpu) => vcpu.regs(),
            Self::B(vcpu) => vcpu.regs(),
        }
    }

    #[inline(always)]
    fn switched(&mut self) -> &mut Switched {
        match self {
            Self::A(vcpu) => vcpu.switched(),
            Self::B(vcpu) => vcpu.switched(),
        }
    }
}

/// Hooks that ask the vendor whose vCPU it is; and what they return where it is the other's.
///
/// Those that many places use, on paths that may be slow, are not repeated there.
macro_rules! hooks {
    ($(#[$inline:meta] $hook:ident($($argument:ident: $type:ty),*) -> $result:ty { $other:expr })*) => {
        $(
            #[$inline]
            fn $hook(&self, vcpu: &mut Self::Vcpu, $($argument: $type),*) -> $result {
                match (self, vcpu) {
                    (Self::A(vendor), EitherVcpu::A(vcpu)) => vendor.$hook(vcpu, $($argument),*),
                    (Self::B(vendor), EitherVcpu::B(vcpu)) => vendor.$hook(vcpu, $($argument),*),
                    _ => $other,
                }
            }
        )*
    };
}

impl<A: Vendor, B: Vendor> Vendor for Either<A, B> {
    type Vcpu = EitherVcpu<A::Vcpu, B::Vcpu>;

    fn new_vcpu(&self) -> Result<Self::Vcpu, Error> {
        Ok(match self {
            Self::A(vendor) => EitherVcpu::A(vendor.new_vcpu()?),
            Self::B(vendor) => EitherVcpu::B(vendor.new_vcpu()?),
        })
    }

    #[inline(always)]
    fn fetched<'a>(&self, vcpu: &'a mut Self::Vcpu) -> &'a [u8] {
        match (self, vcpu) {
            (Self::A(vendor), EitherVcpu::A(vcpu)) => vendor.fetched(vcpu),
            (Self::B(vendor), EitherVcpu::B(vcpu)) => vendor.fetched(vcpu),
            _ => &[],
        }
    }

    hooks! {
        #[inline(always)] prepare(cpu: CpuId) -> () { () }
        #[inline(always)] switch_in(cpu: CpuId, root: Pfn) -> Result<(), Exit> { Err(OF_THE_OTHER) }
        #[inline(always)] enter() -> Left { Left { exit: OF_THE_OTHER, whole: false } }
        #[inline(always)] switch_out() -> () { () }
        #[inline(never)] flush_tlb() -> () { () }
        #[inline(always)] length() -> u8 { 0 }
        #[inline(never)] segment(name: SegmentName) -> Segment { Segment::default() }
        #[inline(never)] set_segment(name: SegmentName, value: Segment) -> () { () }
        #[inline(never)] table(name: TableName) -> TableRegister { TableRegister::default() }
        #[inline(never)] set_table(name: TableName, value: TableRegister) -> () { () }
        #[inline(never)] cpl() -> u8 { 0 }
        #[inline(never)] control(name: Control) -> u64 { 0 }
        #[inline(never)] code() -> Code { Code::default() }
        #[inline(never)] set_control(name: Control, value: u64) -> () { () }
        #[inline(never)] set_page_directories(entries: [u64; 4]) -> () { () }
        #[inline(never)] msr(msr: Msr) -> u64 { 0 }
        #[inline(never)] set_msr(msr: Msr, value: u64) -> () { () }
        #[inline(never)] set_tsc_offset(offset: u64) -> () { () }
        #[inline(never)] inject(event: Event) -> () { () }
        #[inline(always)] take_undelivered() -> Option<Event> { None }
        #[inline(always)] shadow() -> Shadow { Shadow::empty() }
        #[inline(never)] set_shadow(shadow: Shadow) -> () { () }
        #[inline(never)] want_windows(interrupt: bool, nmi: bool) -> () { () }
    }
}
