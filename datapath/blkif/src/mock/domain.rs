//! The backend's half: a guest as its ring reaches it.

use std::{
    fmt::Write as _,
    fs::{File, OpenOptions},
    io,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
    task::Poll,
};

use block::Interest;
use memory::{Copying, Reuse, Slice, WriteMap, WriteSlice};
use rustix::io::Errno;

use super::{domain_dir, events::Events, keys_path, memory_path, port_paths};
use crate::{
    copies::{Copies, Grant, Local, OKAY, PAGE_BYTES, Segment},
    domain::{Domain, Features, Update, Updating, Xen},
};

/// `GNTST_bad_gntref`: the guest has not granted that page.
const BAD_GRANT: i16 = -3;

/// Of so many copies the beginnings are fetched together, before the first of them.
const FETCHED_TOGETHER: usize = 16;

static ZEROES: [u8; PAGE_BYTES] = [0; PAGE_BYTES];

/// All guests that have a directory in one.
#[derive(Clone, Debug)]
pub struct MockXen {
    dir: PathBuf,
}

impl MockXen {
    /// The guests of a directory.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }
}

impl Xen for MockXen {
    fn domain(&self, domid: u32) -> io::Result<Box<dyn Domain>> {
        let path = memory_path(&self.dir, domid);
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let length = usize::try_from(file.metadata()?.len()).map_err(|_| Errno::OVERFLOW)?;
        let memory = WriteMap::new(&file, 0, length)?;
        Ok(Box::new(MockDomain { dir: self.dir.clone(), domid, file, memory, events: None }))
    }

    fn update(&self, domid: u32, devid: u32, update: &Update) -> io::Result<Box<dyn Updating>> {
        let path = keys_path(&self.dir, domid, devid);
        let mut text = std::fs::read_to_string(&path).unwrap_or_default();
        for (key, value) in keys(update) {
            // A string takes everything.
            let _written = writeln!(text, "{key}={value}");
        }
        std::fs::write(&path, text)?;
        Ok(Box::new(Done(File::open(domain_dir(&self.dir, domid))?)))
    }

    /// A file beside the guest's memory has both, with a space between.
    fn guest_disk(&self, domid: u32, devid: u32) -> io::Result<[String; 2]> {
        let path = domain_dir(&self.dir, domid).join(format!("names-{devid}"));
        let text = std::fs::read_to_string(path)?;
        let (machine, device) = text.split_once(' ').ok_or(Errno::INVAL)?;
        Ok([machine, device].map(str::to_owned))
    }
}

fn keys(update: &Update) -> Vec<(&'static str, u64)> {
    match *update {
        Update::Sectors(sectors) => vec![("sectors", sectors), ("state", 4)],
        Update::Features(Features { flush, discard, indirect_segments_max }) => {
            let mut keys = vec![("feature-flush-cache", flush.into())];
            if let Some((granularity, alignment)) = discard {
                keys.push(("feature-discard", 1));
                keys.push(("discard-granularity", granularity.into()));
                keys.push(("discard-alignment", alignment.into()));
            }
            if indirect_segments_max > 0 {
                keys.push(("feature-max-indirect-segments", indirect_segments_max.into()));
            }
            keys
        }
    }
}

/// An update that is done at once.
#[derive(Debug)]
struct Done(File);

impl AsFd for Done {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Updating for Done {
    fn interest(&self) -> Interest {
        Interest::default()
    }

    fn turn(&mut self) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Has the first line of a block fetched. It may lie anywhere on a large disk, and the translation of its address
/// is then in no cache either.
#[inline]
fn prefetch(local: &Local) {
    match local {
        Local::FromBlock(slice) => slice.prefetch(),
        Local::ToBlock(place) => place.reader().prefetch(),
        Local::ToBuffer(_) | Local::Zeroes => {}
    }
}

#[derive(Debug)]
struct MockDomain {
    dir: PathBuf,
    domid: u32,
    file: File,
    memory: WriteMap,
    events: Option<Events>,
}

impl MockDomain {
    /// Where a range of a page lies in the guest's memory.
    #[inline]
    fn place(&self, grant: Grant) -> Option<usize> {
        let at = grant.gref() as usize * PAGE_BYTES + usize::from(grant.offset());
        let end = at + usize::from(grant.length());
        (end <= self.memory.reader().length()).then_some(at)
    }

    /// Carries out a copy, of which `next` is the one behind it.
    #[inline]
    fn copy_one(
        &self,
        copying: &mut Copying,
        grant: Grant,
        local: &Local,
        next: Option<&Local>,
        buffer: &mut [u8],
    ) -> i16 {
        let Some(at) = self.place(grant) else { return BAD_GRANT };
        let length = usize::from(grant.length());
        match local {
            Local::ToBlock(place) => {
                let from = Slice::new(self.memory.reader(), at, length);
                copying.copy(&from, place, Reuse::Late);
            }
            Local::ToBuffer(to) => self.memory.reader().read(at, &mut buffer[*to..*to + length]),
            Local::FromBlock(slice) => {
                let next = match next {
                    Some(Local::FromBlock(next)) => next,
                    _ => slice,
                };
                let to = WriteSlice::new(&self.memory, at, length);
                copying.copy_before(slice, &to, Reuse::Soon, next);
            }
            Local::Zeroes => self.memory.write(at, &ZEROES[..length]),
        }
        OKAY
    }
}

impl Domain for MockDomain {
    fn map(&mut self, grefs: &[u32]) -> io::Result<WriteMap> {
        let first = *grefs.first().ok_or(Errno::INVAL)?;
        // One mapping of a file: the pages have to lie one behind the other.
        let follow = (first..).zip(grefs).all(|(expected, &gref)| gref == expected);
        let length = grefs.len() * PAGE_BYTES;
        let granted = self.place(Grant::new(first, 0, PAGE_BYTES)).is_some()
            && self.place(Grant::new(grefs[grefs.len() - 1], 0, PAGE_BYTES)).is_some();
        if !follow || !granted {
            return Err(Errno::INVAL.into());
        }
        WriteMap::new(&self.file, u64::from(first) * PAGE_BYTES as u64, length)
    }

    fn bind(&mut self, port: u32) -> io::Result<()> {
        let paths = port_paths(&self.dir, self.domid, port);
        if !paths.iter().all(|path| Path::exists(path)) {
            return Err(Errno::INVAL.into());
        }
        self.events = Some(Events::open(paths)?);
        Ok(())
    }

    fn copy(&mut self, copies: &mut Copies) -> io::Result<()> {
        let (segments, buffer) = copies.parts();
        let mut copying = Copying::new();
        for segments in segments.chunks_mut(FETCHED_TOGETHER) {
            segments.iter().for_each(|segment| prefetch(segment.local()));
            for index in 0..segments.len() {
                let (segment, behind) = segments[index..].split_first_mut().expect("a segment");
                let (grant, local) = (segment.grant(), segment.local());
                let next = behind.first().map(Segment::local);
                segment.status = self.copy_one(&mut copying, grant, local, next, buffer);
            }
        }
        Ok(())
    }

    fn notify(&mut self) -> io::Result<()> {
        self.events.as_ref().map_or(Ok(()), Events::notify)
    }

    fn take_event(&mut self) -> io::Result<bool> {
        self.events.as_ref().map_or(Ok(false), Events::take)
    }
}

impl AsFd for MockDomain {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_ref().map_or_else(|| self.file.as_fd(), AsFd::as_fd)
    }
}
