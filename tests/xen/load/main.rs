//! Verified I/O inside a guest: threads write to and read from their parts of a disk past the page cache,
//! know what every sector has to contain, and compare.
//!
//!   xen-load DISK[,DISK...] SECONDS THREADS SEED [SECTORS]
//!
//! Several names of a disk, as of one that a guest has by its ring and as an emulated one, are ways to the
//! same bytes: each request takes one of them. No request between the first and the last of every sector is longer
//! than SECTORS (512).
//!
//! Every sector is read and compared once more at the end. The first wrong byte or error ends it.
//!
//!   xen-load rates DISK SECONDS THREADS read|write
//!
//! Requests of 4 KiB at random places, as many as there are answers; what they read is not looked at.
//!
//!   xen-load xenvbd DEVID x86_64-abi|x86_32-abi FILE
//!
//! What Windows' PV driver, with 64 or 32 bits, does with a disk that no driver of this kernel has; what has to be on it
//! then is in FILE, and what is on it before, where there is one.
//!
//!   xen-load hostile DEVID CORPUS SECONDS SEED
//!
//! What a guest may do to harm others: slots of blkif's CORPUS in the ring of such a disk, damaged, and indices that lie.

mod device;
mod hostile;
mod xenvbd;

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::fs::OFlags;

const USAGE: &str = "usage: xen-load DISK[,DISK...] SECONDS THREADS SEED [SECTORS]\n\
                     or: xen-load rates DISK SECONDS THREADS read|write\n\
                     or: xen-load xenvbd DEVID x86_64-abi|x86_32-abi FILE\n\
                     or: xen-load hostile DEVID CORPUS SECONDS SEED";
const SECTOR: usize = 512;
/// The longest request, in sectors.
const SECTORS_MAX: usize = 512;
/// Buffers for direct I/O begin at a multiple of this many bytes.
const ALIGNMENT: usize = 4096;
/// What requests of `rates` are of, in sectors.
const BLOCK_SECTORS: usize = 8;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    if let &["rates", disk, seconds, threads, way] = words.as_slice() {
        return rates(disk, Duration::from_secs(seconds.parse()?), threads.parse()?, way);
    }
    if let &["xenvbd", devid, abi, file] = words.as_slice() {
        return xenvbd::play(devid.parse()?, abi, Path::new(file));
    }
    if let &["hostile", devid, corpus, seconds, seed] = words.as_slice() {
        let time = Duration::from_secs(seconds.parse()?);
        return hostile::attack(devid.parse()?, Path::new(corpus), time, seed.parse()?);
    }
    let (&[disk, seconds, threads, seed], longest) = (
        words.first_chunk().context(USAGE)?,
        words.get(4).map_or(Ok(SECTORS_MAX), |it| it.parse())?,
    );
    let (threads, seed) = (threads.parse::<u64>()?, seed.parse::<u64>()?);
    let time = Duration::from_secs(seconds.parse()?);
    let disks: Vec<&str> = disk.split(',').collect();
    let sectors = sectors_of(Path::new(disks[0]))?;
    let part = sectors / threads;
    let workers: Vec<_> = (0..threads)
        .map(|number| {
            let worker = Worker::new(&disks, number * part, part, seed + number)?;
            Ok(thread::spawn(move || worker.run(time, longest)))
        })
        .collect::<Result<_>>()?;
    let mut done = Counts::default();
    for worker in workers {
        let counts = worker.join().map_err(|_| anyhow::anyhow!("a thread has panicked"))??;
        done.reads.add(&counts.reads);
        done.writes.add(&counts.writes);
        done.flushes.add(&counts.flushes);
    }
    let Counts { reads, writes, flushes } = done;
    let slowest = reads.slowest.max(writes.slowest).max(flushes.slowest);
    let mut out = io::stdout();
    writeln!(
        out,
        "load: {} reads of {} us, {} writes of {} us, {} flushes, slowest {slowest:?}: right",
        reads.number,
        reads.mean().as_micros(),
        writes.number,
        writes.mean().as_micros(),
        flushes.number
    )?;
    Ok(())
}

/// Counts the requests that are answered in a time.
fn rates(disk: &str, time: Duration, threads: usize, way: &str) -> Result<()> {
    let sectors = sectors_of(Path::new(disk))?;
    let begin = Instant::now();
    let workers: Vec<_> = (0..threads)
        .map(|number| {
            let mut worker = Worker::new(&[disk], 0, 0, number as u64)?;
            let blocks = usize::try_from(sectors)? / BLOCK_SECTORS;
            let write = way == "write";
            Ok(thread::spawn(move || worker.count(begin + time, blocks, write)))
        })
        .collect::<Result<_>>()?;
    let mut count = 0;
    for worker in workers {
        count += worker.join().map_err(|_| anyhow::anyhow!("a thread has panicked"))??;
    }
    let took = begin.elapsed().as_secs_f64();
    writeln!(io::stdout(), "rates: {way} {threads}: {count} in {took:.3} s")?;
    Ok(())
}

/// Length of a disk, in sectors.
fn sectors_of(disk: &Path) -> Result<u64> {
    let name = disk.file_name().and_then(|name| name.to_str()).context("no disk")?;
    Ok(std::fs::read_to_string(format!("/sys/block/{name}/size"))?.trim().parse()?)
}

#[derive(Debug, Default)]
struct Counts {
    reads: Count,
    writes: Count,
    flushes: Count,
}

/// Requests of one kind, and what they took: the system call alone, not what fills and compares a buffer.
#[derive(Debug, Default)]
struct Count {
    number: u32,
    time: Duration,
    slowest: Duration,
}

impl Count {
    fn add(&mut self, other: &Self) {
        self.number += other.number;
        self.time += other.time;
        self.slowest = self.slowest.max(other.slowest);
    }

