//! What a VM's owner has asked the kernel to do about writes to devices, so that the vCPU need not
//! come back for them.
//!
//! | file | idea |
//! |---|---|
//! | [`table`] | which writes are meant |
//! | [`log`] | the page in which writes wait until the owner looks |
//!
//! A *listener* has a bell rung when the guest writes to one address, and the data are nobody's
//! business. A *zone* has the writes kept in a page that the owner maps, until it comes to look,
//! for registers of devices that do not need to know at once.
//!
//! A VM that asks for neither pays one load per write. With them the table is found in a read
//! section; whoever changes it replaces it as a whole and waits for the sections that were open, so
//! when a listener is taken away its bell is not rung any more.
pub mod log;
pub mod table;

use waterbear_hal::{Hal, Pfn};

use crate::Error;
use crate::emulate::Target;
use crate::lock::Mutex;
use crate::lock_order::{BUS, WRITE_LOG};
use crate::mem::{UserPage, boxed};
use crate::once::OnceArray;
use crate::published::Published;
use table::{Edit, Table};

pub use table::{Listener, Zone};

/// What is done about the guest's writes to devices.
pub struct Bus<H: Hal> {
    hal: H,
    /// `[a]` Shared with the owner.
    page: UserPage<H>,
    /// One change at a time.
    changes: Mutex<H, ()>,
    /// One value, there as soon as the owner has asked for something.
    asked: OnceArray<Option<Asked<H>>, H>,
}

struct Asked<H: Hal> {
    /// `[p]` Replaced under `bus_lock`.
    table: Published<H, Table<H>, 1>,
    /// Who writes to the page.
    writer: Mutex<H, ()>,
}

impl<H: Hal> Bus<H> {
    /// Nothing is asked for. May sleep.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`].
    pub fn new(hal: &H) -> Result<Self, Error> {
        Ok(Self {
            hal: hal.clone(),
            page: UserPage::new(hal)?,
            changes: Mutex::new(hal, &BUS, ())?,
            asked: OnceArray::new(hal, 1),
        })
    }

    /// The frame of the page in which writes wait for the owner, who may map it.
    pub fn page(&self) -> Pfn {
        self.page.pfn()
    }

    /// The guest writes to a device: whether that is all there is to do. May sleep; no read
    /// section of the bus.
    #[inline]
    pub fn write(&self, target: Target, bytes: &[u8]) -> bool {
        match self.asked() {
            None => false,
            Some(asked) => self.find(asked, target, bytes),
        }
    }

    #[inline(never)]
    fn find(&self, asked: &Asked<H>, target: Target, bytes: &[u8]) -> bool {
        let table = asked.table.read();
        if table.ring(target, bytes) {
            return true;
        }
        if !table.has_zone(target, bytes.len() as u64) {
            return false;
        }
        let _writer = asked.writer.lock();
        log::append(self.page.words(), target, bytes)
    }

    /// Whether some writes to the port are done here.
    pub fn wants_port(&self, port: u16) -> bool {
        self.asked().is_some_and(|asked| {
            let table = asked.table.read();
            table.has_listener(Target::Port(port)) || table.has_zone(Target::Port(port), 1)
        })
    }

    /// Has a bell rung from now on. May sleep; no lock held.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`] when some write would be for another listener too, [`Error::Full`],
    /// [`Error::NoMemory`].
    pub fn listen(&self, listener: Listener<H>) -> Result<(), Error> {
        self.change(Edit::Listen(listener))
    }

    /// Takes a listener like this one away: its bell is not rung any more. May sleep; no lock
    /// held.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::NoMemory`].
    pub fn forget(&self, listener: &Listener<H>) -> Result<(), Error> {
        self.change(Edit::Forget(listener))
    }

    /// Keeps writes to this zone from now on. May sleep; no lock held.
    ///
    /// # Errors
    ///
    /// [`Error::Full`], [`Error::NoMemory`].
    pub fn add_zone(&self, zone: Zone) -> Result<(), Error> {
        self.change(Edit::Add(zone))
    }

    /// Takes every zone away that has all of this one in it. May sleep; no lock held.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`].
    pub fn remove_zones(&self, zone: Zone) -> Result<(), Error> {
        self.change(Edit::Remove(zone))
    }

    fn asked(&self) -> Option<&Asked<H>> {
        self.asked.get()?.first()?.as_ref()
    }

    /// Changes a copy of the table, and puts it in the table's place unless that fails.
    #[inline(never)]
    fn change(&self, edit: Edit<'_, H>) -> Result<(), Error> {
        let _changes = self.changes.lock();
        let asked = self.asked();
        let next = match asked {
            Some(asked) => asked.table.read().edited(&self.hal, edit)?,
            None => Table::new(&self.hal).edited(&self.hal, edit)?,
        };
        let next = boxed(&self.hal, next)?;
        let Some(asked) = asked else {
            let mut asked = Some(Asked {
                table: Published::new(&self.hal, [next])?,
                writer: Mutex::new(&self.hal, &WRITE_LOG, ())?,
            });
            return self.asked.fill(|_| asked.take());
        };
        asked.table.replace(0, next).wait();
        Ok(())
    }
}
