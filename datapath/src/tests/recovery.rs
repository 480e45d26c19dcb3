//! After deaths: of the tapdisk, of a call at the points between its steps, of the volume and the SR.

use super::*;
use host::Provider;

use crate::state::{Hold, Tapdisk};

#[test]
fn a_tapdisk_that_dies_between_attach_and_activate_is_replaced_under_the_same_link() {
    let it = Fixture::new();
    let before = it.run("attach", "1").unwrap();
    let (_, minor) = it.tapdisk();
    let dead = it.kill();
    it.ok("activate", "1");
    let (identity, same_minor) = it.tapdisk();
    assert_ne!(identity.pid, dead.pid);
    assert_eq!(same_minor, minor);
    assert_eq!(it.link_target(), it.control.nbd(identity.pid, minor));
    assert_eq!(it.control.tapdisks().unwrap(), [identity.pid], "the dead one left nothing");
    assert_eq!(it.run("attach", "1").unwrap(), before);
    it.ok("detach", "1");
    it.assert_nothing_left();
}

#[test]
fn a_tapdisk_that_is_just_dying_is_replaced_too() {
    let it = Fixture::new();
    it.ok("attach", "1");
    for method in ["activate", "activate", "attach", "activate_readonly"].repeat(5) {
        it.tapdisk().0.kill().unwrap();
        it.ok(method, "1");
        assert!(method == "attach" || it.serving().is_some());
    }
    it.tapdisk().0.kill().unwrap();
    it.ok("detach", "1");
    it.assert_nothing_left();
}

#[test]
fn an_active_disk_is_served_again_in_its_mode_by_whoever_comes_next() {
    for (method, read_only) in [("activate", false), ("activate_readonly", true)] {
        let it = Fixture::new();
        it.ok(method, "1");
        it.kill();
        it.ok("attach", "2");
        assert_eq!(it.serving(), Some((it.key.clone(), read_only)));
        it.kill();
        it.ok(method, "2");
        assert_eq!(it.serving(), Some((it.key.clone(), read_only)));
        it.ok("detach", "1");
        it.ok("detach", "2");
        it.assert_nothing_left();
    }
}

#[test]
fn a_dead_tapdisk_is_no_obstacle_on_the_way_down() {
    let it = Fixture::new();
    it.ok("activate", "1");
    let dead = it.kill();
    it.ok("deactivate", "1");
    it.ok("detach", "1");
    assert!(!it.control.ctl(dead.pid).exists());
    it.assert_nothing_left();
}

#[test]
fn a_minor_that_was_freed_or_taken_meanwhile_is_not_used() {
    let it = Fixture::new();
    it.ok("attach", "1");
    let (_, minor) = it.tapdisk();
    it.kill();
    let taken = tapctl::MinorLock::take(&it.control, minor).unwrap();
    it.ok("activate", "1");
    let (_, other) = it.tapdisk();
    assert_ne!(other, minor);
    it.ok("detach", "1");
    drop(taken);
    assert_eq!(it.control.reserved().unwrap(), [minor], "whose it is, is not ours to say");
}

impl Fixture {
    /// A tapdisk as a call starts it, which it was killed before it could remember.
    fn start_for_volume(&self) -> Identity {
        let spawn = tapctl::Spawn::new(&self.control, fake());
        let spawn = spawn.variables(self.config().for_tapdisk());
        spawn.variables([("XAPI_RAM_STARTED_FOR", self.mark())]).start().unwrap().identity
    }

    /// A minor as a call reserves it.
    fn reserve_for_volume(&self) -> Minor {
        let patience = Duration::from_secs(1);
        tapctl::minors::allocate_for(&self.control, &self.mark(), patience).unwrap()
    }
}

/// A call is killed after each step of starting a tapdisk: the state, made by hand, is what it leaves.
/// The next call finds all of it, whichever it is.
#[test]
fn a_call_that_was_killed_at_any_step_of_starting_is_made_up_for() {
    for steps in 0..=2 {
        for method in ["attach", "activate", "detach"] {
            let it = Fixture::new();
            it.write_state(&State { starting: true, ..State::default() });
            let reserved = (steps >= 1).then(|| it.reserve_for_volume());
            let orphan = (steps >= 2).then(|| it.start_for_volume());
            it.ok(method, "1");
            assert!(orphan.is_none_or(|it| !it.is_same()), "{method} after step {steps}");
            if method != "detach" {
                assert_eq!(it.control.reserved().unwrap().len(), 1);
                assert_eq!(
                    it.tapdisk().1,
                    reserved.unwrap_or_default(),
                    "the number is free again"
                );
            }
            it.ok("detach", "1");
            it.assert_nothing_left();
        }
    }
}

