//! The interface: node, VM, vCPU.
use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::ptr;
use std::sync::Arc;

use waterbear_core::abi::kvm::*;

use crate::sys::{self, Mapping, ioctl};

/// The node.
#[derive(Debug)]
pub struct Node {
    fd: OwnedFd,
    /// Bytes that a vCPU shares.
    area: usize,
    cpuid: CpuidTable,
}

/// The most CPUID entries that are asked for.
const ENTRIES: usize = 128;

/// CPUID entries as the interface takes them.
#[repr(C)]
#[derive(Clone, Copy)]
struct CpuidTable {
    count: u32,
    padding: u32,
    entries: [kvm_cpuid_entry2; ENTRIES],
}

impl std::fmt::Debug for CpuidTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} entries", self.count)
    }
}

impl Node {
    /// Opens a node and looks whether it speaks this interface.
    ///
    /// # Errors
    ///
    /// The system's; [`io::ErrorKind::Unsupported`] for another version.
    pub fn open(path: &Path) -> io::Result<Self> {
        let fd = sys::open(path)?;
        if ioctl(&fd, KVM_GET_API_VERSION, 0)? as u32 != KVM_API_VERSION {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let mut cpuid: CpuidTable = sys::zeroed();
        cpuid.count = ENTRIES as u32;
        ioctl(
            &fd,
            KVM_GET_SUPPORTED_CPUID,
            ptr::from_mut(&mut cpuid) as u64,
        )?;
        Ok(Self {
            area: ioctl(&fd, KVM_GET_VCPU_MMAP_SIZE, 0)? as usize,
            cpuid,
            fd,
        })
    }

    /// Makes a VM.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn vm(&self) -> io::Result<Vm> {
        let vm = Vm(sys::owned(ioctl(&self.fd, KVM_CREATE_VM, 0)?));
        // Some Intel CPUs need both for guests in real mode: places that no guest uses.
        ioctl(&vm.0, KVM_SET_TSS_ADDR, 0xfffb_d000)?;
        Ok(vm)
    }
}

/// A VM.
#[derive(Debug)]
pub struct Vm(OwnedFd);

impl Vm {
    /// Makes a slot or changes it; with no memory it is deleted.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn set_slot(&self, slot: u32, flags: u32, gpa: u64, memory: &Mapping) -> io::Result<()> {
        self.set_range(slot, flags, gpa, (memory.address(), memory.size() as u64))
    }

    /// Deletes a slot.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn delete_slot(&self, slot: u32, memory: &Mapping) -> io::Result<()> {
        self.set_range(slot, 0, 0, (memory.address(), 0))
    }

    /// The same for memory of whatever origin: its address here, and its bytes. The guest does what
    /// it likes with it.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn set_range(
        &self,
        slot: u32,
        flags: u32,
        gpa: u64,
        (address, size): (u64, u64),
    ) -> io::Result<()> {
        let region = kvm_userspace_memory_region {
            slot,
            flags,
            guest_phys_addr: gpa,
            memory_size: size,
            userspace_addr: address,
        };
        let region = ptr::from_ref(&region) as u64;
        ioctl(&self.0, KVM_SET_USER_MEMORY_REGION, region).map(drop)
    }

    /// Fetches a slot's dirty log. `log` has a bit for each of its pages, in whole words.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn dirty_log(&self, slot: u32, log: &mut [u64]) -> io::Result<()> {
        let mut wish: kvm_dirty_log = sys::zeroed();
        wish.slot = slot;
        wish.__bindgen_anon_1.dirty_bitmap = log.as_mut_ptr().cast();
        ioctl(&self.0, KVM_GET_DIRTY_LOG, ptr::from_ref(&wish) as u64).map(drop)
    }

    /// Makes a vCPU that begins in real mode at `address`, with everything that a CPU can have here.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn vcpu(&self, node: &Node, index: u32, address: u64) -> io::Result<Vcpu> {
        let fd = sys::owned(ioctl(&self.0, KVM_CREATE_VCPU, index.into())?);
        let vcpu = Vcpu {
            area: Arc::new(Mapping::of(&fd, node.area)?),
            fd,
        };
        ioctl(&vcpu.fd, KVM_SET_CPUID2, ptr::from_ref(&node.cpuid) as u64)?;
        let mut sregs: kvm_sregs = vcpu.get(KVM_GET_SREGS)?;
        sregs.cs.base = 0;
        sregs.cs.selector = 0;
        vcpu.set(KVM_SET_SREGS, &sregs)?;
        vcpu.begin_at(address)?;
        Ok(vcpu)
    }
}

/// A vCPU.
#[derive(Debug)]
pub struct Vcpu {
    fd: OwnedFd,
    area: Arc<Mapping>,
}

/// For other threads: makes a vCPU come back.
#[derive(Debug)]
pub struct Bell(Arc<Mapping>);

impl Bell {
    /// Makes the next run come back at once. One that is in the guest takes a signal as well.
    pub fn ring(&self) {
        self.0.write(offset_of!(kvm_run, immediate_exit), &[1]);
    }
}

/// Why a vCPU came back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// The guest uses a port, `count` times.
    Port {
        /// Which.
        port: u16,
        /// Bytes of each access.
        size: usize,
        /// Whether the guest reads.
        input: bool,
        /// How many accesses there are.
        count: usize,
        /// Where their data are in the shared memory.
        data: usize,
    },
    /// The guest accesses memory that is not there.
    Device {
        /// Where.
        gpa: u64,
        /// Bytes.
        size: usize,
        /// Whether the guest writes.
        write: bool,
        /// Where the data are in the shared memory.
        data: usize,
    },
    /// HLT.
    Halt,
    /// The guest's CPU has shut down.
    Shutdown,
    /// The guest can take an interrupt.
    Window,
    /// The guest has lowered CR8.
    TaskPriority,
    /// There is an instruction that the kernel does not know.
    NotEmulated,
    /// A signal, or it was to come back at once.
    Interrupted,
    /// Another reason, as the interface numbers them.
    Other(u32),
}

