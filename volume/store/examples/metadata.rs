//! What metadata takes: while a disk is backed up again and again, and for each block that is written, of
//! dense, scattered and snapshotted disks. `cargo run --release -p store --example metadata [rounds]`

use std::{error::Error, io::Write};

use store::testing::{Disks, Fixture};

const BLOCK: u64 = 4096;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const ROUNDS: u64 = 1000;
/// The disk of the backups.
const BACKED_UP_BYTES: u64 = 8 * MIB;

fn main() -> Result<(), Box<dyn Error>> {
    let rounds = std::env::args().nth(1).map_or(Ok(ROUNDS), |text| text.parse())?;
    backups(rounds)?;
    per_block("dense", GIB, (0..GIB).step_by(4096), 0)?;
    per_block("one block in 64 KiB", 16 * GIB, (0..16 * GIB).step_by(64 << 10), 0)?;
    per_block("one block in 4 MiB", 1024 * GIB, (0..256 * GIB).step_by(4 << 20), 0)?;
    for snapshots in [1, 10, 100] {
        // After each snapshot other blocks of the same chunks.
        let at = |place: u64| (place % 64) * 4 * MIB + place / 64 * BLOCK;
        let places = (0..64 * (snapshots + 1)).map(at);
        let label = format!("one block in 4 MiB after each of {snapshots} snapshots");
        per_block(&label, GIB, places, snapshots)?;
    }
    Ok(())
}

/// Snapshot, destroy the snapshot, rewrite, while the disk is served.
fn backups(rounds: u64) -> Result<(), Box<dyn Error>> {
    let fixture = Fixture::new(GIB);
    let key = fixture.create(BACKED_UP_BYTES.try_into()?);
    let mut disks = Disks::default();
    disks.0.insert(key.clone(), fixture.open(&key, false)?);
    let data = vec![1; usize::try_from(BACKED_UP_BYTES)?];
    for round in 0..=rounds {
        disks.0.get_mut(&key).ok_or("served here")?.write(0, &data)?;
        if [0, 1, 10, 100].contains(&round) || round == rounds {
            let stat = fixture.sr.stat()?;
            writeln!(
                std::io::stdout(),
                "after {round} rounds of snapshot, destroy, rewrite: {} KiB of data, {} of metadata",
                stat.used >> 10,
                stat.metadata >> 10
            )?;
        }
        let snapshot = fixture.lock().snapshot_volume(&key, &mut disks)?.key;
        fixture.lock().destroy_volume(snapshot.as_str(), &mut disks)?;
    }
    Ok(())
}

/// Writes blocks at `places` of a disk, with so many snapshots in between.
fn per_block(
    label: &str,
    size: u64,
    places: impl Iterator<Item = u64>,
    snapshots: u64,
) -> Result<(), Box<dyn Error>> {
    let fixture = Fixture::new(4 * GIB);
    let key = fixture.create(size.try_into()?);
    let mut disks = Disks::default();
    disks.0.insert(key.clone(), fixture.open(&key, false)?);
    let before = fixture.sr.stat()?.metadata;
    let places: Vec<u64> = places.collect();
    let count = places.len() as u64;
    let between = count / (snapshots + 1);
    for (number, at) in (0..).zip(places) {
        if number > 0 && number % between == 0 && snapshots > 0 {
            fixture.lock().snapshot_volume(&key, &mut disks)?;
        }
        disks.0.get_mut(&key).ok_or("served here")?.write(at, &[1; 4096])?;
    }
    let stat = fixture.sr.stat()?;
    let bytes = stat.metadata - before;
    writeln!(
        std::io::stdout(),
        "{label}: {count} blocks, {} KiB of metadata, {} bytes for each block",
        bytes >> 10,
        bytes / count
    )?;
    Ok(())
}
