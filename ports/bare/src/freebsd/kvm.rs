//! The interface as a monitor on FreeBSD uses it: node, VM, vCPU.
use core::mem::{offset_of, size_of};
use core::slice;

use waterbear_core::abi::kvm::*;
use waterbear_hal::addr::PAGE_SIZE;

use super::calls::{Calls, Errno, Outcome};

/// A command as FreeBSD numbers it, from its number in the public header: nothing is copied, and
/// the group says the direction. Source: `waterbear/kvm.h`.
pub fn encoded(command: u32) -> u64 {
    const VOID: u32 = 0x2000_0000;
    let group = (command >> 8 & 0xff) + (command >> 30);
    (VOID | group << 8 | command & 0xff).into()
}

/// The most CPUID entries that are asked for.
const ENTRIES: u32 = 128;
const CPUID_SIZE: u64 = 8 + ENTRIES as u64 * size_of::<kvm_cpuid_entry2>() as u64;

/// A value made of integers, all 0.
pub fn zeroed<T: Copy>() -> T {
    // SAFETY: the types of the interface are made of integers.
    unsafe { core::mem::zeroed() }
}

fn bytes<T: Copy>(value: &T) -> &[u8] {
    // SAFETY: the types of the interface are made of integers, without holes.
    unsafe { slice::from_raw_parts(core::ptr::from_ref(value).cast(), size_of::<T>()) }
}

fn bytes_mut<T: Copy>(value: &mut T) -> &mut [u8] {
    // SAFETY: as above, and every value of them is one.
    unsafe { slice::from_raw_parts_mut(core::ptr::from_mut(value).cast(), size_of::<T>()) }
}

/// The node, opened by the process of this CPU.
#[derive(Clone, Copy)]
pub struct Node {
    pub calls: Calls,
    pub fd: i32,
    /// Where in the process the CPUID entries are that guests can have.
    cpuid: u64,
    /// Bytes that a vCPU shares.
    area: u64,
}

impl Node {
    pub fn open(calls: Calls) -> Outcome<Self> {
        let fd = calls.open(c"kvm")?;
        let cpuid = calls.mmap(-1, CPUID_SIZE, 0)?;
        calls.poke(cpuid, &ENTRIES.to_le_bytes())?;
        calls.ioctl(fd, encoded(KVM_GET_SUPPORTED_CPUID), cpuid)?;
        let area = calls.ioctl(fd, encoded(KVM_GET_VCPU_MMAP_SIZE), 0)?;
        Ok(Self {
            calls,
            fd,
            cpuid,
            area: area as u64,
        })
    }

    pub fn vm(&self) -> Outcome<Vm> {
        let fd = self.calls.ioctl(self.fd, encoded(KVM_CREATE_VM), 0)? as i32;
        Ok(Vm {
            calls: self.calls,
            fd,
            scratch: self.calls.mmap(-1, PAGE_SIZE, 0)?,
        })
    }
}

/// A VM, and a page of the process for what its commands take; one thread at a time.
#[derive(Clone, Copy)]
pub struct Vm {
    pub calls: Calls,
    pub fd: i32,
    scratch: u64,
}

impl Vm {
    pub fn command(&self, command: u32, argument: u64) -> Outcome {
        self.calls.ioctl(self.fd, encoded(command), argument)
    }

    /// Makes a slot of memory of the process, or changes it; of size 0 it is deleted.
    pub fn set_slot(&self, slot: u32, flags: u32, gpa: u64, memory: (u64, u64)) -> Outcome<()> {
        let region = kvm_userspace_memory_region {
            slot,
            flags,
            guest_phys_addr: gpa,
            memory_size: memory.1,
            userspace_addr: memory.0,
        };
        self.calls.poke(self.scratch, bytes(&region))?;
        self.command(KVM_SET_USER_MEMORY_REGION, self.scratch)?;
        Ok(())
    }

    /// Fetches a slot's dirty log to an address of the process.
    pub fn dirty_log(&self, slot: u32, to: u64) -> Outcome<()> {
        let mut wish: kvm_dirty_log = zeroed();
        wish.slot = slot;
        wish.__bindgen_anon_1.padding2 = to;
        self.calls.poke(self.scratch, bytes(&wish))?;
        self.command(KVM_GET_DIRTY_LOG, self.scratch)?;
        Ok(())
    }

    /// Makes a vCPU that begins in real mode at an address, with everything that a CPU can have.
    pub fn vcpu(&self, node: &Node, index: u32, address: u64) -> Outcome<Vcpu> {
        let fd = self.command(KVM_CREATE_VCPU, index.into())? as i32;
        let vcpu = Vcpu {
            calls: self.calls,
            fd,
            area: self.calls.mmap(fd, node.area, 0)?,
            scratch: self.calls.mmap(-1, PAGE_SIZE, 0)?,
        };
        vcpu.command(KVM_SET_CPUID2, node.cpuid)?;
        let mut sregs: kvm_sregs = vcpu.get(KVM_GET_SREGS)?;
        sregs.cs.base = 0;
        sregs.cs.selector = 0;
        vcpu.set(KVM_SET_SREGS, &sregs)?;
        vcpu.begin_at(address)?;
        Ok(vcpu)
    }
}

/// A vCPU, with a page of the process for what its commands take.
#[derive(Clone, Copy)]
pub struct Vcpu {
    pub calls: Calls,
    pub fd: i32,
    /// Where in the process its memory is.
    pub area: u64,
    scratch: u64,
}

