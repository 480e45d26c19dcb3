//! Xenstore over xenstored's socket, one request at a time.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
};

use anyhow::{Result, bail};

/// `XSD_READ` and others of `xen/io/xs_wire.h`.
mod kind {
    pub(super) const READ: u32 = 2;
    pub(super) const WRITE: u32 = 11;
    pub(super) const RM: u32 = 13;
    pub(super) const SET_PERMS: u32 = 14;
    pub(super) const ERROR: u32 = 16;
}

/// A connection to xenstored.
pub(crate) struct Store(UnixStream);

impl Store {
    pub(crate) fn open() -> Result<Self> {
        Ok(Self(UnixStream::connect("/run/xenstored/socket")?))
    }

    /// The value of a key; `None` where it does not exist.
    pub(crate) fn read(&mut self, path: &str) -> Result<Option<String>> {
        match self.call(kind::READ, format!("{path}\0").as_bytes())? {
            Ok(value) => Ok(Some(String::from_utf8(value)?)),
            Err(error) if error == "ENOENT" => Ok(None),
            Err(error) => bail!("reading {path}: {error}"),
        }
    }

    pub(crate) fn write(&mut self, path: &str, value: &str) -> Result<()> {
        self.done(kind::WRITE, path, value)
    }

    /// Sets permissions, each with a NUL behind it.
    pub(crate) fn permit(&mut self, path: &str, permissions: &str) -> Result<()> {
        self.done(kind::SET_PERMS, path, permissions)
    }

    /// Removes a directory and everything in it.
    pub(crate) fn remove(&mut self, path: &str) -> Result<()> {
        self.done(kind::RM, path, "")
    }

    fn done(&mut self, kind: u32, path: &str, rest: &str) -> Result<()> {
        match self.call(kind, format!("{path}\0{rest}").as_bytes())? {
            Ok(_) => Ok(()),
            Err(error) => bail!("request {kind} for {path}: {error}"),
        }
    }

    fn call(&mut self, kind: u32, payload: &[u8]) -> Result<Result<Vec<u8>, String>> {
        let mut request = Vec::new();
        for number in [kind, 0, 0, u32::try_from(payload.len())?] {
            request.extend(number.to_ne_bytes());
        }
        request.extend(payload);
        self.0.write_all(&request)?;
        let mut head = [0; 16];
        self.0.read_exact(&mut head)?;
        let number = |at: usize| u32::from_ne_bytes([0, 1, 2, 3].map(|i| head[at + i]));
        let mut answer = vec![0; number(12) as usize];
        self.0.read_exact(&mut answer)?;
        if number(0) == kind::ERROR {
            let name = String::from_utf8_lossy(&answer);
            return Ok(Err(name.trim_end_matches('\0').to_owned()));
        }
        Ok(Ok(answer))
    }
}
