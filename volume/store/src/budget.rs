//! Who may have how much memory. One count of pages, which all processes share, covers the data and the
//! metadata of an SR. The host's memory limits what it allows. The limits of the tmpfs mounts are only a
//! backstop.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{StatFs, fstatfs},
    time::{ClockId, clock_gettime},
};

use crate::{
    block::{PAGE_BYTES, pages},
    error::{Context, Error, ErrorKind, Result},
    files::{
        Directory, Dirs, Entry, OWN,
        counter::{Counter, Word},
    },
    memory::{Memory, human},
};

/// What changes of structure may take beyond the size of an SR, in bytes: snapshots of a full SR, and
/// what discards need so that they can free more than that.
const STRUCTURE_BYTES: u64 = 1 << 20;
/// What an SR takes beyond its size at most, in bytes: that, the SR's own files with the ballast, and
/// records while they are written anew. It is promised with the size.
pub(crate) const OVERHEAD_BYTES: u64 = 4 << 20;
/// The host's memory is looked at again after so many new pages: 16 MiB...
const LOOK_PAGES: u64 = (16 << 20) / PAGE_BYTES;
/// ... 1 MiB of a loaded file, which shares its count with no other...
const LOOK_PAGES_ALONE: u64 = LOOK_PAGES / 16;
/// ... or, where little is left above its watermark, after one part in this many of that...
const LOOK_PART: u64 = 8;
/// ... or after so many milliseconds.
const LOOK_AGE_MS: u32 = 100;
/// For how long the count is compared with the files before the difference is taken for an error. A
/// process allocates what it has counted, or counts what it has freed, within less.
const RECOUNT: Duration = Duration::from_millis(30);
/// The pause between two comparisons.
const RECOUNT_PAUSE: Duration = Duration::from_micros(200);

/// What memory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Data that is written, and the map pages that it needs.
    Data,
    /// What a change of structure needs, or what gives back as much right away: it may use what is kept
    /// for that beside the size.
    Structure,
}

/// The right of one process to allocate memory of an SR.
#[derive(Debug)]
pub(crate) struct Budget {
    words: Words,
    /// The count that all SRs of the host share, of what was granted of its memory.
    host: Option<Counter>,
    /// Pages, where the count does not say how many.
    size: u64,
    /// The SR, for errors; a loaded file has none.
    sr: Option<String>,
}

/// The words of the count.
#[derive(Debug)]
enum Words {
    Shared(Counter),
    /// Of a loaded file, which belongs to no SR.
    Own([AtomicU32; 4]),
}

impl Words {
    fn get(&self, word: Word) -> &AtomicU32 {
        match self {
            Self::Shared(counter) => counter.word(word),
            Self::Own(words) => &words[word as usize],
        }
    }
}

impl Budget {
    /// The budget of an SR of `size` bytes.
    pub(crate) fn of(dirs: &Dirs, size: u64) -> Result<Self> {
        let words = Words::Shared(dirs.counter()?.clone());
        let sr = Some(dirs.layout().uuid().to_string());
        Ok(Self { words, host: None, size: size / PAGE_BYTES, sr })
    }

    /// The same for a process that writes data: what it may take of the host's memory is granted to all
    /// disks of the host together.
    pub(crate) fn of_disk(dirs: &Dirs, size: u64) -> Result<Self> {
        // Without the file, as where the file system has no page left, the disks of each SR share a grant.
        Ok(Self { host: dirs.host_counter().ok(), ..Self::of(dirs, size)? })
    }

    /// The budget of a loaded file: only the host limits it.
    pub(crate) fn host() -> Self {
        let size = u64::from(u32::MAX);
        Self { words: Words::Own(Default::default()), host: None, size, sr: None }
    }

    /// Asks for new pages.
    ///
    /// # Errors
    /// [`ErrorKind::NoSpace`], with what is to be done.
    pub(crate) fn take(&self, count: u64, purpose: Purpose) -> Result<()> {
        // Changes of structure are small, and go on below the watermark: that is what it is for.
        if purpose == Purpose::Data && !self.host_allows(count) {
            return Err(self.host_is_low());
        }
        let more = |used: u32| {
            let used = u64::from(used) + count;
            // Read each time: the SR may have another size by now.
            u32::try_from(used).ok().filter(|_| used <= self.limit(purpose))
        };
        let used = self.words.get(Word::Used);
        match used.fetch_update(Ordering::AcqRel, Ordering::Acquire, more) {
            Ok(_) => Ok(()),
            Err(used) => Err(self.is_full(count, used.into())),
        }
    }

