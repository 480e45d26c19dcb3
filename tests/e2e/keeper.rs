//! A tapdisk whose server dies, again and again, and is succeeded by another one under the same names: no
//! acknowledged byte is lost, no client is refused, and no plugin takes it for dead.
//!
//! `KEEPER_KILLS` says how many servers have to die under load (default 200).

use std::{
    fs,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use end_to_end::{Disk, Xapi, programs, server};
use rustix::process::Signal;
use serde_json::json;
use tapctl::Client;

use crate::{
    MIB,
    load::{BLOCK, BLOCKS, Load, PATIENCE, Watch},
    maintenance::assert_sound,
};

fn kills() -> u64 {
    std::env::var("KEEPER_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(200)
}

/// Kills the server, and waits until another one has gone on.
fn kill_server(disk: &Disk<'_>) {
    let before = disk.server();
    before.kill_alone().unwrap();
    assert!(before.wait(PATIENCE).unwrap());
    assert_ne!(disk.server(), before);
}

fn minor_of(xapi: &Xapi, disk: &Disk<'_>) -> (Client, u16) {
    let client = Client::new(&xapi.control_dir(), disk.tapdisk().pid);
    let minor = client.list().unwrap()[0].minor.try_into().unwrap();
    (client, minor)
}

#[test]
fn a_client_that_reconnects_loses_nothing_and_is_never_refused() {
    let xapi = Xapi::new();
    let sr = xapi.create_sr("64MiB");
    let disk = xapi.plug(&sr, &xapi.create_vdi(&sr, BLOCKS * BLOCK), "0");
    let (keeper, target) = (disk.tapdisk(), fs::read_link(&disk.socket).unwrap());
    let names = || {
        let entries = fs::read_dir(xapi.control_dir().path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = names();
    let watch = Watch::default();
    let mut load = watch.during(&disk, || {
        for kill in 0..kills() {
            // At any moment, also while a successor takes over; on average after a tenth of a second.
            thread::sleep(Duration::from_millis(20 + kill * 37 % 160));
            disk.server().kill_alone().unwrap();
            watch.progress();
        }
    });
    load.check_all();
    assert!(load.reconnects > kills() / 2, "{}", load.reconnects);
    assert_eq!((disk.tapdisk(), fs::read_link(&disk.socket).unwrap()), (keeper, target));
    assert_eq!(names(), before);
    // The plugin does not take it for another one, nor for a dead one.
    let keeper = disk.tapdisk();
    disk.step("Datapath.activate").unwrap();
    assert_eq!(disk.tapdisk(), keeper);
    disk.unplug();
    assert!(!keeper.is_serving());
    assert_eq!(xapi.control_dir().tapdisks().unwrap(), [0; 0]);
    assert_sound(&xapi, &sr);
}

/// Snapshots, resizes and activations beside a server that is killed meanwhile, at another moment each time:
/// they wait for the successor, and a snapshot holds what was acknowledged before it.
#[test]
fn calls_that_meet_the_death_of_a_server_wait_for_its_successor() {
    let xapi = Xapi::new();
    let sr = xapi.create_sr("256MiB");
    let mut size = 4 * MIB;
    let key = xapi.create_vdi(&sr, size);
    let disk = xapi.plug(&sr, &key, "0");
    let mut load = Load::new(&disk);
    for round in 0..30_u64 {
        (0..20).for_each(|_| load.round());
        let wanted = load.acknowledged.clone();
        let server = disk.server();
        let snapshot = thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_micros(round * 611 % 12_000));
                server.kill_alone().unwrap();
            });
            match round % 3 {
                0 => {
                    size += MIB;
                    let params = json!({ "sr": sr, "key": key, "new_size": size });
                    xapi.volume("Volume.resize", params).unwrap();
                    None
                }
                1 => {
                    let params = json!({ "sr": sr, "key": key });
                    Some(xapi.volume("Volume.snapshot", params).unwrap())
                }
                _ => {
                    disk.step("Datapath.activate").unwrap();
                    None
                }
            }
        });
        // What is written now is not in the snapshot.
        (0..20).for_each(|_| load.round());
        if let Some(snapshot) = snapshot {
            let key = snapshot["key"].as_str().unwrap();
            let taken = Disk::plug(&xapi, &sr, key, "1", true).unwrap();
            let mut of_snapshot = Load::of(&taken, wanted);
            of_snapshot.check_all();
            drop(of_snapshot);
            taken.unplug();
        }
        load.check_all();
    }
    assert_eq!(load.insist(|client| Ok(client.size())), size);
    drop(load);
    disk.unplug();
    assert_sound(&xapi, &sr);
}

