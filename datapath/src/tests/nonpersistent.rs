//! Non-persistent disks: an anonymous clone takes the writes, from open to close.

use super::*;

impl Fixture {
    fn clone_key(&self) -> String {
        self.state().clone.unwrap()
    }

    fn exists(&self, key: &str) -> bool {
        self.sr.volume(key).is_ok()
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
    it.sr.detach().unwrap();
    it.close().unwrap();
    let clone = it.clone_key();
    let attachment = it.host.srs().unwrap().remove(0).attachment;
    it.host.attach(&attachment).unwrap();
    assert!(it.exists(&clone));
    it.close().unwrap();
    assert!(!it.exists(&clone));
    it.assert_nothing_left();
}
