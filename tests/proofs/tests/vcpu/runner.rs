//! One attempt to run a vCPU: requests first, then the guest.

use std::sync::{Arc, Mutex};

use waterbear_core::Error;
use waterbear_core::exit::Exit;
use waterbear_core::request::Request;
use waterbear_core::spte::EntryFormat;
use waterbear_core::vcpu::{Mode, Owner, Runner, Vcpu};
use waterbear_core::vendor::{EnableError, Hardware, Left, Unsupported, Vendor};
use waterbear_hal::{Cpu, CpuId, Pfn};
use waterbear_mock::MockHost;
use waterbear_proofs::Paging;

/// What the vendor was asked to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Did {
    Flush,
    Enter(Pfn),
}

/// A vendor that notes what it is asked to do.
struct Notes {
    host: MockHost,
    vcpu: Arc<Vcpu<MockHost>>,
    did: Mutex<Vec<Did>>,
    /// Somebody makes this request while the guest runs for this time.
    request: Mutex<Option<(u32, Request)>>,
}

/// The vendor's state of the vCPU.
#[derive(Default)]
struct Vcpu0 {
    entries: u32,
    /// While it is switched in.
    root: Option<Pfn>,
}

impl Hardware for Notes {
    fn name(&self) -> &'static str {
        "notes"
    }
    fn entry_format(&self) -> EntryFormat {
        Paging::Npt.format(Paging::ROOT)
    }
    fn check_cpu(&self, _: CpuId) -> Result<(), Unsupported> {
        Ok(())
    }
    fn is_enabled(&self, _: CpuId) -> bool {
        false
    }
    fn enable_cpu(&self, _: CpuId) -> Result<(), EnableError> {
        Ok(())
    }
    fn disable_cpu(&self, _: CpuId) {}
}

waterbear_proofs::registerless!(Vcpu0);

impl Vendor for Notes {
    type Vcpu = Vcpu0;

    fn new_vcpu(&self) -> Result<Vcpu0, Error> {
        Ok(Vcpu0::default())
    }

    fn switch_in(&self, vcpu: &mut Vcpu0, _: CpuId, root: Pfn) -> Result<(), Exit> {
        assert!(!self.host.irq_disable(), "switched in with interrupts on");
        assert_eq!(vcpu.root.replace(root), None, "switched in twice");
        Ok(())
    }

    fn enter(&self, vcpu: &mut Vcpu0) -> Left {
        assert!(!self.host.irq_disable(), "entered with interrupts on");
        assert_ne!(self.vcpu.mode(), Mode::Outside);
        vcpu.entries += 1;
        let root = vcpu.root.expect("the guest's state is in the CPU");
        self.did.lock().unwrap().push(Did::Enter(root));
        let mut request = self.request.lock().unwrap();
        if let Some((_, request)) = request.take_if(|(entry, _)| *entry == vcpu.entries) {
            let (host, vcpu) = (self.host.clone(), Arc::clone(&self.vcpu));
            std::thread::spawn(move || host.run_on(1, || vcpu.make_request(request)))
                .join()
                .unwrap();
        }
        Left {
            exit: Exit::Interrupt,
            whole: true,
        }
    }

    fn switch_out(&self, vcpu: &mut Vcpu0) {
        assert!(!self.host.irq_disable(), "switched out with interrupts on");
        let root = vcpu.root.take();
        assert!(root.is_some(), "switched out what was not in");
    }

    waterbear_proofs::stateless!(Vcpu0);

    fn flush_tlb(&self, _: &mut Vcpu0) {
        self.did.lock().unwrap().push(Did::Flush);
    }
}

/// The thread of the vCPU.
struct Thread {
    /// The answer to a reload.
    root: Result<Pfn, Error>,
    /// How many exits it finishes in guest mode.
    finishes: u32,
}

impl Owner<Notes> for Thread {
    fn reload(&mut self) -> Result<Pfn, Error> {
        self.root
    }

    fn handle(&mut self, request: Request, _: &mut Vcpu0) -> Result<(), Error> {
        assert_eq!(request, Request::EVENT);
        Ok(())
    }

    fn finish(&mut self, _: &mut Vcpu0, _: Exit) -> bool {
        let left = self.finishes.checked_sub(1);
        self.finishes = left.unwrap_or(0);
        left.is_some()
    }
}

struct Fixture {
    host: MockHost,
    vendor: Notes,
    vcpu: Arc<Vcpu<MockHost>>,
    finishes: u32,
    runner: Runner<Notes>,
}

impl Fixture {
    fn new() -> Self {
        let host = MockHost::new();
        let vcpu = Arc::new(Vcpu::new(&host, 0).expect("memory"));
        Self {
            vendor: Notes {
                host: host.clone(),
                vcpu: Arc::clone(&vcpu),
                did: Mutex::default(),
                request: Mutex::default(),
            },
            vcpu,
            finishes: 0,
            runner: Runner::new(Vcpu0::default()),
            host,
        }
    }

