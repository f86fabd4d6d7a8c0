//! The host's locks, owning what they protect.
//!
//! The mode in which [`RwLock`] is held is a type, [`ReadGuard`] or
//! [`WriteGuard`]: functions that need a lock take the guard as a parameter,
//! and a guard is evidence.
#![expect(unsafe_code, reason = "a lock gives access to what it protects")]
use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};

use waterbear_hal::{Hal, LockClass, RawMutex, RawRwLock};

use crate::Error;

/// A mutex around a value. Its holder may sleep.
pub struct Mutex<H: Hal, T> {
    raw: H::Mutex,
    value: UnsafeCell<T>,
}

// SAFETY: the raw mutex lets one thread at a time at the value, so the value
// must be `Send` and nothing more.
unsafe impl<H: Hal, T: Send> Sync for Mutex<H, T> {}
// SAFETY: owning the mutex is owning the value; raw locks are `Send`.
unsafe impl<H: Hal, T: Send> Send for Mutex<H, T> {}

impl<H: Hal, T> Mutex<H, T> {
    /// Makes a mutex of the given class. May sleep.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`].
    pub fn new(hal: &H, class: &'static LockClass, value: T) -> Result<Self, Error> {
        Ok(Self {
            raw: hal.new_mutex(class)?,
            value: UnsafeCell::new(value),
        })
    }

    /// Locks. May sleep.
    pub fn lock(&self) -> MutexGuard<'_, H, T> {
        self.raw.lock();
        self.guard()
    }

    /// As [`lock`](Mutex::lock), unless this thread's process is to end.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`].
    pub fn lock_killable(&self) -> Result<MutexGuard<'_, H, T>, Error> {
        if !self.raw.lock_killable() {
            return Err(Error::Interrupted);
        }
        Ok(self.guard())
    }

    /// For the thread that has just locked.
    fn guard(&self) -> MutexGuard<'_, H, T> {
        MutexGuard {
            mutex: self,
            not_send: PhantomData,
        }
    }
}

/// Evidence that a [`Mutex`] is locked by this thread.
pub struct MutexGuard<'a, H: Hal, T> {
    mutex: &'a Mutex<H, T>,
    not_send: PhantomData<*mut ()>,
}

impl<H: Hal, T> Deref for MutexGuard<'_, H, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the guard exists, so this thread holds the mutex.
        unsafe { &*self.mutex.value.get() }
    }
}

impl<H: Hal, T> DerefMut for MutexGuard<'_, H, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard exists and is borrowed mutably, so this is the
        // only access to the value.
        unsafe { &mut *self.mutex.value.get() }
    }
}

impl<H: Hal, T> Drop for MutexGuard<'_, H, T> {
    fn drop(&mut self) {
        // SAFETY: `lock` locked it on this thread; the guard is not `Send`.
        unsafe { self.mutex.raw.unlock() }
    }
}

/// A spinning reader-writer lock around a value.
pub struct RwLock<H: Hal, T> {
    raw: H::RwLock,
    value: UnsafeCell<T>,
}

// SAFETY: readers share the value (`Sync`), a writer has it alone (`Send`).
unsafe impl<H: Hal, T: Send + Sync> Sync for RwLock<H, T> {}
// SAFETY: owning the lock is owning the value; raw locks are `Send`.
unsafe impl<H: Hal, T: Send> Send for RwLock<H, T> {}

impl<H: Hal, T> RwLock<H, T> {
    /// Makes a lock of the given class. May sleep.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`].
    pub fn new(hal: &H, class: &'static LockClass, value: T) -> Result<Self, Error> {
        Ok(Self {
            raw: hal.new_rwlock(class)?,
            value: UnsafeCell::new(value),
        })
    }

    /// Locks for reading. Spins; interrupts on.
    pub fn read(&self) -> ReadGuard<'_, H, T> {
        self.raw.read();
        ReadGuard {
            lock: self,
            not_send: PhantomData,
        }
    }

    /// Locks for reading if that can be had at once. Interrupts may be off.
    pub fn try_read(&self) -> Option<ReadGuard<'_, H, T>> {
        self.raw.try_read().then(|| ReadGuard {
            lock: self,
            not_send: PhantomData,
        })
    }

    /// Locks for writing. Spins; interrupts on.
    pub fn write(&self) -> WriteGuard<'_, H, T> {
        self.raw.write();
        WriteGuard {
            lock: self,
            not_send: PhantomData,
        }
    }

    /// Whether somebody waits for the lock. A hint.
    pub fn is_contended(&self) -> bool {
        self.raw.is_contended()
    }
}

/// Evidence that a [`RwLock`] is held for reading by this thread.
pub struct ReadGuard<'a, H: Hal, T> {
    lock: &'a RwLock<H, T>,
    not_send: PhantomData<*mut ()>,
}

impl<H: Hal, T> Deref for ReadGuard<'_, H, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the guard exists, so there is no writer.
        unsafe { &*self.lock.value.get() }
    }
}

impl<H: Hal, T> Drop for ReadGuard<'_, H, T> {
    fn drop(&mut self) {
        // SAFETY: `read` locked it on this thread; the guard is not `Send`.
        unsafe { self.lock.raw.unlock_read() }
    }
}

/// Evidence that a [`RwLock`] is held for writing by this thread.
pub struct WriteGuard<'a, H: Hal, T> {
    lock: &'a RwLock<H, T>,
    not_send: PhantomData<*mut ()>,
}

impl<H: Hal, T> Deref for WriteGuard<'_, H, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the guard exists, so nobody else is at the value.
        unsafe { &*self.lock.value.get() }
    }
}

impl<H: Hal, T> DerefMut for WriteGuard<'_, H, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard exists and is borrowed mutably, so this is the
        // only access to the value.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<H: Hal, T> Drop for WriteGuard<'_, H, T> {
    fn drop(&mut self) {
        // SAFETY: `write` locked it on this thread; the guard is not `Send`.
        unsafe { self.lock.raw.unlock_write() }
    }
}
