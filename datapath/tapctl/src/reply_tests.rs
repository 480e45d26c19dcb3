//! Replies against bytes that were put together by hand.

use super::*;
use crate::{message::MESSAGE_BYTES, request::Call};

fn bytes(parts: &[(usize, &[u8])]) -> [u8; MESSAGE_BYTES] {
    let mut bytes = [0; MESSAGE_BYTES];
    for (at, part) in parts {
        bytes[*at..at + part.len()].copy_from_slice(part);
    }
    bytes
}

fn encoded(reply: &Reply, call: Call) -> Vec<u8> {
    reply.encode(&Request { minor: 6, call })
}

#[test]
fn an_error_is_a_number_and_a_text() {
    let expected = bytes(&[
        (0, &1u16.to_ne_bytes()),
        (2, &6u16.to_ne_bytes()),
        (8, &114i32.to_ne_bytes()),
        (12, b"open already"),
    ]);
    let reply = Reply::Error(Failure::new(Errno::ALREADY, "open already"));
    assert_eq!(encoded(&reply, Call::Close), expected);
    let back = failure(&Raw::from_bytes(expected));
    assert_eq!(back, Failure::new(Errno::ALREADY, "open already"));
}

#[test]
fn images_and_pids() {
    let image = Image { sectors: 1 << 33, sector_size: 512, info: 3 };
    let expected = bytes(&[
        (0, &29u16.to_ne_bytes()),
        (2, &6u16.to_ne_bytes()),
        (8, &(1u64 << 33).to_ne_bytes()),
        (16, &512u32.to_ne_bytes()),
        (20, &3u32.to_ne_bytes()),
    ]);
    assert_eq!(encoded(&Reply::Image(image), Call::DiskInfo), expected);
    assert_eq!(Image::parse(&Raw::from_bytes(expected)), image);
    let expected =
        bytes(&[(0, &4u16.to_ne_bytes()), (2, &6u16.to_ne_bytes()), (8, &27402i32.to_ne_bytes())]);
    assert_eq!(encoded(&Reply::Pid(27402), Call::Pid), expected);
}

#[test]
fn a_list_counts_down_and_ends_with_nothing() {
    let entries = vec![
        Entry { minor: 4, state: 0, params: "ram:/a".into() },
        Entry { minor: 9, state: 0x2a, params: "".into() },
    ];
    let head: [(usize, &[u8]); 2] = [(0, &20u16.to_ne_bytes()), (2, &6u16.to_ne_bytes())];
    let first = bytes(&[
        head[0],
        head[1],
        (8, &2i32.to_ne_bytes()),
        (12, &4i32.to_ne_bytes()),
        (20, b"ram:/a"),
    ]);
    let second = bytes(&[
        head[0],
        head[1],
        (8, &1i32.to_ne_bytes()),
        (12, &9i32.to_ne_bytes()),
        (16, &0x2au32.to_ne_bytes()),
    ]);
    let last =
        bytes(&[head[0], head[1], (12, &(-1i32).to_ne_bytes()), (16, &0x2au32.to_ne_bytes())]);
    assert_eq!(
        encoded(&Reply::List(entries.clone()), Call::List),
        [first, second, last].concat(),
        "two VBDs are three messages"
    );
    assert_eq!(Entry::parse(&Raw::from_bytes(second)), Some(Some(entries[1].clone())));
    assert_eq!(Entry::parse(&Raw::from_bytes(last)), Some(None));
    assert_eq!(encoded(&Reply::List(vec![]), Call::List).len(), MESSAGE_BYTES);
}

#[test]
fn statistics_follow_their_message() {
    let mut expected =
        bytes(&[(0, &22u16.to_ne_bytes()), (2, &6u16.to_ne_bytes()), (16, &5u64.to_ne_bytes())])
            .to_vec();
    expected.extend_from_slice(b"{ } \n");
    assert_eq!(encoded(&Reply::Stats(b"{ } \n".to_vec()), Call::Stats), expected);
}

#[test]
fn minors_are_counted_and_bounded() {
    let expected = bytes(&[
        (0, &18u16.to_ne_bytes()),
        (2, &6u16.to_ne_bytes()),
        (8, &2i32.to_ne_bytes()),
        (12, &7i32.to_ne_bytes()),
        (16, &8i32.to_ne_bytes()),
    ]);
    assert_eq!(encoded(&Reply::Minors(vec![7, 8]), Call::ListMinors), expected);
    assert_eq!(minors(&Raw::from_bytes(expected)), Some(vec![7, 8]));
    let many = encoded(&Reply::Minors(vec![1; 100]), Call::ListMinors);
    assert_eq!(many[8..12], 63i32.to_ne_bytes());
    for count in [-1i32, 64] {
        let raw = bytes(&[(8, &count.to_ne_bytes())]);
        assert_eq!(minors(&Raw::from_bytes(raw)), None);
    }
}

#[test]
fn our_own_answers_survive_the_way() {
    let raw = |reply: &Reply, call| {
        Raw::from_bytes(encoded(reply, call).try_into().expect("one message"))
    };
    let ours = Identification::ours("1.2.3");
    let got = raw(&Reply::Identity(ours.clone()), Call::Identify);
    assert_eq!(got.kind(), kind::IDENTIFY_RSP);
    assert_eq!(got.text(12), Some(b"xapi-storage-ram 1.2.3".as_slice()));
    assert_eq!(Identification::parse(&got), Some(ours));
    for serving in [
        Serving { path: Some("/run/v".into()), read_only: true, size_bytes: 1 << 40 },
        Serving { path: None, read_only: false, size_bytes: 0 },
    ] {
        let got = raw(&Reply::Serving(serving.clone()), Call::Serving);
        assert_eq!(Serving::parse(&got), Some(serving));
    }
    let clients = Clients { count: 3, unused_for: Duration::from_millis(120_001) };
    let got = raw(&Reply::Clients(clients), Call::Clients);
    assert_eq!((got.kind(), Clients::parse(&got)), (0x520e, clients));
    let stages = [
        MirrorStage::Copying,
        MirrorStage::InSync,
        MirrorStage::Finished,
        MirrorStage::Failed {
            reason: "the destination is full".into(),
            since: Duration::from_secs(90_000),
        },
    ];
    for (stage, progress_millionths) in stages.into_iter().zip([500_000, 1, 2, 0]) {
        let status = MirrorStatus { stage, progress_millionths };
        let got = raw(&Reply::Mirror(status.clone()), Call::MirrorFinish { operation: 1 });
        assert_eq!((got.kind(), MirrorStatus::parse(&got)), (0x5214, Some(status)));
    }
}

#[test]
fn done_is_the_answers_number_and_no_error() {
    let raw = encoded(&Reply::Done, Call::ForceShutdown);
    assert_eq!(raw, bytes(&[(0, &14u16.to_ne_bytes()), (2, &6u16.to_ne_bytes())]));
}