    fn attempt(&mut self, root: Result<Pfn, Error>) -> Result<bool, Error> {
        let mut thread = Thread {
            root,
            finishes: self.finishes,
        };
        self.runner
            .attempt(&self.host, &self.vcpu, &self.vendor, &mut thread)
            .map(|exit| exit.is_some())
    }

    /// Attempts until the guest was entered; says what the vendor did.
    fn run(&mut self, root: Pfn) -> Vec<Did> {
        while !self.attempt(Ok(root)).expect("the VM is alive") {}
        std::mem::take(&mut self.vendor.did.lock().unwrap())
    }
}

/// Proves KR-1.
#[test]
fn a_vcpu_gets_a_root_and_flushes_before_its_first_entry() {
    let mut fixture = Fixture::new();
    let did = fixture.run(Pfn(7));
    assert_eq!(did.last(), Some(&Did::Enter(Pfn(7))));
    assert!(did.contains(&Did::Flush));
    assert_eq!(fixture.run(Pfn(8)), [Did::Enter(Pfn(7))], "the root stays");
    assert_eq!(fixture.runner.state().entries, 2);
}

/// Proves KR-1, KR-6.
#[test]
fn a_vcpu_whose_root_is_obsolete_gets_another() {
    let mut fixture = Fixture::new();
    fixture.run(Pfn(7));
    fixture.vcpu.make_request(Request::MMU_RELOAD);
    assert_eq!(fixture.run(Pfn(8)), [Did::Flush, Did::Enter(Pfn(8))]);
    assert!(!fixture.vcpu.requests().any());
}

/// Proves KR-6.
#[test]
fn a_vcpu_without_a_root_does_not_enter_on_the_old_one() {
    let mut fixture = Fixture::new();
    fixture.run(Pfn(7));
    fixture.vcpu.make_request(Request::MMU_RELOAD);
    for _ in 0..2 {
        assert_eq!(fixture.attempt(Err(Error::NoMemory)), Err(Error::NoMemory));
    }
    assert_eq!(fixture.run(Pfn(9)).last(), Some(&Did::Enter(Pfn(9))));
}

/// Proves KR-1, KR-6.
#[test]
fn a_flush_comes_before_the_entry_and_once() {
    let mut fixture = Fixture::new();
    fixture.run(Pfn(7));
    fixture.vcpu.make_request(Request::TLB_FLUSH);
    fixture.vcpu.make_request(Request::EVENT);
    fixture.vcpu.make_request(Request::UNBLOCK);
    assert_eq!(fixture.run(Pfn(7)), [Did::Flush, Did::Enter(Pfn(7))]);
    assert_eq!(fixture.run(Pfn(7)), [Did::Enter(Pfn(7))]);
}

/// Proves KR-1.
#[test]
fn a_vcpu_that_moved_flushes_on_the_new_cpu() {
    let mut fixture = Fixture::new();
    fixture.run(Pfn(7));
    let host = fixture.host.clone();
    let did = host.run_on(3, || fixture.run(Pfn(7)));
    assert_eq!(did, [Did::Flush, Did::Enter(Pfn(7))]);
    let did = host.run_on(3, || fixture.run(Pfn(7)));
    assert_eq!(did, [Did::Enter(Pfn(7))]);
}

/// Proves KR-6.
#[test]
fn a_dead_vm_runs_no_more() {
    let mut fixture = Fixture::new();
    fixture.run(Pfn(7));
    fixture.vcpu.make_request(Request::VM_DEAD);
    for _ in 0..2 {
        assert_eq!(fixture.attempt(Ok(Pfn(7))), Err(Error::Dead));
    }
    assert!(fixture.vendor.did.lock().unwrap().is_empty());
}

/// Proves KR-1.
#[test]
fn an_exit_that_is_finished_in_guest_mode_is_followed_by_an_entry() {
    let mut fixture = Fixture::new();
    fixture.run(Pfn(7));
    fixture.finishes = 2;
    assert_eq!(fixture.attempt(Ok(Pfn(7))), Ok(true));
    assert_eq!(fixture.runner.state().entries, 4);
    assert_eq!(fixture.vcpu.mode(), Mode::Outside);
}

/// Proves KR-1, KR-2.
#[test]
fn a_request_ends_a_stay_in_guest_mode_and_is_taken_up() {
    for request in [Request::EVENT, Request::UNBLOCK] {
        let mut fixture = Fixture::new();
        fixture.run(Pfn(7));
        fixture.finishes = u32::MAX;
        *fixture.vendor.request.lock().unwrap() = Some((3, request));
        assert_eq!(fixture.attempt(Ok(Pfn(7))), Ok(false), "{request:?}");
        assert_eq!(fixture.runner.state().entries, 3);
        fixture.finishes = 0;
        assert_eq!(fixture.attempt(Ok(Pfn(7))), Ok(true));
        assert!(!fixture.vcpu.requests().any());
    }
}
