//! From attach to detach: what the caller is told, repeated calls, several domains, refusals.

use std::thread;

use rustix::process::Signal;

use super::*;

#[test]
fn the_query_names_what_works() {
    let answer = Fixture::new().call("Plugin.Query", json!({})).unwrap();
    assert_eq!(answer["plugin"], "ram");
    assert_eq!(answer["required_api_version"], "5.0");
    assert_eq!(answer["features"], json!(["NONPERSISTENT", "VDI_MIRROR", "VDI_MIRROR_IN"]));
}

#[test]
fn a_disk_from_attach_to_detach() {
    let it = Fixture::new();
    let backend = it.run("attach", "5").unwrap();
    let link = it.link();
    let uri = format!("nbd:unix:{}:exportname={}", link.display(), it.key);
    assert_eq!(uri.split(':').count(), 4);
    let expected = json!({ "implementations": [
        ["XenDisk", { "params": uri, "extra": { "vdi-uuid": it.key }, "backend_type": "vbd3" }],
        ["Nbd", { "uri": uri }],
    ] });
    assert_eq!(backend, expected);
    let (identity, minor) = it.tapdisk();
    assert_eq!(it.link_target(), it.control.nbd(identity.pid, minor));
    assert!(it.link_target().is_absolute());
    assert_eq!(it.serving(), None, "attached is idle");
    it.ok("activate", "5");
    assert_eq!(it.serving(), Some((it.key.clone(), false)));
    assert_eq!(it.sr.serving(&Name::parse(&it.key).unwrap()).unwrap().unwrap().pid, identity.pid);
    it.ok("deactivate", "5");
    assert_eq!(it.serving(), None);
    it.ok("detach", "5");
    assert!(!identity.is_same());
    it.assert_nothing_left();
}

/// From a write activation on the bytes may change: what was copied of them before is told from what comes
/// then. Neither a reader nor a second writer of a disk that is active changes the identity.
#[test]
fn each_write_activation_gives_the_contents_a_new_identity() {
    let it = Fixture::new();
    let id = || it.sr.volume(&it.key).unwrap().keys["content_id"].clone();
    let mut before = id();
    it.ok("attach", "5");
    assert_eq!(id(), before);
    for _ in 0..2 {
        it.ok("activate", "5");
        assert_ne!(id(), before, "a fresh one each time");
        before = id();
        it.ok("activate", "6");
        it.ok("deactivate", "5");
        it.ok("detach", "6");
        assert_eq!(id(), before);
    }
    it.ok("activate_readonly", "5");
    it.ok("detach", "5");
    assert_eq!(id(), before, "nothing was written");
    it.assert_nothing_left();
}

#[test]
fn every_step_may_be_repeated() {
    let it = Fixture::new();
    let first = it.run("attach", "5").unwrap();
    let before = it.tapdisk();
    assert_eq!(it.run("attach", "5").unwrap(), first);
    for method in ["activate", "activate", "attach", "activate"] {
        it.ok(method, "5");
        assert_eq!(it.tapdisk(), before);
    }
    assert_eq!(it.serving(), Some((it.key.clone(), false)), "attach ends no activation");
    for method in ["deactivate", "deactivate", "detach", "detach", "deactivate"] {
        it.ok(method, "5");
    }
    it.close().unwrap();
    it.assert_nothing_left();
}

#[test]
fn activating_attaches_and_detaching_deactivates() {
    let it = Fixture::new();
    it.ok("activate", "5");
    assert_eq!(it.serving(), Some((it.key.clone(), false)));
    it.ok("detach", "5");
    it.assert_nothing_left();
}

