//! Every command, with simple and with structured replies, as sent by our own client to the plain
//! loop, and byte for byte where the layout of the reply matters.

mod common;

use std::{
    os::unix::net::UnixListener,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use block::{Drive, Stats, StatusExtent, memory::Memory};
use common::*;
use nbd::{
    End, Errno,
    client::{Client, Error, Wish},
    serve::{Greeting, serve},
    wire::{self, chunk, command, command_flag as flag, transmission_flag},
};

/// Runs `test` with a client of a server in another thread. Returns what was served.
fn with_client(structured: bool, read_only: bool, test: impl FnOnce(&mut Client)) -> Stats {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let server = scope.spawn(|| {
            let mut disk = Memory::new(SIZE).unwrap();
            disk.read_only = read_only;
            serve(&listener, Greeting::New, &mut Drive::new(disk), &stop).unwrap()
        });
        // Also when the test panics, so that the scope can end.
        let _stopped = Stop(&stop);
        let wish = Wish { name: b"any", structured, allocation: structured };
        let mut client = Client::connect(&path, &wish).unwrap();
        test(&mut client);
        client.disconnect().unwrap();
        drop(_stopped);
        server.join().unwrap()
    })
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[track_caller]
fn refused<T>(result: nbd::client::Result<T>, expected: Errno) {
    match result {
        Err(Error::Refused(errno, _)) => assert_eq!(errno, expected),
        Err(error) => panic!("{error:?}"),
        Ok(_) => panic!("not refused"),
    }
}

#[test]
fn what_is_written_is_read_with_every_kind_of_reply() {
    for structured in [false, true] {
        let stats = with_client(structured, false, |client| {
            assert_eq!(client.size(), SIZE);
            assert_eq!(client.flags() & transmission_flag::SEND_DF != 0, structured);
            let data: Vec<u8> = (0..100_000u32).map(|i| (i % 253) as u8).collect();
            client.write(1234, &data).unwrap();
            client.write_with(flag::FUA, 300_000, b"durable").unwrap();
            client.flush().unwrap();
            assert!(client.read(1234, 100_000).unwrap() == data);
            let all = client.read(0, 400_000).unwrap();
            assert!(all[..1234].iter().all(|byte| *byte == 0));
            assert!(all[1234..101_234] == data);
            assert_eq!(&all[300_000..300_007], b"durable");
            client.write_zeroes(1234, 50_000, false).unwrap();
            client.write_zeroes(60_000, 100, true).unwrap();
            client.command(flag::FAST_ZERO | flag::FUA, command::WRITE_ZEROES, 0, 10).unwrap();
            client.trim(8192, 8192).unwrap();
            client.command(0, command::CACHE, 0, 1 << 20).unwrap();
            let all = client.read(0, 400_000).unwrap();
            assert!(all[..51_234].iter().all(|byte| *byte == 0));
            assert!(all[60_100..101_234] == data[60_100 - 1234..]);
            assert_eq!(client.read(0, 0).unwrap(), b"");
            client.write(0, b"").unwrap();
        });
        let (reads, writes) = (stats.read.requests, stats.write.requests);
        assert_eq!((reads, writes, stats.discards), (3, 2, 4));
        assert_eq!(stats.write.sectors, 196 + 1);
        assert_eq!(stats.flushes, 3);
        assert_eq!(stats.failed(), 0);
    }
}

