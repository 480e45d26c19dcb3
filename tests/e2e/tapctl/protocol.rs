//! The control protocol, message by message, spoken without our own client: every answer is of
//! exactly the size that it has to have, and everything in it that is not said is zero.

use std::{
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    time::Duration,
};

use super::{Host, Tapdisk};

/// `sizeof(tapdisk_message_t)`, where its union lies, and the types (`tapdisk-message.h`).
const MESSAGE_BYTES: usize = 544;
const BODY: usize = 8;
const ERROR: u16 = 1;
const EINVAL: i32 = 22;

/// A message: type, cookie, and text in the path of `params`.
fn message(kind: u16, cookie: u16, path: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; MESSAGE_BYTES];
    bytes[..2].copy_from_slice(&kind.to_ne_bytes());
    bytes[2..4].copy_from_slice(&cookie.to_ne_bytes());
    bytes[BODY + 12..BODY + 12 + path.len()].copy_from_slice(path);
    bytes
}

/// Sends bytes to a tapdisk, and reads all that it answers.
pub(super) fn ask(host: &Host, tapdisk: &Tapdisk, bytes: &[u8]) -> Vec<u8> {
    let mut socket = UnixStream::connect(host.dir.ctl(tapdisk.pid)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).unwrap();
    answer
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes(bytes[at..at + 2].try_into().unwrap())
}

fn i32_at(bytes: &[u8], at: usize) -> i32 {
    i32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap())
}

#[track_caller]
fn is_error(answer: &[u8], errno: i32) {
    assert_eq!(answer.len(), MESSAGE_BYTES);
    assert_eq!((u16_at(answer, 0), i32_at(answer, BODY)), (ERROR, errno));
}

/// An answer that says nothing but that it is done.
#[track_caller]
fn is_done(answer: &[u8], kind: u16, cookie: u16) {
    assert_eq!(answer, message(kind, cookie, b""));
}

#[test]
fn every_message_has_its_answer() {
    let host = Host::new();
    let tapdisk = host.spawn();
    let minor = tapdisk.minor;
    let ask = |kind, path: &[u8]| ask(&host, &tapdisk, &message(kind, minor, path));
    let image = format!("ram:{}", host.image("image", 65536));

    let pid = ask(3, b"");
    assert_eq!((u16_at(&pid, 0), i32_at(&pid, BODY)), (4, i32::try_from(tapdisk.pid).unwrap()));
    assert!(pid.len() == MESSAGE_BYTES && pid[BODY + 4..].iter().all(|&byte| byte == 0));

    let open = ask(7, image.as_bytes());
    assert_eq!((open.len(), u16_at(&open, 0), u16_at(&open, 2)), (MESSAGE_BYTES, 8, minor));
    assert_eq!((u64_at(&open, BODY), i32_at(&open, BODY + 8)), (128, 512));
    assert!(open[BODY + 12..].iter().all(|&byte| byte == 0), "info is 0, and so is the rest");
    let info = ask(28, b"");
    assert_eq!(u16_at(&info, 0), 29);
    assert_eq!(info[BODY..], open[BODY..], "tapback is told what the opener was");

    let list = ask(19, b"");
    assert_eq!(list.len(), 2 * MESSAGE_BYTES, "one for the VBD, and one for the end");
    let (entry, end) = list.split_at(MESSAGE_BYTES);
    assert_eq!((u16_at(entry, 0), i32_at(entry, BODY)), (20, 1));
    assert_eq!((i32_at(entry, BODY + 4), i32_at(entry, BODY + 8)), (minor.into(), 0));
    assert!(entry[BODY + 12..].starts_with(&[image.as_bytes(), b"\0"].concat()));
    assert_eq!((i32_at(end, BODY), i32_at(end, BODY + 4)), (0, -1));

    for cookie in [minor, u16::MAX] {
        let stats = super::protocol::ask(&host, &tapdisk, &message(21, cookie, b""));
        let length = usize::try_from(u64_at(&stats, BODY + 8)).unwrap();
        assert_eq!((u16_at(&stats, 0), stats.len()), (22, MESSAGE_BYTES + length));
        assert!(serde_json::from_slice::<serde_json::Value>(&stats[MESSAGE_BYTES..]).is_ok());
    }

    is_done(&ask(9, b""), 10, minor);
    let paused = ask(28, b"");
    assert_eq!(paused, info, "a paused disk keeps its size");
    is_done(&ask(11, b""), 12, minor);
    is_done(&ask(9, b""), 10, minor);
    is_done(&ask(11, image.as_bytes()), 12, minor);
    is_done(&ask(13, b""), 14, minor);
    is_done(&ask(13, b""), 14, minor);
    is_done(&ask(9, b""), 10, minor);
    // Only what is attached for the first time: nothing open, no size, no error.
    let nothing = ask(28, b"");
    assert!(nothing[BODY..].iter().all(|&byte| byte == 0) && u16_at(&nothing, 0) == 29);
    is_done(&ask(23, b""), 14, minor);
    is_done(&ask(15, b""), 16, minor);
    tapdisk.ends();
}

