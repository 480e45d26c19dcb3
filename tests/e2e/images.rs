//! Volumes as files on a disk of the host, by `volume-plugin export` and `import`; QEMU's programs judge the files.

use std::{
    fs::{self, File},
    io::Read,
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use end_to_end::{Disk, Xapi, tools};
use scratch::Scratch;
use serde_json::json;

use crate::MIB;
use crate::maintenance::{assert_sound, maintain};

/// A disk whose size is no multiple of a block, nor of a cluster of an image.
const SIZE: u64 = 64 * MIB + 512;
const GIB: u64 = 1 << 30;

/// A directory on a disk, and paths in it as text.
struct Files(Scratch);

impl Files {
    fn new() -> Self {
        Self(Scratch::on_disk())
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().expect("a path in UTF-8").to_owned()
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn export(xapi: &Xapi, sr: &str, key: &str, file: &str, more: &[&str]) {
    let line = [&["export", "--sr", sr, "--key", key, "--file", file], more].concat();
    maintain(xapi, &line).success();
}

/// The key of the volume that is made.
fn import(xapi: &Xapi, sr: &str, file: &str, more: &[&str]) -> String {
    let line = [&["import", "--sr", sr, "--file", file], more].concat();
    let said = maintain(xapi, &line).success().get_output().stdout.clone();
    let said = String::from_utf8(said).unwrap();
    said.split(' ').nth(1).expect("volume <key> ...").to_owned()
}

/// A command that is refused with a sentence that has all these parts.
#[track_caller]
fn refused(xapi: &Xapi, line: &[&str], parts: &[&str]) {
    let output = maintain(xapi, line).failure().get_output().clone();
    let said = String::from_utf8(output.stderr).unwrap();
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in {said:?}");
    }
}

/// All bytes of a volume.
fn content(xapi: &Xapi, sr: &str, key: &str) -> Vec<u8> {
    let disk = Disk::plug(xapi, sr, key, "7", true).unwrap();
    let mut client = disk.connect();
    let (mut bytes, size) = (Vec::new(), client.size());
    while (bytes.len() as u64) < size {
        let length = (size - bytes.len() as u64).min(16 * MIB);
        bytes.extend(client.read(bytes.len() as u64, u32::try_from(length).unwrap()).unwrap());
    }
    drop(client);
    disk.unplug();
    bytes
}

/// Data at the beginning, at the very end, and on both sides of a hole.
fn fill(disk: &Disk<'_>, seed: u64) {
    let mut client = disk.connect();
    for (number, (offset, length)) in
        [(512, 5000), (20 * MIB - 3 * 512, 300_000), (SIZE - 1024, 1024)].into_iter().enumerate()
    {
        client.write(offset, &tools::noise(seed + number as u64, length)).unwrap();
    }
    client.write(40 * MIB, &vec![0; 1 << 20]).unwrap();
}

/// Noise at the beginning of a disk.
fn make_noise(disk: &Disk<'_>, bytes: usize) {
    let mut client = disk.connect();
    for (at, part) in (0..).step_by(16 << 20).zip(tools::noise(1, bytes).chunks(16 << 20)) {
        client.write(at, part).unwrap();
    }
}

/// Ends a writer, also where an assertion has failed: its scope waits for it.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Memory that a file takes on its disk.
fn allocated(path: &str) -> u64 {
    fs::metadata(path).unwrap().blocks() * 512
}

#[test]
fn a_disk_in_use_goes_out_and_comes_back_in_each_format_byte_for_byte() {
    if !tools::present(&["qemu-img"]) {
        return;
    }
    let (xapi, files) = (Xapi::new(), Files::new());
    let sr = xapi.create_sr("1GiB");
    let key = xapi.create_vdi(&sr, SIZE);
    let disk = xapi.plug(&sr, &key, "5");
    fill(&disk, 1);
    let snapshot = xapi.volume("Volume.snapshot", json!({"sr": sr, "key": key})).unwrap();
    let snapshot = snapshot["key"].as_str().unwrap();
    fill(&disk, 100);
    // The disk is in use, and the snapshot is not.
    let mut made = Vec::new();
    for (name, key) in [("disk", key.as_str()), ("snapshot", snapshot)] {
        let [raw, qcow2] = ["raw", "qcow2"].map(|format| files.path(&format!("{name}.{format}")));
        export(&xapi, &sr, key, &raw, &[]);
        export(&xapi, &sr, key, &qcow2, &[]);
        assert_eq!(fs::metadata(&raw).unwrap().len(), SIZE);
        assert_eq!(fs::metadata(&raw).unwrap().mode() & 0o777, 0o600, "it is for root alone");
        assert!(allocated(&raw) < MIB, "holes are holes: {} bytes", allocated(&raw));
        assert!(allocated(&qcow2) < 2 * MIB, "{} bytes", allocated(&qcow2));
        tools::run("qemu-img", &["check", "-f", "qcow2", &qcow2]);
        tools::run("qemu-img", &["compare", "-f", "raw", "-F", "qcow2", &raw, &qcow2]);
        made.push((raw, qcow2));
    }
    // The standard output has all of it, holes as zeroes.
    let line = ["export", "--sr", &sr, "--key", &key, "--file", "-"];
    let piped = xapi.volume_plugin().args(line).output().unwrap();
    assert!(piped.status.success(), "{piped:?}");
    assert!(piped.stdout == fs::read(&made[0].0).unwrap(), "the pipe has another disk");
    disk.unplug();
    assert_eq!(files.names().len(), 4, "nothing else is left: {:?}", files.names());
    for (key, (raw, qcow2)) in [(key.as_str(), &made[0]), (snapshot, &made[1])] {
        let wanted = content(&xapi, &sr, key);
        assert!(wanted == fs::read(raw).unwrap(), "the file of {key} has another disk");
        for file in [raw, qcow2] {
            let used = xapi.data_in_use(&sr);
            let copy = import(&xapi, &sr, file, &["--name", "came in"]);
            assert!(content(&xapi, &sr, &copy) == wanted, "{file} was another disk");
            let taken = xapi.data_in_use(&sr) - used;
            assert!(taken < MIB, "{taken} bytes for {file}: zeroes take none");
            let stat = xapi.stat(&sr, &copy).unwrap();
            assert_eq!((&stat["name"], &stat["virtual_size"]), (&json!("came in"), &json!(SIZE)));
            assert_eq!(stat["read_write"], true);
            xapi.volume("Volume.destroy", json!({"sr": sr, "key": copy})).unwrap();
        }
    }
    assert_sound(&xapi, &sr);
}

/// A writer puts a number into one block and then into another one, far behind it. Whatever moment an export has,
/// the second block has no number that the first one lacks, and at most one less.
#[test]
fn an_export_has_a_disk_that_is_written_to_as_it_was_at_one_moment() {
    if !tools::present(&["qemu-img"]) {
        return;
    }
    const FAR: u64 = 48 * MIB;
    let (xapi, files) = (Xapi::new(), Files::new());
    let sr = xapi.create_sr("1GiB");
    let key = xapi.create_vdi(&sr, SIZE);
    let disk = xapi.plug(&sr, &key, "5");
    make_noise(&disk, 32 << 20);
    let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let stopped = Stop(&stop);
        scope.spawn(|| {
            let (mut client, mut number) = (disk.connect(), 0_u64);
            while !stop.load(Ordering::Relaxed) {
                number += 1;
                for offset in [0, FAR] {
                    client.write(offset, &number.to_ne_bytes().repeat(512)).unwrap();
                }
                written.store(number, Ordering::Release);
            }
        });
        let mut last = 0;
        for round in 0..4 {
            // Before its first number, the disk has noise.
            while written.load(Ordering::Acquire) <= last {
                thread::sleep(Duration::from_millis(1));
            }
            let (file, raw) = (files.path("moving"), files.path("moving.raw"));
            let format = ["raw", "qcow2"][round % 2];
            export(&xapi, &sr, &key, &file, &["--force", "--format", format]);
            tools::run("qemu-img", &["convert", "-f", format, "-O", "raw", &file, &raw]);
            let number = |offset| {
                let mut bytes = [0; 8];
                File::open(&raw).unwrap().read_exact_at(&mut bytes, offset).unwrap();
                u64::from_ne_bytes(bytes)
            };
            let (first, second) = (number(0), number(FAR));
            assert!(first == second || first == second + 1, "{second} was written after {first}");
            assert!(first > last, "{first} is no later moment than {last}");
            last = first;
        }
        drop(stopped);
    });
    disk.unplug();
    maintain(&xapi, &["gc", "--sr", &sr]).success();
    assert_eq!(xapi.data_in_use(&sr), (32 << 20) + 4096, "no memory stays with exports");
    assert_sound(&xapi, &sr);
}

