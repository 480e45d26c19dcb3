//! Migrations to an SR of this product.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use end_to_end::{Disk, Xapi};
use nbd::client::{Client, Wish};
use serde_json::{Value, json};

use super::{Calls, tdnbd::Tdnbd};
use crate::{MIB, maintenance::assert_sound};

const MIRROR: &str = "MIR0a1b2c";
const COPY: &str = "CP0a1b2c";

fn calls(xapi: &Xapi) -> Calls<'_> {
    Calls { xapi, sr: xapi.create_sr("64MiB") }
}

/// xapi's VDI.destroy is a Volume.stat and a Volume.destroy.
#[track_caller]
fn assert_destroyed(calls: &Calls<'_>, key: &str) {
    let failure = calls.volume("stat", key, json!({})).unwrap_err();
    let is_clear = failure.params.iter().any(|it| it.contains("Volume_does_not_exist"));
    assert!(failure.code == "Volume_does_not_exist" || is_clear, "{failure}");
    calls.volume("destroy", key, json!({})).unwrap();
}

/// What sparse_dd does with a disk that xapi has attached: data and no zeroes.
fn copy_into(calls: &Calls<'_>, key: &str, blocks: &[(u64, u8)]) {
    let attached = calls.datapath("attach", key, COPY).unwrap();
    calls.steps(&["activate"], key, COPY);
    let mut client = Client::connect(calls.socket(&attached), &Wish::default()).unwrap();
    for &(at, byte) in blocks {
        client.write(at, &[byte; 65536]).unwrap();
    }
    client.disconnect().unwrap();
    calls.steps(&["deactivate", "detach"], key, COPY);
    let content = json!({ "k": "content_id", "v": "of the source's snapshot" });
    calls.volume("set", key, content).unwrap();
}

/// From SMAPIv1: the guest's writes come into a leaf by a connection that is passed on, a snapshot of the
/// disk is copied into another volume meanwhile, and the two are put together. With a blank volume for the
/// copy, and with the clone of a volume that had other contents.
#[test]
fn a_disk_of_smapiv1_comes_in() {
    for (size, is_cloned) in [(8 * MIB, false), (8 * MIB, true), (2 * MIB + 512, false)] {
        let xapi = Xapi::new();
        let calls = calls(&xapi);
        let near = calls.create(size);
        let disk = xapi.plug(&calls.sr, &near, "u0_vbd_0_x_xvda");
        disk.connect().write(0, &[0xee; 65536]).unwrap();
        disk.unplug();

        // receive_start: leaf, dummy, parent.
        let leaf = calls.create(size);
        let dummy = calls.snapshot(&leaf);
        calls.steps(&["attach", "activate"], &leaf, MIRROR);
        let parent = if is_cloned {
            calls.volume("clone", &near, json!({})).unwrap()["key"].as_str().unwrap().to_owned()
        } else {
            calls.create(size)
        };

        // nbd_handler. The tapdisk of the other side connects again when its first connection is lost.
        let socket = calls.datapath("import_activate", &leaf, MIRROR).unwrap();
        let socket = Path::new(socket.as_str().unwrap());
        Tdnbd::import(socket, b"an earlier one").disconnect();
        let mut guest = Tdnbd::import(socket, leaf.as_bytes());
        assert_eq!(guest.size, size, "blktap refuses a disk of another size");
        guest.write(0, &[0x11; 4096]);
        guest.write(4096, &[0; 4096]);
        guest.write(size - 512, &[0x33; 512]);
        copy_into(&calls, &parent, &[(0, 0x22), (MIB, 0x22)]);
        guest.write(MIB, &[0; 8192]);
        guest.disconnect();

        // receive_finalize.
        calls.steps(&["deactivate", "detach"], &leaf, MIRROR);
        calls.volume("compose", &leaf, json!({ "key2": parent })).unwrap();
        calls.volume("destroy", &dummy, json!({})).unwrap();
        calls.volume("unset", &leaf, json!({ "k": "base_mirror" })).unwrap();
        assert_destroyed(&calls, &parent);

        let guest = xapi.plug(&calls.sr, &leaf, "7");
        let mut client = guest.connect();
        let mut expected = vec![0; usize::try_from(size).unwrap()];
        let mut fill = |at: u64, length: usize, byte: u8| {
            expected[at as usize..][..length].fill(byte);
        };
        fill(0, 65536, 0x22);
        fill(MIB, 65536, 0x22);
        // What the guest wrote wins, zeroes as well as data.
        fill(0, 4096, 0x11);
        fill(4096, 4096, 0);
        fill(MIB, 8192, 0);
        fill(size - 512, 512, 0x33);
        assert!(client.read(0, u32::try_from(size).unwrap()).unwrap() == expected);
        drop(client);
        guest.unplug();
        assert_sound(&xapi, &calls.sr);
        assert_eq!(xapi.control_dir().tapdisks().unwrap(), [0; 0]);
    }
}

