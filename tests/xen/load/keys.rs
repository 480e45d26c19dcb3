//! Xenstore through the kernel's device, one request at a time.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
};

use anyhow::{Result, bail};

/// `XSD_READ` and others of `xen/io/xs_wire.h`.
mod kind {
    pub(super) const READ: u32 = 2;
    pub(super) const TRANSACTION_START: u32 = 6;
    pub(super) const TRANSACTION_END: u32 = 7;
    pub(super) const WRITE: u32 = 11;
    pub(super) const RM: u32 = 13;
    pub(super) const ERROR: u32 = 16;
}

/// A connection to xenstored.
pub(crate) struct Keys {
    device: File,
    transaction: u32,
}

impl Keys {
    pub(crate) fn open() -> Result<Self> {
        let device = OpenOptions::new().read(true).write(true).open("/dev/xen/xenbus")?;
        Ok(Self { device, transaction: 0 })
    }

    /// The value of a key; `None` where it does not exist.
    pub(crate) fn read(&mut self, path: &str) -> Result<Option<String>> {
        match self.call(kind::READ, &format!("{path}\0"))? {
            Ok(value) => Ok(Some(value)),
            Err(error) if error == "ENOENT" => Ok(None),
            Err(error) => bail!("reading {path}: {error}"),
        }
    }

    pub(crate) fn write(&mut self, path: &str, value: &str) -> Result<()> {
        match self.call(kind::WRITE, &format!("{path}\0{value}"))? {
            Ok(_) => Ok(()),
            Err(error) => bail!("writing {path}: {error}"),
        }
    }

    /// Removes a key, if it is there.
    pub(crate) fn remove(&mut self, path: &str) -> Result<()> {
        match self.call(kind::RM, &format!("{path}\0"))? {
            Err(error) if error != "ENOENT" => bail!("removing {path}: {error}"),
            _ => Ok(()),
        }
    }

    /// Writes several keys at once.
    pub(crate) fn write_all(&mut self, keys: &[(String, String)]) -> Result<()> {
        loop {
            self.transaction = 0;
            match self.call(kind::TRANSACTION_START, "\0")? {
                Ok(number) => self.transaction = number.trim_end_matches('\0').parse()?,
                Err(error) => bail!("beginning a transaction: {error}"),
            }
            for (path, value) in keys {
                self.write(path, value)?;
            }
            let ended = self.call(kind::TRANSACTION_END, "T\0")?;
            self.transaction = 0;
            match ended {
                Ok(_) => return Ok(()),
                Err(error) if error == "EAGAIN" => {}
                Err(error) => bail!("ending a transaction: {error}"),
            }
        }
    }

    fn call(&mut self, kind: u32, payload: &str) -> Result<Result<String, String>> {
        let mut request = Vec::new();
        for number in [kind, 0, self.transaction, u32::try_from(payload.len())?] {
            request.extend(number.to_ne_bytes());
        }
        request.extend(payload.as_bytes());
        self.device.write_all(&request)?;
        let mut head = [0; 16];
        self.device.read_exact(&mut head)?;
        let number = |at: usize| u32::from_ne_bytes([0, 1, 2, 3].map(|i| head[at + i]));
        let mut answer = vec![0; number(12) as usize];
        self.device.read_exact(&mut answer)?;
        let text = String::from_utf8(answer)?;
        Ok(if number(0) == kind::ERROR {
            Err(text.trim_end_matches('\0').to_owned())
        } else {
            Ok(text)
        })
    }
}
