//! Who may come in now: the server's own state, then the limits of key and account.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::auth::caller::Caller;
use crate::error::Error;
use crate::pressure::Pressure;
use crate::rate_limit::{Class, Permit, RateLimits, Status};

/// The handle to the door. Cheap to clone.
#[derive(Clone)]
pub struct Admission {
    limits: RateLimits,
    pressure: Pressure,
    draining: Arc<AtomicBool>,
}

impl Admission {
    /// An open door.
    pub fn new(limits: RateLimits, pressure: Pressure) -> Self {
        Self { limits, pressure, draining: Arc::default() }
    }

    /// Lets nobody in any more: the server is stopping.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether the server keeps up.
    pub fn pressure(&self) -> &Pressure {
        &self.pressure
    }

    /// Whether the server is stopping.
    pub fn draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// How many keys and accounts the limiter remembers.
    pub fn limiter_entries(&self) -> usize {
        self.limits.entries()
    }

    /// Whether the server keeps up with one more turn, whoever asks for it. A turn has to ask this once.
    ///
    /// # Errors
    /// [`Error::Overloaded`].
    pub fn knock(&self) -> Result<(), Error> {
        if self.pressure.refuses() { Err(Error::Overloaded) } else { Ok(()) }
    }

    /// Lets a call in, and tells what the rate headers say either way.
    pub fn admit(&self, caller: &Arc<Caller>, class: Class) -> (Result<Permit, Error>, Status) {
        if self.draining() {
            return (Err(Error::Draining), Status::default());
        }
        if class == Class::Chat
            && let Err(suspended) = caller.active()
        {
            return (Err(suspended), Status::default());
        }
        self.limits.admit(caller, class)
    }
}
