//! Activations that no client uses: they end where they are in the way, and no other ones do.

use super::*;

const MIRROR: &str = "MIR0a1b2c";
const COPY: &str = "CP0a1b2c";
const DOM0: &str = "u0_vbd_0_x_xvda";

fn domains(it: &Fixture) -> Vec<String> {
    it.state().domains.into_keys().collect()
}

/// What xapi leaves when it has migrated a machine that was halted.
#[test]
fn what_a_migration_left_makes_way_for_a_guest_at_once() {
    for (method, read_only) in [("activate", false), ("activate_readonly", true)] {
        let it = Fixture::new();
        it.ok("attach", MIRROR);
        it.ok("activate", MIRROR);
        let (tapdisk, _) = it.tapdisk();
        it.ok("attach", "5");
        it.ok(method, "5");
        assert_eq!(domains(&it), ["5"]);
        assert_eq!(it.serving(), Some((it.key.clone(), read_only)));
        assert_eq!(it.tapdisk().0, tapdisk, "the process is used on");
        // Its own end comes late, and is nothing to the guest.
        it.ok("deactivate", MIRROR);
        it.ok("detach", MIRROR);
        assert_eq!(it.serving(), Some((it.key.clone(), read_only)));
        it.ok("deactivate", "5");
        it.ok("detach", "5");
        it.assert_nothing_left();
    }
}

#[test]
fn a_migration_that_has_a_client_keeps_its_disk() {
    let it = Fixture::new();
    it.tell_that("clients", "1");
    it.tell_that("unused", "1000");
    it.ok("activate", MIRROR);
    it.ok("activate", "5");
    assert_eq!(domains(&it), ["5", MIRROR]);
    refused(it.run("activate_readonly", DOM0), 24, &["read-write"]);
    assert_eq!(it.end_unused().lines().count(), 2);
    it.ok("detach", "5");
    it.ok("detach", MIRROR);
    it.assert_nothing_left();
}

/// One tapdisk cannot tell whether it has clients: one of an earlier version, or a foreign one.
#[test]
fn where_clients_are_not_counted_nothing_makes_way() {
    let it = Fixture::new();
    it.ok("activate_readonly", COPY);
    it.tell("stock");
    refused(it.run("activate", "5"), 24, &[COPY, "read-only"]);
    assert_eq!(it.end_unused().lines().count(), 1);
    it.ok("detach", COPY);
    it.assert_nothing_left();
}

/// dom0's clients come back within 90 seconds; after 120 xapi has forgotten the plug.
#[test]
fn a_reader_without_a_client_makes_way_after_its_time() {
    let it = Fixture::new();
    it.ok("attach", DOM0);
    it.ok("activate_readonly", DOM0);
    it.tell_that("unused", "119");
    let ending = format!("Datapath.detach --uri {} --domain '{DOM0}'", it.uri());
    refused(it.run("activate", "5"), 24, &["read-only", DOM0, &ending]);
    assert!(it.end_unused().contains("without a client for 119 s"));
    it.tell_that("unused", "120");
    it.ok("activate_readonly", "6");
    assert_eq!(domains(&it), ["6", DOM0], "two readers are not in each other's way");
    it.ok("activate", "5");
    assert_eq!(domains(&it), ["5"]);
    assert_eq!(it.serving(), Some((it.key.clone(), false)));
    it.ok("deactivate", DOM0);
    it.ok("detach", DOM0);
    assert_eq!(it.serving(), Some((it.key.clone(), false)));
    it.ok("detach", "5");
    it.assert_nothing_left();
}

#[test]
fn a_writer_never_makes_way() {
    let it = Fixture::new();
    it.ok("activate", "5");
    it.tell_that("unused", "100000");
    refused(it.run("activate_readonly", DOM0), 24, &["read-write"]);
    let left = it.end_unused();
    assert!(left.contains("read-write for domain \"5\"") && left.contains(&it.key), "{left}");
    assert_eq!(it.serving(), Some((it.key.clone(), false)));
    it.ok("detach", "5");
    it.assert_nothing_left();
}

#[test]
fn a_volume_that_is_to_be_changed_is_left_after_its_time_with_all_that_served_it() {
    for method in ["activate", "activate_readonly"] {
        let it = Fixture::new();
        it.ok("attach", MIRROR);
        it.ok(method, MIRROR);
        it.tell_that("unused", "119");
        assert_eq!(it.end_unused().lines().count(), 1);
        assert!(it.serving().is_some());
        it.tell_that("unused", "120");
        assert_eq!(it.end_unused(), "");
        it.assert_nothing_left();
        it.ok("deactivate", MIRROR);
        it.ok("detach", MIRROR);
        it.assert_nothing_left();
    }
}

/// A virtual machine that is started says first whether it keeps its writes.
#[test]
fn what_a_migration_left_does_not_keep_a_machine_from_starting() {
    let it = Fixture::new();
    it.ok("activate", MIRROR);
    it.open(false).unwrap();
    it.ok("activate", "5");
    it.tell_that("clients", "1");
    refused(it.close(), 24, &["active"]);
    it.tell_that("clients", "0");
    refused(it.close(), 24, &["active"]);
    it.ok("detach", "5");
    it.close().unwrap();
    it.assert_nothing_left();
}
