//! What a client of a disk notices of swap, for `tests/xen/zram.sh`: puts data on a disk, reads places of it for the
//! first time and once more, and reads a working set again and again.
//!
//!   xen-cold SOCKET EXPORT write FILE FIRST END   the blocks of FILE from FIRST MiB to END MiB, which are not zeroes
//!   xen-cold SOCKET EXPORT compare FILE FIRST END   the same blocks are read and have to be equal
//!   xen-cold SOCKET EXPORT touch COUNT SEED [FIRST END]   reads that many blocks with data, each once, then once more
//!   xen-cold SOCKET EXPORT rate MIB SECONDS    reads blocks of the first MiB of data, at random: a rate each second

use std::{
    fs::File,
    io::{self, Write},
    os::unix::fs::FileExt,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nbd::{
    client::{Client, Reply, Wish},
    wire::{chunk, command},
};

const USAGE: &str = "usage: xen-cold SOCKET EXPORT write|compare FILE FIRST END, touch COUNT SEED [FIRST END], or \
                     rate MIB SECONDS";
const BLOCK_BYTES: usize = 4096;
const MIB: u64 = 1 << 20;
/// So many reads are under way at a time: an emulated processor needs milliseconds to wake a process, which would hide
/// everything else.
const DEPTH: usize = 64;
/// A block status is asked for so many bytes at a time.
const STATUS_BYTES: u64 = 1 << 30;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (&[socket, export, what], rest) = words.split_first_chunk().context(USAGE)?;
    let wish = Wish { name: export.as_bytes(), ..Wish::default() };
    let mut client = Client::connect(socket, &wish)?;
    match (what, rest) {
        ("write", [file, range @ ..]) => write(&mut client, &File::open(file)?, parse(range)?),
        ("compare", [file, range @ ..]) => compare(&mut client, &File::open(file)?, parse(range)?),
        ("touch", [count, seed]) => {
            let range = (0, client.size());
            touch(&mut client, count.parse()?, seed.parse()?, range)
        }
        ("touch", [count, seed, range @ ..]) => {
            touch(&mut client, count.parse()?, seed.parse()?, parse(range)?)
        }
        ("rate", [mib, seconds]) => rate(&mut client, mib.parse()?, seconds.parse()?),
        _ => bail!(USAGE),
    }
}

/// Bytes of a range that is given in MiB.
fn parse(words: &[&str]) -> Result<(u64, u64)> {
    let &[first, end] = words else { bail!(USAGE) };
    Ok((first.parse::<u64>()? * MIB, end.parse::<u64>()? * MIB))
}

fn say(line: std::fmt::Arguments<'_>) -> Result<()> {
    Ok(writeln!(io::stdout(), "{line}")?)
}

/// Goes through a file in steps of 1 MiB.
fn in_steps(
    file: &File,
    (first, end): (u64, u64),
    mut each: impl FnMut(u64, &[u8]) -> Result<()>,
) -> Result<()> {
    let end = end.min(file.metadata()?.len());
    let mut buffer = vec![0; MIB as usize];
    for at in (first..end).step_by(buffer.len()) {
        let length = buffer.len().min((end - at) as usize);
        file.read_exact_at(&mut buffer[..length], at)?;
        each(at, &buffer[..length])?;
    }
    Ok(())
}

fn is_data(block: &[u8]) -> bool {
    block.iter().any(|&byte| byte != 0)
}

/// Zeroes take no memory: a request is sent for each run of blocks between them.
fn write(client: &mut Client, file: &File, range: (u64, u64)) -> Result<()> {
    let (begin, mut written) = (Instant::now(), 0);
    in_steps(file, range, |at, bytes| {
        let same = |a: &&[u8], b: &&[u8]| is_data(a) == is_data(b);
        let blocks: Vec<&[u8]> = bytes.chunks(BLOCK_BYTES).collect();
        let mut from = 0;
        for run in blocks.chunk_by(same) {
            let length = run.iter().map(|block| block.len()).sum::<usize>();
            if is_data(run[0]) {
                client
                    .write(at + from as u64, &bytes[from..from + length])
                    .with_context(|| format!("at {} MiB, after {written} bytes", at / MIB))?;
                written += length;
            }
            from += length;
        }
        Ok(())
    })?;
    say(format_args!("written: {written} bytes in {:.1} s", begin.elapsed().as_secs_f64()))
}

