//! A write that is larger than what one turn moves takes several, so that other clients have theirs in
//! between. Whatever happens to the disk or to the client meanwhile, it is never left half done.

mod common;

use block::{Budget, Frontend};
use common::*;
use nbd::{Connection, Turned, wire::command};

const LENGTH: usize = 32 << 20;
const OFFSET: u64 = 4096 * 3;
/// What one turn may write of it at most, in parts of 128 KiB, each of which is a change of the disk.
const CHANGES_MAX: u64 = (4 << 20) / (128 << 10) + 1;

/// A client of which all of a large write has come, and a part of it is written.
fn begun() -> Rig {
    let mut rig = Rig::started(false);
    let bytes = write_request(7, OFFSET, &vec![5; LENGTH]);
    let (most, last) = bytes.split_at(bytes.len() - 1);
    rig.send(most);
    rig.drive();
    assert_eq!(rig.disk().changes, 0, "nothing is written before all of it is here");
    rig.send(last);
    assert!(matches!(rig.turn(), Turned::More));
    assert!(matches!(rig.turn(), Turned::More));
    assert!((1..LENGTH as u64 / (128 << 10)).contains(&rig.disk().changes));
    assert_eq!(Frontend::<block::memory::Memory>::outstanding(&rig.connection), 1);
    assert!(!Frontend::<block::memory::Memory>::is_caught_up(&rig.connection));
    rig
}

fn assert_written(rig: &mut Rig) {
    let written = contents(&mut rig.drive, OFFSET, u32::try_from(LENGTH).unwrap());
    assert!(written.iter().all(|&byte| byte == 5));
}

#[test]
fn other_clients_are_served_between_its_turns() {
    let mut rig = begun();
    let mut turns = 0;
    while rig.take().is_empty() {
        let before = rig.disk().changes;
        rig.beside(|other| {
            let mut answer = other.exchange(&request(command::READ, 0, 1, 0, 4096));
            assert_eq!(answer.split_off(16), [0; 4096]);
        });
        rig.turn();
        assert!(rig.disk().changes - before <= CHANGES_MAX, "as much as a turn's budget");
        turns += 1;
    }
    assert!(turns > 4, "{turns}");
    assert_written(&mut rig);
    assert_eq!(rig.stats().write.requests, 1);
}

/// As before a snapshot, or before the disk is paused.
#[test]
fn completed_it_is_whole_and_answered_once() {
    let mut rig = begun();
    rig.connection.complete_write(&mut rig.drive);
    assert_written(&mut rig);
    let changes = rig.disk().changes;
    rig.connection.complete_write(&mut rig.drive);
    rig.drive();
    assert_eq!(rig.disk().changes, changes, "there is nothing left to be done");
    assert_eq!(rig.take(), simple_reply(7, 0));
    let mut answer = rig.exchange(&request(command::READ, 0, 8, OFFSET, 512));
    assert_eq!(answer.split_off(16), [5; 512], "the connection goes on");
}

#[test]
fn a_client_that_vanishes_leaves_it_whole() {
    let mut rig = begun();
    // An answer that cannot be sent ends the connection in the next turn.
    rig.client.shutdown(std::net::Shutdown::Both).unwrap();
    rig.drive();
    assert!(rig.end.is_some());
    assert_written(&mut rig);
}

#[test]
fn a_disk_that_is_about_to_be_closed_gets_all_of_it() {
    let mut rig = begun();
    Connection::stop(&mut rig.connection);
    rig.drive();
    assert_written(&mut rig);
    assert_eq!(rig.take(), simple_reply(7, 0), "it was begun before");
}

/// Where the disk has no room for all of it, the client gets the error, and is served on.
#[test]
fn an_error_in_a_later_turn_is_the_answer() {
    let mut rig = begun();
    rig.disk().fail_next = Some(std::io::ErrorKind::StorageFull.into());
    rig.drive();
    assert_eq!(rig.take(), simple_reply(7, 28), "ENOSPC");
    let mut answer = rig.exchange(&request(command::READ, 0, 8, 0, 512));
    assert_eq!(answer.split_off(16), [0; 512]);
    let mut budget = Budget::turn();
    assert!(matches!(rig.connection.turn(&mut rig.drive, &mut budget), Turned::Idle));
}