#[test]
fn errors_carry_the_numbers_of_blktap() {
    let host = Host::new();
    let tapdisk = host.serve("image", 65536);
    let minor = tapdisk.minor;
    let ask = |kind, minor, path: &[u8]| ask(&host, &tapdisk, &message(kind, minor, path));
    is_error(&ask(5, minor, b""), 17); // attach twice: EEXIST
    is_error(&ask(5, 99, b""), 1); // not reserved: EPERM
    is_error(&ask(7, minor, b"ram:/f"), 114); // open twice: EALREADY
    is_error(&ask(7, 99, b"ram:/f"), EINVAL);
    is_error(&ask(15, minor, b""), 16); // open: EBUSY
    is_error(&ask(11, minor, b""), EINVAL); // not paused
    for kind in [9, 11, 13, 15, 21, 23, 28] {
        is_error(&ask(kind, 99, b""), 19); // ENODEV
    }
    // tap-ctl takes a failed STATS for an answer, and what follows the number for a length.
    assert!(ask(21, 99, b"")[BODY + 4..].iter().all(|&byte| byte == 0));
    // A ring: the minor is looked at first, then the devices, which are not there (ENOENT).
    is_error(&ask(24, 99, b""), 19);
    is_error(&ask(24, minor, b""), 2);
    let mut endless = message(24, minor, b"");
    endless[56..312].fill(b'x');
    is_error(&super::protocol::ask(&host, &tapdisk, &endless), EINVAL);
    endless[2..4].copy_from_slice(&99_u16.to_ne_bytes());
    is_error(&super::protocol::ask(&host, &tapdisk, &endless), 19);
    is_error(&ask(26, 0, b""), 19); // no such ring: ENODEV
    for flags in [0x10_u32, 0x40, 0x80, 0x100, 0x400] {
        let mut resume = message(11, minor, b"");
        resume[BODY..BODY + 4].copy_from_slice(&flags.to_ne_bytes());
        super::protocol::ask(&host, &tapdisk, &message(9, minor, b""));
        is_error(&super::protocol::ask(&host, &tapdisk, &resume), 95);
    }
}

#[test]
fn what_is_no_request_is_answered_or_dropped_and_harms_nobody() {
    let host = Host::new();
    let tapdisk = host.serve("image", 65536);
    let mut client = host.connect(&tapdisk);
    for kind in [0, 1, 2, 4, 6, 8, 17, 18, 20, 22, 25, 29, 30, 31, 32, 999, u16::MAX] {
        is_error(&ask(&host, &tapdisk, &message(kind, tapdisk.minor, b"")), EINVAL);
    }
    // A text without an end, in any message.
    is_error(&ask(&host, &tapdisk, &message(3, 0, &[b'x'; 256])), EINVAL);
    // Bytes behind the message: a log's path or a key, which blktap's clients send.
    let mut log = message(3, 0, b"");
    log.extend([7; 256]);
    assert_eq!(ask(&host, &tapdisk, &log).len(), MESSAGE_BYTES);
    // Short ones are dropped without a word.
    for length in [0, 1, 8, 543] {
        let mut socket = UnixStream::connect(host.dir.ctl(tapdisk.pid)).unwrap();
        socket.write_all(&message(3, 0, b"")[..length]).unwrap();
        socket.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, b"");
    }
    // One that comes byte by byte is as good as one in a piece.
    let mut socket = UnixStream::connect(host.dir.ctl(tapdisk.pid)).unwrap();
    for byte in message(3, 0, b"") {
        socket.write_all(&[byte]).unwrap();
    }
    let mut answer = vec![0; MESSAGE_BYTES];
    socket.read_exact(&mut answer).unwrap();
    assert_eq!(u16_at(&answer, 0), 4);
    assert_eq!(client.read(0, 5).unwrap(), b"image");
}
