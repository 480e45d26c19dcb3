//! Clients that do not read: what they cost, and that what they get in the end is what they asked
//! for, though it was overwritten and freed in the meantime.

mod common;

use std::io;

use block::{Budget, Disk, Drive, Extent, Interest, StatusExtent, memory::Memory};
use common::*;
use nbd::{Connection, ReceiveLimit, Turned, wire::command};

/// The most that may wait for a client that does not read: the bound on unsent replies, and one
/// request of the largest size.
const WAITING_BYTES_MAX: usize = (1 << 20) + (32 << 20) + 4096;

/// Length of the greeting of an old-style server, in bytes.
const OLD_GREETING_BYTES: usize = 152;

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i / 512 % 251 + 1) as u8).collect()
}

fn reads(count: u64, length: u32) -> Vec<u8> {
    (0..count).flat_map(|i| request(command::READ, 0, i, i * u64::from(length), length)).collect()
}

/// The data of replies to reads of `length` bytes, heads checked and cut off.
fn strip(bytes: &[u8], length: usize) -> Vec<u8> {
    bytes
        .chunks(16 + length)
        .enumerate()
        .flat_map(|(i, reply)| {
            assert_eq!(reply[..16], simple_reply(i as u64, 0));
            reply[16..].to_vec()
        })
        .collect()
}

#[test]
fn a_client_that_never_reads_is_not_read_from_and_costs_bounded_memory_and_no_turns() {
    for length in [4096, 1 << 20, 32 << 20] {
        let mut rig = Rig::started(false);
        let data = pattern(SIZE as usize / 2);
        for (i, part) in data.chunks(16 << 20).enumerate() {
            rig.exchange(&write_request(0, i as u64 * (16 << 20), part));
        }
        // As many requests as the socket takes.
        let asked = request(command::READ, 0, 0, 0, length);
        let mut sent = 0;
        loop {
            rig.drive();
            if !std::io::Write::write(&mut &rig.client, &asked).is_ok_and(|count| count == 28) {
                break;
            }
            sent += 1;
        }
        assert!(sent > 100, "{sent}");
        let unsent = rig.connection.unsent_bytes();
        assert!((1 << 20..WAITING_BYTES_MAX).contains(&unsent), "{unsent} bytes wait");
        let interest = rig.connection.interest();
        assert_eq!(interest, Interest { readable: false, writable: true });
        let turned = rig.turn();
        assert!(matches!(turned, Turned::Idle), "{turned:?}");
        assert!(rig.stats().read.requests < 1000, "{:?}", rig.stats());
    }
}

/// Replies that wait keep their contents though another client changes the disk.
#[test]
fn replies_that_wait_show_the_disk_as_it_was_when_the_request_was_handled() {
    for (count, length) in [(2048, 4096), (128, 65536), (16, 512 << 10), (1, 16 << 20)] {
        let mut slow = Rig::started(false);
        let data = pattern(count as usize * length);
        for (i, part) in data.chunks(1 << 20).enumerate() {
            slow.exchange(&write_request(0, (i as u64) << 20, part));
        }
        slow.send(&reads(count, length as u32));
        slow.drive();
        assert!(slow.connection.unsent_bytes() > 0);
        let handled = slow.stats().read.requests as usize;

        // Another client of the same disk overwrites one half and frees the other.
        slow.beside(|other| {
            let half = data.len() / 2;
            for at in (0..half).step_by(1 << 20) {
                let part = vec![255; (1 << 20).min(half - at)];
                assert_eq!(other.exchange(&write_request(9, at as u64, &part)), simple_reply(9, 0));
            }
            let trim = request(command::TRIM, 0, 9, half as u64, half as u32);
            assert_eq!(other.exchange(&trim), simple_reply(9, 0));
        });

        let mut got = slow.take();
        got.extend(slow.exchange(b""));
        let got = strip(&got, length);
        assert_eq!(got.len(), data.len());
        let (old, new) = got.split_at(handled * length);
        assert!(old == &data[..old.len()], "{count} x {length}");
        // Those handled afterwards show what the other client has made of it.
        assert!(new.iter().all(|byte| *byte == 255 || *byte == 0));
    }
}

#[test]
fn a_read_before_a_write_of_the_same_blocks_in_one_go_shows_the_old_ones() {
    for structured in [false, true] {
        let mut rig = Rig::started(structured);
        rig.exchange(&write_request(0, 0, &[1; 65536]));
        let head = if structured { 28 } else { 16 };
        let asked = [
            request(command::READ, 0, 1, 0, 65536),
            write_request(2, 0, &[2; 4096]),
            request(command::READ, 0, 3, 0, 65536),
            request(command::TRIM, 0, 4, 4096, 61440),
        ]
        .concat();
        let got = rig.exchange(&asked);
        assert_eq!(got.len(), 2 * (head + 65536) + 2 * 16);
        assert!(got[head..head + 65536].iter().all(|byte| *byte == 1));
        let second = &got[head + 65536 + 16 + head..][..65536];
        assert!(second[..4096].iter().all(|byte| *byte == 2));
        assert!(second[4096..].iter().all(|byte| *byte == 1));
    }
}