    /// Gives pages back.
    pub(crate) fn give(&self, count: u64) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let less = |used: u32| Some(used.saturating_sub(count));
        // The closure never refuses.
        let _before =
            self.words.get(Word::Used).fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
    }

    /// Refuses a change of structure that needs so many pages, if there is no room for them.
    ///
    /// # Errors
    /// [`ErrorKind::NoSpace`], with what is to be done.
    pub(crate) fn require(&self, count: u64) -> Result<()> {
        let used = u64::from(self.words.get(Word::Used).load(Ordering::Acquire));
        if used + count > self.limit(Purpose::Structure) {
            return Err(self.is_full(count, used));
        }
        Ok(())
    }

    /// Bytes that can be written, as far as the SR itself limits them.
    pub(crate) fn left(&self) -> u64 {
        let used = self.words.get(Word::Used).load(Ordering::Acquire);
        self.size().saturating_sub(used.into()) * PAGE_BYTES
    }

    /// Pages that the SR may take now.
    fn size(&self) -> u64 {
        match self.words.get(Word::Size).load(Ordering::Acquire) {
            0 => self.size,
            pages => pages.into(),
        }
    }

    fn limit(&self, purpose: Purpose) -> u64 {
        match purpose {
            Purpose::Data => self.size(),
            Purpose::Structure => self.size() + STRUCTURE_BYTES / PAGE_BYTES,
        }
    }

    /// Whether the host's memory allows so many new pages. It is read again when what was granted the
    /// last time is used up or old; all disks of the host share that.
    fn host_allows(&self, count: u64) -> bool {
        let word =
            |word| self.host.as_ref().map_or_else(|| self.words.get(word), |it| it.word(word));
        let (looked, granted) = (word(Word::Looked), word(Word::Granted));
        let now = milliseconds();
        let age = now.wrapping_sub(looked.load(Ordering::Relaxed));
        let take = |left: u32| u64::from(left).checked_sub(count)?.try_into().ok();
        if age < LOOK_AGE_MS
            && granted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
        {
            return true;
        }
        // Where the host does not say, the size is the only limit.
        let above = Memory::now().map_or(u64::MAX, |memory| memory.above_watermark()) / PAGE_BYTES;
        let most = if self.sr.is_some() { LOOK_PAGES } else { LOOK_PAGES_ALONE };
        let grant = if above < count { 0 } else { (above / LOOK_PART).clamp(1, most) };
        let left = u32::try_from(grant.saturating_sub(count)).unwrap_or(u32::MAX);
        granted.store(left, Ordering::Relaxed);
        looked.store(now, Ordering::Relaxed);
        above >= count
    }

    fn is_full(&self, count: u64, used: u64) -> Error {
        let sr = self.sr.as_deref().unwrap_or_default();
        let [size, used, wanted] = [self.size(), used, count].map(|pages| pages * PAGE_BYTES);
        Error::new(
            ErrorKind::NoSpace,
            format!(
                "SR {sr} is full: of {}, {} are in use by data and metadata, and {} more are needed; \
                 delete disks or snapshots (xe vdi-destroy), discard what the disks do not need (fstrim), \
                 give it more of the host's memory (volume-plugin resize --sr {sr} --size ...), or copy \
                 disks into a larger SR (xe vdi-copy)",
                human(size),
                human(used),
                human(wanted)
            ),
        )
    }

    fn host_is_low(&self) -> Error {
        let of = self.sr.as_ref().map_or_else(String::new, |sr| format!(" for SR {sr}"));
        Error::new(
            ErrorKind::NoSpace,
            format!(
                "this host has no memory left{of}: less than its watermark is available; delete disks \
                 or snapshots (xe vdi-destroy), stop programs, or give the control domain more memory"
            ),
        )
    }
}

/// What an SR takes, in bytes, by the file system's own count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) data: u64,
    /// Without the SR's own files.
    pub(crate) metadata: u64,
}

impl Usage {
    /// Measures it. Files that vanish meanwhile count as gone.
    pub(crate) fn of(dirs: &Dirs) -> Result<Self> {
        let data = match statfs(dirs, Directory::Data)? {
            Some(found) => used(&found),
            None => {
                let layers = dirs.numbers(Directory::Data)?;
                layers.into_iter().map(|layer| dirs.allocated(Entry::Layer(layer))).sum()
            }
        };
        let metadata = match statfs(dirs, Directory::Meta)? {
            Some(found) => {
                let own: u64 = OWN.iter().map(|&entry| dirs.allocated(entry)).sum();
                used(&found).saturating_sub(own)
            }
            None => metadata_by_files(dirs)?,
        };
        Ok(Self { data, metadata })
    }

