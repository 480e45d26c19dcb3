//! Tapdisks and calls that die, hang, or are paused: what is lost then, and what is not.

use super::*;

#[test]
fn a_tapdisk_that_dies_loses_what_was_written_since_activate_and_nothing_else() {
    with_each(|stock| {
        let sr = stock.sr("64MiB");
        let key = stock.xapi.create_vdi(&sr, MIB);
        let disk = stock.xapi.plug(&sr, &key, "5");
        put(&disk, 0, "before");
        disk.step("Datapath.deactivate").unwrap();
        disk.step("Datapath.activate").unwrap();
        put(&disk, 0, "lost..");
        disk.kill_tapdisk();
        stock.logged();
        disk.step("Datapath.deactivate").unwrap();
        let logged = stock.logged();
        assert!(logged.contains("is dead") && logged.contains("is lost"), "{logged}");
        assert!(logged.contains(&key), "{logged}");
        disk.step("Datapath.activate").unwrap();
        assert_eq!(get(&disk, 0), "before");
        // The same without a deactivate between the kill and the activate.
        put(&disk, 0, "lost..");
        disk.kill_tapdisk();
        disk.step("Datapath.activate").unwrap();
        assert!(stock.logged().contains("is lost"));
        assert_eq!(get(&disk, 0), "before");
        disk.kill_tapdisk();
        disk.unplug();
        stock.assert_nothing_left(&sr);
    });
}

/// The control client of the one tapdisk, and the minor of its disk.
fn control(stock: &Stock, disk: &Disk<'_>) -> (tapctl::Client, u16) {
    let client = tapctl::Client::new(&stock.control, disk.tapdisk().pid);
    let minor = u16::try_from(client.list().unwrap()[0].minor).unwrap();
    (client, minor)
}

/// An administrator's tap-ctl pause, and one whose unpause has failed: the driver still has everything, so
/// it is taken back.
#[test]
fn a_tapdisk_that_somebody_pauses_is_resumed_and_gives_the_disk_back() {
    with_each(|stock| {
        let sr = stock.sr("64MiB");
        let key = stock.xapi.create_vdi(&sr, MIB);
        for (round, method) in
            ["Datapath.deactivate", "Datapath.activate", "Datapath.detach"].into_iter().enumerate()
        {
            let text = format!("paused {round}");
            let disk = plug(stock, &sr, &key, "5");
            put(&disk, 0, &text);
            let (client, minor) = control(stock, &disk);
            client.pause(minor).unwrap();
            stock.logged();
            disk.step(method).unwrap();
            let logged = stock.logged();
            assert!(logged.contains("was paused") && !logged.contains("is lost"), "{logged}");
            let disk = plug(stock, &sr, &key, "5");
            assert_eq!(get(&disk, 0), text, "{method}");
            disk.unplug();
        }
        stock.assert_nothing_left(&sr);
    });
}

#[test]
fn a_tapdisk_whose_unpause_has_failed_gives_the_disk_back() {
    let stock = Stock::stand_in();
    let sr = stock.sr("64MiB");
    let key = stock.xapi.create_vdi(&sr, MIB);
    let disk = stock.xapi.plug(&sr, &key, "5");
    put(&disk, 0, "unpaused");
    let (client, minor) = control(&stock, &disk);
    client.pause(minor).unwrap();
    let other = tapctl::Resume { params: Some("ram:/no/such/image".into()), ..Default::default() };
    client.resume(minor, other).unwrap_err();
    disk.step("Datapath.deactivate").unwrap();
    let disk = plug(&stock, &sr, &key, "5");
    assert_eq!(get(&disk, 0), "unpaused");
    disk.unplug();
    stock.assert_nothing_left(&sr);
}

/// An administrator's tap-ctl close: the driver forgets what was written.
#[test]
fn a_tapdisk_whose_image_somebody_closes_counts_as_one_that_has_lost_it() {
    with_each(|stock| {
        let sr = stock.sr("64MiB");
        let key = stock.xapi.create_vdi(&sr, MIB);
        let disk = stock.xapi.plug(&sr, &key, "5");
        put(&disk, 0, "before");
        disk.step("Datapath.deactivate").unwrap();
        disk.step("Datapath.activate").unwrap();
        put(&disk, 0, "closed");
        let (client, minor) = control(stock, &disk);
        client.close(minor).unwrap();
        stock.logged();
        disk.step("Datapath.deactivate").unwrap();
        let logged = stock.logged();
        assert!(logged.contains("closed") && logged.contains("is lost"), "{logged}");
        disk.step("Datapath.activate").unwrap();
        assert_eq!(get(&disk, 0), "before");
        disk.unplug();
        stock.assert_nothing_left(&sr);
    });
}