#[test]
fn requests_outside_the_disk_or_the_rules_are_refused_and_the_connection_goes_on() {
    for structured in [false, true] {
        let stats = with_client(structured, false, |client| {
            refused(client.read(SIZE - 1, 2), Errno::EINVAL);
            refused(client.read(u64::MAX, 1), Errno::EINVAL);
            refused(client.write(SIZE - 1, b"xx"), Errno::ENOSPC);
            refused(client.write_zeroes(SIZE, 1, false), Errno::ENOSPC);
            refused(client.trim(SIZE, 1), Errno::EINVAL);
            refused(client.read(0, (32 << 20) + 1), Errno::EINVAL);
            refused(client.write(0, &vec![1; (32 << 20) + 1]), Errno::EINVAL);
            refused(client.command(0, 4711, 0, 0), Errno::EINVAL);
            refused(client.command(0, command::FLUSH, 0, 1), Errno::EINVAL);
            refused(client.command(flag::DF, command::TRIM, 0, 1), Errno::EINVAL);
            if !structured {
                refused(client.command(0, command::BLOCK_STATUS, 0, 1), Errno::EINVAL);
            }
            assert_eq!(client.read(0, 1).unwrap(), [0]);
        });
        assert_eq!((stats.read.failed, stats.write.failed), (3, 2));
    }
}

#[test]
fn a_read_only_disk_refuses_every_change_and_drops_its_payload() {
    for structured in [false, true] {
        with_client(structured, true, |client| {
            refused(client.write(0, &[1; 1 << 20]), Errno::EPERM);
            refused(client.write_zeroes(0, 4096, false), Errno::EPERM);
            refused(client.trim(0, 4096), Errno::EPERM);
            client.flush().unwrap();
            assert!(client.read(0, 1 << 20).unwrap().iter().all(|byte| *byte == 0));
        });
    }
}

#[test]
fn the_largest_requests_are_served() {
    with_client(true, false, |client| {
        let data: Vec<u8> = (0..32u32 << 20).map(|i| (i / 4096 % 251) as u8).collect();
        client.write(4096, &data).unwrap();
        assert!(client.read(4096, 32 << 20).unwrap() == data);
        assert!(
            client.read_with(flag::DF, 0, 32 << 20).unwrap()[4096..] == data[..(32 << 20) - 4096]
        );
    });
}

#[test]
fn the_status_of_a_disk_is_told_in_one_or_in_many_extents() {
    with_client(true, false, |client| {
        client.write(8192, &[1; 4096]).unwrap();
        let hole = |length| StatusExtent { length, hole: true, zero: true };
        let data = |length| StatusExtent { length, hole: false, zero: false };
        let status = client.status(0, 32768, false).unwrap();
        assert_eq!(status, [hole(8192), data(4096), hole(20480)]);
        assert_eq!(client.status(100, 5000, true).unwrap(), [hole(5000)]);
        assert_eq!(client.status(9000, 1 << 20, true).unwrap(), [data(3288)]);
        refused(client.status(0, 0, false), Errno::EINVAL);
        refused(client.status(SIZE - 1, 2, false), Errno::EINVAL);
    });
}

#[test]
fn a_read_over_holes_comes_in_chunks_and_in_one_if_that_is_demanded() {
    let mut rig = Rig::started(true);
    rig.exchange(&write_request(1, 4096, &[7; 4096]));
    let data = |flags, offset: u64, length| {
        let kind = chunk::OFFSET_DATA;
        wire::DataChunk { magic: wire::CHUNK_MAGIC, flags, kind, cookie: 2, length, offset }
            .to_bytes()
            .to_vec()
    };
    let hole = |flags, offset: u64, zeroes| {
        let kind = chunk::OFFSET_HOLE;
        let (magic, cookie, length) = (wire::CHUNK_MAGIC, 2, 12);
        wire::HoleChunk { magic, flags, kind, cookie, length, offset, zeroes }.to_bytes().to_vec()
    };
    let got = rig.exchange(&request(command::READ, 0, 2, 0, 16384));
    let expected =
        [hole(0, 0, 4096), data(0, 4096, 4104), vec![7; 4096], hole(1, 8192, 8192)].concat();
    assert!(got == expected);
    let got = rig.exchange(&request(command::READ, flag::DF, 2, 0, 16384));
    let expected = [data(1, 0, 16392), vec![0; 4096], vec![7; 4096], vec![0; 8192]].concat();
    assert!(got == expected);
    let got = rig.exchange(&request(command::READ, flag::DF, 2, 65536, 4096));
    assert!(got == hole(1, 65536, 4096));
    let got = rig.exchange(&request(command::READ, 0, 2, 4096, 4096));
    assert!(got == [data(1, 4096, 4104), vec![7; 4096]].concat());
    let got = rig.exchange(&request(command::READ, 0, 2, 0, 0));
    let none = wire::Chunk::from_bytes(got.first_chunk().unwrap());
    assert_eq!((none.kind, none.flags, none.length, got.len()), (chunk::NONE, 1, 0, 20));
}