/// The socket is the same however often it is asked for, and takes several connections; a volume that is not
/// active is activated.
#[test]
fn connections_are_taken_as_they_come() {
    let xapi = Xapi::new();
    let calls = calls(&xapi);
    let key = calls.create(MIB);
    let import =
        |domain: &str| -> Value { calls.datapath("import_activate", &key, domain).unwrap() };
    let socket = import(MIRROR);
    assert_eq!(import(MIRROR), socket, "it may be asked for again");
    // The form of the URL before 25.3 has no domain.
    assert_eq!(import("0"), socket);
    let socket = Path::new(socket.as_str().unwrap());
    let mut kept: Vec<Tdnbd> = (0..4).map(|_| Tdnbd::import(socket, &[b'x'; 36])).collect();
    for (number, client) in kept.iter_mut().enumerate() {
        client.write(4096 * number as u64, &[number as u8; 4096]);
    }
    calls.steps(&["detach"], &key, MIRROR);
    assert_eq!(xapi.control_dir().tapdisks().unwrap(), [0; 0]);

    // A snapshot takes no connection.
    let snapshot = calls.snapshot(&key);
    let failure = calls.datapath("import_activate", &snapshot, MIRROR).unwrap_err();
    assert!(failure.params[1].contains("clone it"), "{failure}");
    // Nor does a disk that is read.
    let reader = Disk::attach_and_activate(&xapi, &calls.sr, &key, "5", true).unwrap();
    let _client = reader.connect();
    let failure = calls.datapath("import_activate", &key, MIRROR).unwrap_err();
    assert_eq!(failure.code, "SR_BACKEND_FAILURE_24");
}

/// The tapdisk died after it was activated: it is replaced, and the new one takes the connection.
#[test]
fn a_dead_tapdisk_is_replaced_before_a_connection_comes() {
    let xapi = Xapi::new();
    let calls = calls(&xapi);
    let key = calls.create(MIB);
    let disk = Disk::attach_and_activate(&xapi, &calls.sr, &key, MIRROR, false).unwrap();
    disk.kill_tapdisk();
    let socket = calls.datapath("import_activate", &key, MIRROR).unwrap();
    let mut client = Tdnbd::import(Path::new(socket.as_str().unwrap()), b"text");
    client.write(0, b"after all");
    assert_eq!(disk.connect().read(0, 9).unwrap(), b"after all");
}

/// From another SMAPIv3 SR: the other side's datapath writes by NBD, through xapi's two proxies.
#[test]
fn a_disk_of_smapiv3_comes_in() {
    let xapi = Xapi::new();
    let calls = calls(&xapi);
    let size = 8 * MIB + 512;
    // receive_start3.
    let leaf = calls.create(size);
    let attached = calls.datapath("attach", &leaf, MIRROR).unwrap();
    calls.steps(&["activate"], &leaf, MIRROR);
    // get_nbd_server: attached once more, while it is active.
    let again = calls.datapath("attach", &leaf, MIRROR).unwrap();
    assert_eq!(again, attached);
    let socket = calls.socket(&again);
    let source = xapi.root().join("source");
    let bytes: Vec<u8> = (0..size).map(|at| if at >> 16 & 1 == 0 { 0 } else { at as u8 }).collect();
    std::fs::write(&source, &bytes).unwrap();
    let status = Command::new("qemu-img")
        .args(["convert", "-n", "-f", "raw", "-O", "raw", source.to_str().unwrap()])
        .arg(format!("nbd+unix:///{leaf}?socket={socket}"))
        .stdin(Stdio::null())
        .status();
    assert!(status.unwrap().success());
    // A VM snapshot of a disk that something is being mirrored into.
    let snapshot = calls.snapshot(&leaf);
    // receive_finalize3; the key was never set.
    calls.steps(&["deactivate", "detach"], &leaf, MIRROR);
    calls.volume("unset", &leaf, json!({ "k": "_sm_config_base_mirror" })).unwrap();
    calls.steps(&["attach", "activate"], &leaf, "9");
    let mut client = Client::connect(&socket, &Wish::default()).unwrap();
    assert!(client.read(0, u32::try_from(size).unwrap()).unwrap() == bytes);
    drop(client);
    calls.steps(&["deactivate", "detach"], &leaf, "9");
    for key in [snapshot, leaf] {
        calls.volume("destroy", &key, json!({})).unwrap();
    }
    assert_sound(&xapi, &calls.sr);
}
