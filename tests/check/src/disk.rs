//! The bytes of an attached volume, by the first way to them that this host can open.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt,
};

use serde_json::Value;

use crate::{nbd::Client, outcome::Stop};

/// What reads and writes.
#[derive(Debug)]
pub enum Disk {
    /// A server on a socket.
    Nbd(Client),
    /// A file, or a block device.
    Path { path: String, file: File },
}

impl Disk {
    /// Opens what Datapath.attach has answered.
    ///
    /// # Errors
    /// The rule is skipped where this program can open none of it, and cannot be judged where it should.
    pub fn open(backend: &Value) -> Result<Self, Stop> {
        let mut told = Vec::new();
        let all = backend["implementations"].as_array().cloned().unwrap_or_default();
        for implementation in &all {
            let (tag, value) = (implementation[0].as_str().unwrap_or_default(), &implementation[1]);
            let found = match tag {
                "Nbd" => Self::nbd(value["uri"].as_str().unwrap_or_default()),
                "File" | "BlockDevice" => Self::path(value["path"].as_str().unwrap_or_default()),
                other => Err(format!("{other} takes Xen's tools")),
            };
            match found {
                Ok(disk) => return Ok(disk),
                Err(why) => told.push(why),
            }
        }
        Err(Stop::skip(format!("this program cannot read the disk: {}", told.join("; "))))
    }

    fn nbd(uri: &str) -> Result<Self, String> {
        let parts: Vec<&str> = uri.split(':').collect();
        let ["nbd", "unix", socket, name] = parts[..] else {
            return Err(format!("{uri} is no URI that the daemon can read"));
        };
        let name = name.strip_prefix("exportname=").unwrap_or(name);
        Client::connect(socket.as_ref(), name).map(Self::Nbd).map_err(|it| format!("{uri}: {it}"))
    }

    fn path(path: &str) -> Result<Self, String> {
        let file = OpenOptions::new().read(true).write(true).open(path);
        let file = file.or_else(|_| File::open(path)).map_err(|it| format!("{path}: {it}"))?;
        Ok(Self::Path { path: path.to_owned(), file })
    }

    /// The size that a guest would see.
    #[must_use]
    pub fn size(&self) -> Option<u64> {
        match self {
            Self::Nbd(client) => Some(client.size()),
            Self::Path { file, .. } => {
                file.metadata().ok().filter(|it| it.is_file()).map(|it| it.len())
            }
        }
    }

    /// Reads, as a guest would.
    ///
    /// # Errors
    /// The rule is broken.
    pub fn read(&mut self, offset: u64, length: usize) -> Result<Vec<u8>, Stop> {
        let mut bytes = vec![0; length];
        let read = match self {
            Self::Nbd(client) => client.read(offset, &mut bytes),
            Self::Path { file, .. } => file.read_exact_at(&mut bytes, offset),
        };
        let told = |error| Stop::fail(format!("reading {length} bytes at {offset}: {error}"));
        read.map(|()| bytes).map_err(told)
    }

    /// Writes, as a guest would, and waits until that is stored.
    ///
    /// # Errors
    /// The rule is broken.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Stop> {
        self.try_write(offset, bytes).map_err(|error| {
            Stop::fail(format!("writing {} bytes at {offset}: {error}", bytes.len()))
        })
    }

    /// The same with the error itself.
    ///
    /// # Errors
    /// Those of the server or the file.
    pub fn try_write(&mut self, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Nbd(client) => client.write(offset, bytes).and_then(|()| client.flush()),
            Self::Path { file, path } => file
                .write_all_at(bytes, offset)
                .and_then(|()| file.sync_data())
                .map_err(|it| std::io::Error::new(it.kind(), format!("{path}: {it}"))),
        }
    }
}