#[test]
fn a_paused_disk_is_paused_and_one_without_an_image_has_none_after_a_death() {
    let xapi = Xapi::new();
    let sr = xapi.create_sr("64MiB");
    let disk = xapi.plug(&sr, &xapi.create_vdi(&sr, MIB), "0");
    let (client, minor) = minor_of(&xapi, &disk);
    disk.connect().write(0, b"before").unwrap();
    client.pause(minor).unwrap();
    let paused = client.list().unwrap();
    kill_server(&disk);
    assert_eq!(client.list().unwrap(), paused);
    assert_eq!(client.disk_info(minor).unwrap().sectors, MIB / 512);
    client.resume(minor, tapctl::Resume::default()).unwrap();
    assert_eq!(disk.connect().read(0, 6).unwrap(), b"before");
    client.close(minor).unwrap();
    let closed = client.list().unwrap();
    kill_server(&disk);
    assert_eq!(client.list().unwrap(), closed);
    assert!(UnixStream::connect(&disk.socket).is_err(), "nothing is served there");
    disk.step("Datapath.activate").unwrap();
    assert_eq!(disk.connect().read(0, 6).unwrap(), b"before");
    disk.unplug();
}

/// One that dies at once is not started for ever; then the disk is dead, and the next activation replaces it.
#[test]
fn a_server_that_dies_again_and_again_is_given_up_and_the_plugin_finds_it_so() {
    let xapi = Xapi::new();
    let sr = xapi.create_sr("64MiB");
    let disk = xapi.plug(&sr, &xapi.create_vdi(&sr, MIB), "0");
    disk.connect().write(0, b"kept").unwrap();
    let keeper = disk.tapdisk();
    let begun = Instant::now();
    while keeper.is_same() {
        assert!(begun.elapsed() < 2 * PATIENCE, "it is started for ever");
        keeper.servers().unwrap().iter().for_each(|server| server.kill_alone().unwrap());
    }
    assert!(!xapi.control_dir().ctl(keeper.pid).exists(), "its names are removed");
    disk.step("Datapath.activate").unwrap();
    assert_ne!(disk.tapdisk(), keeper);
    assert_eq!(disk.connect().read(0, 4).unwrap(), b"kept");
    disk.unplug();
    assert_eq!(xapi.control_dir().reserved().unwrap(), [0; 0]);
}

#[test]
fn a_server_whose_keeper_was_killed_serves_on_and_is_ended_as_any_other() {
    let xapi = Xapi::new();
    let sr = xapi.create_sr("64MiB");
    let key = xapi.create_vdi(&sr, MIB);
    let disk = xapi.plug(&sr, &key, "0");
    let (keeper, server) = (disk.tapdisk(), disk.server());
    let mut client = disk.connect();
    client.write(0, b"before").unwrap();
    keeper.kill_alone().unwrap();
    assert!(keeper.wait(PATIENCE).unwrap());
    assert!(server.is_same() && keeper.is_serving());
    client.write(0, b"after ").unwrap();
    // Everything finds it: its names are its own as long as it lives.
    assert_eq!(xapi.control_dir().remove_leftovers(keeper.pid, Some(&keeper)).unwrap().len(), 0);
    disk.step("Datapath.activate").unwrap();
    xapi.volume("Volume.snapshot", json!({ "sr": sr, "key": key })).unwrap();
    client.write(0, b"later ").unwrap();
    assert_eq!(fs::read_link(&disk.socket).unwrap(), xapi.control_dir().nbd(keeper.pid, 0));
    let control = Client::new(&xapi.control_dir(), keeper.pid);
    let refused = control.upgrade().unwrap_err();
    assert!(refused.to_string().contains("keeper was killed"), "{refused}");
    for step in ["Datapath.deactivate", "Datapath.detach"] {
        disk.step(step).unwrap();
    }
    assert!(server.wait(PATIENCE).unwrap());
    assert_eq!(xapi.control_dir().tapdisks().unwrap(), [0; 0]);
    assert_eq!(xapi.control_dir().reserved().unwrap(), [0; 0]);
    let disk = Disk::attach_and_activate(&xapi, &sr, &key, "0", false).unwrap();
    assert_eq!(disk.connect().read(0, 6).unwrap(), b"later ");
    disk.unplug();
}

