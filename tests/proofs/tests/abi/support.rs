//! An owner with a VM and a vCPU.
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use waterbear_core::Error;
use waterbear_core::abi::area::AREA_SIZE;
use waterbear_core::abi::{Answer, Caller, Failure, Reply, RunArea, VcpuFile, VmFile, kvm, system};
use waterbear_core::tdp::DirtyTracking;
use waterbear_hal::{Hva, Level, User};
use waterbear_mock::{MapOptions, MockHost, Space};
use waterbear_proofs::machines::amd;
use waterbear_proofs::{Paging, Scripted, ScriptedVendor};

/// Where the owner has memory for arguments, and how much.
pub const HERE: u64 = 0x1_0000;
const SIZE: usize = 64 * 1024;
/// The answer of a command that has nothing to say.
pub const DONE: Answer = Ok(Reply::Value(0));

/// The answer of one that was not carried out.
pub fn refused(error: Error) -> Answer {
    Err(Failure::Error(error))
}

/// Where it has memory for its guest, and how many pages.
const GUEST: Hva = Hva(0x7000_0000_0000);
pub const PAGES: u64 = 64;

/// The owner's thread.
pub struct Thread {
    bytes: Mutex<Vec<u8>>,
    /// The signals that it blocks.
    pub blocked: Mutex<u64>,
    /// What happens when other signals are blocked.
    on_mask: Box<dyn Fn(u64) + Send + Sync>,
}

impl Thread {
    fn range(&self, address: u64, len: usize) -> Result<std::ops::Range<usize>, Error> {
        let start = address.checked_sub(HERE).ok_or(Error::Fault)? as usize;
        let end = start.checked_add(len).ok_or(Error::Fault)?;
        if end > SIZE {
            return Err(Error::Fault);
        }
        Ok(start..end)
    }
}

impl Caller for Thread {
    fn copy_in(&self, address: u64, into: &mut [u8]) -> Result<(), Error> {
        let range = self.range(address, into.len())?;
        into.copy_from_slice(&self.bytes.lock().unwrap()[range]);
        Ok(())
    }

    fn copy_out(&self, address: u64, bytes: &[u8]) -> Result<(), Error> {
        let range = self.range(address, bytes.len())?;
        self.bytes.lock().unwrap()[range].copy_from_slice(bytes);
        Ok(())
    }

    type Mask = u64;

    fn mask_signals(&self, mask: u64) -> u64 {
        (self.on_mask)(mask);
        std::mem::replace(&mut *self.blocked.lock().unwrap(), mask)
    }

    fn unmask_signals(&self, before: u64) {
        *self.blocked.lock().unwrap() = before;
    }
}

/// The memory that a vCPU shares.
pub struct Shared(Vec<AtomicU64>);

impl RunArea for Shared {
    fn words(&self) -> &[AtomicU64] {
        &self.0
    }
}

impl Shared {
    /// The bytes at a place, as the owner reads them.
    pub fn get<const N: usize>(&self, offset: usize) -> [u8; N] {
        std::array::from_fn(|i| {
            let at = offset + i;
            self.0[at / 8].load(Relaxed).to_le_bytes()[at % 8]
        })
    }

    /// Writes a byte, as the owner does.
    pub fn put(&self, offset: usize, byte: u8) {
        let word = &self.0[offset / 8];
        let mut bytes = word.load(Relaxed).to_le_bytes();
        bytes[offset % 8] = byte;
        word.store(u64::from_le_bytes(bytes), Relaxed);
    }
}

/// The type of the vCPU's descriptor.
pub type Vcpu = VcpuFile<MockHost, ScriptedVendor, Shared>;

/// A VM with [`PAGES`] frames of memory at 0, and one vCPU whose guest does what a script says.
pub struct Monitor {
    pub vcpu: Vcpu,
    pub vm: VmFile<MockHost>,
    pub vendor: ScriptedVendor,
    pub thread: Thread,
    pub user: Space,
    pub host: MockHost,
}

impl Monitor {
    /// One whose guest does nothing.
    pub fn new() -> Self {
        Self::with([])
    }

