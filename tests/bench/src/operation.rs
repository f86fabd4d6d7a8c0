//! What is measured.
use waterbear_core::memslot::SpaceId;
use waterbear_core::tdp::FastFault;
use waterbear_core::tdp::fast::Access;
use waterbear_core::tdp::walk::Yielding;
use waterbear_core::vm::{Outcome, VcpuMmu, Vm};
use waterbear_hal::addr::PAGE_SIZE;
use waterbear_hal::{Gfn, Hva};

use crate::round::{Part, Setup};
use crate::slim::SlimHost;

/// One operation, on all pages of a part of the VM's memory.
///
/// In this order each finds what it needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// A write fault on each page, none of which is mapped.
    Fault,
    /// A look at the entry of each page, without a lock.
    Walk,
    /// One change notification for the whole part.
    Zap,
    /// The faults again.
    Refault,
    /// Write protection of the whole part, as when dirty logging begins.
    Protect,
    /// A write fault on each page, which is mapped and write-protected.
    Rewrite,
    /// One reading of the dirty log, with every bit set.
    Collect,
}

const WRITE: Access = Access {
    write: true,
    exec: false,
    guest_walk: false,
    absent: false,
};

impl Operation {
    /// All, in order.
    pub const ALL: [Operation; 7] = [
        Operation::Fault,
        Operation::Walk,
        Operation::Zap,
        Operation::Refault,
        Operation::Protect,
        Operation::Rewrite,
        Operation::Collect,
    ];

    /// The name in the output.
    pub fn name(self) -> &'static str {
        match self {
            Operation::Fault => "fault",
            Operation::Walk => "walk",
            Operation::Zap => "zap",
            Operation::Refault => "refault",
            Operation::Protect => "protect",
            Operation::Rewrite => "rewrite",
            Operation::Collect => "collect",
        }
    }

    /// Whether the operation needs the dirty log, which is kept per 4 KiB: the
    /// guest's writes split large pages.
    pub fn logs(self) -> bool {
        matches!(self, Operation::Rewrite | Operation::Collect)
    }

    /// Does it on `part`. Each call of the core runs inside `exclusive`.
    pub fn run(
        self,
        vm: &Vm<SlimHost>,
        setup: &Setup,
        vcpu: &mut VcpuMmu<SlimHost>,
        part: &mut Part,
        exclusive: &impl Fn(&mut dyn FnMut()),
    ) {
        let step = setup.step();
        let pages = part.frames.clone().step_by(step as usize);
        match self {
            Operation::Fault | Operation::Refault | Operation::Rewrite => {
                for page in pages {
                    exclusive(&mut || {
                        let outcome = vm.handle_fault(vcpu, Gfn(page).gpa(), WRITE);
                        assert!(outcome == Ok(Outcome::Resume));
                    });
                }
            }
            Operation::Walk => {
                let root = vcpu.root().expect("the vCPU has a root");
                for page in pages {
                    exclusive(&mut || {
                        let seen =
                            vm.mmu()
                                .fast_fault(root, Gfn(page), Access::default(), &(), false);
                        assert!(seen == FastFault::Fixed);
                    });
                }
            }
            Operation::Zap => {
                let address = |frame| Hva(Setup::HVA + frame * PAGE_SIZE);
                let range = address(part.frames.start)..address(part.frames.end);
                exclusive(&mut || {
                    vm.invalidate_begin(range.clone(), Yielding::Allowed);
                    vm.invalidate_end(range.clone());
                });
            }
            Operation::Protect => {
                let frames = Gfn(part.frames.start)..Gfn(part.frames.end);
                exclusive(&mut || {
                    vm.mmu()
                        .start_logging(vm.vcpus(), &(), SpaceId::NORMAL, frames.clone());
                });
            }
            Operation::Collect => exclusive(&mut || {
                let read = vm.read_dirty_log(SpaceId::NORMAL, part.slot, &mut part.log, true);
                assert!(read.is_ok());
            }),
        }
    }
}
