//! Writes to devices that the kernel takes for the owner.
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use waterbear_core::abi::kvm::*;

use crate::Outcome;
use crate::node::same;
use crate::sys::{self, Mapping, ioctl, ioctl_with};
use crate::vcpu::{self, Guest};
use crate::vm;

/// Where the page of waiting writes is in what a vCPU maps.
const PAGE: usize = 4096 * KVM_COALESCED_MMIO_PAGE_OFFSET as usize;
/// How many records it has.
const LENGTH: u32 = 170;

/// mov dx, 0x10; out dx, al; inc al; jnz back; hlt; jmp to the beginning
const COUNTS: &[u8] = &[
    0xba, 0x10, 0x00, 0xee, 0xfe, 0xc0, 0x75, 0xfb, 0xf4, 0xeb, 0xf5,
];

fn zone(vm: &OwnedFd, command: u32, addr: u64, size: u32, pio: u32) -> Result<i32, i32> {
    let zone = kvm_coalesced_mmio_zone {
        addr,
        size,
        __bindgen_anon_1: kvm_coalesced_mmio_zone__bindgen_ty_1 { pio },
    };
    ioctl_with(vm, command, &zone)
}

/// The counters of the page: where the owner is, and where the kernel is.
fn counters(guest: &Guest) -> (u32, u32) {
    (guest.shared(PAGE), guest.shared(PAGE + 4))
}

/// Address, size, whether it is a port, and the data of a record.
fn record(guest: &Guest, number: u32) -> (u64, u32, u32, u64) {
    let at = PAGE + 8 + 24 * number as usize;
    (
        guest.shared(at),
        guest.shared(at + 8),
        guest.shared(at + 12),
        guest.shared(at + 16),
    )
}

pub fn writes_wait_in_the_third_page() -> Outcome {
    let guest = Guest::new(COUNTS)?;
    let add = zone(&guest.vm, KVM_REGISTER_COALESCED_MMIO, 0x10, 1, 1);
    same("a zone", add, Ok(0))?;
    // 256 writes: as many as fit, and one that does not.
    same("reason", guest.run()?, KVM_EXIT_IO)?;
    same("the full page", counters(&guest), (0, LENGTH - 1))?;
    for number in 0..LENGTH - 1 {
        let wanted = (0x10, 1, 1, number.into());
        same("a record", record(&guest, number), wanted)?;
    }
    same(
        "the one too many",
        guest.shared::<u8>(4096),
        (LENGTH - 1) as u8,
    )?;
    // Every vCPU of the VM has the same page.
    let second = vcpu::make(&guest.vm, 1).map_err(|error| error.to_string())?;
    let also = Mapping::of(&second, 3 * 4096)?;
    same("seen by another", also.read::<u32>(PAGE + 4), LENGTH - 1)?;
    also.write(PAGE, &(LENGTH - 1).to_le_bytes());
    same("reason", guest.run()?, KVM_EXIT_HLT)?;
    same("the rest", counters(&guest), (LENGTH - 1, 256 - LENGTH - 1))?;
    same("the last", record(&guest, 256 - LENGTH - 2).3, 255)?;
    let gone = zone(&guest.vm, KVM_UNREGISTER_COALESCED_MMIO, 0x10, 1, 1);
    same("no zone", gone, Ok(0))?;
    same("reason", guest.run()?, KVM_EXIT_IO)?;
    // mov ax, 0xffff; mov ds, ax; mov ax, 0x1234; mov [0x10], ax; hlt
    let guest = Guest::new(&[
        0xb8, 0xff, 0xff, 0x8e, 0xd8, 0xb8, 0x34, 0x12, 0xa3, 0x10, 0x00, 0xf4,
    ])?;
    let add = zone(&guest.vm, KVM_REGISTER_COALESCED_MMIO, 0x10_0000, 4096, 0);
    same("a zone of memory", add, Ok(0))?;
    same("reason", guest.run()?, KVM_EXIT_HLT)?;
    same("counters", counters(&guest), (0, 1))?;
    same("record", record(&guest, 0), (0x10_0000, 2, 0, 0x1234))
}

