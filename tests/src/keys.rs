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
    pub(super) const SET_PERMS: u32 = 14;
    pub(super) const ERROR: u32 = 16;
}

/// A connection to xenstored.
#[derive(Debug)]
pub struct Keys {
    device: File,
    transaction: u32,
}

impl Keys {
    /// Opens the device.
    ///
    /// # Errors
    /// Where there is none.
    pub fn open() -> Result<Self> {
        let device = OpenOptions::new().read(true).write(true).open("/dev/xen/xenbus")?;
        Ok(Self { device, transaction: 0 })
    }

    /// The value of a key; `None` where it does not exist.
    ///
    /// # Errors
    /// Where xenstored refuses it, or cannot be reached.
    pub fn read(&mut self, path: &str) -> Result<Option<String>> {
        match self.call(kind::READ, &format!("{path}\0"))? {
            Ok(value) => Ok(Some(value)),
            Err(error) if error == "ENOENT" => Ok(None),
            Err(error) => bail!("reading {path}: {error}"),
        }
    }

    /// Sets the value of a key, which is made.
    ///
    /// # Errors
    /// Where xenstored refuses it, or cannot be reached.
    pub fn write(&mut self, path: &str, value: &str) -> Result<()> {
        match self.call(kind::WRITE, &format!("{path}\0{value}"))? {
            Ok(_) => Ok(()),
            Err(error) => bail!("writing {path}: {error}"),
        }
    }

    /// Removes a key, where it is there, and everything below it.
    ///
    /// # Errors
    /// Where xenstored refuses it, or cannot be reached.
    pub fn remove(&mut self, path: &str) -> Result<()> {
        match self.call(kind::RM, &format!("{path}\0"))? {
            Err(error) if error != "ENOENT" => bail!("removing {path}: {error}"),
            _ => Ok(()),
        }
    }

    /// Sets the permissions of a key, each of them as `n0` or `r1`.
    ///
    /// # Errors
    /// Where xenstored refuses it, or cannot be reached.
    pub fn permit(&mut self, path: &str, permissions: &[&str]) -> Result<()> {
        let permissions: String = permissions.iter().map(|it| format!("{it}\0")).collect();
        match self.call(kind::SET_PERMS, &format!("{path}\0{permissions}"))? {
            Ok(_) => Ok(()),
            Err(error) => bail!("permissions of {path}: {error}"),
        }
    }

    /// Changes several keys at once, again where others have changed them meanwhile.
    ///
    /// # Errors
    /// That of a change, or where xenstored refuses it, or cannot be reached.
    pub fn at_once(&mut self, mut change: impl FnMut(&mut Self) -> Result<()>) -> Result<()> {
        loop {
            self.transaction = 0;
            match self.call(kind::TRANSACTION_START, "\0")? {
                Ok(number) => self.transaction = number.trim_end_matches('\0').parse()?,
                Err(error) => bail!("beginning a transaction: {error}"),
            }
            let changed = change(self);
            let ended =
                self.call(kind::TRANSACTION_END, if changed.is_ok() { "T\0" } else { "F\0" });
            self.transaction = 0;
            changed?;
            match ended? {
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
