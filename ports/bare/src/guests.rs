//! Guests, and what must come of them.
use core::arch::global_asm;
use core::slice;

use waterbear_core::Error;
use waterbear_core::exit::{Exit, IoExit};
use waterbear_core::memslot::Region;
use waterbear_core::registry::Registry;
use waterbear_core::regs::Regs;
use waterbear_core::tdp::DirtyTracking;
use waterbear_core::vcpu::Runner;
use waterbear_core::vendor::{Hardware, Vendor};
use waterbear_core::vm::{Outcome, VcpuMmu, Vm};
use waterbear_hal::addr::PAGE_SIZE;
use waterbear_hal::{Gpa, Level, Memory};
use waterbear_svm::svm::Svm;
use waterbear_vmx::vmx::Vmx;

use crate::console::say;
use crate::hooks;
use crate::host::{Bare, memory};

/// Where guests find their code.
const CODE: u64 = 0x1000;
/// How much memory they have, in pages.
const PAGES: usize = 256;

global_asm!(
    r#"
    .section .rodata.guests, "a"
    .code16
    .globl guest_counts, guest_counts_end
guest_counts:
    mov cx, 1000
    mov al, 0x41
2:  out 0xe9, al
    loop 2b
    mov byte ptr [0x2000], al
    mov word ptr [0x9000], cx
    hlt
guest_counts_end:
    .code64
    "#
);

unsafe extern "C" {
    static guest_counts: u8;
    static guest_counts_end: u8;
}

/// Runs every guest; says whether all passed.
pub fn run() -> bool {
    let before = memory::used();
    let (vmx, svm) = (Vmx::new(&Bare, 1), Svm::new(&Bare, 1));
    let guests = if vmx.is_ok() || svm.is_ok() {
        1 + hooks::COUNT
    } else {
        0
    };
    say!("PLAN {}", guests + 1);
    let mut passed = true;
    let mut report = |name: &str, result: Result<(), &str>| match result {
        Ok(()) => say!("PASS {name}"),
        Err(why) => {
            say!("FAIL {name}: {why}");
            passed = false;
        }
    };
    // Both vendors look; at most one of them finds its CPU.
    let name = "a_guest_in_real_mode_counts_on_a_port";
    match (vmx, svm) {
        (Ok(vmx), _) => {
            report(name, counts(&vmx));
            let states = waterbear_vmx::host_state::HOST_STATE;
            if let Err(why) = hooks::run(&vmx, states, &mut report) {
                report("the_vendor_s_hooks", Err(why));
            }
        }
        (_, Ok(svm)) => {
            report(name, counts(&svm));
            let states = waterbear_svm::host_state::HOST_STATE;
            if let Err(why) = hooks::run(&svm, states, &mut report) {
                report("the_vendor_s_hooks", Err(why));
            }
        }
        _ => say!("REFUSED this CPU cannot host guests"),
    }
    let left = memory::used() - before;
    report(
        "nothing_is_left_of_the_guests",
        if left == 0 {
            Ok(())
        } else {
            Err("memory leaked")
        },
    );
    passed
}

/// Guest memory.
struct Ram {
    first: waterbear_hal::Pfn,
}

impl Ram {
    fn new(program: &[u8]) -> Result<Self, Error> {
        let ram = Self {
            first: Bare.alloc_pages(PAGES)?,
        };
        let code = CODE as usize;
        ram.bytes()[code..code + program.len()].copy_from_slice(program);
        Ok(ram)
    }

    #[expect(clippy::mut_from_ref, reason = "the guest does not run meanwhile")]
    fn bytes(&self) -> &mut [u8] {
        // SAFETY: pages of ours, mapped one to one.
        let start = unsafe { Bare.pages(self.first) };
        // SAFETY: as above, and the guest, who shares them, does not run.
        unsafe { slice::from_raw_parts_mut(start.as_ptr(), PAGES * PAGE_SIZE as usize) }
    }
}