#[test]
fn errors_of_the_export_reach_the_client_with_their_text() {
    let mut rig = Rig::started(true);
    rig.disk().fail_next = Some(std::io::Error::new(std::io::ErrorKind::StorageFull, "full up"));
    let got = rig.exchange(&write_request(1, 0, &[7; 4096]));
    let head = wire::Chunk::from_bytes(got.first_chunk().unwrap());
    assert_eq!((head.kind, head.flags), (chunk::ERROR, 1));
    assert_eq!(got[20..], [&[0, 0, 0, 28, 0, 7], b"full up".as_slice()].concat());

    let unsupported = || Some(std::io::Error::from(std::io::ErrorKind::Unsupported));
    let mut rig = Rig::started(false);
    for (flags, expected) in [(0, Errno::EINVAL), (flag::FAST_ZERO, Errno::ENOTSUP)] {
        rig.disk().fail_next = unsupported();
        let got = rig.exchange(&request(command::WRITE_ZEROES, flags, 1, 0, 4096));
        assert_eq!(got, simple_reply(1, expected.code()));
    }
    rig.disk().fail_next = Some(std::io::Error::other("broken"));
    let got = rig.exchange(&request(command::READ, 0, 1, 0, 4096));
    assert_eq!(got, simple_reply(1, Errno::EIO.code()));
    assert_eq!((rig.stats().read.failed, rig.stats().other_failed), (1, 2));
}

#[test]
fn a_thousand_requests_in_one_go_are_answered_in_order() {
    let mut rig = Rig::started(false);
    let mut requests = Vec::new();
    let mut expected = Vec::new();
    for i in 0..1000u64 {
        let data = [i as u8; 64];
        requests.extend(write_request(2 * i, 100 * i, &data));
        requests.extend(request(command::READ, 0, 2 * i + 1, 100 * i, 64));
        expected.extend(simple_reply(2 * i, 0));
        expected.extend(simple_reply(2 * i + 1, 0));
        expected.extend(data);
    }
    assert!(rig.exchange(&requests) == expected);
    assert_eq!((rig.stats().read.requests, rig.stats().write.requests), (1000, 1000));
    let frontend: &dyn block::Frontend<Memory> = &rig.connection;
    assert_eq!(frontend.outstanding(), 0);
}

/// A request is charged its own time: a slow write in a batch does not make the reads beside it slow.
#[test]
fn each_request_is_charged_its_own_time() {
    const SLOW: std::time::Duration = std::time::Duration::from_millis(50);
    let mut rig = Rig::started(false);
    let mut requests = Vec::new();
    for i in 0..10u64 {
        requests.extend(request(command::READ, 0, i, 0, 512));
    }
    requests.extend(write_request(10, 0, &[1; 512]));
    for i in 11..20u64 {
        requests.extend(request(command::READ, 0, i, 0, 512));
    }
    rig.disk().slow_write = Some(SLOW);
    rig.exchange(&requests);
    let stats = rig.stats();
    assert_eq!((stats.read.requests, stats.write.requests), (19, 1));
    assert!(stats.write.time >= SLOW, "{stats:?}");
    assert!(stats.read.time < SLOW, "{stats:?}");
}

