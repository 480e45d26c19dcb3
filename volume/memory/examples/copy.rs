//! How fast mappings are written and read, beside memcpy: GB/s for payloads of several sizes.
//!
//! `hot` uses the same pages again and again; `cold` goes through a file that no cache holds.

use std::{
    fs::File,
    hint::black_box,
    io::{self, Write},
    time::Instant,
};

use memory::WriteMap;

const SIZES: [usize; 4] = [512, 4 << 10, 64 << 10, 1 << 20];
/// Larger than the caches.
const FILE_BYTES: usize = 256 << 20;
/// What one measurement moves.
const MOVED_BYTES: usize = 256 << 20;
const ROUNDS: usize = 9;

fn main() -> io::Result<()> {
    let file = File::from(rustix::fs::memfd_create("copy", rustix::fs::MemfdFlags::CLOEXEC)?);
    file.set_len(FILE_BYTES as u64)?;
    let map = WriteMap::new(&file, 0, FILE_BYTES)?;
    map.write(0, &vec![1; FILE_BYTES]);
    let mut private = vec![1u8; FILE_BYTES];
    let mut out = io::stdout();
    writeln!(out, "{:>9} {:>5} {:>8} {:>8} {:>8}", "bytes", "", "memcpy", "write", "read")?;
    for size in SIZES {
        let mut payload = vec![2u8; size];
        for (name, span) in [("hot", (2 * size).max(16 << 10)), ("cold", FILE_BYTES)] {
            let copy = speed(size, span, |at| {
                black_box(&mut private[at..at + size]).copy_from_slice(&payload);
            });
            let write = speed(size, span, |at| map.write(at, &payload));
            let read = speed(size, span, |at| map.reader().read(at, &mut payload));
            writeln!(out, "{size:>9} {name:>5} {copy:>8.2} {write:>8.2} {read:>8.2}")?;
        }
    }
    Ok(())
}

/// The best of some rounds in GB/s, `each` being called with the offsets of a span in an order
/// that the processor does not foresee.
fn speed(size: usize, span: usize, mut each: impl FnMut(usize)) -> f64 {
    let places = span / size;
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        let mut random = 1_u64;
        for _ in 0..MOVED_BYTES / size {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            each((random >> 33) as usize % places * size);
        }
        best = best.min(begin.elapsed().as_secs_f64());
    }
    MOVED_BYTES as f64 / best / 1e9
}
