//! A disk of this guest that no driver of its kernel has: its nodes in xenstore, and the states of both sides.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use end_to_end::Keys;

/// `enum xenbus_state` of `xen/io/xenbus.h`.
pub(crate) mod state {
    pub(crate) const INITIALISING: u32 = 1;
    pub(crate) const INIT_WAIT: u32 = 2;
    pub(crate) const INITIALISED: u32 = 3;
    pub(crate) const CONNECTED: u32 = 4;
    pub(crate) const CLOSING: u32 = 5;
    pub(crate) const CLOSED: u32 = 6;
}

/// How long the backend may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(5);

pub(crate) struct Device {
    pub(crate) keys: Keys,
    pub(crate) frontend: String,
    /// The domain of the backend.
    pub(crate) backend: u16,
}

impl Device {
    pub(crate) fn open(devid: u32) -> Result<Self> {
        let mut keys = Keys::open()?;
        let frontend = format!("device/vbd/{devid}");
        let backend = keys.read(&format!("{frontend}/backend-id"))?.context("no such disk")?;
        Ok(Self { keys, frontend, backend: backend.parse()? })
    }

    /// A number that the backend has written.
    pub(crate) fn told(&mut self, key: &str) -> Result<Option<u64>> {
        // It may be another backend each time.
        let backend =
            self.keys.read(&format!("{}/backend", self.frontend))?.context("no backend")?;
        let value = self.keys.read(&format!("{backend}/{key}"))?;
        Ok(value.map(|it| it.parse()).transpose()?)
    }

    /// Writes keys of the frontend at once.
    pub(crate) fn tell<'a>(
        &mut self,
        keys: impl IntoIterator<Item = (&'a str, String)>,
    ) -> Result<()> {
        let path = |(key, value)| (format!("{}/{key}", self.frontend), value);
        let keys: Vec<_> = keys.into_iter().map(path).collect();
        self.keys.at_once(|it| keys.iter().try_for_each(|(path, value)| it.write(path, value)))
    }

    pub(crate) fn forget(&mut self, key: &str) -> Result<()> {
        self.keys.remove(&format!("{}/{key}", self.frontend))
    }

    pub(crate) fn set_state(&mut self, state: u32) -> Result<()> {
        self.keys.write(&format!("{}/state", self.frontend), &state.to_string())
    }

    /// Waits until the backend's state is none of those.
    pub(crate) fn wait_while(&mut self, states: &[u32]) -> Result<u32> {
        let start = Instant::now();
        loop {
            let state = self.told("state")?.context("no state")? as u32;
            if !states.contains(&state) {
                return Ok(state);
            }
            ensure!(start.elapsed() < PATIENCE, "the backend stays in state {state}");
            thread::sleep(PAUSE);
        }
    }

    /// Has the backend close the device, whatever state it is in.
    pub(crate) fn close(&mut self) -> Result<()> {
        let mut backend = self.wait_while(&[state::INITIALISING])?;
        while backend != state::CLOSING && backend != state::CLOSED {
            self.set_state(state::CLOSING)?;
            backend = self.wait_while(&[backend])?;
        }
        while backend != state::CLOSED {
            self.set_state(state::CLOSED)?;
            backend = self.wait_while(&[backend])?;
        }
        Ok(())
    }

    /// Begins anew with a device that is closed.
    pub(crate) fn begin(&mut self) -> Result<()> {
        self.set_state(state::INITIALISING)?;
        let backend = self.wait_while(&[state::CLOSED, state::INITIALISING])?;
        ensure!(backend == state::INIT_WAIT, "the backend is in state {backend}");
        Ok(())
    }

    /// Has the backend connect to the ring that it was told of.
    pub(crate) fn connect(&mut self) -> Result<()> {
        self.set_state(state::INITIALISED)?;
        let early = [state::INIT_WAIT, state::INITIALISING, state::INITIALISED];
        let backend = self.wait_while(&early)?;
        ensure!(backend == state::CONNECTED, "the backend is in state {backend}");
        Ok(())
    }
}
