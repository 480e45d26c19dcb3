//! The observed behaviour of blktap's tap-ctl and tapdisk, replayed: outputs, exit codes, error numbers.

use super::{Host, Tapdisk, eventually, texts};

#[test]
fn the_life_of_a_disk() {
    let host = Host::new();
    let file = host.image("f64", 65536);
    let image = format!("ram:{file}");
    let reserved = host.dir.minor(0).display().to_string();
    host.prints(&["list"], "");
    host.prints(&["allocate"], &format!("{reserved}\n"));
    host.prints(&["list"], "minor=0\n");
    let (stdout, _) = texts(&host.ctl(&["spawn"]));
    let pid = stdout.trim_end().to_owned();
    host.prints(&["list"], &format!("pid={pid}\nminor=0\n"));
    let on = ["-p".to_owned(), pid.clone(), "-m".into(), "0".into()];
    let run = |name, more: &[&str]| host.prints(&Tapdisk::command(&on, name, more), "");
    let list = |rest: &str| host.prints(&["list"], &format!("pid={pid} minor=0 {rest}\n"));
    run("attach", &[]);
    list("state=0");
    run("open", &["-a", &image]);
    list(&format!("state=0 args={image}"));
    for filter in [["-p", pid.as_str()], ["-m", "0"], ["-t", "ram"], ["-f", file.as_str()]] {
        let line = format!("pid={pid} minor=0 state=0 args={image}\n");
        host.prints(&[&["list"], filter.as_slice()].concat(), &line);
    }
    for filter in [["-p", "1"], ["-m", "1"], ["-t", "vhd"], ["-f", "/no"]] {
        host.prints(&[&["list"], filter.as_slice()].concat(), "");
    }
    for _ in 0..2 {
        run("pause", &[]);
        list(&format!("state=0x2a args={image}"));
    }
    run("unpause", &[]);
    run("pause", &["-t", "5"]);
    run("unpause", &["-a", &image]);
    list(&format!("state=0 args={image}"));
    for _ in 0..2 {
        run("close", &[]);
        list("state=0x2");
    }
    run("open", &["-R", "-D", "-t", "40", "-a", &image]);
    run("close", &["-f", "-t", "5"]);
    run("detach", &[]);
    eventually("gone", || host.dir.tapdisks().unwrap().is_empty());
    host.prints(&["list"], "minor=0\n");
    host.prints(&["free", "-m", "0"], "");
    host.prints(&["list"], "");
}

#[test]
fn create_and_destroy_are_all_of_it() {
    let host = Host::new();
    let image = format!("ram:{}", host.image("f64", 65536));
    let reserved = host.dir.minor(0).display().to_string();
    host.prints(&["create", "-a", &image], &format!("{reserved}\n"));
    let pid = host.dir.tapdisks().unwrap()[0].to_string();
    host.prints(&["list"], &format!("pid={pid} minor=0 state=0 args={image}\n"));
    host.fails(&["free", "-m", "0"], 11, "Resource temporarily unavailable");
    host.prints(&["destroy", "-p", &pid, "-m", "0"], "");
    eventually("gone", || host.dir.tapdisks().unwrap().is_empty());
    host.prints(&["list"], "");
    // Scripts from when devices had names still give one.
    host.prints(&["create", "-a", &image, "-d", "/dev/xen/x"], &format!("{reserved}\n"));
    let pid = host.dir.tapdisks().unwrap()[0].to_string();
    host.prints(&["destroy", "-p", &pid, "-m", "0"], "");
    // A command that fails leaves nothing behind.
    host.fails(&["create", "-a", "ram:/no/such/file"], 2, "No such file or directory");
    host.fails(&["create", "-a", "vhd:/no/such/file"], 2, "No such file or directory");
    host.fails(&["create", "-a", "no-colon"], 22, "Invalid argument");
    eventually("gone", || host.dir.tapdisks().unwrap().is_empty());
    host.prints(&["list"], "");
}

