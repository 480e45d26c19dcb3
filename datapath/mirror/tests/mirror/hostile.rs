//! Servers that send anything: it ends in an error, in bounded time and memory, and never in a panic.

use std::{
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    thread,
};

use mirror::State;
use nbd::wire;

use crate::source::{Random, mirror, run, source};

/// A server that does `serve` with its one connection.
fn serve(serve: impl FnOnce(UnixStream) + Send + 'static) -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || serve(listener.accept().unwrap().0));
    let uri = format!("nbd+unix:///x?socket={}", path.display());
    (directory, uri)
}

fn old_greeting() -> Vec<u8> {
    let (magic, style) = (wire::GREETING_MAGIC, wire::OLD_STYLE_MAGIC);
    let greeting = wire::OldGreeting { magic, style, size: 1 << 30, flags: 0x41 };
    [&greeting.to_bytes()[..], &[0; 124]].concat()
}

fn new_greeting() -> Vec<u8> {
    let (magic, style) = (wire::GREETING_MAGIC, wire::OPTION_MAGIC);
    wire::Greeting { magic, style, flags: 3 }.to_bytes().to_vec()
}

/// Bytes that begin as the protocol says, and go on at random, now and then with something that is
/// nearly right.
fn garbage(random: &mut Random) -> Vec<u8> {
    let mut bytes = match random.below(3) {
        0 => old_greeting(),
        1 => new_greeting(),
        _ => Vec::new(),
    };
    for _ in 0..random.below(40) {
        match random.below(6) {
            0 => bytes.extend(wire::OPTION_REPLY_MAGIC.to_be_bytes()),
            1 => bytes.extend([0, 0, 0, [7, 8, 10, 1][random.below(4) as usize]]),
            2 => bytes.extend(wire::SIMPLE_REPLY_MAGIC.to_be_bytes()),
            3 => bytes.extend(wire::CHUNK_MAGIC.to_be_bytes()),
            4 => bytes.extend([0, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 20]),
            _ => bytes.extend((0..random.below(64)).map(|_| random.next() as u8)),
        }
    }
    bytes
}

#[test]
fn bytes_that_are_no_protocol_are_an_error() {
    for seed in 1..400 {
        let (_directory, uri) = serve(move |mut socket| {
            let mut random = Random(seed);
            let bytes = garbage(&mut random);
            for part in bytes.chunks(1 + random.below(50) as usize) {
                if socket.write_all(part).is_err() {
                    return;
                }
            }
            if random.below(2) == 0 {
                let mut sink = [0; 4096];
                socket.shutdown(std::net::Shutdown::Write).unwrap();
                while socket.read(&mut sink).is_ok_and(|count| count > 0) {}
            }
        });
        let mut drive = source(1 << 20);
        let mut transfer = mirror(&uri, &mut drive);
        run(&mut transfer, &mut drive, |_| {}, |_| false);
        assert!(matches!(transfer.state(), State::Failed(_)), "{seed}: {:?}", transfer.state());
    }
}

/// Options in the right order with absurd contents: sizes of units, endless replies, other answers.
#[test]
fn an_option_with_an_absurd_answer_is_an_error_with_its_reason() {
    let reply = |option: u32, kind: u32, data: &[u8]| {
        let (magic, length) = (wire::OPTION_REPLY_MAGIC, data.len() as u32);
        let head = wire::OptionReply { magic, option, kind, length };
        [&head.to_bytes()[..], data].concat()
    };
    let ack = |option| reply(option, 1, &[]);
    let refused = |option| reply(option, 1 << 31 | 1, &[]);
    let export =
        |size: u64, flags: u16| reply(7, 3, &wire::InfoExport { kind: 0, size, flags }.to_bytes());
    let units = |minimum, payload| {
        let sizes = wire::InfoBlockSize { kind: 3, minimum, preferred: 4096, payload };
        reply(7, 3, &sizes.to_bytes())
    };
    let policy = 1 << 31 | 2;
    for (replies, expected) in [
        (vec![ack(8), ack(10), ack(7)], "does not say the size"),
        (vec![refused(8), reply(7, policy, b"not for you")], "not for you"),
        (vec![ack(7)], "another option"),
        (vec![refused(8), export(1 << 30, 1), units(3, 4096), ack(7)], "units of 3 bytes"),
        (vec![refused(8), export(1 << 30, 1), units(1 << 20, 1 << 21), ack(7)], "units of 1048576"),
        (vec![refused(8), export(1 << 30, 1), units(4096, 512), ack(7)], "of 512 at"),
        (vec![refused(8), export(1 << 19, 1), ack(7)], "524288"),
        (vec![reply(8, 3, &[0; 9000])], "endless"),
    ] {
        let (_directory, uri) = serve(move |mut socket| {
            let bytes = [new_greeting(), replies.concat()].concat();
            socket.write_all(&bytes).unwrap();
            let mut sink = [0; 4096];
            while socket.read(&mut sink).is_ok_and(|count| count > 0) {}
        });
        let mut drive = source(1 << 20);
        let mut transfer = mirror(&uri, &mut drive);
        run(&mut transfer, &mut drive, |_| {}, |_| false);
        let State::Failed(error) = transfer.state() else { panic!("{expected}") };
        assert!(error.to_string().contains(expected), "{error}");
    }
}
