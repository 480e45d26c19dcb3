//! A host on which no thread can be made, as where a control group has as many tasks as it may have.

use end_to_end::{programs, tools};

use super::{Host, eventually, texts};

/// The program that sets up the filter.
const FILTER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/no_threads.py");

/// A tapdisk starts all the same. What it needs a thread for, loading a file, is an error with the
/// reason, and it goes on.
#[test]
fn a_tapdisk_that_cannot_make_a_thread_says_so_and_lives() {
    if !tools::present(&["python3"]) {
        return;
    }
    let host = Host::new();
    let mut command = host.xapi.command("/usr/bin/python3".as_ref());
    let output = command.arg(FILTER).arg(programs::path("tap-ctl-ram")).arg("spawn").output();
    let (stdout, stderr) = texts(&output.unwrap());
    let pid = stdout.trim_end();
    assert!(!pid.is_empty() && stderr.is_empty(), "{stderr}");
    let on = ["-p", pid, "-m", "0"];
    let image = format!("ram:{}", host.image("f64", 65536));
    host.prints(&["allocate"], &format!("{}\n", host.dir.minor(0).display()));
    host.prints(&[&["attach"], &on[..]].concat(), "");
    for _ in 0..2 {
        let open = [&["open"], &on[..], &["-a", &image]].concat();
        host.fails(&open, 11, "Resource temporarily unavailable");
    }
    host.prints(&["list"], &format!("pid={pid} minor=0 state=0\n"));
    host.prints(&[&["detach"], &on[..]].concat(), "");
    eventually("gone", || host.dir.tapdisks().unwrap().is_empty());
}