/// Why a vCPU came back.
#[derive(Clone, Copy, Debug)]
pub enum Exit {
    /// The guest uses a port, `count` times; the data are in the shared memory.
    Port {
        port: u16,
        size: u64,
        input: bool,
        count: u64,
        data: u64,
    },
    /// The guest accesses memory that is not there.
    Device {
        gpa: u64,
        size: usize,
        write: bool,
    },
    Halt,
    Shutdown,
    /// The guest can take an interrupt, or has lowered CR8.
    Window,
    /// There is an instruction that the kernel does not know.
    NotEmulated,
    Interrupted,
    /// As the interface numbers them.
    Other(#[expect(dead_code, reason = "the log shows it")] u32),
}

/// Where the data of an access to a device are.
pub const DEVICE_DATA: u64 = offset_of!(kvm_run, __bindgen_anon_1.mmio.data) as u64;

impl Vcpu {
    /// Another thread's, of which only the memory is known.
    pub fn elsewhere(calls: Calls, area: u64) -> Self {
        Self {
            calls,
            fd: -1,
            area,
            scratch: 0,
        }
    }

    pub fn command(&self, command: u32, argument: u64) -> Outcome {
        self.calls.ioctl(self.fd, encoded(command), argument)
    }

    /// What a command fills in.
    pub fn get<T: Copy>(&self, command: u32) -> Outcome<T> {
        let mut value: T = zeroed();
        self.command(command, self.scratch)?;
        self.calls.peek(self.scratch, bytes_mut(&mut value))?;
        Ok(value)
    }

    /// Hands a structure over.
    pub fn set<T: Copy>(&self, command: u32, value: &T) -> Outcome<()> {
        self.calls.poke(self.scratch, bytes(value))?;
        self.command(command, self.scratch)?;
        Ok(())
    }

    pub fn begin_at(&self, address: u64) -> Outcome<()> {
        let mut regs: kvm_regs = self.get(KVM_GET_REGS)?;
        regs.rip = address;
        regs.rflags = 2;
        self.set(KVM_SET_REGS, &regs)
    }

    /// Reads what it shares.
    pub fn field<const N: usize>(&self, offset: u64) -> Outcome<[u8; N]> {
        let mut bytes = [0; N];
        self.calls.peek(self.area + offset, &mut bytes)?;
        Ok(bytes)
    }

    /// Writes to what it shares.
    pub fn set_field(&self, offset: u64, bytes: &[u8]) -> Outcome<()> {
        self.calls.poke(self.area + offset, bytes)
    }

    /// Makes the next run come back at once, or no longer.
    pub fn come_back_at_once(&self, at_once: bool) -> Outcome<()> {
        self.set_field(
            offset_of!(kvm_run, immediate_exit) as u64,
            &[at_once.into()],
        )
    }

    /// Makes it come back as soon as the guest can take an interrupt.
    pub fn want_window(&self, wanted: bool) -> Outcome<()> {
        let at = offset_of!(kvm_run, request_interrupt_window);
        self.set_field(at as u64, &[wanted.into()])
    }

    /// Whether the guest could take an interrupt when it came back last.
    pub fn ready(&self) -> Outcome<bool> {
        let at = offset_of!(kvm_run, ready_for_interrupt_injection);
        Ok(self.field(at as u64)? != [0])
    }

    pub fn interrupt(&self, vector: u8) -> Outcome<()> {
        self.set(KVM_INTERRUPT, &kvm_interrupt { irq: vector.into() })
    }

    /// Finishes the instruction that it came back for, without running the guest.
    pub fn finish(&self) -> Outcome<()> {
        self.come_back_at_once(true)?;
        let exit = self.run();
        self.come_back_at_once(false)?;
        exit.map(drop)
    }

    /// Runs until it comes back.
    pub fn run(&self) -> Outcome<Exit> {
        const EINTR: Errno = Errno(4);
        match self.command(KVM_RUN, 0) {
            Ok(_) => self.exit(),
            Err(EINTR) => Ok(Exit::Interrupted),
            Err(error) => Err(error),
        }
    }

    fn exit(&self) -> Outcome<Exit> {
        let reason = u32::from_ne_bytes(self.field(offset_of!(kvm_run, exit_reason) as u64)?);
        macro_rules! part {
            ($($place:tt)*) => {
                self.field(offset_of!(kvm_run, __bindgen_anon_1.$($place)*) as u64)?
            };
        }
        Ok(match reason {
            KVM_EXIT_IO => {
                let [direction] = part!(io.direction);
                let [size] = part!(io.size);
                Exit::Port {
                    port: u16::from_ne_bytes(part!(io.port)),
                    size: size.into(),
                    input: u32::from(direction) == KVM_EXIT_IO_IN,
                    count: u32::from_ne_bytes(part!(io.count)).into(),
                    data: u64::from_ne_bytes(part!(io.data_offset)),
                }
            }
            KVM_EXIT_MMIO => Exit::Device {
                gpa: u64::from_ne_bytes(part!(mmio.phys_addr)),
                size: u32::from_ne_bytes(part!(mmio.len)) as usize,
                write: part!(mmio.is_write) != [0],
            },
            KVM_EXIT_HLT => Exit::Halt,
            KVM_EXIT_SHUTDOWN => Exit::Shutdown,
            KVM_EXIT_IRQ_WINDOW_OPEN | KVM_EXIT_SET_TPR => Exit::Window,
            KVM_EXIT_INTERNAL_ERROR
                if u32::from_ne_bytes(part!(internal.suberror)) == KVM_INTERNAL_ERROR_EMULATION =>
            {
                Exit::NotEmulated
            }
            other => Exit::Other(other),
        })
    }
}
