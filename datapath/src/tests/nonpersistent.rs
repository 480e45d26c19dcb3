//! Non-persistent disks: an anonymous clone takes the writes, from open to close.

use super::*;

impl Fixture {
    fn clone_key(&self) -> String {
        self.state().clone.unwrap()
    }

    fn exists(&self, key: &str) -> bool {
        self.sr.volume(key).is_ok()
    }

    /// That no volume is left that does not show.
    #[track_caller]
    fn assert_no_clone(&self) {
        self.assert_nothing_left();
        let records = self.sr.layout().volume(&Name::parse("x").unwrap());
        let records = std::fs::read_dir(records.parent().unwrap()).unwrap().count();
        assert_eq!(records, self.sr.volumes().unwrap().len());
        assert_eq!(self.sr.lock().unwrap().check().unwrap(), [""; 0]);
    }
}

#[test]
fn the_clone_is_served_in_the_place_of_the_volume() {
    let it = Fixture::new();
    it.open(false).unwrap();
    let clone = it.clone_key();
    let listed: Vec<_> = it.sr.volumes().unwrap().into_iter().map(|it| it.key).collect();
    assert_eq!(listed, [Name::parse(&it.key).unwrap()], "it does not show");
    let backend = it.run("attach", "1").unwrap().to_string();
    assert!(backend.contains(&format!("exportname={}\"", it.key)) && !backend.contains(&clone));
    it.ok("activate", "1");
    assert_eq!(it.serving(), Some((clone.clone(), false)));
    it.ok("deactivate", "1");
    it.ok("detach", "1");
    it.close().unwrap();
    assert!(!it.exists(&clone) && it.exists(&it.key));
    it.close().unwrap();
    it.assert_nothing_left();
}

#[test]
fn the_clone_outlives_deactivate_detach_and_the_tapdisk() {
    let it = Fixture::new();
    it.open(false).unwrap();
    let clone = it.clone_key();
    for method in ["attach", "activate", "deactivate", "detach", "activate"] {
        it.ok(method, "1");
    }
    it.kill();
    it.ok("activate", "1");
    assert_eq!(it.serving(), Some((clone.clone(), false)));
    it.ok("detach", "1");
    assert!(it.exists(&clone));
    it.open(false).unwrap();
    assert!(!it.exists(&clone), "a new session starts from the volume");
    assert_ne!(it.clone_key(), clone);
    it.close().unwrap();
    it.assert_nothing_left();
}

#[test]
fn a_persistent_session_forgets_the_clone() {
    let it = Fixture::new();
    it.open(false).unwrap();
    let clone = it.clone_key();
    it.open(true).unwrap();
    assert!(!it.exists(&clone));
    it.ok("activate", "1");
    assert_eq!(it.serving(), Some((it.key.clone(), false)));
    it.close().unwrap();
    assert!(it.serving().is_some(), "there is nothing to throw away");
    it.ok("detach", "1");
    it.assert_nothing_left();
}

#[test]
fn what_is_active_is_neither_changed_nor_thrown_away() {
    let it = Fixture::new();
    it.ok("activate", "1");
    it.open(true).unwrap();
    refused(it.open(false), 24, &[&it.key, "deactivate"]);
    it.ok("deactivate", "1");
    it.open(false).unwrap();
    let clone = it.clone_key();
    it.ok("activate", "1");
    it.open(false).unwrap();
    assert_eq!(it.clone_key(), clone, "the session goes on");
    refused(it.open(true), 24, &[&it.key]);
    refused(it.close(), 24, &[&it.key, "deactivate"]);
    assert_eq!(it.serving(), Some((clone.clone(), false)));
    it.kill();
    it.close().unwrap();
    assert!(!it.exists(&clone), "nobody was using it any more");
    it.ok("detach", "1");
    it.assert_nothing_left();
}

#[test]
fn a_snapshot_can_be_written_in_a_session() {
    let mut it = Fixture::new();
    it.key = it.snapshot();
    it.open(false).unwrap();
    it.ok("activate", "1");
    assert_eq!(it.serving(), Some((it.clone_key(), false)));
    it.ok("detach", "1");
    it.close().unwrap();
    it.assert_nothing_left();
}

#[test]
fn a_session_that_lost_its_clone_before_it_was_made_never_writes_to_the_volume() {
    let it = Fixture::new();
    // A call was killed between remembering the session and making the clone.
    it.write_state(&State { persistent: false, ..State::default() });
    it.ok("activate", "1");
    assert_eq!(it.serving(), Some((it.clone_key(), false)));
    it.ok("detach", "1");
    it.close().unwrap();
    it.assert_nothing_left();
}

