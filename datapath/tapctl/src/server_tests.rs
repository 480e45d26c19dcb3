//! The listener's file, and many clients at once, some of which hang.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
};

use super::*;
use crate::{
    Client,
    reply::Reply,
    request::{Call, Request},
    testing::{StandIn, pass},
};

fn dir() -> (tempfile::TempDir, ControlDir) {
    let root = tempfile::tempdir().unwrap();
    let dir = ControlDir::new(root.path());
    (root, dir)
}

/// Accepts a conversation that no loop waits for.
fn accept(conversations: &mut Conversations, listener: &Listener, now: Instant) -> Option<Key> {
    conversations.accept(listener, now, |conversation, _| Ok(conversation)).unwrap()
}

#[test]
fn the_socket_is_its_owners_and_leaves_with_it() {
    let (_root, dir) = dir();
    fs::write(dir.ctl(5), "left over").unwrap();
    let listener = Listener::bind(&dir, 5).unwrap();
    assert_eq!(listener.path(), dir.ctl(5));
    assert_eq!(fs::metadata(dir.ctl(5)).unwrap().permissions().mode() & 0o7777, 0o600);
    assert!(listener.accept().unwrap().is_none());
    drop(listener);
    assert!(!dir.ctl(5).exists());
}

#[test]
fn a_path_that_no_client_could_name_is_refused() {
    let (root, _) = dir();
    let dir = ControlDir::new(root.path().join("x".repeat(100)));
    dir.create().unwrap();
    let error = Listener::bind(&dir, 5).unwrap_err();
    assert_eq!(error.errno(), Errno::NAMETOOLONG.raw_os_error());
}

#[test]
fn clients_that_hang_cost_nothing() {
    let (_root, dir) = dir();
    let _tapdisk = StandIn::start(&dir, 5, |_| Reply::Pid(5));
    let silent: Vec<_> = (0..20).map(|_| UnixStream::connect(dir.ctl(5)).unwrap()).collect();
    for mut client in &silent[..10] {
        client.write_all(&[3, 0, 0]).unwrap();
    }
    let client = Client::new(&dir, 5);
    for _ in 0..50 {
        assert_eq!(client.pid().unwrap(), 5);
    }
}

#[test]
fn when_full_the_one_that_stalled_longest_gives_way() {
    let (_root, dir) = dir();
    let listener = Listener::bind(&dir, 5).unwrap();
    let mut conversations = Conversations::new();
    let (mut clients, mut keys) = (Vec::new(), Vec::new());
    for _ in 0..CONVERSATIONS_MAX {
        clients.push(UnixStream::connect(dir.ctl(5)).unwrap());
        keys.push(accept(&mut conversations, &listener, Instant::now()).unwrap());
    }
    let (late, mut now) = (UnixStream::connect(dir.ctl(5)).unwrap(), Instant::now());
    assert!(!conversations.can_accept(now), "they may still be about to speak");
    assert_eq!(accept(&mut conversations, &listener, now), None);
    let next = conversations.next_deadline().unwrap();
    assert!(next > now && next <= now + STALLED);
    now += STALLED;
    assert!(conversations.can_accept(now));
    let key = accept(&mut conversations, &listener, now).unwrap();
    assert!(conversations.get_mut(key).is_some());
    assert!(conversations.get_mut(keys[0]).is_none(), "an answer to it must not reach the new one");
    assert!(conversations.remove(keys[0]).is_none());
    assert_eq!(clients[0].read(&mut [0]).unwrap(), 0, "the first one was closed");
    assert_eq!(conversations.len(), CONVERSATIONS_MAX);
    drop(late);
}

#[test]
fn a_request_that_is_worked_on_never_gives_way() {
    let (_root, dir) = dir();
    let listener = Listener::bind(&dir, 5).unwrap();
    let mut conversations = Conversations::new();
    let mut keys = Vec::new();
    let request = Request { minor: 0, call: Call::Pause };
    let mut clients = Vec::new();
    for _ in 0..CONVERSATIONS_MAX {
        let mut client = UnixStream::connect(dir.ctl(5)).unwrap();
        client.write_all(request.encode().unwrap().as_bytes()).unwrap();
        let key = accept(&mut conversations, &listener, Instant::now()).unwrap();
        keys.push(key);
        let asked = conversations.get_mut(key).unwrap().ready();
        assert_eq!(asked, crate::Progress::Asked(request.clone()));
        clients.push(client);
    }
    let later = Instant::now() + Duration::from_secs(3600);
    assert!(!conversations.can_accept(later));
    assert_eq!((conversations.expire(later), conversations.next_deadline()), (0, None));
    for key in keys {
        conversations.get_mut(key).unwrap().answer(&Reply::Done);
        conversations.remove(key);
    }
    assert!(conversations.is_empty());
}

#[test]
fn deadlines_are_kept() {
    let (_root, dir) = dir();
    let listener = Listener::bind(&dir, 5).unwrap();
    let mut conversations = Conversations::new();
    assert_eq!(conversations.next_deadline(), None);
    let mut client = UnixStream::connect(dir.ctl(5)).unwrap();
    let key = accept(&mut conversations, &listener, Instant::now()).unwrap();
    let deadline = conversations.next_deadline().unwrap();
    assert_eq!(conversations.expire(deadline - Duration::from_millis(1)), 0);
    assert_eq!(conversations.expire(deadline), 1);
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    assert!(conversations.get_mut(key).is_none());
}

#[test]
fn more_clients_than_there_is_room_for_are_all_answered() {
    let (_root, dir) = dir();
    let tapdisk = StandIn::start(&dir, 5, |request| Reply::Pid(request.minor.into()));
    std::thread::scope(|scope| {
        for _ in 0..3 * CONVERSATIONS_MAX {
            scope.spawn(|| assert_eq!(Client::new(&dir, 5).pid().unwrap(), 0));
        }
    });
    assert_eq!(tapdisk.requests().len(), 3 * CONVERSATIONS_MAX);
}

#[test]
fn a_turn_without_anybody_ends() {
    let (_root, dir) = dir();
    let listener = Listener::bind(&dir, 5).unwrap();
    pass(&listener, &mut Conversations::new(), &mut |_| Reply::Done);
}