#[test]
fn a_tebibyte_with_little_in_it_takes_little_time_and_room() {
    if !tools::present(&["qemu-img"]) {
        return;
    }
    const TIB: u64 = 1 << 40;
    let (xapi, files) = (Xapi::new(), Files::new());
    let sr = xapi.create_sr("1GiB");
    let key = xapi.create_vdi(&sr, TIB);
    let disk = xapi.plug(&sr, &key, "5");
    let places = [0, TIB / 2 + 4096, TIB - 4096];
    for place in places {
        disk.connect().write(place, &tools::noise(place | 1, 4096)).unwrap();
    }
    disk.unplug();
    let [raw, qcow2] = ["large.raw", "large.qcow2"].map(|name| files.path(name));
    export(&xapi, &sr, &key, &raw, &[]);
    export(&xapi, &sr, &key, &qcow2, &[]);
    assert_eq!(fs::metadata(&raw).unwrap().len(), TIB);
    assert!(allocated(&raw) <= 3 * 4096 + 65536 && allocated(&qcow2) < 4 * MIB);
    for file in [&raw, &qcow2] {
        let used = xapi.used(&sr);
        let copy = import(&xapi, &sr, file, &[]);
        assert!(xapi.used(&sr) - used < MIB, "{} bytes for {file}", xapi.used(&sr) - used);
        let disk = xapi.plug(&sr, &copy, "5");
        for place in places {
            assert_eq!(disk.connect().read(place, 4096).unwrap(), tools::noise(place | 1, 4096));
        }
        disk.unplug();
    }
    assert_sound(&xapi, &sr);
}

