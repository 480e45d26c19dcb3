//! A disk as a program inside the guest sees it: reads and writes of any number of sectors, one at a time.

use std::{
    io,
    time::{Duration, Instant},
};

use super::{
    frontend::{Completion, Frontend, FrontendRequest},
    guest::Span,
};
use crate::{
    copies::PAGE_BYTES,
    layout::{SECTOR_BYTES, Status},
};

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(20);
/// Pages of data of one request.
const PAGES: usize = 32;

/// A frontend that is asked for one thing at a time.
#[derive(Debug)]
pub struct GuestDisk {
    /// The ring.
    pub frontend: Frontend,
    data: u32,
}

impl GuestDisk {
    /// Takes pages for data.
    #[must_use]
    pub fn new(frontend: Frontend) -> Self {
        let data = frontend.guest().take_pages(PAGES as u32);
        Self { frontend, data }
    }

    /// The first of its pages for data.
    #[must_use]
    pub fn data_page(&self) -> u32 {
        self.data
    }

    /// Submits a request and waits for its answer.
    ///
    /// # Errors
    /// Where the backend breaks the protocol, or does not answer for long.
    pub fn ask(&mut self, request: &FrontendRequest) -> io::Result<Status> {
        let id = self.frontend.submit(request).ok_or(io::ErrorKind::ResourceBusy)?;
        self.frontend.push()?;
        let start = Instant::now();
        let mut completions: Vec<Completion> = Vec::new();
        loop {
            self.frontend.complete(&mut completions).map_err(io::Error::other)?;
            if let Some(found) = completions.iter().find(|it| it.id == id) {
                return Ok(found.status);
            }
            if start.elapsed() > PATIENCE {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.frontend.wait(Duration::from_millis(100))?;
        }
    }

    fn spans(&self, bytes: usize) -> Vec<Span> {
        let sectors = bytes.div_ceil(SECTOR_BYTES as usize);
        let pages = sectors.div_ceil(8);
        (0..pages)
            .map(|page| Span {
                gref: self.data + page as u32,
                first: 0,
                last: ((sectors - page * 8).min(8) - 1) as u8,
            })
            .collect()
    }

    /// Reads whole sectors.
    ///
    /// # Errors
    /// Where the backend refuses it, or as [`ask`](Self::ask).
    pub fn read(&mut self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let mut at = offset;
        for part in into.chunks_mut(PAGES * PAGE_BYTES) {
            let request = FrontendRequest::Read(at / SECTOR_BYTES, self.spans(part.len()));
            okay(self.ask(&request)?)?;
            self.frontend.guest().read(self.data, 0, part);
            at += part.len() as u64;
        }
        Ok(())
    }

    /// Writes whole sectors.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut at = offset;
        for part in data.chunks(PAGES * PAGE_BYTES) {
            self.frontend.guest().write(self.data, 0, part);
            let request = FrontendRequest::Write(at / SECTOR_BYTES, self.spans(part.len()));
            okay(self.ask(&request)?)?;
            at += part.len() as u64;
        }
        Ok(())
    }
}

fn okay(status: Status) -> io::Result<()> {
    match status {
        Status::Okay => Ok(()),
        refused => Err(io::Error::other(format!("the backend answers {refused:?}"))),
    }
}