pub fn a_page_that_is_not_believed_stays_a_page() -> Outcome {
    let guest = Guest::new(COUNTS)?;
    let add = zone(&guest.vm, KVM_REGISTER_COALESCED_MMIO, 0x10, 1, 1);
    same("a zone", add, Ok(0))?;
    for bad in [LENGTH, LENGTH + 1, 0x1000, 0x7fff_ffff, u32::MAX] {
        for at in [PAGE, PAGE + 4] {
            guest.share(PAGE, &[0; 8]);
            guest.share(at, &bad.to_le_bytes());
            same("reason", guest.run()?, KVM_EXIT_IO)?;
            same("the number", guest.shared::<u32>(at), bad)?;
        }
    }
    // While the guest writes, the owner scribbles.
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut seed = 1_u32;
            while !over.load(Ordering::Relaxed) {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                guest.share(PAGE + 4 * (seed as usize >> 31), &seed.to_le_bytes());
            }
        });
        let ran = (0..500).try_for_each(|_| guest.run().map(drop));
        over.store(true, Ordering::Relaxed);
        ran
    })
}

pub fn wrong_zones_are_refused() -> Outcome {
    let vm = vm::make()?;
    for command in [KVM_REGISTER_COALESCED_MMIO, KVM_UNREGISTER_COALESCED_MMIO] {
        let odd = zone(&vm, command, 0, 8, 2);
        same("neither memory nor ports", odd, Err(libc::EINVAL))?;
        let nowhere = ioctl(&vm, command, 8);
        same("nowhere", nowhere, Err(libc::EFAULT))?;
    }
    let absent = zone(&vm, KVM_UNREGISTER_COALESCED_MMIO, 0x1000, 8, 0);
    same("one that is not there", absent, Ok(0))?;
    for number in 0..1000 {
        let add = zone(&vm, KVM_REGISTER_COALESCED_MMIO, number, u32::MAX, 0);
        same("a zone", add, Ok(0))?;
    }
    let more = zone(&vm, KVM_REGISTER_COALESCED_MMIO, 0, 8, 0);
    same("one too many", more, Err(libc::ENOSPC))
}

/// An eventfd that does not block.
fn eventfd() -> Result<OwnedFd, String> {
    // SAFETY: no memory is involved.
    let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK) };
    if fd < 0 {
        return Err(format!("no eventfd: error {}", sys::errno()));
    }
    Ok(sys::owned(fd))
}

/// How often it was signalled since it was last asked.
fn count(event: &OwnedFd) -> u64 {
    let mut value = [0; 8];
    // SAFETY: eight bytes of ours.
    let read = unsafe { libc::read(event.as_raw_fd(), value.as_mut_ptr().cast(), 8) };
    if read == 8 {
        u64::from_le_bytes(value)
    } else {
        0
    }
}

/// A listener at address 0x10.
fn listener(event: i32, len: u32, flags: u32, datamatch: u64) -> kvm_ioeventfd {
    kvm_ioeventfd {
        datamatch,
        addr: 0x10,
        len,
        fd: event,
        flags,
        pad: [0; 36],
    }
}

const PIO: u32 = KVM_IOEVENTFD_FLAG_PIO;
const MATCH: u32 = KVM_IOEVENTFD_FLAG_DATAMATCH;
const DEASSIGN: u32 = KVM_IOEVENTFD_FLAG_DEASSIGN;

pub fn an_eventfd_counts_the_guests_writes() -> Outcome {
    for (len, flags, value, counted) in [
        (1, PIO, 0, 256),
        (0, PIO, 0, 256),
        (1, PIO | MATCH, 7, 1),
        (2, PIO, 0, 0),
        (1, 0, 0, 0),
    ] {
        let guest = Guest::new(COUNTS)?;
        let event = eventfd()?;
        let what = listener(event.as_raw_fd(), len, flags, value);
        let made = ioctl_with(&guest.vm, KVM_IOEVENTFD, &what);
        same("a listener", made, Ok(0))?;
        let mut exits = 0;
        while guest.run()? == KVM_EXIT_IO {
            exits += 1;
        }
        same("reason", guest.reason(), KVM_EXIT_HLT)?;
        same("counted", (count(&event), exits), (counted, 256 - counted))?;
        let away = listener(event.as_raw_fd(), len, flags | DEASSIGN, value);
        let gone = ioctl_with(&guest.vm, KVM_IOEVENTFD, &away);
        same("no listener", gone, Ok(0))?;
        same("reason", guest.run()?, KVM_EXIT_IO)?;
        let again = ioctl_with(&guest.vm, KVM_IOEVENTFD, &away);
        same("no listener twice", again, Err(libc::ENOENT))?;
    }
    // mov ax, 0xffff; mov ds, ax; mov [0x10], ax; hlt
    let guest = Guest::new(&[0xb8, 0xff, 0xff, 0x8e, 0xd8, 0xa3, 0x10, 0x00, 0xf4])?;
    let event = eventfd()?;
    let mut what = listener(event.as_raw_fd(), 2, MATCH, 0xffff);
    what.addr = 0x10_0000;
    let made = ioctl_with(&guest.vm, KVM_IOEVENTFD, &what);
    same("a listener in memory", made, Ok(0))?;
    same("reason", guest.run()?, KVM_EXIT_HLT)?;
    same("counted in memory", count(&event), 1)
}