/// After the process was remembered, before it had its minor.
#[test]
fn a_process_that_was_remembered_and_has_no_minor_yet_gets_it() {
    for method in ["attach", "detach"] {
        let it = Fixture::new();
        let minor = it.reserve_for_volume();
        let identity = it.start_for_volume();
        let tapdisk = Some(Tapdisk::new(minor, Some(identity.clone()), Provider::Ram));
        it.write_state(&State { tapdisk, ..State::default() });
        it.ok(method, "1");
        if method == "attach" {
            assert_eq!(it.tapdisk(), (identity.clone(), minor));
            assert_eq!(it.link_target(), it.control.nbd(identity.pid, minor));
        }
        it.ok("detach", "1");
        it.assert_nothing_left();
    }
}

/// A record of the version before: the minor was remembered before the process was started.
#[test]
fn a_start_that_the_version_before_did_not_finish_is_made_up_for() {
    let it = Fixture::new();
    let minor = tapctl::minors::allocate(&it.control, Duration::from_secs(1)).unwrap();
    let record = format!(r#"{{"persistent":true,"domains":{{}},"tapdisk":{{"minor":{minor}}}}}"#);
    std::fs::write(it.state_path(), record).unwrap();
    it.ok("attach", "1");
    assert_eq!(it.tapdisk().1, minor);
    it.ok("detach", "1");
    it.assert_nothing_left();
}

/// Others may be in the middle of starting theirs.
#[test]
fn what_was_started_for_another_volume_is_left_alone() {
    let (it, mut other) = (Fixture::new(), Fixture::new());
    other.control = it.control.clone();
    let minor = other.reserve_for_volume();
    let identity = other.start_for_volume();
    it.write_state(&State { starting: true, ..State::default() });
    it.ok("attach", "1");
    it.ok("detach", "1");
    it.ok("detach", "1");
    assert!(identity.is_same());
    assert_eq!(it.control.reserved().unwrap(), [minor]);
    other.ok("detach", "1");
    assert!(!identity.is_same());
    it.assert_nothing_left();
}

#[test]
fn an_activation_that_was_opened_and_not_remembered_is_taken_over_or_ended() {
    for method in ["activate", "activate_readonly", "deactivate", "detach"] {
        let it = Fixture::new();
        it.ok("activate", "1");
        let mut state = it.state();
        state.domains.insert("1".into(), Hold::Attached);
        it.write_state(&state);
        it.ok(method, "1");
        match method {
            "activate" => assert_eq!(it.serving(), Some((it.key.clone(), false))),
            "activate_readonly" => assert_eq!(it.serving(), Some((it.key.clone(), true))),
            "deactivate" => assert_eq!(it.serving(), None),
            _ => {}
        }
        it.ok("detach", "1");
        it.assert_nothing_left();
    }
}

#[test]
fn a_detach_that_was_killed_half_way_is_repeated() {
    let it = Fixture::new();
    it.ok("attach", "1");
    let (identity, minor) = it.tapdisk();
    tapctl::Client::new(&it.control, identity.pid).detach(minor).unwrap();
    assert!(identity.wait(Duration::from_secs(10)).unwrap());
    it.ok("detach", "1");
    it.assert_nothing_left();
}

/// The record of an attached volume vanishes with the volume, and with its SR. Its tapdisk is found
/// all the same, and so is what it left where it is dead.
#[test]
fn an_attached_disk_that_was_destroyed_or_whose_sr_was_is_detached_all_the_same() {
    for sr_too in [false, true] {
        for dead in [false, true] {
            let it = Fixture::new();
            it.ok("attach", "1");
            let (identity, _) = it.tapdisk();
            if dead {
                it.kill();
            }
            if sr_too {
                it.host.destroy(&Name::parse(SR).unwrap()).unwrap();
            } else {
                it.sr.lock().unwrap().destroy_volume(&it.key, &mut Inactive).unwrap();
            }
            for method in ["deactivate", "detach", "detach"] {
                it.ok(method, "1");
            }
            it.close().unwrap();
            assert!(!identity.is_same());
            it.assert_nothing_left();
        }
    }
}

#[test]
fn a_link_to_somebody_elses_tapdisk_is_not_believed() {
    let it = Fixture::new();
    it.ok("activate", "1");
    let (identity, minor) = it.tapdisk();
    let mut other = Fixture::new();
    other.control = it.control.clone();
    std::fs::create_dir_all(other.link().parent().unwrap()).unwrap();
    std::os::unix::fs::symlink(it.control.nbd(identity.pid, minor), other.link()).unwrap();
    other.ok("detach", "1");
    assert!(it.serving().is_some(), "it serves another volume");
    assert!(!other.link().exists());
    it.ok("detach", "1");
}

/// Something has emptied the control directory under a running tapdisk: it serves the clients that it
/// has, and no call can reach it. The advice of the error has to help.
#[test]
fn a_living_tapdisk_whose_control_socket_was_removed_is_replaced_by_unplugging_and_plugging() {
    for active in [false, true] {
        let it = Fixture::new();
        it.ok("attach", "1");
        if active {
            it.ok("activate", "1");
        }
        let (identity, _) = it.tapdisk();
        std::fs::remove_dir_all(it.control.path()).unwrap();
        std::fs::create_dir(it.control.path()).unwrap();
        if active {
            refused(it.run("attach", "1"), 453, &["unplug the disk and plug it again"]);
            refused(it.run("activate", "1"), 453, &["unplug the disk and plug it again"]);
            assert!(identity.is_same(), "its clients are served");
            it.ok("deactivate", "1");
            it.ok("detach", "1");
        }
        it.ok("attach", "1");
        it.ok("activate", "1");
        assert!(!identity.is_same());
        assert!(it.serving().is_some());
        it.ok("detach", "1");
        it.assert_nothing_left();
    }
}

/// Programs of different versions meet on a host while it is upgraded, or where one is named by hand.
#[test]
fn a_program_that_does_not_know_our_messages_is_refused_by_name_and_ended() {
    for (file, text, says) in [
        ("stock", "", ["not tapdisk-ram", "XAPI_RAM_TAPDISK"]),
        ("revision", "99", ["revision 99", "one version"]),
    ] {
        let it = Fixture::new();
        it.control.create().unwrap();
        std::fs::write(it.control.path().join(file), text).unwrap();
        for method in ["attach", "activate"] {
            refused(it.run(method, "1"), 453, &[says[0], says[1], &it.program]);
        }
        it.ok("detach", "1");
        it.assert_nothing_left();
    }
    let it = Fixture::new();
    it.control.create().unwrap();
    std::fs::write(it.control.path().join("revision"), "0").unwrap();
    it.ok("activate", "1");
    it.ok("detach", "1");
    it.assert_nothing_left();
}

#[test]
fn a_record_of_a_later_version_is_refused_and_kept_as_it_is() {
    let it = Fixture::new();
    let record = r#"{"version":2,"persistent":true,"domains":{"1":"attached"},"more":[1]}"#;
    std::fs::write(it.state_path(), record).unwrap();
    for method in ["attach", "activate", "deactivate", "detach"] {
        refused(it.run(method, "1"), 181, &["version 2", it.state_path().to_str().unwrap()]);
    }
    assert_eq!(std::fs::read_to_string(it.state_path()).unwrap(), record);
    // One of before there were versions is read.
    std::fs::write(it.state_path(), r#"{"persistent":true,"domains":{"1":"attached"}}"#).unwrap();
    it.ok("detach", "1");
    it.assert_nothing_left();
}

/// A later version of the same format may have added something to the record of a volume in use.
#[test]
fn what_a_later_version_has_added_to_a_record_is_kept() {
    let it = Fixture::new();
    it.ok("activate", "1");
    let added =
        |value: &serde_json::Value| (value["more"].clone(), value["tapdisk"]["more"].clone());
    let read = || -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(it.state_path()).unwrap()).unwrap()
    };
    let mut record = read();
    record["more"] = json!([1]);
    record["tapdisk"]["more"] = json!({ "a": 2 });
    std::fs::write(it.state_path(), record.to_string()).unwrap();
    for (method, domain) in
        [("attach", "2"), ("activate", "2"), ("deactivate", "1"), ("detach", "1")]
    {
        it.ok(method, domain);
        assert_eq!(added(&read()), (json!([1]), json!({ "a": 2 })), "{method}");
    }
    it.ok("detach", "2");
    assert_eq!(read()["more"], json!([1]), "it may be of use without a tapdisk too");
    assert_eq!(it.control.reserved().unwrap(), [0; 0]);
}