#[test]
fn error_numbers_are_those_of_blktap() {
    let host = Host::new();
    let (file, other) = (host.image("f64", 65536), host.image("f128", 131_072));
    let (image, other) = (format!("ram:{file}"), format!("ram:{other}"));
    let directory = format!("ram:{}", host.xapi.root().display());
    let tapdisk = host.spawn();
    let on = tapdisk.on();
    let fails = |name, more: &[&str], errno, text| {
        host.fails(&Tapdisk::command(&on, name, more), errno, text);
    };
    let invalid = "Invalid argument";
    fails("attach", &[], 22, invalid);
    fails("open", &["-a", "ram:/no/such/file"], 2, "No such file or directory");
    fails("open", &["-a", &format!("aio:{file}")], 2, "No such file or directory");
    fails("open", &["-a", "no-colon"], 22, invalid);
    fails("open", &["-a", &directory], 21, "Is a directory");
    // blktap: EPERM, after it has made room for 500 MiB.
    for bytes in [0, 511] {
        let small = format!("ram:{}", host.image("small", bytes));
        fails("open", &["-a", &small], 22, invalid);
    }
    fails("open", &["-a", &format!("ram:/{}", "x".repeat(300))], 36, "File name too long");
    fails("unpause", &[], 22, invalid);
    host.prints(&Tapdisk::command(&on, "open", &["-a", &image]), "");
    fails("open", &["-a", &image], 114, "Operation already in progress");
    fails("detach", &[], 22, invalid);
    fails("unpause", &[], 22, invalid);
    // Another size is refused, and the disk stays where it was.
    host.prints(&Tapdisk::command(&on, "pause", &[]), "");
    fails("unpause", &["-a", &other], 124, "Wrong medium type");
    let state = |state| format!("pid={} minor=0 state={state} args={image}\n", tapdisk.pid);
    host.prints(&["list"], &state("0x22a"));
    fails("unpause", &["-a", "ram:/no/such/file"], 2, "No such file or directory");
    host.prints(&Tapdisk::command(&on, "unpause", &[]), "");
    host.prints(&["list"], &state("0"));

    let pid = tapdisk.pid.to_string();
    for name in ["pause", "unpause", "close", "destroy"] {
        host.fails(&[name, "-p", &pid, "-m", "66"], 19, "No such device");
        host.fails(&[name, "-p", "4000000", "-m", "0"], 2, "No such file or directory");
    }
    host.fails(&["stats", "-p", &pid, "-m", "66"], 19, "No such device");
    host.fails(&["attach", "-p", &pid, "-m", "66"], 22, invalid);
    host.fails(&["detach", "-p", &pid, "-m", "66"], 22, invalid);
    host.fails(&["open", "-p", &pid, "-m", "66", "-a", &image], 22, invalid);
    host.fails(&["free", "-m", "0"], 11, "Resource temporarily unavailable");
    host.fails(&["free", "-m", "66"], 2, "No such file or directory");
}

/// In blktap the minor stays paused for ever: nothing serves what is opened under it, or ends the pause.
#[test]
fn a_disk_that_is_closed_while_it_is_paused_is_closed() {
    let host = Host::new();
    let tapdisk = host.serve("image", 65536);
    let (pid, minor, control) = (tapdisk.pid, tapdisk.minor, &tapdisk.control);
    control.pause(minor).unwrap();
    control.close(minor).unwrap();
    host.prints(&["list"], &format!("pid={pid} minor={minor} state=0x2\n"));
    let image = format!("ram:{}", host.image("image", 65536));
    control.open(minor, tapctl::Open::new(image.as_str())).unwrap();
    host.prints(&["list"], &format!("pid={pid} minor={minor} state=0 args={image}\n"));
    assert_eq!(host.connect(&tapdisk).read(0, 5).unwrap(), b"image");
}

#[test]
fn what_is_not_understood_is_usage() {
    let host = Host::new();
    for arguments in [
        &["free"][..],
        &["open", "-p", "1"],
        &["list", "-Z"],
        &["pause", "-p", "1", "-m", "x"],
        &["attach", "-p", "1", "-m", "-1"],
        &["create", "-a", "ram:/f", "-2", "nbd:/f"],
        &["open", "-p", "1", "-m", "0", "-a", "ram:/f", "-e", "1"],
        &["no-such-command"],
    ] {
        let output = host.ctl(arguments);
        assert_eq!(output.status.code(), Some(22), "{arguments:?}");
        let (stdout, stderr) = texts(&output);
        assert!(stdout.is_empty() && stderr.contains("--help"), "{arguments:?}: {stderr}");
    }
    let help = host.ctl(&["open", "-h"]);
    let (stdout, stderr) = texts(&help);
    assert!(help.status.success() && stderr.is_empty() && stdout.contains("-a <TYPE:PATH>"));
    let said = host.ctl(&["--debug", "close", "-p", "4000000", "-m", "0"]);
    assert_eq!(texts(&said).1.lines().count(), 2, "with --debug it says more");
}

#[test]
fn one_process_serves_several_disks_and_each_is_its_own() {
    let host = Host::new();
    let one = host.serve("one", 65536);
    let minor = tapctl::minors::allocate(&host.dir, std::time::Duration::from_secs(5)).unwrap();
    one.control.attach(minor).unwrap();
    let image = format!("ram:{}", host.image("two", 131_072));
    let open = one.control.open(minor, tapctl::Open::new(image.as_str())).unwrap();
    assert_eq!((open.sectors, open.sector_size), (256, 512));
    let two =
        Tapdisk { minor, control: one.control.clone(), identity: one.identity.clone(), ..one };
    let (mut first, mut second) = (host.connect(&one), host.connect(&two));
    assert_eq!((first.size(), second.size()), (65536, 131_072));
    assert_eq!(first.read(0, 3).unwrap(), b"one");
    assert_eq!(second.read(0, 3).unwrap(), b"two");
    first.write(0, b"ONE").unwrap();
    second.write(4096, b"2").unwrap();
    assert_eq!(second.read(0, 3).unwrap(), b"two");
    let pid = one.pid;
    let of = |name: &str| host.xapi.root().join(name).display().to_string();
    // The newest first.
    host.prints(
        &["list"],
        &format!(
            "pid={pid} minor=1 state=0 args=ram:{}\npid={pid} minor=0 state=0 args=ram:{}\n",
            of("two"),
            of("one")
        ),
    );
    // What happens to one is nothing to the other.
    one.control.close(0).unwrap();
    one.control.detach(0).unwrap();
    assert_eq!(second.read(4096, 1).unwrap(), b"2");
    assert!(one.identity.is_same(), "one is left");
    one.control.close(1).unwrap();
    one.control.detach(1).unwrap();
    one.ends();
    assert_eq!(host.names_of(pid), Vec::<String>::new());
}