#[test]
fn what_cannot_be_exported_is_refused_with_what_to_do_and_leaves_what_was_there() {
    let (xapi, files) = (Xapi::new(), Files::new());
    let sr = xapi.create_sr("64MiB");
    let key = xapi.create_vdi(&sr, MIB);
    let line = |file: &str, more: &[&str], parts: &[&str]| {
        let line = [&["export", "--sr", &sr, "--key", &key, "--file", file], more].concat();
        refused(&xapi, &line, parts);
    };
    let there = files.path("there");
    fs::write(&there, "mine").unwrap();
    line(&there, &[], &["exists", "--force", &there]);
    line(&files.path("no/disk"), &[], &["does not exist", "mkdir"]);
    line(&files.path("."), &["--force"], &["no plain file"]);
    line(&files.path("disk"), &["--format", "vmdk"], &["\"vmdk\"", "raw and qcow2"]);
    line("-", &["--format", "qcow2"], &["raw only"]);
    let missing = ["export", "--sr", &sr, "--key", "no-such", "--file", &files.path("disk")];
    refused(&xapi, &missing, &["there is no volume no-such"]);
    // Another export writes there.
    let partial = File::create(files.path("disk.partial")).unwrap();
    partial.lock().unwrap();
    line(&files.path("disk"), &[], &["disk.partial is being written by another process"]);
    drop(partial);
    let mut bare = xapi.volume_plugin();
    bare.args(["export", "--sr", &sr, "--key", &key, "--file", &files.path("disk.qcow2")]);
    let output = bare.env("PATH", "/nonexistent").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("qemu-img") && said.contains("qemu-utils on Debian"), "{said}");
    assert_eq!(fs::read(&there).unwrap(), b"mine");
    export(&xapi, &sr, &key, &there, &["--force"]);
    assert_eq!(fs::metadata(&there).unwrap().len(), MIB);
    export(&xapi, &sr, &key, &files.path("disk"), &[]);
    assert_eq!(files.names(), ["disk", "there"], "nothing is left of those that were refused");
}

/// On a small file system: too little room is told before anything is written, or, where it cannot be known before,
/// when it turns out. Nothing is left of the file.
#[test]
fn too_little_room_on_the_disk_is_told_with_the_numbers() {
    if !tools::present(&["unshare", "qemu-img"]) {
        return;
    }
    let (xapi, files) = (Xapi::new(), Files::new());
    let sr = xapi.create_sr("64MiB");
    let key = xapi.create_vdi(&sr, 32 * MIB);
    let disk = xapi.plug(&sr, &key, "5");
    let on_full_disk = |format: &str| {
        let place = files.path("small");
        fs::create_dir_all(&place).unwrap();
        let plugin = xapi.volume_plugin();
        let program = plugin.get_program().to_str().unwrap();
        let script = format!(
            "mount -t tmpfs -o size=4m none {place} && \
             {program} export --sr {sr} --key {key} --file {place}/disk --format {format}; ls -A {place} >&2"
        );
        let mut command = Command::new("unshare");
        command.args(["-rm", "sh", "-c", &script]).env("LC_ALL", "C");
        command.envs(plugin.get_envs().map(|(name, value)| (name, value.unwrap_or_default())));
        let said = String::from_utf8(command.output().unwrap().stderr).unwrap();
        assert!(said.contains("make room there") && said.contains("free"), "{said}");
        assert_eq!(said.lines().count(), 1, "something is left: {said}");
        said
    };
    disk.connect().write(0, &tools::noise(1, 8 << 20)).unwrap();
    for format in ["raw", "qcow2"] {
        assert!(on_full_disk(format).contains("8 MiB of data do not fit"));
    }
    // What fits as raw does not with the tables of an image.
    disk.connect().trim(0, 8 << 20).unwrap();
    disk.connect().write(0, &tools::noise(1, (4 << 20) - 8192)).unwrap();
    let said = on_full_disk("qcow2");
    assert!(said.contains("No space left on device"), "{said}");
    disk.unplug();
    maintain(&xapi, &["gc", "--sr", &sr]).success();
    assert_eq!(xapi.data_in_use(&sr), (4 << 20) - 8192);
}

