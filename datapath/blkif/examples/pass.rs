//! What a pass of a ring costs without a loop, a wake-up or another process:
//! `cargo run --release -p blkif --example pass`.
//!
//! Nanoseconds of the backend for a request, copy included, on a disk that fits into the cache and on one
//! that does not.

use std::{
    error::Error,
    hint::black_box,
    io::Write,
    rc::Rc,
    time::{Duration, Instant},
};

use blkif::{
    Abi, Journal, Ring, Xen,
    mock::{Completion, Frontend, FrontendRequest, Guest, MockXen, Span},
};
use block::{Budget, Drive, Frontend as _, memory::Memory};

const ROUNDS: u32 = 3000;
const PAGE_BYTES: u64 = 4096;
const SECTORS_IN_PAGE: u64 = 8;

fn main() -> Result<(), Box<dyn Error>> {
    let root = scratch::Scratch::in_memory();
    let guest = Rc::new(Guest::create(root.path(), 1, 2048)?);
    let pages = guest.take_pages(32 * 16);
    let mut stdout = std::io::stdout();
    for mib in [1, 256] {
        let size = mib << 20;
        let mut drive = Drive::new(Memory::new(size)?);
        for at in (0..size).step_by(1 << 20) {
            drive.write(at, &[1; 1 << 20])?;
        }
        for (depth, count) in [(1, 1), (8, 1), (32, 1), (32, 16)] {
            for write in [false, true] {
                let mut frontend = Frontend::create(&guest, Abi::X86_64, 0)?;
                let domain = MockXen::new(root.path()).domain(1)?;
                let mut ring = Ring::connect(domain, &frontend.location(), Journal::create()?)?;
                let mut completions: Vec<Completion> = Vec::new();
                let (mut state, mut time) = (1_u64, Duration::ZERO);
                for _ in 0..ROUNDS {
                    for slot in 0..depth {
                        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        let place = (state >> 20) % (size / PAGE_BYTES - 16);
                        let first = pages + slot * count;
                        let spans = (first..first + count).map(Span::page).collect();
                        let sector = place * SECTORS_IN_PAGE;
                        let request = match write {
                            true => FrontendRequest::Write(sector, spans),
                            false => FrontendRequest::Read(sector, spans),
                        };
                        frontend.submit(&request).ok_or("a full ring")?;
                    }
                    frontend.push()?;
                    let start = Instant::now();
                    black_box(ring.turn(&mut drive, &mut Budget::turn()));
                    time += start.elapsed();
                    frontend.complete(&mut completions)?;
                    completions.clear();
                }
                let each = time.as_nanos() / u128::from(ROUNDS * depth);
                let what = if write { "write" } else { "read" };
                let kib = count * 4;
                writeln!(stdout, "{mib:>4} MiB, {kib:>3} KiB {what:<5} x {depth:>2}: {each} ns")?;
            }
        }
    }
    Ok(())
}
