//! Requests against bytes that were put together by hand, and every request there and back.

use super::*;
use crate::message::MESSAGE_BYTES;

/// A message with these bytes at these offsets and zeroes elsewhere.
fn bytes(parts: &[(usize, &[u8])]) -> [u8; MESSAGE_BYTES] {
    let mut bytes = [0; MESSAGE_BYTES];
    for (at, part) in parts {
        bytes[*at..at + part.len()].copy_from_slice(part);
    }
    bytes
}

fn encoded(minor: u16, call: Call) -> [u8; MESSAGE_BYTES] {
    *Request { minor, call }.encode().unwrap().as_bytes()
}

fn ring() -> Ring {
    Ring {
        domid: 5,
        devid: 51712,
        grefs: [8, 9, 10, 11, 12, 13, 14, 15],
        order: 3,
        protocol: 2,
        pool: Some("td-xenio-default".into()),
        port: 77,
        poll_duration: 1000,
        poll_idle_threshold: 50,
    }
}

#[test]
fn open_as_tap_ctl_sends_it() {
    let mut open = Open::new("ram:/p").flags(Flags::READ_ONLY.with(Flags::NO_O_DIRECT));
    open.timeout_seconds = 0x0102;
    let expected = bytes(&[
        (0, &7u16.to_ne_bytes()),
        (2, &3u16.to_ne_bytes()),
        (8, &0x202u32.to_ne_bytes()),
        (12, &3u32.to_ne_bytes()),
        (20, b"ram:/p"),
        (276, &[0xff; 4]),
        (280, &0x0102u16.to_ne_bytes()),
    ]);
    assert_eq!(encoded(3, Call::Open(open)), expected);
}

#[test]
fn resume_lies_in_the_fields_of_open() {
    let resume =
        Resume { params: Some("ram:/q".into()), flags: Flags::SECONDARY, secondary: "s".into() };
    let expected = bytes(&[
        (0, &11u16.to_ne_bytes()),
        (2, &1u16.to_ne_bytes()),
        (8, &0x80u32.to_ne_bytes()),
        (20, b"ram:/q"),
        (282, b"s"),
    ]);
    assert_eq!(encoded(1, Call::Resume(resume)), expected);
}

#[test]
fn a_ring_as_tapback_sends_it() {
    let grefs: Vec<u8> = (8u32..16).flat_map(u32::to_ne_bytes).collect();
    let expected = bytes(&[
        (0, &24u16.to_ne_bytes()),
        (2, &2u16.to_ne_bytes()),
        (8, &5u32.to_ne_bytes()),
        (12, &51712u32.to_ne_bytes()),
        (16, &grefs),
        (48, &3u32.to_ne_bytes()),
        (52, &2u32.to_ne_bytes()),
        (56, b"td-xenio-default"),
        (312, &77u32.to_ne_bytes()),
        (316, &1000u32.to_ne_bytes()),
        (320, &50u32.to_ne_bytes()),
    ]);
    assert_eq!(encoded(2, Call::Connect(ring())), expected);
}

#[test]
fn our_own_keep_the_path_where_every_tapdisk_looks() {
    let switch = Switch { new_top: 9, index: "/run/index".into() };
    let expected = bytes(&[
        (0, &0x5205u16.to_ne_bytes()),
        (2, &4u16.to_ne_bytes()),
        (20, b"/run/index"),
        (280, &9u64.to_ne_bytes()),
    ]);
    assert_eq!(encoded(4, Call::Switch(switch)), expected);
    let expected = bytes(&[
        (0, &0x5207u16.to_ne_bytes()),
        (2, &4u16.to_ne_bytes()),
        (280, &(8u64 << 40).to_ne_bytes()),
    ]);
    assert_eq!(encoded(4, Call::Resize { size_bytes: 8 << 40 }), expected);
}

