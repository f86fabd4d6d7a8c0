//! Machine-check registers: banks that nobody writes but the guest and the owner.
//!
//! Source: Intel SDM volume 3, "Machine-Check Architecture".
use waterbear_hal::Hal;

use super::msr::By;
use super::msr::index::{MC0_CTL, MCG_CAP, MCG_CTL, MCG_STATUS};
use crate::Error;
use crate::mem::{Heap, Vec};

/// The most banks.
pub const MAX_BANKS: usize = 32;
/// Registers of a bank: control, status, address, miscellaneous.
const PER_BANK: usize = 4;
/// MCG_CAP: there is MCG_CTL.
const HAS_CONTROL: u64 = 1 << 8;

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
        Some(match index {
            MCG_CAP => Self::Cap,
            MCG_STATUS => Self::Status,
            MCG_CTL => Self::Control,
            _ => Self::Bank(index.checked_sub(MC0_CTL)? as usize),
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
        if count == 0 || count > MAX_BANKS || cap & !(0x1ff) & 0xff_ffff != 0 {
            return Err(Error::Invalid);
        }
        let mut banks = Vec::new_in(Heap(hal.clone()));
        banks.try_reserve_exact(count * PER_BANK)?;
        for at in 0..count * PER_BANK {
            // Within the capacity just reserved: does not allocate.
            banks.push(if at % PER_BANK == 0 { u64::MAX } else { 0 });
        }
        self.control = if cap & HAS_CONTROL != 0 { u64::MAX } else { 0 };
        (self.cap, self.banks) = (cap, banks);
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
}