impl Drop for Ram {
    fn drop(&mut self) {
        // SAFETY: from `alloc_pages`; the VM that used them is gone.
        unsafe { Bare.free_pages(self.first, PAGES) }
    }
}

/// A guest in real mode writes a character a thousand times, touches memory
/// that it has, and stops.
fn counts<V: Vendor>(vendor: &V) -> Result<(), &'static str> {
    let vendors: [&dyn Hardware; 1] = [vendor];
    let registry = Registry::new(&Bare, &vendors).map_err(|_| "no registry")?;
    registry
        .register(0, || Ok(()))
        .map_err(|_| "not registered")?;
    let token = registry
        .vm_created()
        .map_err(|_| "the CPU is not enabled")?;
    let start = &raw const guest_counts;
    let end = &raw const guest_counts_end;
    // SAFETY: both labels are in one section, in this order.
    let program = unsafe { slice::from_raw_parts(start, end.offset_from_unsigned(start)) };
    let ram = Ram::new(program).map_err(|_| "no memory")?;
    let (exits, outs) = {
        let format = vendor.entry_format();
        let vm = Vm::new(&Bare, (), format, DirtyTracking::WriteProtect).map_err(|_| "no VM")?;
        vm.set_region(Region {
            space: 0,
            id: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: PAGES as u64 * PAGE_SIZE,
            userspace_addr: ram.first.hpa().0,
        })
        .map_err(|_| "no memory slot")?;
        let result = drive(vendor, &vm)?;
        if vm.mmu().mapped(Level::L1) == 0 {
            return Err("nothing was mapped");
        }
        result
    };
    drop(token);
    registry.unregister(|| ()).map_err(|_| "not unregistered")?;
    say!("NOTE {exits} exits, {outs} of them writes to the port");
    if outs != 1000 {
        return Err("the port was not written a thousand times");
    }
    if ram.bytes()[0x2000] != 0x41 {
        return Err("the guest's write is not in its memory");
    }
    Ok(())
}

/// Runs one vCPU until it halts.
fn drive<V: Vendor>(vendor: &V, vm: &Vm<Bare>) -> Result<(u32, u32), &'static str> {
    let vcpu = vm.vcpus().add(0).map_err(|_| "no vCPU")?;
    let mut state = vendor.new_vcpu().map_err(|_| "no vCPU state")?;
    vendor.regs(&mut state).rip = CODE;
    let mut mmu = VcpuMmu::new();
    let mut runner = Runner::new(state);
    let (mut exits, mut outs) = (0, 0);
    loop {
        let exit = runner
            .attempt(
                &Bare,
                vcpu,
                vendor,
                || Ok(vm.load_root(&mut mmu)?.pfn()),
                |_, _| Ok(()),
            )
            .map_err(|_| "the vCPU does not run")?;
        let Some(exit) = exit else { continue };
        exits += 1;
        let gone = |gpa: Gpa, outcome| {
            say!("NOTE {outcome:?} at {gpa:?}");
            Err("the guest touched what it does not have")
        };
        match exit {
            Exit::Interrupt => {}
            Exit::Fault { gpa, access } => match vm.handle_fault(&mut mmu, gpa, access) {
                Ok(Outcome::Resume) => {}
                other => return gone(gpa, other),
            },
            Exit::Mmio { gpa, access } => match vm.handle_mmio(&mut mmu, gpa, access) {
                Ok(Outcome::Resume) => {}
                other => return gone(gpa, other),
            },
            Exit::Io(IoExit {
                port: 0xe9,
                size: 1,
                input: false,
                ..
            }) => {
                if vendor.regs(runner.state()).general[Regs::RAX] & 0xff != 0x41 {
                    return Err("another character was written");
                }
                outs += 1;
                let length = vendor.length(runner.state());
                vendor.regs(runner.state()).rip += u64::from(length);
            }
            Exit::Halt => return Ok((exits, outs)),
            other => {
                say!("NOTE {other:?}, {:x?}", vendor.regs(runner.state()));
                return Err("the guest was left for no good reason");
            }
        }
    }
}