    fn pages(self) -> u64 {
        pages(self.data + self.metadata)
    }
}

fn metadata_by_files(dirs: &Dirs) -> Result<u64> {
    let below = |it: &&Directory| it.place().0 == Some(Directory::Meta);
    let mut bytes = 0;
    for &directory in Directory::ALL.iter().filter(below) {
        let names = dirs.list(directory)?;
        let size = |name: &String| dirs.allocated(Entry::Named(directory, name));
        bytes += names.iter().map(size).sum::<u64>();
    }
    Ok(bytes)
}

/// The state of a place's own file system; `None` where it has none of its own.
pub(crate) fn statfs(dirs: &Dirs, place: Directory) -> Result<Option<StatFs>> {
    if !dirs.is_mounted(place) {
        return Ok(None);
    }
    let found = dirs.directory(place).and_then(|directory| Ok(fstatfs(directory)?));
    found.map(Some).doing("statfs", || dirs.layout().directory(place))
}

fn used(found: &StatFs) -> u64 {
    (found.f_blocks - found.f_bfree) * block_bytes(found)
}

fn block_bytes(found: &StatFs) -> u64 {
    u64::try_from(found.f_bsize).expect("a block size is positive")
}

/// Bytes that can be written to an SR of `size` bytes now: as its own count and the host's memory allow,
/// and the file system that it lies on where it has none of its own.
pub(crate) fn free(dirs: &Dirs, size: u64) -> Result<u64> {
    let own = Budget::of(dirs, size)?.left();
    let host = Memory::now().map_or(u64::MAX, |memory| memory.above_watermark());
    let below = match statfs(dirs, Directory::Data)? {
        Some(_) => u64::MAX,
        None => {
            let found = dirs.directory(Directory::Data).and_then(|data| Ok(fstatfs(data)?));
            let found = found.doing("statfs", || dirs.layout().directory(Directory::Data))?;
            // A tmpfs without a limit says that it has no blocks at all.
            if found.f_blocks == 0 { u64::MAX } else { found.f_bavail * block_bytes(&found) }
        }
    };
    Ok(own.min(host).min(below))
}

/// What the count says is in use, and what is, in bytes.
#[cfg(feature = "testing")]
pub(crate) fn counted(dirs: &Dirs) -> Result<(u64, u64)> {
    let usage = Usage::of(dirs)?;
    Ok((u64::from(dirs.counter()?.used()) * PAGE_BYTES, usage.data + usage.metadata))
}

/// Corrects the count, if processes were killed between counting and allocating, or between freeing and
/// counting. Processes may be at work meanwhile: their share of the difference comes and goes, so the
/// smallest difference that is seen for a while is the error. What the SR takes, as it was measured last.
pub(crate) fn recount(dirs: &Dirs) -> Result<Usage> {
    let counter = dirs.counter()?;
    let begun = Instant::now();
    let mut error: Option<i64> = None;
    loop {
        let used = counter.used();
        let usage = Usage::of(dirs)?;
        if counter.used() == used {
            let now = i64::from(used) - i64::try_from(usage.pages()).unwrap_or(i64::MAX);
            if now == 0 {
                return Ok(usage);
            }
            let smallest = error.is_none_or(|known| now.abs() <= known.abs());
            if smallest && begun.elapsed() >= RECOUNT {
                let right = i64::from(used) - now;
                if counter.correct(used, u32::try_from(right).unwrap_or(u32::MAX)) {
                    return Ok(usage);
                }
            } else if smallest {
                error = Some(now);
            }
        }
        // Where they never rest, the next call tries again.
        if begun.elapsed() >= RECOUNT * 4 {
            return Ok(usage);
        }
        thread::sleep(RECOUNT_PAUSE);
    }
}

/// The host's monotonic clock. It wraps after 49 days, and then the host is only looked at once more.
fn milliseconds() -> u32 {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    let milliseconds = now.tv_sec.wrapping_mul(1000).wrapping_add(now.tv_nsec / 1_000_000);
    (milliseconds & i64::from(u32::MAX)).try_into().unwrap_or_default()
}
