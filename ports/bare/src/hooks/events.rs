//! Interrupts, NMIs and exceptions on their way into a guest.
use waterbear_core::arch::{Event, Exception, Rflags, Shadow};
use waterbear_core::exit::Exit;
use waterbear_core::vendor::Vendor;

use super::Verdict;
use super::rig::{HANDLER, MAIN, Rig, must};

const OUT_10: [u8; 2] = [0xe6, 0x10];
/// OUT 20h, AL; IRET.
const OUT_20_IRET: [u8; 3] = [0xe6, 0x20, 0xcf];
const NOP: u8 = 0x90;
const STI: u8 = 0xfb;
const HLT: u8 = 0xf4;
const IF: u64 = Rflags::IF.bits();
const TF: u64 = Rflags::TF.bits();

pub fn an_interrupt_goes_in_when_its_window_opens<V: Vendor>(vendor: &V) -> Verdict {
    let main = [OUT_10[0], OUT_10[1], NOP, STI, NOP, NOP, HLT];
    let mut rig = Rig::new(vendor, &main, &OUT_20_IRET)?;
    rig.run_to_port(0x10)?;
    rig.windows = (true, false);
    rig.run_to(Exit::InterruptWindow)?;
    let behind_shadow = MAIN + 5;
    must(
        rig.regs().rip == behind_shadow,
        "the window opened elsewhere",
    )?;
    let shadow = vendor.shadow(rig.state());
    must(shadow.is_empty(), "the window opened in a shadow")?;
    rig.windows = (false, false);
    rig.inject(Event::Interrupt(0x30));
    rig.run_to_port(0x20)?;
    must(rig.again > 0, "no page was missing on the way")?;
    must(rig.pushed(0) == behind_shadow, "another return address")?;
    must(rig.pushed(2) & IF != 0, "the pushed flags lack IF")?;
    must(rig.regs().rflags & IF == 0, "the handler runs with IF")?;
    rig.run_to(Exit::Halt)?;
    must(rig.regs().rip == MAIN + 6, "the handler returned elsewhere")?;
    let left = vendor.take_undelivered(rig.state());
    must(left.is_none(), "an event is left")
}

pub fn an_nmi_is_over_when_its_handler_has_returned<V: Vendor>(vendor: &V) -> Verdict {
    let main = [OUT_10[0], OUT_10[1], NOP, NOP, HLT];
    let mut rig = Rig::new(vendor, &main, &OUT_20_IRET)?;
    rig.run_to_port(0x10)?;
    rig.inject(Event::Nmi);
    rig.run_to_port(0x20)?;
    let shadow = vendor.shadow(rig.state());
    must(shadow == Shadow::NMI, "no NMI is being handled")?;
    rig.windows = (false, true);
    rig.run_to(Exit::NmiWindow)?;
    must(rig.regs().rip == MAIN + 2, "the window opened elsewhere")?;
    must(rig.regs().rflags & TF == 0, "the trap flag is left")?;
    let shadow = vendor.shadow(rig.state());
    must(shadow.is_empty(), "the NMI is not over")?;
    // The second one arrives where the first did.
    rig.windows = (false, false);
    rig.inject(Event::Nmi);
    rig.run_to_port(0x20)?;
    must(rig.pushed(0) == MAIN + 2, "another return address")?;
    must(rig.pushed(2) & TF == 0, "the pushed flags have TF")?;
    rig.run_to(Exit::Halt)?;
    let shadow = vendor.shadow(rig.state());
    must(shadow.is_empty(), "the second NMI is not over")
}

pub fn an_nmi_waits_for_the_end_of_a_shadow<V: Vendor>(vendor: &V) -> Verdict {
    let main = [OUT_10[0], OUT_10[1], NOP, NOP, HLT];
    let mut rig = Rig::new(vendor, &main, &OUT_20_IRET)?;
    rig.run_to_port(0x10)?;
    vendor.set_shadow(rig.state(), Shadow::MOV_SS);
    rig.windows = (false, true);
    rig.run_to(Exit::NmiWindow)?;
    must(rig.regs().rip == MAIN + 3, "the window opened elsewhere")?;
    must(rig.regs().rflags & TF == 0, "the trap flag is left")?;
    let shadow = vendor.shadow(rig.state());
    must(shadow.is_empty(), "the shadow is not over")?;
    rig.windows = (false, false);
    rig.run_to(Exit::Halt)
}

pub fn a_software_interrupt_returns_behind_its_instruction<V: Vendor>(vendor: &V) -> Verdict {
    let main = [OUT_10[0], OUT_10[1], HLT];
    let mut rig = Rig::new(vendor, &main, &OUT_20_IRET)?;
    rig.run_to_port(0x10)?;
    // As if the OUT had been INT 40h.
    rig.regs().rip = MAIN;
    let (vector, length) = (0x40, 2);
    rig.inject(Event::SoftInterrupt { vector, length });
    rig.run_to_port(0x20)?;
    must(rig.again > 0, "no page was missing on the way")?;
    must(rig.pushed(0) == MAIN + 2, "another return address")?;
    rig.run_to(Exit::Halt)
}

pub fn a_page_fault_brings_its_address<V: Vendor>(vendor: &V) -> Verdict {
    const ADDRESS: u64 = 0x1234_5678;
    let main = [OUT_10[0], OUT_10[1], HLT];
    // MOV EAX, CR2; MOV [3000h], EAX; OUT 20h, AL; IRET.
    let handler = [0x0f, 0x20, 0xd0, 0x66, 0xa3, 0x00, 0x30, 0xe6, 0x20, 0xcf];
    let mut rig = Rig::new(vendor, &main, &handler)?;
    rig.run_to_port(0x10)?;
    rig.inject(Event::Exception(Exception::page_fault(ADDRESS, 2)));
    rig.run_to_port(0x20)?;
    must(rig.word(0x3000) & 0xffff_ffff == ADDRESS, "CR2 is wrong")?;
    let cr2 = vendor.switched(rig.state()).cr2;
    must(cr2 == ADDRESS, "the host sees another CR2")?;
    must(rig.pushed(0) == MAIN + 2, "an error code in real mode")?;
    rig.run_to(Exit::Halt)
}

pub fn single_steps_exit_and_are_passed_on<V: Vendor>(vendor: &V) -> Verdict {
    const STEP: u64 = 1 << 14;
    let main = [OUT_10[0], OUT_10[1], NOP, HLT];
    let mut rig = Rig::new(vendor, &main, &OUT_20_IRET)?;
    rig.run_to_port(0x10)?;
    rig.regs().rflags |= TF;
    let exception = match rig.run()? {
        Exit::Exception(exception) if exception.vector == Exception::DB => exception,
        other => return rig.unexpected(other),
    };
    must(exception.payload & STEP != 0, "it is no single step")?;
    must(rig.regs().rip == MAIN + 3, "it is elsewhere")?;
    rig.inject(Event::Exception(exception));
    rig.run_to_port(0x20)?;
    must(rig.regs().rip == HANDLER + 2, "the handler is elsewhere")?;
    must(rig.pushed(0) == MAIN + 3, "another return address")?;
    must(rig.pushed(2) & TF != 0, "the pushed flags lack TF")?;
    let dr6 = vendor.switched(rig.state()).dr6;
    must(dr6 & STEP != 0, "DR6 does not say why")
}
