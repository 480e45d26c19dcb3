//! Every option, as sent by a client that is strict, sloppy or hostile.

mod common;

use common::*;
use nbd::{
    End, client,
    wire::{self, chunk, command, info, option, option_reply as reply, transmission_flag as flag},
};

const FLAGS: u16 = flag::HAS_FLAGS
    | flag::SEND_FLUSH
    | flag::SEND_FUA
    | flag::SEND_TRIM
    | flag::SEND_WRITE_ZEROES
    | flag::CAN_MULTI_CONN
    | flag::SEND_CACHE
    | flag::SEND_FAST_ZERO;

/// A rig whose client has answered the greeting.
fn greeted(client_flags: u32) -> Rig {
    let mut rig = Rig::new();
    assert_eq!(rig.exchange(&client_flags.to_be_bytes()), b"NBDMAGICIHAVEOPT\0\x03");
    rig
}

fn export_info(size: u64, flags: u16) -> Vec<u8> {
    wire::InfoExport { kind: info::EXPORT, size, flags }.to_bytes().to_vec()
}

#[test]
fn the_greeting_is_sent_before_the_client_says_anything() {
    assert_eq!(Rig::new().exchange(b""), b"NBDMAGICIHAVEOPT\0\x03");
}

#[test]
fn client_flags_that_were_not_offered_end_the_session() {
    let mut rig = greeted(4);
    assert!(matches!(rig.end.take(), Some(End::Violation(_))));
}

#[test]
fn export_name_starts_with_and_without_the_zeroes_whatever_the_name() {
    for name in [b"".as_slice(), b"tapdisk_client\0", b"\xff\xfe"] {
        for (client_flags, zeroes) in [(3, 0), (1, 124), (0, 124)] {
            let mut rig = greeted(client_flags);
            let got = rig.exchange(&option_bytes(option::EXPORT_NAME, name));
            let mut expected = SIZE.to_be_bytes().to_vec();
            expected.extend(FLAGS.to_be_bytes());
            expected.extend(vec![0; zeroes]);
            assert_eq!(got, expected);
            let got = rig.exchange(&request(command::FLUSH, 0, 9, 0, 0));
            assert_eq!(got, simple_reply(9, 0));
        }
    }
}

#[test]
fn an_export_name_that_is_too_long_has_no_error_reply() {
    for length in [4097, 70_000] {
        let mut rig = greeted(3);
        rig.exchange(&option_bytes(option::EXPORT_NAME, &vec![b'x'; length]));
        assert!(matches!(rig.end.take(), Some(End::Violation(_))), "{length}");
    }
}

#[test]
fn abort_is_acknowledged_and_ends_the_session() {
    let mut rig = greeted(3);
    assert_eq!(rig.option(option::ABORT, b"ignored"), [(reply::ACK, vec![])]);
    assert!(matches!(rig.end, Some(End::Aborted)));
}

#[test]
fn list_names_the_disk() {
    let mut rig = greeted(3);
    let expected = [&[0, 0, 0, 4], NAME.as_bytes(), b"a disk for tests"].concat();
    assert_eq!(rig.option(option::LIST, &[]), [(reply::SERVER, expected), (reply::ACK, vec![])]);
    assert_eq!(refusal(&rig.option(option::LIST, b"x")), reply::ERR_INVALID);
}

#[test]
fn options_that_are_not_served_are_refused_and_do_no_harm() {
    let mut rig = greeted(3);
    for (code, data, expected) in [
        (option::STARTTLS, b"".as_slice(), reply::ERR_POLICY),
        (option::STARTTLS, b"x", reply::ERR_INVALID),
        (option::EXTENDED_HEADERS, b"", reply::ERR_UNSUP),
        (4, b"", reply::ERR_UNSUP),
        (0, b"some data", reply::ERR_UNSUP),
        (u32::MAX, b"", reply::ERR_UNSUP),
        (option::STRUCTURED_REPLY, b"x", reply::ERR_INVALID),
    ] {
        assert_eq!(refusal(&rig.option(code, data)), expected, "option {code}");
    }
    assert_eq!(rig.option(option::STRUCTURED_REPLY, &[]), [(reply::ACK, vec![])]);
}

#[test]
fn an_option_that_is_too_long_is_dropped_and_answered_and_an_endless_one_is_not() {
    let mut rig = greeted(3);
    for code in [option::GO, option::LIST, 77] {
        let replies = rig.option(code, &vec![7; 1 << 20]);
        assert_eq!(refusal(&replies), reply::ERR_TOO_BIG);
    }
    let head = wire::OptionHead { magic: wire::OPTION_MAGIC, option: 77, length: u32::MAX };
    rig.exchange(&head.to_bytes());
    assert!(matches!(rig.end.take(), Some(End::Violation(_))));
}

