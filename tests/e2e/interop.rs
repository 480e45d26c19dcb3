//! Programs that others wrote read and write our disks.

use end_to_end::{Xapi, tools};
use serde_json::Value;

use crate::MIB;

#[test]
fn qemu_io_reads_what_it_wrote() {
    if !tools::present(&["qemu-io"]) {
        return;
    }
    let xapi = Xapi::new();
    let sr = xapi.create_sr("64MiB");
    let disk = xapi.plug(&sr, &xapi.create_vdi(&sr, 16 * MIB), "0");
    let out = tools::run(
        "qemu-io",
        &[
            "-f",
            "raw",
            "-c",
            "write -P 1 0 1M",
            "-c",
            "write -P 2 513 511",
            "-c",
            "write -z 64k 64k",
            "-c",
            "write -z -u 256k 256k",
            "-c",
            "discard 512k 128k",
            "-c",
            "write -f -P 3 15M 1M",
            "-c",
            "read -P 1 0 512",
            "-c",
            "read -P 2 513 511",
            "-c",
            "read -P 1 1k 63k",
            "-c",
            "read -P 0 64k 64k",
            "-c",
            "read -P 1 128k 128k",
            "-c",
            "read -P 0 256k 256k",
            "-c",
            "read -P 3 15M 1M",
            "-c",
            "flush",
            &disk.nbd(),
        ],
    );
    assert_eq!(out.matches("read ").count(), 7, "every read was done: {out}");
    disk.unplug();
}

#[test]
fn qemu_img_sees_data_and_holes() {
    if !tools::present(&["qemu-img", "qemu-io"]) {
        return;
    }
    let xapi = Xapi::new();
    let sr = xapi.create_sr("64MiB");
    let disk = xapi.plug(&sr, &xapi.create_vdi(&sr, 16 * MIB), "0");
    tools::run("qemu-io", &["-f", "raw", "-c", "write -P 9 4M 1M", &disk.nbd()]);
    let info = tools::run("qemu-img", &["info", "-f", "raw", "--output=json", &disk.nbd()]);
    let info: Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info["virtual-size"], 16 * MIB);
    let map = tools::run("qemu-img", &["map", "-f", "raw", "--output=json", &disk.nbd()]);
    let map: Value = serde_json::from_str(&map).unwrap();
    let data: Vec<_> = map
        .as_array()
        .unwrap()
        .iter()
        .filter(|extent| extent["data"] == true)
        .map(|extent| (extent["start"].as_u64().unwrap(), extent["length"].as_u64().unwrap()))
        .collect();
    assert_eq!(data, [(4 * MIB, MIB)], "{map}");
    let copy = xapi.root().join("copy.qcow2");
    let copy = copy.to_str().unwrap();
    tools::run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &disk.nbd(), copy]);
    tools::run("qemu-img", &["compare", "-f", "raw", "-F", "qcow2", &disk.nbd(), copy]);
    disk.unplug();
}

#[test]
fn nbdinfo_is_told_everything() {
    if !tools::present(&["nbdinfo"]) {
        return;
    }
    let xapi = Xapi::new();
    let sr = xapi.create_sr("64MiB");
    let key = xapi.create_vdi(&sr, 16 * MIB);
    let disk = xapi.plug(&sr, &key, "0");
    let info = tools::run("nbdinfo", &["--json", &disk.nbd()]);
    let info: Value = serde_json::from_str(&info).unwrap();
    let export = &info["exports"][0];
    assert_eq!(info["protocol"], "newstyle-fixed");
    assert_eq!(info["structured"], true);
    assert_eq!(export["export-size"], 16 * MIB);
    assert_eq!(export["block_size_preferred"], 4096);
    assert_eq!(export["block_size_maximum"], 32 * MIB);
    assert_eq!(export["contexts"], serde_json::json!(["base:allocation"]));
    for can in ["can_multi_conn", "can_flush", "can_fua", "can_trim", "can_zero", "can_cache"] {
        assert_eq!(export[can], true, "{can}");
    }
    assert_eq!(export["is_read_only"], false);
    let list = tools::run("nbdinfo", &["--list", "--json", &disk.nbd()]);
    assert!(list.contains(&key), "the export is listed by its key: {list}");
    disk.unplug();
}

#[test]
fn a_read_only_disk_refuses_writes() {
    if !tools::present(&["nbdinfo", "qemu-io"]) {
        return;
    }
    let xapi = Xapi::new();
    let sr = xapi.create_sr("64MiB");
    let key = xapi.create_vdi(&sr, MIB);
    let disk = end_to_end::Disk::plug(&xapi, &sr, &key, "0", true).unwrap();
    let info = tools::run("nbdinfo", &["--json", &disk.nbd()]);
    assert!(info.contains("\"is_read_only\": true"), "{info}");
    let mut client = disk.connect();
    let refused = client.write(0, &[1; 512]);
    assert!(refused.is_err(), "a write to a read-only disk is refused");
    disk.unplug();
    assert_eq!(xapi.data_in_use(&sr), 0);
}

#[test]
fn fio_verifies_random_writes() {
    if !tools::present(&["fio"]) {
        return;
    }
    let xapi = Xapi::new();
    let sr = xapi.create_sr("256MiB");
    let disk = xapi.plug(&sr, &xapi.create_vdi(&sr, 64 * MIB), "0");
    for (name, blocks) in [("4k", "--bs=4k"), ("mixed", "--bsrange=512-256k")] {
        tools::run(
            "fio",
            &[
                "--name",
                name,
                "--ioengine=nbd",
                &format!("--uri={}", disk.nbd()),
                "--rw=randwrite",
                blocks,
                "--blockalign=512",
                "--iodepth=32",
                "--size=64M",
                "--verify=crc32c",
                "--verify_fatal=1",
                "--verify_state_save=0",
                "--do_verify=1",
                "--minimal",
                "--randrepeat=1",
            ],
        );
    }
    disk.unplug();
}

#[test]
fn libnbd_takes_its_leave_properly() {
    if !tools::present(&["nbdsh"]) {
        return;
    }
    let xapi = Xapi::new();
    let sr = xapi.create_sr("64MiB");
    let disk = xapi.plug(&sr, &xapi.create_vdi(&sr, MIB), "0");
    let script = "
h.pwrite(b'x' * 1000, 100)
assert h.pread(1000, 100) == bytearray(b'x' * 1000)
h.trim(1 << 20, 0)
h.zero(4096, 0)
h.flush()
h.cache(4096, 0)
try:
    h.pread(512, 1 << 20)
    raise SystemExit('a read beyond the end succeeded')
except nbd.Error as error:
    assert error.errnum != 0
h.shutdown()
";
    // Its module is that of Debian's Python, whichever comes first in the path.
    tools::run("/usr/bin/python3", &["-m", "nbd", "-u", &disk.nbd(), "-c", script]);
    disk.unplug();
}
