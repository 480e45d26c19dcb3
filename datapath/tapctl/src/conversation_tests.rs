//! Conversations with clients that behave and clients that do not.

use std::{
    io::{ErrorKind, Read, Write},
    os::unix::net::UnixStream,
};

use super::*;
use crate::{message::kind, reply::Entry, request::Call};

fn pair() -> (Conversation, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    (Conversation::new(ours.into()), theirs)
}

fn message(minor: u16, call: Call) -> [u8; MESSAGE_BYTES] {
    *Request { minor, call }.encode().unwrap().as_bytes()
}

fn everything(mut client: UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_request_in_single_bytes_and_its_answer() {
    let (mut conversation, mut client) = pair();
    assert_eq!(conversation.ready(), Progress::Waiting, "nothing is there yet");
    let bytes = message(7, Call::Pid);
    for byte in &bytes[..MESSAGE_BYTES - 1] {
        client.write_all(&[*byte]).unwrap();
        assert_eq!(conversation.ready(), Progress::Waiting);
        assert_eq!(conversation.interest(), Interest::Read);
    }
    client.write_all(&bytes[MESSAGE_BYTES - 1..]).unwrap();
    assert_eq!(conversation.ready(), Progress::Asked(Request { minor: 7, call: Call::Pid }));
    assert_eq!((conversation.interest(), conversation.deadline()), (Interest::None, None));
    assert_eq!(conversation.ready(), Progress::Waiting, "an event that was not real");
    assert_eq!(conversation.answer(&Reply::Pid(99)), Progress::Finished);
    drop(conversation);
    let answer = everything(client);
    assert_eq!(answer.len(), MESSAGE_BYTES);
    assert_eq!(answer[..4], [4u16.to_ne_bytes(), 7u16.to_ne_bytes()].concat());
}

#[test]
fn what_is_too_much_is_not_looked_at() {
    let (mut conversation, mut client) = pair();
    client.write_all(&message(0, Call::Attach)).unwrap();
    client.write_all(&[0xff; 256]).unwrap();
    assert!(matches!(conversation.ready(), Progress::Asked(_)));
    assert_eq!(conversation.answer(&Reply::Done), Progress::Finished);
    drop(conversation);
    assert_eq!(everything(client).len(), MESSAGE_BYTES, "and the end is no reset");
}

#[test]
fn half_a_request_gets_no_answer() {
    for length in [0, 1, MESSAGE_BYTES - 1] {
        let (mut conversation, mut client) = pair();
        client.write_all(&message(0, Call::Pid)[..length]).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(conversation.ready(), Progress::Finished);
        drop(conversation);
        assert!(everything(client).is_empty());
    }
}

#[test]
fn what_is_no_request_is_einval_without_asking_anyone() {
    for kind in [0, kind::ERROR, kind::PID_RSP, 31, u16::MAX] {
        let (mut conversation, mut client) = pair();
        client.write_all(Raw::new(kind, 5).as_bytes()).unwrap();
        assert_eq!(conversation.ready(), Progress::Finished);
        drop(conversation);
        let answer = everything(client);
        assert_eq!(answer[..4], [1u16.to_ne_bytes(), 0u16.to_ne_bytes()].concat());
        assert_eq!(answer[8..12], 22i32.to_ne_bytes());
    }
}

#[test]
fn an_answer_longer_than_the_socket_is_continued() {
    let (mut conversation, mut client) = pair();
    client.write_all(&message(u16::MAX, Call::List)).unwrap();
    let Progress::Asked(request) = conversation.ready() else { panic!("no request") };
    let entries: Vec<Entry> = (0..4000)
        .map(|minor| Entry { minor, state: 0, params: format!("ram:/{minor}").into() })
        .collect();
    let reply = Reply::List(entries);
    assert_eq!(conversation.answer(&reply), Progress::Waiting);
    assert_eq!(conversation.interest(), Interest::Write);
    let reader = std::thread::spawn(move || everything(client));
    while conversation.ready() != Progress::Finished {
        std::thread::yield_now();
    }
    drop(conversation);
    assert_eq!(reader.join().unwrap(), reply.encode(&request));
}

#[test]
fn a_client_that_leaves_is_noticed_while_its_request_is_worked_on() {
    let (mut conversation, mut client) = pair();
    client.write_all(&message(0, Call::Pause)).unwrap();
    assert!(matches!(conversation.ready(), Progress::Asked(_)));
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(conversation.ready(), Progress::Waiting, "it still wants to hear");
    drop(client);
    assert_eq!(conversation.ready(), Progress::Finished);
    assert_eq!(conversation.answer(&Reply::Done), Progress::Finished, "too late, but no bug");
}

#[test]
fn a_client_that_left_before_the_answer_is_no_signal() {
    let (mut conversation, mut client) = pair();
    client.write_all(&message(0, Call::Close)).unwrap();
    assert!(matches!(conversation.ready(), Progress::Asked(_)));
    drop(client);
    assert_eq!(conversation.answer(&Reply::Done), Progress::Finished);
}

#[test]
fn the_deadline_starts_anew_with_the_answer() {
    let (mut conversation, mut client) = pair();
    let first = conversation.deadline().unwrap();
    client.write_all(&message(0, Call::Stats)).unwrap();
    assert!(matches!(conversation.ready(), Progress::Asked(_)));
    std::thread::sleep(Duration::from_millis(2));
    let huge = Reply::Stats(vec![b' '; 4 << 20]);
    assert_eq!(conversation.answer(&huge), Progress::Waiting);
    assert!(conversation.deadline().unwrap() > first);
}

#[test]
#[cfg_attr(debug_assertions, should_panic(expected = "without an answer"))]
fn a_lost_request_can_be_seen() {
    let (mut conversation, mut client) = pair();
    client.write_all(&message(3, Call::Detach)).unwrap();
    assert!(matches!(conversation.ready(), Progress::Asked(_)));
    drop(conversation);
    let answer = everything(client);
    assert_eq!(answer[..2], 1u16.to_ne_bytes());
    assert_eq!(answer[8..12], 5i32.to_ne_bytes());
}

#[test]
fn nothing_blocks_on_a_silent_client() {
    let (mut conversation, mut client) = pair();
    client.write_all(&[3, 0]).unwrap();
    assert_eq!(conversation.ready(), Progress::Waiting);
    client.set_nonblocking(true).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
}
