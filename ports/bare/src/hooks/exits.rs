//! Exits one by one, and the state that a vendor holds.
use core::arch::x86_64::__cpuid;

use waterbear_core::arch::{Attributes, Exception, Segment, SegmentName, TableName, TableRegister};
use waterbear_core::exit::{ControlExit, Exit};
use waterbear_core::vendor::{Control, Msr, Vendor};

use super::Verdict;
use super::rig::{MAIN, Rig, must};
use crate::console::say;

type Fits = fn(&Exit) -> bool;

/// Instructions, and the exits that they must cause.
const INSTRUCTIONS: &[(&[u8], Fits)] = &[
    (&[0x0f, 0xa2], |exit| *exit == Exit::Cpuid),
    (&[0x0f, 0x32], |exit| *exit == Exit::ReadMsr),
    (&[0x0f, 0x30], |exit| *exit == Exit::WriteMsr),
    // INVD, WBINVD, which one emulator mixes up.
    (&[0x0f, 0x08], writes_back),
    (&[0x0f, 0x09], writes_back),
    // MONITOR, MWAIT.
    (&[0x0f, 0x01, 0xc8], forbidden),
    (&[0x0f, 0x01, 0xc9], forbidden),
    // MOV EAX, DR7; MOV DR0, EBX.
    (
        &[0x0f, 0x21, 0xf8],
        |exit| matches!(exit, Exit::Debug(it) if it.register == 7 && it.read && fits(it.general, 0)),
    ),
    (
        &[0x0f, 0x23, 0xc3],
        |exit| matches!(exit, Exit::Debug(it) if it.register == 0 && !it.read && fits(it.general, 3)),
    ),
    // RDPMC: what it is in a guest without counters.
    (&[0x0f, 0x33], |exit| {
        matches!(exit, Exit::Forbidden)
            || *exit == Exit::Exception(Exception::general_protection(0))
    }),
    (&[0xf4], |exit| *exit == Exit::Halt),
];

/// An instruction that the CPU has not is #UD without an exit, which must not happen here.
fn forbidden(exit: &Exit) -> bool {
    *exit == Exit::Forbidden
}

fn writes_back(exit: &Exit) -> bool {
    matches!(exit, Exit::Invd | Exit::Wbinvd)
}

fn fits(told: Option<u8>, register: u8) -> bool {
    told.is_none_or(|it| it == register)
}

pub fn instructions_exit_where_they_stand<V: Vendor>(vendor: &V) -> Verdict {
    let mut main = [0; 64];
    let mut end = 0;
    for (bytes, _) in INSTRUCTIONS {
        main[end..end + bytes.len()].copy_from_slice(bytes);
        end += bytes.len();
    }
    let mut rig = Rig::new(vendor, &main, &[])?;
    let mut at = MAIN;
    for (bytes, fits) in INSTRUCTIONS {
        let exit = rig.run()?;
        if !fits(&exit) || rig.regs().rip != at {
            say!("NOTE {bytes:x?} at {at:x}");
            return rig.unexpected(exit);
        }
        let length = usize::from(vendor.length(rig.state()));
        must(length == 0 || length == bytes.len(), "a wrong length")?;
        at += bytes.len() as u64;
        rig.regs().rip = at;
    }
    Ok(())
}

pub fn control_registers_are_what_the_guest_wrote<V: Vendor>(vendor: &V) -> Verdict {
    // With caches off, as after a reset: MOV EAX, CR0; HLT. Where the CPU has another value, the
    // guest has to exit.
    const CACHES_OFF: u64 = 0x6000_0010;
    let mut rig = Rig::new(vendor, &[0x0f, 0x20, 0xc0, 0xf4], &[])?;
    vendor.set_control(rig.state(), Control::Cr0, CACHES_OFF);
    let cr0 = vendor.control(rig.state(), Control::Cr0);
    must(cr0 == CACHES_OFF, "CR0 is not what was set")?;
    match rig.run()? {
        Exit::Halt => must(
            rig.regs().general[0] == CACHES_OFF,
            "the guest reads another CR0",
        )?,
        Exit::Control(ControlExit::Read { register: 0, .. }) => {}
        other => return rig.unexpected(other),
    }
    vendor.set_control(rig.state(), Control::Cr0, 0x10);
    rig.regs().rip = MAIN;
    rig.run_to(Exit::Halt)?;
    must(rig.regs().general[0] == 0x10, "the guest reads another CR0")?;
    let efer = vendor.control(rig.state(), Control::Efer);
    must(efer == 0, "EFER is not as after a reset")
}