#[test]
fn what_cannot_be_imported_is_refused_with_what_to_do_and_leaves_no_volume() {
    if !tools::present(&["qemu-img"]) {
        return;
    }
    let (xapi, files) = (Xapi::new(), Files::new());
    let sr = xapi.create_sr("16MiB");
    let empty = xapi.used(&sr);
    let line = |file: &str, more: &[&str], parts: &[&str]| {
        refused(&xapi, &[&["import", "--sr", &sr, "--file", file], more].concat(), parts);
    };
    let file = |name: &str, bytes: &[u8]| {
        fs::write(files.path(name), bytes).unwrap();
        files.path(name)
    };
    line(&files.path("none"), &[], &["none", "No such file"]);
    line(&files.path("."), &[], &["neither a plain file nor a block device"]);
    line(&file("odd", &[1; 1000]), &[], &["1000 bytes", "512", "truncate"]);
    line(&file("empty", b""), &[], &["0 bytes", "nothing to import"]);
    line(&file("text.qcow2", &[1; 1024]), &[], &["is no qcow2 image", "--format raw"]);
    // An image that another file belongs to could have any file of the host read.
    let [base, image, disguised] =
        ["base.raw", "image.qcow2", "disk.raw"].map(|name| files.path(name));
    fs::write(&base, vec![7; 65536]).unwrap();
    tools::run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", &base, "-F", "raw", &image]);
    line(&image, &[], &["needs other files", "qemu-img convert"]);
    let bytes = fs::copy(&image, &disguised).unwrap();
    let sectors = File::options().write(true).open(&disguised).unwrap();
    sectors.set_len(bytes.next_multiple_of(512)).unwrap();
    line(&disguised, &[], &["begins as a qcow2 image", "--format raw"]);
    let external = files.path("external.qcow2");
    let options = format!("data_file={}", files.path("external.data"));
    tools::run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", &options, &external, "1M"]);
    line(&external, &[], &["needs other files"]);
    // Zeroes that a file holds take no memory, so that only its data counts.
    let mut large = vec![0; 64 << 20];
    large[..20 << 20].copy_from_slice(&tools::noise(1, 20 << 20));
    let large = file("large.raw", &large);
    line(&large, &[], &["64 MiB with 20 MiB of data", "does not fit into the SR", "16 MiB left"]);
    let packed = files.path("large.qcow2");
    tools::run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &large, &packed]);
    line(&packed, &[], &["does not fit into the SR", "resize"]);
    let huge = files.path("huge.qcow2");
    tools::run("qemu-img", &["create", "-q", "-f", "qcow2", &huge, "17T"]);
    line(&huge, &[], &["17 TiB", "at most 16 TiB"]);
    assert_eq!(xapi.volume("SR.ls", json!({ "sr": sr })).unwrap(), json!([]));
    assert_eq!(xapi.used(&sr), empty, "nothing is left in memory");
    // As it is, where that is said.
    let copy = import(&xapi, &sr, &disguised, &["--format", "raw"]);
    assert!(content(&xapi, &sr, &copy) == fs::read(&disguised).unwrap());
    assert_sound(&xapi, &sr);
}