#[test]
fn two_domains_share_one_tapdisk_and_the_last_one_ends_it() {
    let it = Fixture::new();
    for domain in ["u0_vbd/a b:c", "7"] {
        it.ok("attach", domain);
        it.ok("activate", domain);
    }
    let (identity, _) = it.tapdisk();
    it.ok("deactivate", "7");
    assert!(it.serving().is_some(), "the other one still uses it");
    it.ok("detach", "7");
    it.ok("deactivate", "nobody");
    it.ok("detach", "nobody");
    assert!(it.serving().is_some() && identity.is_same());
    it.ok("attach", "7");
    it.ok("detach", "u0_vbd/a b:c");
    assert_eq!(it.serving(), None, "who is left has not activated it");
    it.ok("detach", "7");
    it.assert_nothing_left();
}

#[test]
fn reading_and_writing_exclude_each_other_between_domains() {
    let it = Fixture::new();
    it.ok("activate_readonly", "1");
    it.ok("activate_readonly", "2");
    assert_eq!(it.serving(), Some((it.key.clone(), true)));
    refused(it.run("activate", "3"), 24, &[&it.key, "read-only", "\"1\""]);
    refused(it.run("activate", "2"), 24, &["read-only", "\"1\""]);
    it.ok("deactivate", "1");
    // Alone it may change its mind.
    it.ok("activate", "2");
    assert_eq!(it.serving(), Some((it.key.clone(), false)));
    it.ok("activate", "1");
    refused(it.run("activate_readonly", "3"), 24, &["read-write"]);
    for domain in ["1", "2"] {
        it.ok("detach", domain);
    }
    it.assert_nothing_left();
}

#[test]
fn a_snapshot_is_read_and_not_written() {
    let mut it = Fixture::new();
    it.key = it.snapshot();
    it.ok("attach", "1");
    refused(it.run("activate", "1"), 66, &[&it.key, "snapshot", "read-only"]);
    it.ok("activate_readonly", "1");
    assert_eq!(it.serving(), Some((it.key.clone(), true)));
    it.ok("detach", "1");
    it.assert_nothing_left();
}

#[test]
fn a_volume_without_data_is_not_activated() {
    let mut it = Fixture::new();
    it.key = it.snapshot();
    it.sr.lock().unwrap().destroy_volume_data(&it.key, &mut Inactive).unwrap();
    refused(it.run("activate_readonly", "1"), 66, &[&it.key, "destroyed"]);
    it.assert_nothing_left();
}

#[test]
fn what_is_not_there_cannot_be_set_up_and_is_always_torn_down() {
    let mut it = Fixture::new();
    let existing = std::mem::replace(&mut it.key, "no-such-key".into());
    for method in ["attach", "activate", "activate_readonly"] {
        refused(it.run(method, "1"), 144, &["Volume_does_not_exist", "no-such-key", "sr-scan"]);
    }
    refused(it.open(false), 144, &["no-such-key"]);
    let teardown = |it: &Fixture| {
        for method in ["deactivate", "detach"] {
            it.ok(method, "1");
        }
        it.close().unwrap();
    };
    teardown(&it);
    it.assert_nothing_left();
    it.key = existing;
    it.sr.lock().unwrap().detach().unwrap();
    refused(it.run("attach", "1"), 47, &["Sr_not_attached", SR]);
    teardown(&it);
    it.host.destroy(&Name::parse(SR).unwrap()).unwrap();
    refused(it.run("activate", "1"), 47, &[SR]);
    teardown(&it);
}

#[test]
fn a_wrong_uri_is_told_with_its_value() {
    let it = Fixture::new();
    for uri in ["", "nbd://x/y", "ram://only-an-sr", "ram://../../etc/passwd"] {
        for method in ["attach", "detach"] {
            let result =
                it.call(&format!("Datapath.{method}"), json!({ "uri": uri, "domain": "1" }));
            refused(result, 1, &[&format!("{uri:?}")]);
        }
    }
}

#[test]
fn a_control_directory_that_breaks_the_uri_is_refused_before_anything_is_done() {
    let mut it = Fixture::new();
    it.control = ControlDir::new(it.root.path().join("a:b"));
    for method in ["attach", "activate"] {
        refused(it.run(method, "1"), 1, &["a:b", "':'", "XAPI_RAM_CONTROL_DIR"]);
    }
    assert!(!it.control.path().exists());
    it.assert_nothing_left();
}