    fn mean(&self) -> Duration {
        self.time.checked_div(self.number).unwrap_or_default()
    }
}

/// One thread and its part of the disk.
struct Worker {
    disks: Vec<File>,
    /// First sector.
    start: u64,
    /// How often each sector was written.
    generations: Vec<u32>,
    seed: u64,
    random: u64,
    buffer: Vec<u8>,
    expected: Vec<u8>,
    counts: Counts,
}

impl Worker {
    fn new(disks: &[&str], start: u64, sectors: u64, seed: u64) -> Result<Self> {
        let flags = i32::try_from(OFlags::DIRECT.bits()).context("O_DIRECT")?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(flags);
        Ok(Self {
            disks: disks.iter().map(|disk| options.open(disk)).collect::<io::Result<_>>()?,
            start,
            generations: vec![0; usize::try_from(sectors)?],
            seed,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            buffer: vec![0; SECTORS_MAX * SECTOR + ALIGNMENT],
            expected: vec![0; SECTORS_MAX * SECTOR],
            counts: Counts::default(),
        })
    }

    fn run(mut self, time: Duration, sectors_max: usize) -> Result<Counts> {
        // Every sector is known from here on.
        self.every(Self::write)?;
        let end = Instant::now() + time;
        while Instant::now() < end {
            let longest =
                if self.next().is_multiple_of(4) { sectors_max } else { sectors_max.min(16) };
            let count = (1 + self.next() % longest).min(self.generations.len());
            let first = self.next() % (self.generations.len() - count + 1);
            match self.next() % 32 {
                0 => self.counted(Self::flush, |counts| &mut counts.flushes)?,
                1..=16 => self.counted(|it| it.write(first, count), |counts| &mut counts.writes)?,
                _ => self.counted(|it| it.read(first, count), |counts| &mut counts.reads)?,
            }
        }
        self.every(Self::read)?;
        Ok(self.counts)
    }

    /// How many requests at random places were answered before a moment.
    fn count(&mut self, end: Instant, blocks: usize, write: bool) -> Result<u64> {
        let mut count = 0;
        while Instant::now() < end {
            let at = (self.next() % blocks * BLOCK_SECTORS * SECTOR) as u64;
            let bytes = aligned(&mut self.buffer, BLOCK_SECTORS);
            match write {
                true => self.disks[0].write_all_at(bytes, at)?,
                false => self.disks[0].read_exact_at(bytes, at)?,
            }
            count += 1;
        }
        Ok(count)
    }

    fn every(
        &mut self,
        mut act: impl FnMut(&mut Self, usize, usize) -> Result<Duration>,
    ) -> Result<()> {
        let mut first = 0;
        while first < self.generations.len() {
            let count = SECTORS_MAX.min(self.generations.len() - first);
            act(self, first, count)?;
            first += count;
        }
        Ok(())
    }

    fn counted(
        &mut self,
        act: impl FnOnce(&mut Self) -> Result<Duration>,
        counter: impl FnOnce(&mut Counts) -> &mut Count,
    ) -> Result<()> {
        let time = act(self)?;
        counter(&mut self.counts).add(&Count { number: 1, time, slowest: time });
        Ok(())
    }

    fn flush(&mut self) -> Result<Duration> {
        let start = Instant::now();
        self.disks[0].sync_data()?;
        Ok(start.elapsed())
    }

    /// How long it took.
    fn write(&mut self, first: usize, count: usize) -> Result<Duration> {
        self.generations[first..first + count].iter_mut().for_each(|generation| *generation += 1);
        self.expect(first, count);
        let way = self.next() % self.disks.len();
        let bytes = aligned(&mut self.buffer, count);
        bytes.copy_from_slice(&self.expected[..count * SECTOR]);
        let at = self.start + first as u64;
        let start = Instant::now();
        self.disks[way]
            .write_all_at(bytes, at * SECTOR as u64)
            .with_context(|| format!("write of {count} at {at}"))?;
        Ok(start.elapsed())
    }

    /// How long it took.
    fn read(&mut self, first: usize, count: usize) -> Result<Duration> {
        self.expect(first, count);
        let way = self.next() % self.disks.len();
        let bytes = aligned(&mut self.buffer, count);
        let at = self.start + first as u64;
        let start = Instant::now();
        self.disks[way]
            .read_exact_at(bytes, at * SECTOR as u64)
            .with_context(|| format!("read of {count} at {at}"))?;
        let time = start.elapsed();
        let expected = &self.expected[..count * SECTOR];
        let wrong = bytes.chunks(SECTOR).zip(expected.chunks(SECTOR)).position(|(a, b)| a != b);
        ensure!(wrong.is_none(), "sector {} is wrong", at + wrong.unwrap_or_default() as u64);
        Ok(time)
    }

    /// Fills `expected` with what sectors have to contain.
    fn expect(&mut self, first: usize, count: usize) {
        for (index, sector) in self.expected[..count * SECTOR].chunks_mut(SECTOR).enumerate() {
            let number = self.start + (first + index) as u64;
            let generation = u64::from(self.generations[first + index]);
            let mut word = self.seed ^ number << 20 ^ generation;
            for bytes in sector.chunks_exact_mut(8) {
                word = word.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                bytes.copy_from_slice(&(word ^ word >> 29).to_ne_bytes());
            }
        }
    }

    fn next(&mut self) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as usize
    }
}

/// The part of a buffer that direct I/O of so many sectors can use.
fn aligned(buffer: &mut [u8], sectors: usize) -> &mut [u8] {
    let skip = buffer.as_ptr().align_offset(ALIGNMENT);
    &mut buffer[skip..skip + sectors * SECTOR]
}