    /// One whose guest does this.
    pub fn with(script: impl IntoIterator<Item = Scripted>) -> Self {
        Self::on(MockHost::new(), script)
    }

    /// The same on this machine.
    pub fn on(host: MockHost, script: impl IntoIterator<Item = Scripted>) -> Self {
        let user = host.new_space();
        user.map(GUEST, PAGES, MapOptions::WRITABLE);
        let format = Paging::Npt.format(Paging::ROOT);
        let vm = VmFile::new(&host, user.clone(), format, DirtyTracking::WriteProtect);
        let vm = vm.expect("memory");
        let vendor = ScriptedVendor::new(&host);
        vendor.script(script);
        let thread = Thread {
            bytes: Mutex::new(vec![0; SIZE]),
            blocked: Mutex::default(),
            on_mask: Box::new(|_| {}),
        };
        let vcpu = Self::add_vcpu(&vm, &vendor, 0);
        let monitor = Self {
            vcpu,
            vm,
            vendor,
            thread,
            user,
            host,
        };
        let slot = kvm::kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: PAGES * 4096,
            userspace_addr: GUEST.0,
        };
        let words = [
            0,
            slot.guest_phys_addr,
            slot.memory_size,
            slot.userspace_addr,
        ];
        monitor.put(0, &words.map(u64::to_le_bytes).concat());
        let answer = monitor.vm(kvm::KVM_SET_USER_MEMORY_REGION, HERE);
        answer.expect("a slot");
        monitor
    }

    /// Makes a vCPU of this number.
    pub fn add_vcpu(vm: &VmFile<MockHost>, vendor: &ScriptedVendor, index: u32) -> Vcpu {
        let area = Shared((0..AREA_SIZE / 8).map(|_| AtomicU64::new(0)).collect());
        let vcpu = VcpuFile::new(vm, vendor, &amd, index, area).expect("memory");
        vm.add_vcpu(index).expect("memory");
        vcpu
    }

    /// How many pages are mapped for the guest.
    pub fn mapped(&self) -> u64 {
        self.vm.vm().mmu().mapped(Level::L1) as u64
    }

    /// Takes a page of the guest's memory from the owner.
    pub fn unmap(&self, gfn: u64) {
        self.user.unmap(Hva(GUEST.0 + gfn * 4096), 1);
    }

    /// Writes to the guest's memory.
    pub fn guest_write(&self, gpa: u64, bytes: &[u8]) {
        let written = self.host.write(&self.user, Hva(GUEST.0 + gpa), bytes);
        written.expect("there is memory");
    }

    /// Says what happens when other signals are blocked.
    pub fn on_mask(&mut self, does: impl Fn(u64) + Send + Sync + 'static) {
        self.thread.on_mask = Box::new(does);
    }

    /// Writes an argument, at an offset from [`HERE`].
    pub fn put(&self, offset: u64, bytes: &[u8]) {
        let written = self.thread.copy_out(HERE + offset, bytes);
        written.expect("there is memory");
    }

    /// Reads a word of an argument.
    pub fn word(&self, offset: u64) -> u64 {
        let mut bytes = [0; 8];
        let read = self.thread.copy_in(HERE + offset, &mut bytes);
        read.expect("there is memory");
        u64::from_le_bytes(bytes)
    }

    /// A command for the node.
    pub fn node(&self, command: u32, argument: u64) -> Answer {
        system::command(&self.host, &amd, &self.thread, command, argument)
    }

    /// A command for the VM.
    pub fn vm(&self, command: u32, argument: u64) -> Answer {
        self.vm.command(&self.thread, command, argument)
    }

    /// A command for the vCPU.
    pub fn vcpu(&self, command: u32, argument: u64) -> Answer {
        self.command(&self.vcpu, command, argument)
    }

    /// Why the vCPU came back last.
    pub fn reason(&self) -> u32 {
        let at = std::mem::offset_of!(kvm::kvm_run, exit_reason);
        u32::from_le_bytes(self.vcpu.area().get(at))
    }

    /// A command for a vCPU.
    pub fn command(&self, vcpu: &Vcpu, command: u32, argument: u64) -> Answer {
        vcpu.command(&self.vm, &self.vendor, &self.thread, command, argument)
    }
}
