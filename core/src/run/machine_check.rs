//! Machine checks: banks of registers, and errors that the owner reports in them.
//!
//! Source: Intel SDM volume 3, "Machine-Check Architecture".
use waterbear_hal::Hal;

use super::GuestCpu;
use super::msr::By;
use super::msr::index::{MC0_CTL, MCG_CAP, MCG_CTL, MCG_STATUS};
use crate::Error;
use crate::arch::{Cr4, Exception};
use crate::mem::{Heap, Vec, zeros};
use crate::vendor::Vendor;

/// The most banks.
pub const MAX_BANKS: usize = 32;
/// Registers of a bank: control, status, address, miscellaneous.
const PER_BANK: usize = 4;
/// MCG_CAP: how many banks there are, and the number of other registers, of which there are none.
const COUNTS: u64 = 0xff_00ff;
/// MCG_CAP: there is MCG_CTL.
const HAS_CONTROL: u64 = 1 << 8;
/// MCG_CAP: some errors can be recovered from by software.
const RECOVERY: u64 = 1 << 24;
/// What MCG_CAP may say beside the number of banks.
pub const OFFERED: u64 = HAS_CONTROL | RECOVERY;

/// MCG_STATUS: a machine check is handled.
const IN_PROGRESS: u64 = 1 << 2;
/// A bank's status: there is an error; an earlier one was lost; it is not corrected.
const VALID: u64 = 1 << 63;
const OVERFLOW: u64 = 1 << 62;
const UNCORRECTED: u64 = 1 << 61;

/// An error that an owner reports to its guest, as the registers will have it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// The number of the bank.
    pub bank: u8,
    /// IA32_MCi_STATUS.
    pub status: u64,
    /// IA32_MCi_ADDR.
    pub address: u64,
    /// IA32_MCi_MISC.
    pub misc: u64,
    /// IA32_MCG_STATUS.
    pub global: u64,
}

/// What comes of a report.
enum Taken {
    /// The guest finds it when it looks.
    Quietly,
    /// A machine-check exception.
    Exception,
    /// There is no way to report it.
    Shutdown,
}

/// A machine-check register.
#[derive(Clone, Copy)]
pub(super) enum McBank {
    Cap,
    Status,
    Control,
    /// A bank's, by its place.
    Bank(usize),
}

impl McBank {
    pub(super) fn of(index: u32) -> Option<Self> {
        const END: u32 = MC0_CTL + (MAX_BANKS * PER_BANK) as u32;
        Some(match index {
            MCG_CAP => Self::Cap,
            MCG_STATUS => Self::Status,
            MCG_CTL => Self::Control,
            MC0_CTL..END => Self::Bank((index - MC0_CTL) as usize),
            _ => return None,
        })
    }
}

/// The registers.
pub(super) struct Banks<H: Hal> {
    cap: u64,
    status: u64,
    control: u64,
    /// [`PER_BANK`] for each bank that there is.
    banks: Vec<u64, H>,
}

impl<H: Hal> Banks<H> {
    /// No banks.
    pub(super) fn new(hal: &H) -> Self {
        Self {
            cap: 0,
            status: 0,
            control: 0,
            banks: Vec::new_in(Heap(hal.clone())),
        }
    }

    /// As many banks as `cap` says, all on and empty.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for too many or none, [`Error::NoMemory`].
    pub(super) fn set_up(&mut self, hal: &H, cap: u64) -> Result<(), Error> {
        let count = (cap & 0xff) as usize;
        if count == 0 || count > MAX_BANKS || cap & !(COUNTS | OFFERED) != 0 {
            return Err(Error::Invalid);
        }
        let mut banks = zeros(hal, count * PER_BANK)?;
        for control in banks.iter_mut().step_by(PER_BANK) {
            *control = u64::MAX;
        }
        self.control = if cap & HAS_CONTROL != 0 { u64::MAX } else { 0 };
        (self.cap, self.banks) = (cap, banks.into_vec());
        Ok(())
    }

    pub(super) fn read(&self, register: McBank) -> Option<u64> {
        Some(match register {
            McBank::Cap => self.cap,
            McBank::Status => self.status,
            McBank::Control if self.cap & HAS_CONTROL == 0 => return None,
            McBank::Control => self.control,
            McBank::Bank(at) => *self.banks.get(at)?,
        })
    }

    pub(super) fn write(&mut self, register: McBank, value: u64, by: By) -> Option<()> {
        let all_or_nothing = value == 0 || value == u64::MAX;
        match register {
            McBank::Cap => return None,
            McBank::Status => self.status = value,
            McBank::Control if self.cap & HAS_CONTROL == 0 || !all_or_nothing => return None,
            McBank::Control => self.control = value,
            McBank::Bank(at) => {
                let valid = match at % PER_BANK {
                    // Linux leaves bit 10 of bank 4 clear on some of AMD's CPUs, and others leave
                    // bit 0 of bank 0 clear.
                    0 => value == 0 || value | 1 << 10 | 1 == u64::MAX,
                    // A guest clears errors; it makes none.
                    1 => by == By::Owner || value == 0,
                    _ => true,
                };
                let bank = self.banks.get_mut(at)?;
                if !valid {
                    return None;
                }
                *bank = value;
            }
        }
        Some(())
    }

    /// Takes a report up; [`None`] if there is no such bank, or no error in it. `enabled`: CR4.MCE.
    ///
    /// Source: Intel SDM volume 3, "IA32_MCi_STATUS MSRs" and "Machine-Check Initialization".
    fn take(&mut self, report: &Report, enabled: bool) -> Option<Taken> {
        let at = usize::from(report.bank) * PER_BANK;
        let bank = self.banks.get_mut(at..)?.first_chunk_mut::<PER_BANK>()?;
        let [control, status, address, misc] = bank;
        if report.status & VALID == 0 {
            return None;
        }
        let uncorrected = report.status & UNCORRECTED != 0;
        let on = self.cap & HAS_CONTROL == 0 || self.control == u64::MAX;
        if uncorrected && !(on && *control == u64::MAX) {
            return Some(Taken::Quietly);
        }
        if uncorrected && (self.status & IN_PROGRESS != 0 || !enabled) {
            return Some(Taken::Shutdown);
        }
        let lost = if *status & VALID != 0 { OVERFLOW } else { 0 };
        if !uncorrected && *status & VALID != 0 && *status & UNCORRECTED != 0 {
            // The worse one stays.
            *status |= OVERFLOW;
            return Some(Taken::Quietly);
        }
        (*status, *address, *misc) = (report.status | lost, report.address, report.misc);
        if !uncorrected {
            return Some(Taken::Quietly);
        }
        self.status = report.global;
        Some(Taken::Exception)
    }
}

impl<H: Hal, V: Vendor> GuestCpu<H, V> {
    /// Reports an error to the guest.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] where there is no such bank, or no error in the report.
    pub fn report_machine_check(&mut self, vendor: &V, report: &Report) -> Result<(), Error> {
        let enabled = self.cr4(vendor).contains(Cr4::MCE);
        match self.banks.take(report, enabled).ok_or(Error::Invalid)? {
            Taken::Quietly => {}
            Taken::Exception => self.events.raise(Exception::plain(Exception::MC)),
            Taken::Shutdown => self.events.shutdown = true,
        }
        Ok(())
    }
}