#[test]
fn every_request_survives_the_way() {
    let calls = [
        Call::Pid,
        Call::Attach,
        Call::Open(Open { parent: 7, secondary: "x".into(), ..Open::new("vhd:/a b") }),
        Call::Pause,
        Call::Resume(Resume::default()),
        Call::Resume(Resume { params: Some("ram:/z".into()), ..Resume::default() }),
        Call::Close,
        Call::ForceShutdown,
        Call::Detach,
        Call::ListMinors,
        Call::List,
        Call::Stats,
        Call::DiskInfo,
        Call::Connect(ring()),
        Call::Disconnect { domid: 1, devid: 2 },
        Call::Exit,
        Call::Identify,
        Call::Serving,
        Call::Switch(Switch { new_top: u32::MAX, index: "/c".into() }),
        Call::Resize { size_bytes: u64::MAX },
        Call::Sole,
        Call::Hold { time: Duration::from_millis(5) },
        Call::Release,
        Call::Clients,
        Call::Mirror(Mirror { operation: u64::MAX, remote: "nbd+unix:///e?socket=/s".into() }),
        Call::Copy(Copy {
            operation: 2,
            remote: "nbd+unix:///?socket=/s".into(),
            ranges: RangeList { process: 4_194_303, descriptor: 5 },
        }),
        Call::MirrorStatus { operation: 1, wait: Duration::from_millis(1000) },
        Call::MirrorFinish { operation: 2 },
        Call::MirrorCancel { operation: 3 },
    ];
    for call in calls {
        let request = Request { minor: 0x3ffe, call };
        assert_eq!(Request::parse(&request.encode().unwrap()), Ok(request));
    }
}

#[test]
fn what_is_not_a_request_is_named() {
    for kind in [0, 1, 2, 4, 8, 29, 31, 100, 0x5200, 0x5202, u16::MAX] {
        assert_eq!(Request::parse(&Raw::new(kind, 0)), Err(Malformed::Kind(kind)));
    }
}

#[test]
fn a_path_without_an_end_is_refused_whatever_the_type() {
    for kind in [3u16, 7, 19, 0x5201] {
        let raw = bytes(&[(0, &kind.to_ne_bytes()), (20, &[b'x'; 256])]);
        assert_eq!(Request::parse(&Raw::from_bytes(raw)), Err(Malformed::Text));
    }
    let raw = bytes(&[(0, &7u16.to_ne_bytes()), (282, &[b'x'; 256])]);
    assert_eq!(Request::parse(&Raw::from_bytes(raw)), Err(Malformed::Text));
}

/// They are refused by the process that serves rings, which looks for the minor before.
#[test]
fn a_ring_with_too_many_pages_or_a_pool_without_an_end_is_told_apart() {
    let raw = bytes(&[(0, &24u16.to_ne_bytes()), (48, &4u32.to_ne_bytes()), (56, &[b'x'; 256])]);
    let parsed = Request::parse(&Raw::from_bytes(raw)).map(|request| request.call);
    assert!(matches!(parsed, Ok(Call::Connect(Ring { order: 4, pool: None, .. }))), "{parsed:?}");
}

#[test]
fn numbers_out_of_range_are_refused() {
    let raw = bytes(&[(0, &0x5205u16.to_ne_bytes()), (280, &(1u64 << 32).to_ne_bytes())]);
    assert_eq!(Request::parse(&Raw::from_bytes(raw)), Err(Malformed::Number));
}

#[test]
fn what_does_not_fit_is_not_sent_cut() {
    let long = Open::new(format!("ram:/{}", "x".repeat(251)));
    assert_eq!(Request { minor: 0, call: Call::Open(long) }.encode(), Err(Unsendable("params")));
}

#[test]
fn an_answer_is_one_above_its_request_but_for_two() {
    assert_eq!(Call::Attach.answer_kind(), kind::ATTACH_RSP);
    assert_eq!(Call::Serving.answer_kind(), kind::SERVING_RSP);
    assert_eq!(Call::ForceShutdown.answer_kind(), kind::CLOSE_RSP);
    assert_eq!(Call::Exit.answer_kind(), kind::EXIT_RSP);
}
