//! A server like blktap's: READ, WRITE and DISC, eight requests at a time.

use std::time::Instant;

use mirror::{State, Transfer};
use nbd::wire::{command, transmission_flag as flag};

use crate::{
    server::{Manner, Server, Style},
    source::{LIMITS, connect, contents, cut_over, data_bytes, mirror, run, source, until_in_sync},
};

const SIZE: u64 = 8 << 20;

/// Whatever it says of itself, it gets what it offers and nothing else, over one connection.
#[test]
fn a_server_gets_no_request_that_it_does_not_offer() {
    for style in [Style::Old, Style::New, Style::Fixed] {
        // A tapdisk that is created with a size that is not a multiple of 4 KiB.
        for size in [SIZE, SIZE - 512, 65536, 4096 + 512] {
            let server = Server::start(Manner { style, size, ..Manner::default() });
            let mut drive = source(size);
            let mut transfer = mirror(&server.uri(), &mut drive);
            until_in_sync(&mut transfer, &mut drive);
            cut_over(&mut transfer, &mut drive);
            assert_eq!(transfer.state(), State::Finished);
            while !server.seen().commands.contains_key(&command::DISC) {}
            let seen = server.seen();
            assert!(seen.bytes == contents(&mut drive), "{style:?} {size}");
            let commands: Vec<u16> = seen.commands.keys().copied().collect();
            assert_eq!(commands, [command::WRITE, command::DISC], "{style:?}");
            assert_eq!((seen.connections, seen.overlaps), (1, 0));
            assert!(seen.most_at_a_time <= 8, "{}", seen.most_at_a_time);
            // A blank disk cannot be told from another one, so that all of it is sent.
            assert_eq!(seen.written_bytes, size, "{style:?}");
            let export: &[u8] = if style == Style::Old { b"" } else { b"an export" };
            assert_eq!(seen.export, export);
        }
    }
}

/// The flags mean nothing without the one that says that there are flags.
#[test]
fn flags_count_only_where_there_are_flags() {
    for flags in [flag::READ_ONLY | flag::SEND_FLUSH | flag::SEND_WRITE_ZEROES, 0] {
        let server = Server::start(Manner { flags, ..Manner::default() });
        let mut drive = source(SIZE);
        let mut transfer = mirror(&server.uri(), &mut drive);
        until_in_sync(&mut transfer, &mut drive);
        cut_over(&mut transfer, &mut drive);
        assert_eq!(transfer.state(), State::Finished);
        assert!(server.seen().bytes == contents(&mut drive));
    }
}

/// The blocks that are named and not a byte beside them, whatever order they come in and however they
/// lie to the granules of a mirror.
#[test]
fn a_copy_of_blocks_leaves_the_others_alone() {
    let server = Server::start(Manner::default());
    let mut drive = source(SIZE);
    let ranges =
        vec![1 << 20..3 << 20, 512..1024, 4096..4096, SIZE - 512..SIZE, 2 << 20..(4 << 20) + 512];
    let (socket, remote) = connect(&server.uri()).unwrap();
    let copy = Transfer::copy(socket, &remote, ranges.clone(), SIZE, LIMITS, Instant::now());
    let mut copy = copy.unwrap();
    run(
        &mut copy,
        &mut drive,
        |_| {},
        |copy| {
            assert!(!copy.status().complete || copy.is_over());
            false
        },
    );
    assert_eq!(copy.state(), State::Finished);
    assert!(copy.status().complete);
    let mut expected = vec![0x55; SIZE as usize];
    let contents = contents(&mut drive);
    for range in ranges {
        let range = range.start as usize..range.end as usize;
        expected[range.clone()].copy_from_slice(&contents[range]);
    }
    assert!(server.seen().bytes == expected);
}

/// A larger disk takes a smaller one (a VHD is rounded up), and keeps what lies behind.
#[test]
fn a_larger_destination_keeps_what_lies_behind() {
    let server = Server::start(Manner { size: SIZE + 4096, ..Manner::default() });
    let mut drive = source(SIZE);
    let mut transfer = mirror(&server.uri(), &mut drive);
    until_in_sync(&mut transfer, &mut drive);
    cut_over(&mut transfer, &mut drive);
    let seen = server.seen();
    assert!(seen.bytes[..SIZE as usize] == contents(&mut drive));
    assert!(seen.bytes[SIZE as usize..].iter().all(|&byte| byte == 0x55));
    assert!(data_bytes(&mut drive) < SIZE);
}