#[test]
fn a_signal_ends_both_processes_and_both_leave_nothing() {
    for signal in [Signal::TERM, Signal::INT] {
        for to_server in [false, true] {
            let xapi = Xapi::new();
            let sr = xapi.create_sr("64MiB");
            let disk = xapi.plug(&sr, &xapi.create_vdi(&sr, MIB), "0");
            let (keeper, server) = (disk.tapdisk(), disk.server());
            let told = if to_server { &server } else { &keeper };
            told.signal(signal).unwrap();
            assert!(keeper.wait(PATIENCE).unwrap() && server.wait(PATIENCE).unwrap());
            assert_eq!(xapi.control_dir().tapdisks().unwrap(), [0; 0]);
            disk.unplug();
        }
    }
}

/// The program that is installed takes over under running disks; one that does not work changes nothing.
#[test]
fn an_upgrade_replaces_the_server_and_one_that_fails_leaves_the_old_program() {
    let place = tempfile::tempdir().unwrap();
    let installed = place.path().join("tapdisk-ram");
    let install = |bytes: &[u8]| {
        let new = place.path().join("new");
        fs::write(&new, bytes).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(&new, &installed).unwrap();
    };
    let program = fs::read(programs::path("tapdisk-ram")).unwrap();
    install(&program);
    let xapi = Xapi::with(&[("XAPI_RAM_TAPDISK", installed.to_str().unwrap())]);
    let sr = xapi.create_sr("64MiB");
    let disk = xapi.plug(&sr, &xapi.create_vdi(&sr, BLOCKS * BLOCK), "0");
    let mut load = Load::new(&disk);
    let runs = |pid: u32| fs::read_link(format!("/proc/{pid}/exe")).unwrap();
    let upgrade = || {
        let before = disk.server();
        let mut command = xapi.command(&programs::path("tap-ctl-ram"));
        command.args(["upgrade", "-p", &disk.tapdisk().pid.to_string()]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert!(String::from_utf8(output.stdout).unwrap().starts_with("xapi-storage-ram "));
        assert!(before.wait(PATIENCE).unwrap());
    };
    let keeper = disk.tapdisk();
    load.round();
    for _ in 0..3 {
        install(&program);
        upgrade();
        assert_eq!(runs(disk.server().pid), installed, "the program that is there now");
        (0..50).for_each(|_| load.round());
    }
    install(b"#!/bin/sh\nexit 1\n");
    upgrade();
    (0..50).for_each(|_| load.round());
    let old: PathBuf = format!("{} (deleted)", installed.display()).into();
    assert_eq!(runs(disk.server().pid), old);
    fs::remove_file(&installed).unwrap();
    upgrade();
    (0..50).for_each(|_| load.round());
    load.check_all();
    assert_eq!(disk.tapdisk(), keeper);
    drop(load);
    disk.unplug();
    assert!(Path::new(place.path()).exists());
}

/// A loaded file exists in one process alone: it is not served as if nothing had happened.
#[test]
fn a_loaded_file_is_closed_after_a_death_and_not_loaded_anew() {
    let xapi = Xapi::new();
    let control = xapi.control_dir();
    let path = xapi.root().join("image");
    fs::write(&path, [1; 65536]).unwrap();
    let mut command = xapi.command(&programs::path("tap-ctl-ram"));
    command.args(["create", "-a", &format!("ram:{}", path.display())]);
    assert!(command.output().unwrap().status.success());
    let pid = control.tapdisks().unwrap()[0];
    let keeper = tapctl::Identity::of(pid).unwrap().unwrap();
    let client = Client::new(&control, pid);
    let refused = client.upgrade().unwrap_err();
    assert!(refused.to_string().contains("exists in this process alone"), "{refused}");
    let before = server(&keeper);
    before.kill_alone().unwrap();
    assert!(before.wait(PATIENCE).unwrap());
    let listed = client.list().unwrap();
    assert_eq!((listed[0].minor, listed[0].state, listed[0].params.is_empty()), (0, 2, true));
    assert!(!control.nbd(pid, 0).exists());
    client.open(0, tapctl::Open::new(format!("ram:{}", path.display()))).unwrap();
    client.close(0).unwrap();
    client.detach(0).unwrap();
    assert!(keeper.wait(PATIENCE).unwrap());
}
