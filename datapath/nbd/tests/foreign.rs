//! Programs that others wrote, as judges of the server. Where one is missing its test says so and
//! is skipped; with `CI` set in the environment it fails.
#![allow(clippy::print_stderr, reason = "a skipped test has to be seen")]

use std::{
    env, fs,
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use block::{Drive, memory::Memory};
use nbd::serve::{Greeting, serve};

/// A server in a thread, with a directory for its socket and for files of the test.
struct Server {
    directory: tempfile::TempDir,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(size: u64, read_only: bool, greeting: Greeting) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("socket")).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                let mut disk = Memory::new(size).unwrap();
                disk.read_only = read_only;
                serve(&listener, greeting, &mut Drive::new(disk), &stop).unwrap();
            }
        });
        Self { directory, stop, thread: Some(thread) }
    }

    fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.directory.path().join("socket").display())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

/// A program, preferably the distribution's: its Python has the modules that `nbdsh` needs.
fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    let path = env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("/usr/bin:/bin:{path}"));
    command
}

/// Whether a program is installed. If not, the test is skipped, or fails on a CI machine.
fn have(program: &str) -> bool {
    let found = command(program)
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

/// Runs a program that has to succeed, and returns what it prints.
#[track_caller]
fn run(program: &str, arguments: &[&str]) -> String {
    let output = command(program).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {text} {}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// Data and holes in turn.
fn image(path: &Path, size: usize) -> Vec<u8> {
    let bytes: Vec<u8> =
        (0..size).map(|i| if i / 65536 % 3 == 0 { 0 } else { (i / 7 % 255) as u8 }).collect();
    fs::write(path, &bytes).unwrap();
    bytes
}

#[test]
fn nbdinfo_understands_what_the_server_says() {
    if !have("nbdinfo") {
        return;
    }
    let server = Server::start(64 << 20, false, Greeting::New);
    let text = run("nbdinfo", &[&server.uri()]);
    for expected in [
        "newstyle-fixed without TLS, using structured packets",
        "export-size: 67108864",
        "base:allocation",
        "can_fast_zero: true",
        "can_multi_conn: true",
        "can_trim: true",
        "is_read_only: false",
        "block_size_maximum: 33554432",
    ] {
        assert!(text.contains(expected), "no {expected:?} in {text}");
    }
    let text = run("nbdinfo", &["--list", &server.uri()]);
    assert!(text.contains("export=\"memory\""), "{text}");
    let map = run("nbdinfo", &["--map", &server.uri()]);
    assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", "67108864", "3", "hole,zero"]);
    let read_only = Server::start(1 << 20, true, Greeting::New);
    assert!(run("nbdinfo", &[&read_only.uri()]).contains("is_read_only: true"));
    let old = Server::start(1 << 20, false, Greeting::Old);
    assert!(run("nbdinfo", &[&old.uri()]).contains("oldstyle"));
}

#[test]
fn nbdcopy_copies_there_and_back() {
    if !have("nbdcopy") {
        return;
    }
    let server = Server::start(64 << 20, false, Greeting::New);
    let (there, back) = (server.file("there"), server.file("back"));
    let bytes = image(&there, 64 << 20);
    run("nbdcopy", &[there.to_str().unwrap(), &server.uri()]);
    run("nbdcopy", &[&server.uri(), back.to_str().unwrap()]);
    assert!(fs::read(back).unwrap() == bytes);
    run("nbdcopy", &["--request-size=33554432", &server.uri(), "null:"]);
}

#[test]
fn qemu_io_reads_what_it_writes() {
    if !have("qemu-io") {
        return;
    }
    let server = Server::start(64 << 20, false, Greeting::New);
    let commands = [
        "read -P 0 0 4k",
        "write -P 7 1000 5000",
        "write -f -P 8 64k 1M",
        "read -P 7 1000 5000",
        "read -P 8 64k 1M",
        "write -z 128k 64k",
        "write -z -u 256k 64k",
        "read -P 0 128k 64k",
        "read -P 0 256k 64k",
        "discard 512k 64k",
        "flush",
        "aio_write -P 9 2M 16M",
        "aio_flush",
        "read -P 9 2M 16M",
    ];
    let mut arguments = vec!["-f", "raw", "-t", "none"];
    arguments.extend(commands.iter().flat_map(|command| ["-c", command]));
    let uri = server.uri();
    arguments.push(&uri);
    let text = run("qemu-io", &arguments);
    assert!(!text.contains("failed") && !text.contains("error"), "{text}");
}

#[test]
fn qemu_img_sees_holes_and_compares_equal() {
    if !have("qemu-img") {
        return;
    }
    let server = Server::start(16 << 20, false, Greeting::New);
    let path = server.file("image");
    image(&path, 16 << 20);
    let path = path.to_str().unwrap();
    let uri = server.uri();
    run("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", path, &uri]);
    run("qemu-img", &["compare", "-f", "raw", "-F", "raw", path, &uri]);
    let map = run("qemu-img", &["map", "-f", "raw", "--output=json", &uri]);
    assert!(map.contains("\"zero\": true") && map.contains("\"zero\": false"), "{map}");
}

#[test]
fn libnbd_shuts_down_cleanly_and_gets_the_errors_it_expects() {
    if !have("nbdsh") {
        return;
    }
    let server = Server::start(1 << 20, false, Greeting::New);
    let script = "
h.set_strict_mode(0)
h.add_meta_context('base:allocation')
h.connect_uri(uri)
def refused(what, number):
    try: what()
    except nbd.Error as e: assert e.errnum == number, e
    else: assert False
refused(lambda: h.pread(4096, 1 << 20), errno.EINVAL)
refused(lambda: h.pwrite(b'x' * 4096, 1 << 20), errno.ENOSPC)
refused(lambda: h.zero(4096, 1 << 20), errno.ENOSPC)
refused(lambda: h.trim(4096, 1 << 20), errno.EINVAL)
h.pwrite(b'y' * 5000, 100, nbd.CMD_FLAG_FUA)
assert h.pread(5000, 100, nbd.CMD_FLAG_DF) == bytearray(b'y' * 5000)
h.cache(4096, 0)
h.zero(4096, 0, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FAST_ZERO)
extents = []
h.block_status(1 << 20, 0, lambda m, o, e, err: extents.extend(e))
assert extents == [8192, 0, (1 << 20) - 8192, 3], extents
h.shutdown()
";
    let script = format!("import errno\nuri = '{}'\n{script}", server.uri());
    run("nbdsh", &["-c", &script]);
}
