//! What the stock driver, or a full SR, does not allow: each limit is an error that says so.

use super::*;

/// Everything that the stock driver cannot do, and that would go unnoticed if it were let happen.
#[test]
fn each_limit_is_refused_with_its_error_and_lifted_by_deactivate() {
    with_each(|stock| {
        let sr = stock.sr("64MiB");
        let xapi = &stock.xapi;
        let key = xapi.create_vdi(&sr, MIB);
        let snapshot = xapi.volume("Volume.snapshot", on(&sr, &key, &json!({}))).unwrap();
        let clone = xapi.volume("Volume.clone", on(&sr, &key, &json!({}))).unwrap();
        let disk = xapi.plug(&sr, &key, "5");
        put(&disk, 0, "mine");
        let says = ["host's own tapdisk", key.as_str()];
        for read_only in [false, true] {
            let second = Disk::attach_and_activate(xapi, &sr, &key, "6", read_only);
            refused(second, 24, &[&says[..], &["\"5\"", "one domain"]].concat());
        }
        let calls = [
            ("Volume.snapshot", json!({})),
            ("Volume.clone", json!({})),
            ("Volume.resize", json!({ "new_size": 2 * MIB })),
            ("Volume.revert", json!({ "snapshot": snapshot["key"] })),
            ("Volume.compose", json!({ "key2": clone["key"] })),
            ("Volume.destroy", json!({})),
        ];
        let unplug = [&says[..], &["unplug"]].concat();
        for (method, more) in &calls {
            refused(xapi.volume(method, on(&sr, &key, more)), 24, &unplug);
        }
        let as_parent = json!({ "sr": sr, "key": clone["key"], "key2": key });
        refused(xapi.volume("Volume.compose", as_parent), 24, &unplug);
        refused(xapi.volume("SR.detach", json!({ "sr": sr })), 16, &[&key]);
        refused(xapi.volume("SR.destroy", json!({ "sr": sr })), 16, &[&key]);
        let told = xapi.volume("Plugin.diagnostics", json!({})).unwrap();
        let pid = disk.tapdisk().pid;
        assert!(told.as_str().unwrap().contains(&format!("active in process {pid}")), "{told}");
        assert_eq!(get(&disk, 0), "mine", "none of it has done anything");
        disk.step("Datapath.deactivate").unwrap();
        for (method, more) in calls {
            xapi.volume(method, on(&sr, &key, &more)).unwrap_or_else(|e| panic!("{method}: {e}"));
        }
        disk.step("Datapath.detach").unwrap();
        stock.assert_nothing_left(&sr);
    });
}

#[test]
fn a_disk_that_the_stock_driver_cannot_take_is_refused_where_it_is_made_and_where_it_is_used() {
    let stock = Stock::stand_in();
    let xapi = &stock.xapi;
    let limit = 500 * MIB;
    let says = ["524288000 bytes (500 MiB)", "tapdisk=blktap", "tapdisk=ram"];
    let mut configuration = xapi.create_sr_only("64MiB");
    assert_eq!(configuration["tapdisk"], "ram");
    let sr = xapi.attach_sr(&configuration);
    let large = xapi.create_vdi(&sr, limit + BLOCK);
    // Its PBD is made anew with another device-config.
    xapi.volume("SR.detach", json!({ "sr": sr })).unwrap();
    configuration["tapdisk"] = json!("blktap");
    assert_eq!(xapi.attach_sr(&configuration), sr);
    let size = (limit + BLOCK).to_string();
    let says_size = [&says[..], &[size.as_str()]].concat();
    let new = json!({
        "sr": sr, "name": "", "description": "", "size": limit + BLOCK, "sharable": false,
    });
    refused(xapi.volume("Volume.create", new), 79, &says_size);
    let key = xapi.create_vdi(&sr, MIB);
    let resize = json!({ "new_size": limit + BLOCK });
    refused(xapi.volume("Volume.resize", on(&sr, &key, &resize)), 79, &says_size);
    let uri = xapi.stat(&sr, &large).unwrap()["uri"][0].clone();
    for method in ["Datapath.attach", "Datapath.activate", "Datapath.activate_readonly"] {
        let place = json!({ "uri": uri, "domain": "5" });
        refused(xapi.datapath(method, place), 79, &says_size);
    }
    stock.assert_nothing_left(&sr);
}