fn compare(client: &mut Client, file: &File, range: (u64, u64)) -> Result<()> {
    let mut compared = 0;
    in_steps(file, range, |at, bytes| {
        if is_data(bytes) {
            let found = client.read(at, u32::try_from(bytes.len())?)?;
            ensure!(found == bytes, "the disk has other data at {} MiB", at / MIB);
            compared += bytes.len();
        }
        Ok(())
    })?;
    say(format_args!("compared: {compared} bytes"))
}

/// Offsets of all blocks with data.
fn blocks(client: &mut Client, (first, end): (u64, u64)) -> Result<Vec<u64>> {
    let end = end.min(client.size());
    let (mut found, mut at) = (Vec::new(), first);
    while at < end {
        let length = u32::try_from(STATUS_BYTES.min(end - at))?;
        let extents = client.status(at, length, false)?;
        ensure!(!extents.is_empty(), "no status at {at}");
        for extent in extents {
            let stop = (at + extent.length).min(end);
            if !extent.hole && !extent.zero {
                found.extend((at..stop).step_by(BLOCK_BYTES));
            }
            at = stop;
        }
    }
    ensure!(!found.is_empty(), "the disk has no data");
    Ok(found)
}

/// Numbers that look random (xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        for shift in [13_i32, -7, 17] {
            self.0 ^= if shift > 0 { self.0 << shift } else { self.0 >> -shift };
        }
        (self.0 % limit as u64) as usize
    }
}

/// Reads a block at each of these places, all at a time.
fn read_all(client: &mut Client, places: &[u64]) -> Result<()> {
    let length = BLOCK_BYTES as u32;
    for &at in places {
        client.submit(0, command::READ, at, length, &[])?;
    }
    // In whichever order they come.
    let mut left = places.len();
    while left > 0 {
        match client.receive()? {
            Reply::Chunk { done, kind, .. } if kind & chunk::ERROR_BIT == 0 => {
                left -= usize::from(done)
            }
            other => bail!("the server has answered {other:?}"),
        }
    }
    Ok(())
}

fn touch(client: &mut Client, count: usize, seed: u64, range: (u64, u64)) -> Result<()> {
    let mut places = blocks(client, range)?;
    let mut numbers = Numbers(seed * 2 + 1);
    let count = count.min(places.len());
    for index in 0..count {
        let other = index + numbers.below(places.len() - index);
        places.swap(index, other);
    }
    for time in ["first", "again"] {
        // Of one read among those that are under way with it.
        let mut taken = Vec::with_capacity(count / DEPTH + 1);
        for places in places[..count].chunks(DEPTH) {
            let begin = Instant::now();
            read_all(client, places)?;
            taken.push(begin.elapsed() / u32::try_from(places.len())?);
        }
        let mean = taken.iter().sum::<Duration>() / u32::try_from(taken.len())?;
        taken.sort();
        let [least, median] = [0, taken.len() / 2].map(|index| taken[index].as_micros());
        say(format_args!(
            "{time}: {count} reads, us for each: least {least}, median {median}, mean {}",
            mean.as_micros()
        ))?;
    }
    Ok(())
}

fn rate(client: &mut Client, mib: u64, seconds: usize) -> Result<()> {
    let end = client.size();
    let mut places = blocks(client, (0, end))?;
    places.truncate((mib * MIB) as usize / BLOCK_BYTES);
    let mut numbers = Numbers(88_172_645_463_325_252);
    let mut rates = Vec::new();
    while rates.len() < seconds {
        let (begin, mut count) = (Instant::now(), 0);
        while begin.elapsed() < Duration::from_secs(1) {
            let round: Vec<u64> = (0..DEPTH).map(|_| places[numbers.below(places.len())]).collect();
            read_all(client, &round)?;
            count += DEPTH;
        }
        rates.push(count);
    }
    let words: Vec<String> = rates.iter().map(usize::to_string).collect();
    say(format_args!("reads a second: {}", words.join(" ")))
}