/// Receiving and sending the data belongs to the time of a request: no machine copies 40 bytes in a nanosecond.
#[test]
fn the_time_of_a_request_has_its_transfer_in_it() {
    const LENGTH: u32 = 1 << 19;
    const REQUESTS: u64 = 128;
    let least = std::time::Duration::from_nanos(REQUESTS * u64::from(LENGTH) / 40);
    let mut rig = Rig::started(false);
    for i in 0..REQUESTS {
        rig.exchange(&write_request(i, 0, &vec![1; LENGTH as usize]));
        rig.exchange(&request(command::READ, 0, i, 0, LENGTH));
    }
    let stats = rig.stats();
    assert!(stats.read.time >= least && stats.write.time >= least, "{stats:?}, not {least:?}");
}

/// In the steady state the way of a request allocates nothing: reads, writes, status and small discards,
/// many at a time, with simple and with structured replies.
#[test]
fn requests_allocate_nothing() {
    for structured in [false, true] {
        let mut rig = Rig::started(structured);
        let mut requests = Vec::new();
        for i in 0..16u64 {
            requests.extend(write_request(i, 4096 * i, &[i as u8; 4096]));
            requests.extend(request(command::READ, 0, i, 4096 * i, 4096));
            requests.extend(request(command::TRIM, 0, i, 1 << 20, 65536));
            requests.extend(request(command::READ, 0, i, (1 << 20) - 512, 1024));
            if structured {
                requests.extend(request(command::BLOCK_STATUS, 0, i, 0, 1 << 20));
            }
        }
        let mut replies = vec![0; 1 << 20];
        let mut round = || {
            rig.send(&requests);
            let counted = allocation_counter::measure(|| rig.drive());
            assert!(rig.end.is_none());
            while std::io::Read::read(&mut &rig.client, &mut replies).is_ok() {}
            counted.count_total
        };
        // Vectors find their size.
        (0..4).for_each(|_| _ = round());
        let counts: Vec<u64> = (0..8).map(|_| round()).collect();
        assert_eq!(counts, [0; 8], "structured: {structured}");
    }
}

/// The client dies at every point of a write: nothing of it is applied until all of it is here.
#[test]
fn a_write_that_is_cut_off_changes_nothing() {
    let data: Vec<u8> = vec![9; 10_000];
    let whole = write_request(1, 4096, &data);
    for length in [1, 27, 28, 29, 5000, whole.len() - 1] {
        let mut rig = Rig::started(true);
        rig.send(&whole[..length]);
        rig.client.shutdown(std::net::Shutdown::Both).unwrap();
        rig.drive();
        assert!(matches!(rig.end, Some(End::Truncated)), "{length}: {:?}", rig.end);
        assert_eq!(rig.disk().changes, 0);
    }
    let mut rig = Rig::started(true);
    rig.send(&whole);
    rig.client.shutdown(std::net::Shutdown::Write).unwrap();
    rig.drive();
    assert!(matches!(rig.end, Some(End::SocketClosed)));
    assert_eq!(rig.take(), simple_reply(1, 0), "a half-closed client still gets its reply");
    assert!(contents(&mut rig.drive, 4096, 10_000) == data);
}

/// While one large write is handled the next ones come in already: each still arrives whole, in
/// its turn, whatever lies between them, and the last one, which is cut off, not at all.
#[test]
fn large_writes_in_flight_keep_their_order_and_their_bytes() {
    let mut rig = Rig::started(false);
    let mut random = Random(7);
    let mut model = vec![0; 8 << 20];
    let (mut bytes, mut expected) = (Vec::new(), Vec::new());
    for cookie in 0..24 {
        let length = [1 << 20, 200_000, 128 << 10, 3_000_000, 70_000, 5][cookie % 6];
        let at = random.below((model.len() - length) as u64) as usize;
        let data: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
        model[at..at + length].copy_from_slice(&data);
        bytes.extend(write_request(cookie as u64, at as u64, &data));
        expected.extend(simple_reply(cookie as u64, 0));
        if cookie % 3 == 0 {
            bytes.extend(request(command::READ, 0, 100, at as u64, 50));
            expected.extend(simple_reply(100, 0));
            expected.extend(&model[at..at + 50]);
        }
    }
    let cut_off = write_request(99, 0, &vec![7; 1 << 20]);
    bytes.extend(&cut_off[..cut_off.len() - 1]);
    assert!(rig.exchange(&bytes) == expected);
    assert!(contents(&mut rig.drive, 0, model.len() as u32) == model);
    rig.client.shutdown(std::net::Shutdown::Both).unwrap();
    rig.drive();
    assert!(matches!(rig.end, Some(End::Truncated)), "{:?}", rig.end);
    assert!(contents(&mut rig.drive, 0, model.len() as u32) == model);
}