pub fn wrong_listeners_are_refused() -> Outcome {
    let vm = vm::make()?;
    let event = eventfd()?;
    let fd = event.as_raw_fd();
    for (what, wanted) in [
        (listener(fd, 3, 0, 0), libc::EINVAL),
        (listener(fd, u32::MAX, 0, 0), libc::EINVAL),
        (listener(fd, 0, MATCH, 0), libc::EINVAL),
        (listener(fd, 4, 8, 0), libc::EINVAL),
        (listener(fd, 4, 1 << 31, 0), libc::EINVAL),
        (listener(-1, 4, 0, 0), libc::EBADF),
        (listener(9999, 4, 0, 0), libc::EBADF),
        (listener(vm.as_raw_fd(), 4, 0, 0), libc::EINVAL),
        (listener(fd, 4, DEASSIGN, 0), libc::ENOENT),
    ] {
        let answer = ioctl_with(&vm, KVM_IOEVENTFD, &what);
        let name = format!("{} {:#x} {}", what.len, what.flags, what.fd);
        same(&name, answer, Err(wanted))?;
    }
    let mut high = listener(fd, 4, 0, 0);
    high.addr = u64::MAX - 2;
    let answer = ioctl_with(&vm, KVM_IOEVENTFD, &high);
    same("an address that wraps", answer, Err(libc::EINVAL))?;
    let nowhere = ioctl(&vm, KVM_IOEVENTFD, 8);
    same("nowhere", nowhere, Err(libc::EFAULT))?;
    let plain = listener(fd, 4, 0, 0);
    same("one", ioctl_with(&vm, KVM_IOEVENTFD, &plain), Ok(0))?;
    let twice = ioctl_with(&vm, KVM_IOEVENTFD, &plain);
    same("two", twice, Err(libc::EEXIST))
}

pub fn eventfds_come_and_go_under_a_running_guest() -> Outcome {
    let guest = Guest::new(COUNTS)?;
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let runs = scope.spawn(|| -> Result<u64, String> {
            let mut exits = 0;
            while !over.load(Ordering::Relaxed) {
                exits += u64::from(guest.run()? == KVM_EXIT_IO);
            }
            Ok(exits)
        });
        let change = || -> Outcome {
            for _ in 0..100 {
                // Closed while it listens, and gone for good with the listener or the VM.
                let event = eventfd()?;
                let what = listener(event.as_raw_fd(), 1, PIO, 0);
                let made = ioctl_with(&guest.vm, KVM_IOEVENTFD, &what);
                same("a listener", made, Ok(0))?;
                let away = listener(event.as_raw_fd(), 1, PIO | DEASSIGN, 0);
                let gone = ioctl_with(&guest.vm, KVM_IOEVENTFD, &away);
                same("no listener", gone, Ok(0))?;
            }
            let event = eventfd()?;
            let what = listener(event.as_raw_fd(), 1, PIO, 0);
            let made = ioctl_with(&guest.vm, KVM_IOEVENTFD, &what);
            same("the last listener", made, Ok(0))
        };
        let changed = change();
        over.store(true, Ordering::Relaxed);
        runs.join().map_err(|_| "the thread failed".to_owned())??;
        changed
    })?;
    same("reason", guest.run()?, KVM_EXIT_HLT)
}