#[test]
fn a_program_that_is_no_tapdisk_leaves_nothing() {
    let mut it = Fixture::new();
    for program in ["/bin/false", "/nonexistent/tapdisk"] {
        it.program = program.into();
        refused(it.run("attach", "1"), 453, &[program, "XAPI_RAM_TAPDISK"]);
        it.assert_nothing_left();
    }
}

#[test]
fn a_tapdisk_that_refuses_leaves_nothing() {
    for request in ["attach", "open"] {
        let it = Fixture::new();
        it.tell(&format!("refuse-{request}"));
        refused(it.run("activate", "1"), 453, &[request, "of tapdisk", "as it was told"]);
        it.assert_nothing_left();
    }
}

#[test]
fn a_volume_that_somebody_else_serves_is_in_use_by_name() {
    let it = Fixture::new();
    let own = std::process::id();
    let serving =
        store::Serving { pid: own, control_dir: "/elsewhere".into(), minor: 9, read_only: false };
    let path = it.sr.layout().volume(&Name::parse(&it.key).unwrap());
    let _disk = store::Disk::open(&path, &store::Open { serving }).unwrap();
    it.ok("attach", "1");
    refused(it.run("activate", "1"), 24, &[&it.key, &own.to_string(), "/elsewhere", "minor 9"]);
    it.ok("detach", "1");
    it.assert_nothing_left();
}

#[test]
fn a_tapdisk_that_hangs_makes_an_error_and_is_killed_in_the_end() {
    let it = Fixture::new();
    it.ok("attach", "1");
    let (identity, _) = it.tapdisk();
    identity.signal(Signal::STOP).unwrap();
    let pid = identity.pid.to_string();
    refused(it.run("activate", "1"), 453, &["tapdisk", &pid, "hangs", "kill -9"]);
    assert!(identity.is_same(), "it may recover");
    identity.signal(Signal::CONT).unwrap();
    it.ok("activate", "1");
    identity.signal(Signal::STOP).unwrap();
    it.ok("deactivate", "1");
    assert!(!identity.is_same(), "nobody serves it any more");
    it.ok("activate", "1");
    let (second, _) = it.tapdisk();
    second.signal(Signal::STOP).unwrap();
    it.ok("detach", "1");
    assert!(!second.is_same());
    it.assert_nothing_left();
}

#[test]
fn a_tapdisk_that_does_not_end_is_killed() {
    let it = Fixture::new();
    it.tell("stay");
    it.ok("attach", "1");
    let (identity, _) = it.tapdisk();
    it.ok("detach", "1");
    assert!(!identity.is_same());
    it.assert_nothing_left();
}

#[test]
fn calls_at_the_same_time_are_served_by_one_tapdisk() {
    let it = Fixture::new();
    thread::scope(|scope| {
        for domain in 0..8 {
            let it = &it;
            scope.spawn(move || {
                for method in ["attach", "activate", "deactivate"] {
                    it.ok(method, &domain.to_string());
                }
            });
        }
    });
    assert_eq!(it.state().domains.len(), 8);
    assert_eq!(it.control.tapdisks().unwrap().len(), 1);
    assert_eq!(it.serving(), None);
    thread::scope(|scope| {
        for domain in 0..8 {
            let it = &it;
            scope.spawn(move || it.ok("detach", &domain.to_string()));
        }
    });
    it.assert_nothing_left();
    assert_eq!(it.asked().iter().filter(|asked| *asked == "detach").count(), 1);
}

/// Parsing it takes as long as all other things that a call asks of the store.
#[test]
fn a_call_reads_the_record_of_the_sr_once() {
    let fixture = Fixture::new();
    for (method, volumes) in [("attach", 1), ("activate", 3), ("deactivate", 0), ("detach", 0)] {
        store::testing::work();
        fixture.ok(method, "0");
        let work = store::testing::work();
        assert!(work.srs <= 1 && work.volumes <= volumes, "{method}: {work:?}");
    }
    fixture.assert_nothing_left();
}
