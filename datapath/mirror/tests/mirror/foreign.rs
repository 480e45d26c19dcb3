//! Servers of other projects as destinations. Where one is missing its test says so and is skipped; with
//! `CI` set in the environment it fails.
#![allow(clippy::print_stderr, reason = "a skipped test has to be seen")]

use std::{
    env, fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use mirror::{Counters, Limits, State, Transfer};

use crate::source::{
    LIMITS, Random, connect_with, contents, cut_over, data_bytes, run, source, until_in_sync,
};

const SIZE: u64 = 64 << 20;

/// Whether a program is installed. If not, the test is skipped, or fails on a CI machine.
fn have(program: &str) -> bool {
    let found = Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    assert!(found || env::var_os("CI").is_none(), "{program} is not installed");
    if !found {
        eprintln!("SKIPPED: {program} is not installed");
    }
    found
}

/// A server of another project, ended with the test.
struct Foreign {
    directory: tempfile::TempDir,
    child: Child,
    export: &'static str,
}

impl Foreign {
    fn start(
        program: &str,
        export: &'static str,
        arguments: impl Fn(&Path) -> Vec<String>,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self::start_in(directory, program, export, arguments)
    }

    fn start_in(
        directory: tempfile::TempDir,
        program: &str,
        export: &'static str,
        arguments: impl Fn(&Path) -> Vec<String>,
    ) -> Self {
        let arguments = arguments(directory.path());
        let child = Command::new(program).args(&arguments).stdin(Stdio::null()).spawn().unwrap();
        Self { directory, child, export }
    }

    fn uri(&self) -> String {
        format!("nbd+unix:///{}?socket={}", self.export, self.path("s").display())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Mirrors a disk that changes meanwhile.
    fn mirror(&self, drive: &mut block::Drive<block::memory::Memory>) -> Counters {
        let limits = Limits { connect: std::time::Duration::from_secs(20), ..LIMITS };
        let (socket, remote) = connect_with(&self.uri(), limits).unwrap();
        let now = std::time::Instant::now();
        let limits = Limits::default();
        let mut transfer = Transfer::mirror(socket, &remote, drive, limits, now).unwrap();
        let mut random = Random(11);
        let mut left = 200;
        run(
            &mut transfer,
            drive,
            |drive| {
                if left > 0 {
                    left -= 1;
                    let at = random.below(SIZE / 4096) * 4096;
                    drive.write(at, &[left; 4096]).unwrap();
                }
            },
            |transfer| transfer.status().complete,
        );
        until_in_sync(&mut transfer, drive);
        drop(drive.discard(20 << 20, 3 << 20));
        drive.write(SIZE - 512, &[9; 512]).unwrap();
        cut_over(&mut transfer, drive);
        assert_eq!(transfer.state(), State::Finished);
        transfer.counters()
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _ended_already = self.child.wait();
    }
}

fn text(path: PathBuf) -> String {
    path.to_str().unwrap().to_owned()
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

/// nbdkit in every style, with filters that take one thing each away, or refuse what is not aligned.
#[test]
fn nbdkit_takes_a_mirror_in_every_manner() {
    if !have("nbdkit") {
        return;
    }
    for (options, is_thin) in [
        ("", true),
        ("--oldstyle", false),
        ("--no-sr", true),
        ("--filter=nozero", false),
        ("--filter=noextents", true),
        ("--filter=blocksize-policy", true),
    ] {
        let nbdkit = Foreign::start("nbdkit", "", |directory| {
            let image = text(directory.join("image"));
            fs::File::create(&image).unwrap().set_len(SIZE).unwrap();
            let policy = if options.ends_with("policy") {
                "blocksize-minimum=512 blocksize-maximum=262144 blocksize-error-policy=error"
            } else {
                ""
            };
            let socket = text(directory.join("s"));
            words(&format!("-f -U {socket} {options} file {image} {policy}"))
        });
        let mut drive = source(SIZE);
        eprintln!("nbdkit {options}");
        nbdkit.mirror(&mut drive);
        assert!(fs::read(nbdkit.path("image")).unwrap() == contents(&mut drive), "{options}");
        if is_thin {
            let allocated = fs::metadata(nbdkit.path("image")).unwrap().blocks() * 512;
            let most = data_bytes(&mut drive) + (8 << 20);
            assert!(allocated <= most, "{options}: {allocated} of {most}");
        }
    }
}

/// A qcow2 image that has other data already, as a clone on the other side has.
#[test]
fn qemu_nbd_with_a_clone_takes_a_mirror() {
    if !have("qemu-nbd") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (base, top) = (text(directory.path().join("base")), text(directory.path().join("image")));
    let mut random = Random(3);
    let bytes: Vec<u8> =
        (0..SIZE).map(|at| if at >> 20 & 1 == 0 { random.next() as u8 } else { 0 }).collect();
    fs::write(&base, bytes).unwrap();
    let made = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-b", &base, "-F", "raw", &top])
        .status();
    assert!(made.unwrap().success());
    let qemu = Foreign::start_in(directory, "qemu-nbd", "disk", |directory| {
        let socket = text(directory.join("s"));
        let image = text(directory.join("image"));
        words(&format!("-f qcow2 -k {socket} -x disk --discard=unmap {image}"))
    });
    let mut drive = source(SIZE);
    let counters = qemu.mirror(&mut drive);
    assert_ne!((counters.zeroed_bytes, counters.skipped_bytes), (0, 0), "{counters:?}");
    let mut qemu = qemu;
    // It ends by itself with its client, and has written everything then.
    assert!(qemu.child.wait().unwrap().success());
    let raw = text(qemu.path("raw"));
    let converted =
        Command::new("qemu-img").args(["convert", "-f", "qcow2", "-O", "raw", &top, &raw]).status();
    assert!(converted.unwrap().success());
    assert!(fs::read(raw).unwrap() == contents(&mut drive));
}

#[test]
fn qemu_storage_daemon_takes_a_mirror() {
    if !have("qemu-storage-daemon") {
        return;
    }
    let qemu = Foreign::start("qemu-storage-daemon", "disk", |directory| {
        let image = text(directory.join("image"));
        fs::File::create(&image).unwrap().set_len(SIZE).unwrap();
        let socket = text(directory.join("s"));
        words(&format!(
            "--blockdev driver=file,node-name=d,filename={image},discard=unmap \
             --nbd-server addr.type=unix,addr.path={socket} \
             --export type=nbd,id=e,node-name=d,name=disk,writable=on"
        ))
    });
    let mut drive = source(SIZE);
    let counters = qemu.mirror(&mut drive);
    assert_ne!(counters.skipped_bytes, 0);
    assert!(fs::read(qemu.path("image")).unwrap() == contents(&mut drive));
}