/// A disk that copies a block on write and frees the old one, all of it.
struct Moving(Memory);

impl Disk for Moving {
    type Structure = ();

    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read_only(&self) -> bool {
        false
    }

    fn structure(&mut self) -> &mut () {
        Box::leak(Box::new(()))
    }

    fn read(&mut self, offset: u64, length: u32, into: &mut Vec<Extent>) -> io::Result<()> {
        self.0.read(offset, length, into)
    }

    fn write(&mut self, offset: u64, _: &[u8]) -> io::Result<()> {
        self.0.write(offset / 4096 * 4096, &[0; 4096])
    }

    fn write_zeroes(&mut self, offset: u64, _: u64, _: bool) -> io::Result<()> {
        self.write(offset, &[])
    }

    fn discard(&mut self, offset: u64, _: u64) -> io::Result<()> {
        self.write(offset, &[])
    }

    fn status(&mut self, _: u64, _: u64, _: &mut Vec<StatusExtent>) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_change_of_one_byte_copies_out_its_whole_block() {
    for (code, length) in [(command::TRIM, 1), (command::WRITE_ZEROES, 7)] {
        let mut memory = Memory::new(SIZE).unwrap();
        memory.write(0, &[5; 8192]).unwrap();
        let mut drive = Drive::new(Moving(memory));
        let (server, client) = std::os::unix::net::UnixStream::pair().unwrap();
        let limit = ReceiveLimit::new();
        let mut connection = Connection::old_style(server, export(&limit), &drive).unwrap();
        let mut client = io::BufReader::new(client);
        let asked = [
            request(command::READ, 0, 1, 4196, 512),
            request(code, 0, 2, 8000, length),
            request(command::READ, 0, 3, 4196, 512),
        ];
        io::Write::write_all(client.get_mut(), &asked.concat()).unwrap();
        let turned = connection.turn(&mut drive, &mut Budget::turn());
        assert!(matches!(turned, Turned::Worked), "{turned:?}");
        let (head, done) = (simple_reply(1, 0), simple_reply(2, 0));
        let expected = [head, vec![5; 512], done, simple_reply(3, 0), vec![0; 512]].concat();
        let mut got = vec![0; OLD_GREETING_BYTES + expected.len()];
        io::Read::read_exact(&mut client, &mut got).unwrap();
        assert!(got[OLD_GREETING_BYTES..] == expected);
    }
}

/// One client's flood must not keep the others waiting.
#[test]
fn a_turn_ends_after_a_bounded_amount_of_work() {
    let mut rig = Rig::started(false);
    let flood: Vec<u8> = (0..1000).flat_map(|i| request(command::TRIM, 0, i, 0, 1 << 20)).collect();
    rig.send(&flood);
    let mut turns = 0;
    while let Turned::More = rig.turn() {
        turns += 1;
        let discards = rig.stats().discards;
        assert!(discards <= 4 * turns, "{discards} in {turns} turns");
    }
    assert!(turns >= 100, "{turns} turns");
    assert_eq!(rig.take().len(), 1000 * 16);
}

/// A discard of gigabytes is done in steps beside other requests, also those of the same client, and
/// is answered when it is done.
#[test]
fn what_follows_a_large_discard_does_not_wait_for_it() {
    let mut rig = Rig::started(false);
    rig.exchange(&write_request(0, 0, &[5; 8192]));
    let asked = [
        request(command::TRIM, 0, 1, 0, SIZE as u32),
        request(command::READ, 0, 2, 4096, 512),
        write_request(3, 4096, &[6; 512]),
    ];
    rig.send(&asked.concat());
    assert!(matches!(rig.turn(), Turned::Worked));
    let answered = [simple_reply(2, 0), vec![5; 512], simple_reply(3, 0)].concat();
    assert!(rig.take() == answered);
    rig.drive();
    assert_eq!(rig.take(), simple_reply(1, 0));
    // The write came later and stays.
    assert_eq!(contents(&mut rig.drive, 4096, 513), [vec![6; 512], vec![0]].concat());
}

/// However many large discards a client asks for: few are under way, and it is not read from meanwhile.
#[test]
fn a_flood_of_large_discards_is_bounded_and_all_are_answered() {
    let mut rig = Rig::started(false);
    let flood: Vec<u8> = (0..100).flat_map(|i| request(command::TRIM, 0, i, 0, 32 << 20)).collect();
    rig.send(&flood);
    while !matches!(rig.turn(), Turned::Idle) {}
    assert_eq!(rig.stats().discards, 16);
    assert_eq!(rig.connection.interest(), Interest { readable: false, writable: false });
    let got = rig.exchange(b"");
    assert_eq!(got.len(), 100 * 16);
}

/// A client that disconnects gets the answer to a large discard before; one that is gone is not waited
/// for, and a disk that is closed meanwhile answers with ESHUTDOWN.
#[test]
fn a_connection_that_ends_during_a_large_discard_is_answered_if_it_can_be() {
    let trim = request(command::TRIM, 0, 1, 0, SIZE as u32);
    let mut rig = Rig::started(false);
    let got = rig.exchange(&[trim.clone(), request(command::DISC, 0, 2, 0, 0)].concat());
    assert_eq!(got, simple_reply(1, 0));
    assert!(matches!(rig.end, Some(nbd::End::Disconnected)));

    let mut rig = Rig::started(false);
    rig.send(&trim);
    assert!(matches!(rig.turn(), Turned::Worked));
    rig.client.shutdown(std::net::Shutdown::Both).unwrap();
    let turned = rig.turn();
    assert!(matches!(turned, Turned::Closed(nbd::End::SocketClosed)), "{turned:?}");

    let mut rig = Rig::started(false);
    rig.send(&trim);
    assert!(matches!(rig.turn(), Turned::Worked));
    rig.drive = Drive::new(Memory::new(4096).unwrap());
    assert!(matches!(rig.connection.drain(), Turned::Worked));
    assert_eq!(rig.take(), simple_reply(1, nbd::Errno::ESHUTDOWN.code()));
}

#[test]
fn a_paused_disk_sends_what_it_has_answered_and_takes_nothing() {
    let mut rig = Rig::started(false);
    rig.exchange(&write_request(0, 0, &pattern(4 << 20)));
    rig.send(&reads(4, 1 << 20));
    rig.drive();
    let handled = rig.stats().read.requests;
    let mut got = Vec::new();
    while rig.connection.unsent_bytes() > 0 {
        got.extend(rig.take());
        let turned = rig.connection.drain();
        assert!(matches!(turned, Turned::Worked | Turned::Idle), "{turned:?}");
    }
    got.extend(rig.take());
    assert_eq!(rig.stats().read.requests, handled);
    assert_eq!(got.len(), handled as usize * ((1 << 20) + 16));
    got.extend(rig.exchange(b""));
    assert!(strip(&got, 1 << 20) == pattern(4 << 20));
}

/// A client may send many requests before it reads the first reply.
#[test]
fn ten_thousand_writes_before_the_first_reply_is_read_do_not_block() {
    let mut rig = Rig::started(false);
    for i in 0..10_000u64 {
        rig.send(&write_request(i, 4096 * (i % 1000), &[i as u8; 100]));
    }
    let got = rig.exchange(b"");
    let expected: Vec<u8> = (0..10_000).flat_map(|i| simple_reply(i, 0)).collect();
    assert!(got == expected);
}

/// Clients that begin the largest write and stop: together they may not take memory without end.
/// A client that comes too late gets an error, keeps its connection, and is served when there is room.
#[test]
fn half_sent_writes_share_a_bound_on_memory() {
    const LENGTH: u32 = 32 << 20;
    const ENOMEM: u32 = 12;
    let head = request(command::WRITE, 0, 7, 0, LENGTH);
    let limit = ReceiveLimit::new();
    let mut held: Vec<Rig> = Vec::new();
    let late = loop {
        let mut rig = Rig::limited(&limit);
        rig.start(false);
        rig.send(&head);
        rig.send(&vec![5; LENGTH as usize - 1]);
        rig.drive();
        rig.send(&[5]);
        rig.drive();
        let answer = rig.take();
        if answer == simple_reply(7, ENOMEM) {
            break rig;
        }
        // This one had room, and was answered: now it holds what it has only begun.
        assert_eq!(answer, simple_reply(7, 0));
        rig.send(&head);
        rig.send(&vec![6; LENGTH as usize - 1]);
        rig.drive();
        held.push(rig);
        assert!(held.len() <= 4, "the bound is not kept");
    };
    assert!(held.len() >= 3, "several of the largest requests fit: {}", held.len());
    let mut late = late;
    late.exchange(&write_request(0, 0, &[1; 4096]));
    drop(held);
    late.send(&head);
    late.send(&vec![8; LENGTH as usize]);
    late.drive();
    assert!(late.take().ends_with(&simple_reply(7, 0)), "there is room again");
}