#[test]
fn a_request_without_its_magic_ends_the_session_after_the_replies_before_it() {
    let mut rig = Rig::started(false);
    let mut bytes = request(command::FLUSH, 0, 1, 0, 0);
    bytes.extend([0; 28]);
    assert_eq!(rig.exchange(&bytes), simple_reply(1, 0));
    assert!(matches!(rig.end, Some(End::Violation(_))));

    let mut rig = Rig::started(false);
    rig.exchange(&request(command::WRITE, 0, 1, 0, u32::MAX));
    assert!(matches!(rig.end, Some(End::Violation(_))));
}

#[test]
fn a_disk_that_is_closed_answers_what_comes_and_applies_none_of_it() {
    let mut rig = Rig::started(false);
    rig.connection.stop();
    let bytes = [write_request(1, 0, &[1; 100]), request(command::READ, 0, 2, 0, 100)].concat();
    let code = Errno::ESHUTDOWN.code();
    assert_eq!(rig.exchange(&bytes), [simple_reply(1, code), simple_reply(2, code)].concat());
    assert!(matches!(rig.end, Some(End::Stopped)));
    assert_eq!(rig.disk().changes, 0);
}

/// Requests from a model's hand: random commands against a plain array, with several in flight.
#[test]
fn random_requests_agree_with_a_plain_array() {
    const MODEL: u64 = 1 << 20;
    for (seed, structured) in [(1, false), (2, true), (3, false), (4, true)] {
        let mut random = Random(seed);
        let mut model = vec![0u8; MODEL as usize];
        with_client(structured, false, |client| {
            for _ in 0..200 {
                let mut reads = Vec::new();
                for _ in 0..1 + random.below(8) {
                    let offset = random.below(MODEL);
                    // Some are large enough to be written in parts, and to be received ahead of.
                    let most = if random.below(8) == 0 { 600_000 } else { 40_000 };
                    let length = 1 + random.below((MODEL - offset).min(most));
                    let range = offset as usize..(offset + length) as usize;
                    match random.below(4) {
                        0 => {
                            let data: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
                            model[range].copy_from_slice(&data);
                            let cookie = client
                                .submit(0, command::WRITE, offset, length as u32, &data)
                                .unwrap();
                            reads.push((cookie, offset, None));
                        }
                        1 => {
                            model[range].fill(0);
                            let code = command::WRITE_ZEROES;
                            let flags = random.below(2) as u16 * flag::NO_HOLE;
                            let cookie =
                                client.submit(flags, code, offset, length as u32, &[]).unwrap();
                            reads.push((cookie, offset, None));
                        }
                        _ => {
                            let cookie = client
                                .submit(0, command::READ, offset, length as u32, &[])
                                .unwrap();
                            reads.push((cookie, offset, Some(model[range].to_vec())));
                        }
                    }
                }
                for (cookie, offset, expected) in reads {
                    match expected {
                        None => client.finish(cookie).unwrap(),
                        Some(expected) => {
                            let length = expected.len() as u32;
                            let got = client.finish_read(cookie, offset, length).unwrap();
                            assert!(got == expected, "seed {seed} at {offset}");
                        }
                    }
                }
            }
        });
    }
}
