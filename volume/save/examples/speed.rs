//! How fast an SR is saved and restored, beside `zstd -1` on the same data, and what a second save writes:
//!
//! `cargo run --release -p save --example speed -- <file with data> <directory on a disk> [GiB]`
//!
//! The file is written into a volume again and again until that has so many GiB (default: one); each copy differs, so
//! that nothing is saved by being equal. The times have a sync of what was written in them.

use std::{
    fs::{self, File},
    io::{Read, Write},
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use save::Saves;
use store::{
    Name, Restore, Restored,
    testing::{Fixture, SR_UUID, attachment},
};

const STEP: usize = 1 << 20;
/// More is not compared with zstd.
const COPIED_GIB_MAX: u64 = 2;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, file, directory, rest @ ..] = &arguments[..] else {
        panic!("a file and a directory");
    };
    let gib: u64 = rest.first().map_or(1, |text| text.parse().expect("a number of GiB"));
    let bytes = gib << 30;
    let fixture = Fixture::new(bytes + (256 << 20));
    let key = fixture.create(bytes.cast_signed());
    let copy = fixture.root().join(".data");
    // What is compared is in memory twice.
    let copied = if gib > COPIED_GIB_MAX { 0 } else { bytes };
    fill(&fixture, &key, Path::new(file), bytes, (copied > 0).then_some(&copy));
    let saves = Saves::new(Path::new(directory), &Name::parse(SR_UUID).expect("a UUID"));
    for round in ["first save", "second save of the same"] {
        let begun = Instant::now();
        let lock = fixture.sr.lock().expect("an attached SR");
        let still = lock.still(false).expect("an idle SR");
        let written = saves.write(&still, "speed", &()).expect("a save");
        tell(round, bytes, begun, written.written_bytes);
    }
    if copied > 0 {
        pack(&copy, &Path::new(directory).join("packed.zst"), copied);
    }
    fixture.host.destroy(&Name::parse(SR_UUID).expect("a UUID")).expect("an idle SR");
    let begun = Instant::now();
    let newest = saves.newest_good().expect("the saves").0.expect("a save");
    let restore = Restore {
        contents: newest.contents(),
        restored: Restored::default(),
        fill: &mut |filler| newest.fill(filler, &()),
    };
    let wanted = attachment(&fixture.host, bytes + (256 << 20));
    fixture.host.attach_saved(&wanted, restore).expect("a restore");
    tell("restore", bytes, begun, 0);
    saves.remove().expect("the saves");
}

/// Has zstd pack the plain file.
fn pack(copy: &Path, packed: &Path, bytes: u64) {
    let begun = Instant::now();
    let status =
        Command::new("zstd").args(["-1", "-q", "-f"]).arg(copy).arg("-o").arg(packed).status();
    assert!(status.expect("zstd").success());
    File::open(packed).and_then(|file| file.sync_all()).expect("a sync");
    tell("zstd -1", bytes, begun, fs::metadata(packed).expect("its result").len());
    fs::remove_file(copy).expect("the copy");
    fs::remove_file(packed).expect("what was packed");
}

/// Writes the file into the volume, and the same bytes into a plain file in memory.
fn fill(fixture: &Fixture, key: &str, file: &Path, bytes: u64, copy: Option<&PathBuf>) {
    let mut disk = fixture.open(key, false).expect("an idle volume");
    let mut copy = copy.map(|copy| File::create(copy).expect("a file in memory"));
    let mut source = File::open(file).expect("the file");
    let mut buffer = vec![0; STEP];
    for (number, at) in (0..bytes).step_by(STEP).enumerate() {
        let mut filled = 0;
        while filled < STEP {
            match source.read(&mut buffer[filled..]).expect("the file") {
                0 => source = File::open(file).expect("the file"),
                count => filled += count,
            }
        }
        buffer
            .chunks_mut(1 << 16)
            .for_each(|part| part[..8].copy_from_slice(&number.to_ne_bytes()));
        disk.write(at, &buffer).expect("room");
        if let Some(copy) = &mut copy {
            copy.write_all(&buffer).expect("room");
        }
    }
}

fn tell(what: &str, bytes: u64, begun: Instant, written: u64) {
    let seconds = begun.elapsed().as_secs_f64();
    let rate = (bytes >> 20) as f64 / seconds;
    let line = format!("{what}: {seconds:.2} s, {rate:.0} MiB/s, {} MiB written\n", written >> 20);
    std::io::stdout().write_all(line.as_bytes()).expect("standard output");
}