/// Killed at whatever moment, an export leaves no file under its name, and an import no volume; and no memory.
#[test]
fn a_kill_leaves_neither_half_a_file_nor_half_a_volume() {
    const ROUNDS: u32 = 10;
    if !tools::present(&["qemu-img"]) {
        return;
    }
    let (xapi, files) = (Xapi::new(), Files::new());
    let sr = xapi.create_sr("1GiB");
    let key = xapi.create_vdi(&sr, SIZE);
    let disk = xapi.plug(&sr, &key, "5");
    make_noise(&disk, 48 << 20);
    let image = files.path("whole.qcow2");
    export(&xapi, &sr, &key, &image, &[]);
    let plain = files.path("whole.raw");
    export(&xapi, &sr, &key, &plain, &["--format", "raw"]);
    let whole = fs::read(&plain).unwrap();
    fs::remove_file(&plain).unwrap();
    let used = xapi.data_in_use(&sr);
    let file = files.path("killed");
    let export_line =
        |format| ["export", "--sr", &sr, "--key", &key, "--file", &file, "--format", format];
    let import_line = |format| ["import", "--sr", &sr, "--file", &image, "--format", format];
    // A kill falls into its part of the time that the whole takes here.
    let times = ["raw", "qcow2"].map(|format| {
        let exported = time(|| maintain(&xapi, &export_line(format)).success());
        fs::remove_file(&file).unwrap();
        let mut copy = String::new();
        let imported = time(|| copy = import(&xapi, &sr, &image, &["--format", format]));
        xapi.volume("Volume.destroy", json!({ "sr": sr, "key": copy })).unwrap();
        [exported, imported].map(|whole| whole / ROUNDS)
    });
    let mut killed = 0;
    for round in 0..ROUNDS {
        let format = ["raw", "qcow2"][round as usize % 2];
        let [exporting, importing] = times[round as usize % 2].map(|part| part * round);
        killed += u32::from(kill(xapi.volume_plugin().args(export_line(format)), exporting));
        if Path::new(&file).exists() {
            tools::run("qemu-img", &["compare", "-f", format, "-F", "qcow2", &file, &image]);
            fs::remove_file(&file).unwrap();
        }
        killed += u32::from(kill(xapi.volume_plugin().args(import_line(format)), importing));
        let volumes = xapi.volume("SR.ls", json!({ "sr": sr })).unwrap();
        for volume in volumes.as_array().unwrap() {
            if volume["key"] != json!(key) {
                // It was complete.
                let wanted =
                    if format == "raw" { fs::read(&image).unwrap() } else { whole.clone() };
                let copy = volume["key"].as_str().unwrap();
                assert!(content(&xapi, &sr, copy) == wanted, "half a volume in round {round}");
                let line = json!({"sr": sr, "key": volume["key"]});
                xapi.volume("Volume.destroy", line).unwrap();
            }
        }
        maintain(&xapi, &["gc", "--sr", &sr]).success();
        assert_eq!(xapi.data_in_use(&sr), used, "memory is left in round {round}");
        assert_sound(&xapi, &sr);
    }
    assert!(killed > ROUNDS, "only {killed} of {} were killed", 2 * ROUNDS);
    // What a killed one left is in no one's way.
    export(&xapi, &sr, &key, &files.path("killed"), &[]);
    assert_eq!(files.names(), ["killed", "whole.qcow2"]);
    disk.unplug();
}

fn time<T>(run: impl FnOnce() -> T) -> Duration {
    let begun = Instant::now();
    run();
    begun.elapsed()
}

/// Starts a program and kills it after a while; whether it had not ended before.
fn kill(command: &mut Command, after: Duration) -> bool {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    thread::sleep(after);
    let was_running = child.try_wait().unwrap().is_none();
    child.kill().unwrap();
    // A program that it has started ends, too, and with it the other end of this pipe.
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    let status = child.wait().unwrap();
    assert!(was_running || status.success(), "{said}");
    was_running
}

/// A detach of an SR waits for nothing, and says what is in its way.
#[test]
fn an_export_keeps_its_sr_from_being_detached_and_the_error_says_so() {
    let xapi = Xapi::new();
    let sr = xapi.create_sr("1GiB");
    let key = xapi.create_vdi(&sr, GIB);
    let line = ["export", "--sr", &sr, "--key", &key, "--file", "-"];
    let mut child =
        xapi.volume_plugin().args(line).stdout(Stdio::piped()).spawn().expect("the plugin");
    let mut pipe = child.stdout.take().unwrap();
    // It has begun, and waits for a reader.
    pipe.read_exact(&mut [0; 4096]).unwrap();
    let pid = child.id().to_string();
    for method in ["SR.detach", "SR.destroy"] {
        let failure = xapi.volume(method, json!({ "sr": sr })).unwrap_err();
        for part in ["copied, exported or imported", "by process", &pid, "wait until"] {
            assert!(failure.params[1].contains(part), "{part:?} is not in {failure}");
        }
        assert!(!failure.params[1].contains("vbd-unplug"), "{failure}");
    }
    drop(pipe);
    assert!(!child.wait().unwrap().success(), "its reader has gone");
    xapi.volume("SR.detach", json!({ "sr": sr })).unwrap();
}