/// A call is killed between each two things that it does about the clone: the state, made by hand, is
/// what it leaves.
#[test]
fn a_call_that_was_killed_anywhere_around_the_clone_leaks_nothing() {
    // Its key was written down, and it was not made yet; and it was thrown away, and still named.
    for made_before in [false, true] {
        for next in ["activate", "open", "open for good", "close", "collect"] {
            let it = Fixture::new();
            let mut state = State { persistent: false, ..State::default() };
            if made_before {
                it.open(false).unwrap();
                state = it.state();
                it.sr.lock().unwrap().destroy_volume(&it.clone_key(), &mut Inactive).unwrap();
            } else {
                state.clone = Some(it.sr.new_key().unwrap().to_string());
            }
            it.write_state(&state);
            match next {
                "activate" => {
                    it.ok("activate", "1");
                    assert_eq!(it.serving(), Some((it.clone_key(), false)), "never the volume");
                    it.ok("detach", "1");
                }
                "open" => drop(it.open(false).unwrap()),
                "open for good" => drop(it.open(true).unwrap()),
                "close" => drop(it.close().unwrap()),
                _ => drop(it.sr.lock().unwrap().collect(&mut Inactive).unwrap()),
            }
            it.close().unwrap();
            it.close().unwrap();
            it.assert_no_clone();
        }
    }
}

/// Its record was removed by hand, as the error for one that cannot be understood advises.
#[test]
fn a_clone_that_the_record_does_not_name_any_more_is_dropped_by_whoever_comes_next() {
    for next in ["open", "close", "collect", "attach the SR", "destroy"] {
        let it = Fixture::new();
        it.open(false).unwrap();
        let clone = it.clone_key();
        std::fs::remove_file(it.state_path()).unwrap();
        match next {
            "open" => drop(it.open(false).unwrap()),
            "close" => drop(it.close().unwrap()),
            "collect" => drop(it.sr.lock().unwrap().collect(&mut Inactive).unwrap()),
            "destroy" => it.sr.lock().unwrap().destroy_volume(&it.key, &mut Inactive).unwrap(),
            _ => {
                let attachment = it.host.srs().unwrap().remove(0).attachment;
                it.host.attach(&attachment).unwrap();
            }
        }
        assert!(!it.exists(&clone), "{next}");
        it.close().unwrap();
        it.assert_no_clone();
    }
}

#[test]
fn a_volume_that_is_destroyed_in_its_session_takes_the_clone_with_it() {
    let it = Fixture::new();
    it.open(false).unwrap();
    it.ok("activate", "1");
    let destroyed = it.sr.lock().unwrap().destroy_volume(&it.key, &mut Inactive).unwrap_err();
    assert_eq!(destroyed.kind(), store::ErrorKind::VolumeInUse, "it is active");
    assert!(it.serving().is_some());
    it.ok("deactivate", "1");
    it.sr.lock().unwrap().destroy_volume(&it.key, &mut Inactive).unwrap();
    for _twice in 0..2 {
        it.ok("detach", "1");
        it.close().unwrap();
    }
    it.assert_no_clone();
}

#[test]
fn what_a_killed_call_left_open_does_not_keep_a_session_from_starting() {
    for persistent in [true, false] {
        let it = Fixture::new();
        it.open(persistent).unwrap();
        it.ok("activate", "1");
        let mut state = it.state();
        state.deactivate("1");
        it.write_state(&state);
        it.open(false).unwrap();
        assert_eq!(it.serving(), None);
        it.ok("activate", "1");
        assert_eq!(it.serving(), Some((it.clone_key(), false)));
        it.ok("detach", "1");
        it.close().unwrap();
        it.assert_nothing_left();
    }
}

#[test]
fn a_detached_sr_keeps_the_clone_for_later() {
    let it = Fixture::new();
    it.open(false).unwrap();
    it.sr.lock().unwrap().detach().unwrap();
    it.close().unwrap();
    let clone = it.clone_key();
    let attachment = it.host.srs().unwrap().remove(0).attachment;
    it.host.attach(&attachment).unwrap();
    assert!(it.exists(&clone));
    it.close().unwrap();
    assert!(!it.exists(&clone));
    it.assert_nothing_left();
}