#[test]
fn an_option_without_its_magic_ends_the_session() {
    let mut rig = greeted(3);
    rig.exchange(&[0; 16]);
    assert!(matches!(rig.end.take(), Some(End::Violation(_))));
}

#[test]
fn info_tells_what_is_asked_and_go_starts() {
    let mut rig = greeted(3);
    let data = client::info_request(b"", &[]);
    let export = (reply::INFO, export_info(SIZE, FLAGS));
    assert_eq!(rig.option(option::INFO, &data), [export.clone(), (reply::ACK, vec![])]);
    rig.option(option::STRUCTURED_REPLY, &[]);
    let wanted = [info::BLOCK_SIZE, info::NAME, info::DESCRIPTION, info::EXPORT, 4711];
    let data = client::info_request(b"another name", &wanted);
    let sizes = wire::InfoBlockSize {
        kind: info::BLOCK_SIZE,
        minimum: 1,
        preferred: 4096,
        payload: 32 << 20,
    };
    let expected = [
        (reply::INFO, export_info(SIZE, FLAGS | flag::SEND_DF)),
        (reply::INFO, [&[0, 1], NAME.as_bytes()].concat()),
        (reply::INFO, [&[0, 2], b"a disk for tests".as_slice()].concat()),
        (reply::INFO, sizes.to_bytes().to_vec()),
        (reply::ACK, vec![]),
    ];
    assert_eq!(rig.option(option::INFO, &data), expected);
    assert_eq!(rig.option(option::GO, &data), expected);
    assert_eq!(rig.exchange(&request(command::FLUSH, 0, 1, 0, 0)), simple_reply(1, 0));
}

#[test]
fn a_read_only_disk_says_so() {
    let mut rig = greeted(3);
    rig.disk().read_only = true;
    let replies = rig.option(option::INFO, &client::info_request(b"", &[]));
    assert_eq!(replies[0].1, export_info(SIZE, FLAGS | flag::READ_ONLY));
}

#[test]
fn malformed_info_and_meta_context_are_invalid_at_every_length() {
    let mut rig = greeted(3);
    rig.option(option::STRUCTURED_REPLY, &[]);
    let info = client::info_request(b"name", &[info::NAME, info::BLOCK_SIZE]);
    let meta = client::meta_query(b"name", &[b"base:allocation", b"base:"]);
    for (code, data) in [
        (option::INFO, &info),
        (option::GO, &info),
        (option::LIST_META_CONTEXT, &meta),
        (option::SET_META_CONTEXT, &meta),
    ] {
        for length in 0..data.len() {
            assert_eq!(refusal(&rig.option(code, &data[..length])), reply::ERR_INVALID);
        }
        let longer = [data.as_slice(), b"x"].concat();
        assert_eq!(refusal(&rig.option(code, &longer)), reply::ERR_INVALID);
    }
    let long_name = client::info_request(&[b'x'; 4097], &[]);
    assert_eq!(refusal(&rig.option(option::GO, &long_name)), reply::ERR_INVALID);
    // A count that the data does not bear out must cost nothing.
    let many = [0u32.to_be_bytes(), u32::MAX.to_be_bytes()].concat();
    assert_eq!(refusal(&rig.option(option::LIST_META_CONTEXT, &many)), reply::ERR_INVALID);
}

#[test]
fn meta_contexts_are_listed_and_set_as_the_protocol_demands() {
    let mut rig = greeted(3);
    let query = |queries: &[&[u8]]| client::meta_query(b"", queries);
    let exact = query(&[b"base:allocation"]);
    assert_eq!(refusal(&rig.option(option::SET_META_CONTEXT, &exact)), reply::ERR_INVALID);
    rig.option(option::STRUCTURED_REPLY, &[]);
    let context = |id: u8| (reply::META_CONTEXT, [&[0, 0, 0, id], wire::BASE_ALLOCATION].concat());
    let done = || (reply::ACK, vec![]);
    let list = [context(0), done()];
    for queries in [&[] as &[&[u8]], &[b"base:"], &[b"qemu:x", b"base:allocation", b"base:"]] {
        assert_eq!(rig.option(option::LIST_META_CONTEXT, &query(queries)), list);
    }
    for queries in [&[b"qemu:".as_slice()] as &[&[u8]], &[b"base:nothing"], &[b"nonsense"]] {
        assert_eq!(rig.option(option::LIST_META_CONTEXT, &query(queries)), [done()]);
    }
    for queries in [&[] as &[&[u8]], &[b"base:"], &[b"qemu:allocation-depth"]] {
        assert_eq!(rig.option(option::SET_META_CONTEXT, &query(queries)), [done()]);
    }
    assert_eq!(rig.option(option::SET_META_CONTEXT, &exact), [context(1), done()]);
}