/// The stock tapdisk holds the only copy of the writes, so it is not killed for being slow, as
/// tapdisk-ram would be.
#[test]
fn a_tapdisk_that_hangs_is_not_killed_and_loses_nothing() {
    let stock = Stock::stand_in();
    let sr = stock.sr("64MiB");
    let key = stock.xapi.create_vdi(&sr, MIB);
    let disk = stock.xapi.plug(&sr, &key, "5");
    put(&disk, 0, "patience");
    let tapdisk = disk.tapdisk();
    end_to_end::signal_all(&tapdisk, rustix::process::Signal::STOP);
    let says = ["host's own tapdisk", "it hangs", "gives up what was written"];
    refused(disk.step("Datapath.deactivate"), 453, &says);
    assert!(tapdisk.is_same());
    end_to_end::signal_all(&tapdisk, rustix::process::Signal::CONT);
    disk.step("Datapath.deactivate").unwrap();
    disk.step("Datapath.activate").unwrap();
    assert_eq!(get(&disk, 0), "patience");
    disk.unplug();
    stock.assert_nothing_left(&sr);
}

/// A deactivate that is killed leaves the old contents or the new ones, and can be repeated.
#[test]
fn a_killed_activate_or_deactivate_loses_nothing_and_is_repeated() {
    with_each(|stock| {
        let sr = stock.sr("128MiB");
        let key = stock.xapi.create_vdi(&sr, 16 * MIB);
        let uri = stock.xapi.stat(&sr, &key).unwrap()["uri"][0].clone();
        let killed_after = |method: &str, delay: Duration| {
            let params = json!({ "dbg": "x", "uri": uri, "domain": "5" }).to_string();
            let mut call = stock.xapi.method(Side::Datapath, method);
            let mut child = call.stderr(Stdio::null()).spawn().unwrap();
            child.stdin.take().unwrap().write_all(params.as_bytes()).unwrap();
            thread::sleep(delay);
            child.kill().unwrap();
            child.wait().unwrap();
        };
        for round in 0..8_u8 {
            let delay = Duration::from_millis(u64::from(round) * 17 % 90);
            killed_after("Datapath.activate", delay);
            let disk = plug(stock, &sr, &key, "5");
            let mut client = connect(&disk);
            assert_eq!(client.read(7 * MIB, 512).unwrap(), [round; 512], "round {round}");
            for at in 0..16 {
                client.write(at * MIB, &vec![round + 1; 1 << 20]).unwrap();
            }
            drop(client);
            killed_after("Datapath.deactivate", delay);
            if round % 4 == 3 {
                // Whatever became of it, the volume is not a mixture.
                let tapdisk = fs::read_link(&disk.socket).map(|_| disk.tapdisk());
                tapdisk.into_iter().for_each(|tapdisk| tapdisk.kill().unwrap());
            }
            disk.step("Datapath.deactivate").unwrap();
            let mut disk = plug(stock, &sr, &key, "5");
            let mut client = connect(&disk);
            let all = [client.read(0, 8 << 20), client.read(8 * MIB, 8 << 20)];
            let all = all.map(Result::unwrap_or_default).concat();
            let first = if all.is_empty() { 0 } else { all[0] };
            assert!(first == round || first == round + 1);
            assert!(round % 4 == 3 || first == round + 1, "it was taken back");
            assert!(all.iter().all(|&byte| byte == first), "a mixture in round {round}");
            if first == round {
                for at in 0..16 {
                    client.write(at * MIB, &vec![round + 1; 1 << 20]).unwrap();
                }
            }
            drop(client);
            disk.step("Datapath.deactivate").unwrap();
            disk.step("Datapath.detach").unwrap();
            disk = plug(stock, &sr, &key, "5");
            disk.unplug();
        }
        maintain(&stock.xapi, &["gc", "--sr", &sr]).success();
        assert_eq!(stock.xapi.data_in_use(&sr), 16 * MIB);
        assert_eq!(stock.images(&sr), [] as [PathBuf; 0]);
        assert_sound(&stock.xapi, &sr);
    });
}