pub fn what_is_set_is_what_is_read<V: Vendor>(vendor: &V) -> Verdict {
    let mut rig = Rig::new(vendor, &[0xf4], &[])?;
    let state = rig.state();
    for (name, base) in SegmentName::ALL.into_iter().zip(1..) {
        let mut value = vendor.segment(state, name);
        value = Segment {
            selector: base as u16 * 8,
            base: base * 0x80,
            ..value
        };
        // CS and SS stay where the program is.
        if matches!(name, SegmentName::Cs | SegmentName::Ss) {
            value.base = 0;
        }
        vendor.set_segment(state, name, value);
        must(vendor.segment(state, name) == value, "a segment differs")?;
    }
    let table = TableRegister {
        limit: 0x3ff,
        base: 0x10,
    };
    for name in [TableName::Gdtr, TableName::Idtr] {
        vendor.set_table(state, name, table);
    }
    let msrs = [
        (Msr::SysenterCs, 0x12),
        (Msr::SysenterEsp, 0x1_2345),
        (Msr::SysenterEip, 0x2_3456),
        (Msr::Star, 0x0012_0034_0000_0000),
        (Msr::Lstar, 0xffff_8000_0000_1000),
        (Msr::Cstar, 0xffff_8000_0000_2000),
        (Msr::Sfmask, 0x700),
        (Msr::KernelGsBase, 0xffff_8000_0000_3000),
        (Msr::TscAux, 0x77),
        (Msr::Pat, 0x0606_0606_0606_0606),
    ];
    for (msr, value) in msrs {
        vendor.set_msr(state, msr, value);
    }
    rig.run_to(Exit::Halt)?;
    let state = rig.state();
    must(vendor.cpl(state) == 0, "the privilege level is not 0")?;
    for name in [TableName::Gdtr, TableName::Idtr] {
        must(vendor.table(state, name) == table, "a table differs")?;
    }
    for (msr, value) in msrs {
        if vendor.msr(state, msr) != value {
            say!("NOTE {msr:?} is {:x}", vendor.msr(state, msr));
            return Err("a model-specific register differs");
        }
    }
    let tr = vendor.segment(state, SegmentName::Tr);
    must(tr.base == 8 * 0x80, "TR differs after a run")?;
    must(
        tr.attributes.contains(Attributes::PRESENT),
        "TR is not present after a run",
    )
}

pub fn a_state_that_is_not_valid_is_refused<V: Vendor>(vendor: &V) -> Verdict {
    let mut rig = Rig::new(vendor, &[0xf4], &[])?;
    // The upper half of DR7 is reserved on every CPU.
    vendor.switched(rig.state()).dr7 = 1 << 40 | 0x400;
    match rig.run()? {
        Exit::Refused(_) => must(rig.regs().rip == MAIN, "the registers are lost"),
        other => rig.unexpected(other),
    }
}

pub fn a_triple_fault_is_a_shutdown<V: Vendor>(vendor: &V) -> Verdict {
    // LIDT [2000h], whose limit is 0; UD2.
    let main = [0x0f, 0x01, 0x1e, 0x00, 0x20, 0x0f, 0x0b];
    let bare_cpu = __cpuid(1).ecx & 1 << 31 == 0;
    if vendor.name() == "SVM" && bare_cpu {
        // Bochs, which says that it is no emulator.
        say!("NOTE a guest's triple fault is not tried: Bochs resets itself, under SVM");
        return Ok(());
    }
    let mut rig = Rig::new(vendor, &main, &[])?;
    rig.run_to(Exit::Shutdown)
}