/// What `BLOCK_STATUS` answers after a handshake: the type of the chunk.
fn status_kind(options: &[(u32, Vec<u8>)], go: &[u8]) -> u16 {
    let mut rig = greeted(3);
    for (code, data) in options {
        rig.option(*code, data);
    }
    rig.option(option::GO, &client::info_request(go, &[]));
    let got = rig.exchange(&request(command::BLOCK_STATUS, 0, 1, 0, 4096));
    wire::Chunk::from_bytes(got.first_chunk().unwrap()).kind
}

#[test]
fn a_context_holds_for_the_name_it_was_set_for_and_until_the_next_try() {
    let structured = (option::STRUCTURED_REPLY, vec![]);
    let set = |name: &[u8], queries: &[&[u8]]| {
        (option::SET_META_CONTEXT, client::meta_query(name, queries))
    };
    let chosen = set(b"a", &[wire::BASE_ALLOCATION]);
    let options = [structured.clone(), chosen.clone()];
    assert_eq!(status_kind(&options, b"a"), chunk::BLOCK_STATUS);
    assert_eq!(status_kind(&options, b"b"), chunk::ERROR);
    let options = [structured.clone(), chosen.clone(), set(b"a", &[])];
    assert_eq!(status_kind(&options, b"a"), chunk::ERROR);
    let options = [structured, chosen, (option::SET_META_CONTEXT, vec![1])];
    assert_eq!(status_kind(&options, b"a"), chunk::ERROR);
}

#[test]
fn an_old_style_server_is_served_without_a_word_of_the_client() {
    let mut rig = Rig::old_style();
    let greeting = rig.exchange(b"");
    assert_eq!(greeting.len(), 152);
    let head = wire::OldGreeting::from_bytes(greeting.first_chunk().unwrap());
    assert_eq!(head.size, SIZE);
    assert_eq!(head.flags, u32::from(FLAGS));
    assert_eq!(rig.exchange(&write_request(5, 100, b"hello")), simple_reply(5, 0));
    let got = rig.exchange(&request(command::READ, 0, 6, 99, 7));
    assert_eq!(got, [simple_reply(6, 0), b"\0hello\0".to_vec()].concat());
}

#[test]
fn a_server_that_shuts_down_refuses_and_is_over_when_everything_is_said() {
    let mut rig = greeted(3);
    rig.connection.stop();
    rig.drive();
    assert!(matches!(rig.end, Some(End::Stopped)));

    let mut rig = greeted(3);
    rig.connection.stop();
    rig.send(&option_bytes(option::GO, &client::info_request(b"", &[])));
    let got = rig.exchange(b"");
    assert_eq!(refusal(&option_replies(&got, option::GO)), reply::ERR_SHUTDOWN);
    assert!(matches!(rig.end, Some(End::Stopped)));
}

/// A whole conversation gives the same answer however the bytes are cut into portions.
#[test]
fn every_way_to_split_a_conversation_gives_the_same_answer() {
    let go = client::info_request(b"", &[info::BLOCK_SIZE]);
    let query = client::meta_query(b"", &[wire::BASE_ALLOCATION]);
    let conversation = [
        3u32.to_be_bytes().to_vec(),
        option_bytes(option::STRUCTURED_REPLY, &[]),
        option_bytes(77, &[1; 100]),
        option_bytes(option::SET_META_CONTEXT, &query),
        option_bytes(option::GO, &go),
        write_request(1, 4000, &[5; 200]),
        request(command::READ, 0, 2, 0, 12288),
        write_request(3, SIZE, &[6; 50]),
        request(command::READ, 0, 4, 4000, 200),
        request(command::BLOCK_STATUS, 0, 5, 0, 1 << 20),
        request(command::TRIM, 0, 6, 0, 8192),
        request(99, 0, 7, 0, 0),
        request(command::DISC, 0, 8, 0, 0),
    ]
    .concat();
    let mut rig = Rig::new();
    let expected = rig.exchange(&conversation);
    assert!(matches!(rig.end, Some(End::Disconnected)));
    for at in 0..conversation.len() {
        let mut rig = Rig::new();
        let (first, second) = conversation.split_at(at);
        let mut got = rig.exchange(first);
        got.extend(rig.exchange(second));
        assert!(got == expected, "split at {at}");
        assert!(matches!(rig.end, Some(End::Disconnected)));
    }
    let mut rig = Rig::new();
    let got: Vec<u8> = conversation.iter().flat_map(|byte| rig.exchange(&[*byte])).collect();
    assert!(got == expected);
}