/// An SR that has room for the disk once, and a disk that was written throughout.
#[test]
fn a_full_sr_takes_back_in_parts() {
    with_each(|stock| {
        let sr = stock.sr("12MiB");
        let key = stock.xapi.create_vdi(&sr, 8 * MIB);
        for byte in 1..4 {
            let disk = stock.xapi.plug(&sr, &key, "5");
            let mut client = connect(&disk);
            assert_eq!(client.read(5 * MIB, 512).unwrap(), [byte - 1; 512]);
            for at in 0..8 {
                client.write(at * MIB, &vec![byte; 1 << 20]).unwrap();
            }
            drop(client);
            disk.unplug();
            assert_eq!(stock.xapi.data_in_use(&sr), 8 * MIB);
        }
        stock.assert_nothing_left(&sr);
    });
}

/// Room for less than was written: nothing is lost, and it is the administrator's turn.
#[test]
fn what_does_not_fit_stays_with_the_tapdisk_until_there_is_room() {
    with_each(|stock| {
        let sr = stock.sr("12MiB");
        let filler = stock.xapi.create_vdi(&sr, 8 * MIB);
        let key = stock.xapi.create_vdi(&sr, 8 * MIB);
        for (key, byte) in [(&filler, 9), (&key, 1)] {
            let disk = stock.xapi.plug(&sr, key, "5");
            let mut client = connect(&disk);
            for at in 0..8 {
                client.write(at * MIB, &vec![byte; 1 << 20]).unwrap();
            }
            drop(client);
            if byte == 9 {
                disk.unplug();
                continue;
            }
            let says = ["could not be taken back", "free memory in the SR", key.as_str()];
            refused(disk.step("Datapath.deactivate"), 44, &says);
            refused(disk.step("Datapath.detach"), 44, &says);
            assert_eq!(connect(&disk).read(7 * MIB, 512).unwrap(), [1; 512], "it is served");
            stock.xapi.volume("Volume.destroy", on(&sr, &filler, &json!({}))).unwrap();
            disk.unplug();
        }
        let disk = stock.xapi.plug(&sr, &key, "5");
        assert_eq!(connect(&disk).read(0, 8 << 18).unwrap(), vec![1; 8 << 18]);
        disk.unplug();
        stock.assert_nothing_left(&sr);
    });
}

#[test]
fn a_host_without_a_tapdisk_is_told_so() {
    let nowhere = tempfile::tempdir().unwrap();
    let path = nowhere.path().join("tapdisk");
    let xapi = Xapi::with(&[(BLKTAP, path.to_str().unwrap())]);
    let wanted = json!({ "size": "64MiB", "tapdisk": "blktap" });
    let sr = xapi.attach_sr(&xapi.configure_sr(wanted).unwrap());
    let key = xapi.create_vdi(&sr, MIB);
    let plugged = Disk::attach_and_activate(&xapi, &sr, &key, "5", false);
    refused(plugged, 453, &[path.to_str().unwrap(), BLKTAP]);
    xapi.volume("Volume.destroy", on(&sr, &key, &json!({}))).unwrap();
    assert_eq!(xapi.control_dir().reserved().unwrap(), [0; 0]);
}

#[test]
fn the_log_says_what_it_is_for_and_an_unknown_tapdisk_is_refused() {
    let stock = Stock::stand_in();
    let create =
        |tapdisk: &str| stock.xapi.configure_sr(json!({ "size": "64MiB", "tapdisk": tapdisk }));
    stock.logged();
    assert_eq!(create("ram").unwrap()["tapdisk"], "ram");
    assert!(!stock.logged().contains("LOST"));
    assert_eq!(create("blktap").unwrap()["tapdisk"], "blktap");
    let logged = stock.logged();
    for part in ["tapdisk=blktap", "LOST", "500 MiB", "comparison and demonstration"] {
        assert!(logged.contains(part), "{part} is not in {logged}");
    }
    refused(create("qemu"), 1, &["device-config:tapdisk", "\"qemu\"", "ram or blktap"]);
    assert!(Path::new(stock.control.path()).exists());
}