impl Vcpu {
    /// What a command fills in.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn get<T: Copy>(&self, command: u32) -> io::Result<T> {
        let mut value: T = sys::zeroed();
        ioctl(&self.fd, command, ptr::from_mut(&mut value) as u64)?;
        Ok(value)
    }

    /// Hands a structure over.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn set<T: Copy>(&self, command: u32, value: &T) -> io::Result<()> {
        ioctl(&self.fd, command, ptr::from_ref(value) as u64).map(drop)
    }

    /// Sets where it goes on.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn begin_at(&self, address: u64) -> io::Result<()> {
        let mut regs: kvm_regs = self.get(KVM_GET_REGS)?;
        regs.rip = address;
        regs.rflags = 2;
        self.set(KVM_SET_REGS, &regs)
    }

    /// What it shares with the kernel.
    #[must_use]
    pub fn area(&self) -> &Mapping {
        &self.area
    }

    fn field<const N: usize>(&self, offset: usize) -> [u8; N] {
        let mut bytes = [0; N];
        self.area.read(offset, &mut bytes);
        bytes
    }

    /// A bell for other threads.
    #[must_use]
    pub fn bell(&self) -> Bell {
        Bell(Arc::clone(&self.area))
    }

    /// Makes the next run, or the one that is on its way into the guest, come back at once; or no
    /// longer.
    pub fn come_back_at_once(&self, at_once: bool) {
        self.area
            .write(offset_of!(kvm_run, immediate_exit), &[at_once.into()]);
    }

    /// Makes it come back as soon as the guest can take an interrupt.
    pub fn want_window(&self, wanted: bool) {
        let at = offset_of!(kvm_run, request_interrupt_window);
        self.area.write(at, &[wanted.into()]);
    }

    /// Whether the guest could take an interrupt when it came back last.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.field(offset_of!(kvm_run, ready_for_interrupt_injection)) != [0]
    }

    /// Hands over an interrupt that the guest can take.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn interrupt(&self, vector: u8) -> io::Result<()> {
        self.set(KVM_INTERRUPT, &kvm_interrupt { irq: vector.into() })
    }

    /// Hands over an NMI.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn nmi(&self) -> io::Result<()> {
        ioctl(&self.fd, KVM_NMI, 0).map(drop)
    }

    /// Finishes the instruction that it came back for, without running the guest. Whoever changes
    /// the state of a vCPU that came back for a port or a device does this first.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn finish(&self) -> io::Result<()> {
        self.come_back_at_once(true);
        let exit = self.run();
        self.come_back_at_once(false);
        exit.map(drop)
    }

    /// Runs until it comes back.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn run(&self) -> io::Result<Exit> {
        match ioctl(&self.fd, KVM_RUN, 0) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                return Ok(Exit::Interrupted);
            }
            Err(error) => return Err(error),
        }
        Ok(self.exit())
    }

    fn exit(&self) -> Exit {
        let reason = u32::from_ne_bytes(self.field(offset_of!(kvm_run, exit_reason)));
        match reason {
            KVM_EXIT_IO => {
                let [direction] = self.field(offset_of!(kvm_run, __bindgen_anon_1.io.direction));
                let [size] = self.field(offset_of!(kvm_run, __bindgen_anon_1.io.size));
                let port = self.field(offset_of!(kvm_run, __bindgen_anon_1.io.port));
                let count = self.field(offset_of!(kvm_run, __bindgen_anon_1.io.count));
                let data = self.field(offset_of!(kvm_run, __bindgen_anon_1.io.data_offset));
                Exit::Port {
                    port: u16::from_ne_bytes(port),
                    size: size.into(),
                    input: u32::from(direction) == KVM_EXIT_IO_IN,
                    count: u32::from_ne_bytes(count) as usize,
                    data: u64::from_ne_bytes(data) as usize,
                }
            }
            KVM_EXIT_MMIO => {
                let gpa = self.field(offset_of!(kvm_run, __bindgen_anon_1.mmio.phys_addr));
                let size = self.field(offset_of!(kvm_run, __bindgen_anon_1.mmio.len));
                let write: [u8; 1] =
                    self.field(offset_of!(kvm_run, __bindgen_anon_1.mmio.is_write));
                Exit::Device {
                    gpa: u64::from_ne_bytes(gpa),
                    size: u32::from_ne_bytes(size) as usize,
                    write: write != [0],
                    data: offset_of!(kvm_run, __bindgen_anon_1.mmio.data),
                }
            }
            KVM_EXIT_HLT => Exit::Halt,
            KVM_EXIT_SHUTDOWN => Exit::Shutdown,
            KVM_EXIT_IRQ_WINDOW_OPEN => Exit::Window,
            KVM_EXIT_SET_TPR => Exit::TaskPriority,
            KVM_EXIT_INTERNAL_ERROR => {
                let at = offset_of!(kvm_run, __bindgen_anon_1.internal.suberror);
                match u32::from_ne_bytes(self.field(at)) {
                    KVM_INTERNAL_ERROR_EMULATION => Exit::NotEmulated,
                    _ => Exit::Other(reason),
                }
            }
            other => Exit::Other(other),
        }
    }
}

const _: () = assert!(size_of::<CpuidTable>() == 8 + ENTRIES * size_of::<kvm_cpuid_entry2>());
