//! Two vendors as one.
use core::fmt::Debug;

use waterbear_core::arch::{
    Attributes, Event, Segment, SegmentName, Shadow, TableName, TableRegister,
};
use waterbear_core::exit::Exit;
use waterbear_core::vendor::either::EitherVcpu;
use waterbear_core::vendor::{Control, Either, Hardware, Left, Msr, Vendor};
use waterbear_hal::{Fpu, IrqOff, Pfn};
use waterbear_mock::MockHost;
use waterbear_proofs::{Scripted, ScriptedVcpu, ScriptedVendor};

type Two = Either<ScriptedVendor, ScriptedVendor>;
type TwoVcpu = EitherVcpu<ScriptedVcpu, ScriptedVcpu>;

fn inner(vcpu: &mut TwoVcpu) -> &mut ScriptedVcpu {
    match vcpu {
        EitherVcpu::A(vcpu) | EitherVcpu::B(vcpu) => vcpu,
    }
}

const SEGMENT: Segment = Segment {
    selector: 8,
    attributes: Attributes::PRESENT,
    limit: 0xfff,
    base: 0x1000,
};
const TABLE: TableRegister = TableRegister {
    limit: 7,
    base: 0x2000,
};

/// Uses every hook that changes something.
fn change(vendor: &Two, vcpu: &mut TwoVcpu) {
    vendor.flush_tlb(vcpu);
    vendor.set_segment(vcpu, SegmentName::Cs, SEGMENT);
    vendor.set_table(vcpu, TableName::Idtr, TABLE);
    vendor.set_control(vcpu, Control::Cr4, 0x20);
    vendor.set_page_directories(vcpu, [1; 4]);
    vendor.set_msr(vcpu, Msr::Star, 3);
    vendor.set_tsc_offset(vcpu, 4);
    vendor.set_shadow(vcpu, Shadow::NMI);
    vendor.want_windows(vcpu, true, false);
}

/// What reading hooks say.
type Seen = (
    Segment,
    TableRegister,
    u64,
    u64,
    Shadow,
    u8,
    Vec<u8>,
    u8,
    Option<Event>,
);

fn seen(vendor: &Two, vcpu: &mut TwoVcpu) -> Seen {
    (
        vendor.segment(vcpu, SegmentName::Cs),
        vendor.table(vcpu, TableName::Idtr),
        vendor.control(vcpu, Control::Cr4),
        vendor.msr(vcpu, Msr::Star),
        vendor.shadow(vcpu),
        vendor.length(vcpu),
        vendor.fetched(vcpu).to_vec(),
        vendor.cpl(vcpu),
        vendor.take_undelivered(vcpu),
    )
}

/// What a vCPU holds that hooks could change.
fn state(vcpu: &ScriptedVcpu) -> impl PartialEq + Debug + use<> {
    (
        (vcpu.regs, vcpu.switched, vcpu.segments, vcpu.tables),
        (vcpu.controls, vcpu.msrs.clone(), vcpu.page_directories),
        (vcpu.tsc_offset, vcpu.shadow, vcpu.windows, vcpu.flushes),
    )
}

/// Runs the guest for one entry.
fn run(host: &MockHost, vendor: &Two, vcpu: &mut TwoVcpu) -> Result<Left, Exit> {
    let mut fpu = host.new_guest_fpu().expect("memory");
    host.load_guest_fpu(&mut fpu);
    vendor.prepare(vcpu, 0);
    let left = {
        let _irq_off = IrqOff::new(host);
        vendor.switch_in(vcpu, 0, Pfn(1)).map(|()| {
            let left = vendor.enter(vcpu);
            vendor.switch_out(vcpu);
            left
        })
    };
    host.unload_guest_fpu(&mut fpu);
    left
}

fn made(make: fn(ScriptedVendor) -> Two, host: &MockHost) -> (Two, TwoVcpu) {
    let vendor = make(ScriptedVendor::new(host));
    let vcpu = vendor.new_vcpu().expect("memory");
    (vendor, vcpu)
}

#[test]
fn each_hook_is_that_of_the_vendor_that_there_is() {
    for make in [Either::A, Either::B] {
        let host = MockHost::new();
        let (vendor, mut vcpu) = made(make, &host);
        assert_eq!(vendor.name(), "a script");
        change(&vendor, &mut vcpu);
        vendor.set_shadow(&mut vcpu, Shadow::empty());
        vendor.inject(&mut vcpu, Event::Nmi);
        vendor.regs(&mut vcpu).rip = 5;
        vendor.switched(&mut vcpu).cr2 = 6;
        let direct = inner(&mut vcpu);
        assert_eq!((direct.regs.rip, direct.switched.cr2), (5, 6));
        assert_eq!(direct.segments[SegmentName::Cs as usize], SEGMENT);
        assert_eq!(direct.tables[TableName::Idtr as usize], TABLE);
        assert_eq!((*direct.control(Control::Cr4), direct.flushes), (0x20, 1));
        assert_eq!(direct.page_directories, Some([1; 4]));
        assert_eq!(direct.msrs[&(Msr::Star as u8)], 3);
        assert_eq!((direct.tsc_offset, direct.windows), (4, (true, false)));
        direct.fetched = vec![0xf4];
        direct.then(Scripted::exit(Exit::Halt, 2));
        let left = run(&host, &vendor, &mut vcpu);
        assert_eq!(left.map(|left| left.exit), Ok(Exit::Halt));
        assert_eq!(inner(&mut vcpu).delivered, [Event::Nmi]);
        let wanted = (SEGMENT, TABLE, 0x20, 3, Shadow::NMI, 2, vec![0xf4], 0, None);
        assert_eq!(seen(&vendor, &mut vcpu), wanted);
    }
}

#[test]
fn a_vcpu_of_the_other_vendor_is_not_touched_and_not_entered() {
    let host = MockHost::new();
    for (mine, other) in [
        (Either::A as fn(_) -> _, Either::B as fn(_) -> _),
        (Either::B, Either::A),
    ] {
        let (vendor, _) = made(mine, &host);
        let (_, mut vcpu) = made(other, &host);
        inner(&mut vcpu).fetched = vec![0xf4];
        let before = state(inner(&mut vcpu));
        change(&vendor, &mut vcpu);
        vendor.inject(&mut vcpu, Event::Nmi);
        assert_eq!(state(inner(&mut vcpu)), before);
        let refused = run(&host, &vendor, &mut vcpu);
        assert!(matches!(refused, Err(Exit::Refused(_))), "{refused:?}");
        assert_eq!(inner(&mut vcpu).entries, 0);
        let nothing = (
            Segment::default(),
            TableRegister::default(),
            0,
            0,
            Shadow::empty(),
            0,
            vec![],
            0,
            None,
        );
        assert_eq!(seen(&vendor, &mut vcpu), nothing);
    }
}
