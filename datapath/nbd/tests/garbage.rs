//! Random and nearly correct bytes: nothing panics, nothing grows without bound, and the
//! connection either goes on or says why not.

mod common;

use common::*;
use nbd::{
    client,
    wire::{self, command, option},
};

fn random_bytes(random: &mut Random, length: u64) -> Vec<u8> {
    (0..length).map(|_| random.next() as u8).collect()
}

/// Sends, and reads a little of what comes.
fn feed(rig: &mut Rig, bytes: &[u8]) {
    if rig.end.is_some() {
        return;
    }
    rig.send(bytes);
    rig.drive();
    rig.take();
    assert!(rig.connection.unsent_bytes() <= (34 << 20));
}

/// Damages one byte now and then.
fn damage(random: &mut Random, bytes: &mut [u8]) {
    if random.below(3) == 0 && !bytes.is_empty() {
        let at = random.below(bytes.len() as u64) as usize;
        bytes[at] = random.next() as u8;
    }
}

#[test]
fn random_bytes_in_the_handshake() {
    let mut random = Random(0x1234_5678);
    for _ in 0..300 {
        let mut rig = Rig::new();
        if random.below(8) > 0 {
            feed(&mut rig, &(random.below(4) as u32).to_be_bytes());
        }
        for _ in 0..20 {
            let length = random.below(60);
            let mut bytes = match random.below(5) {
                0 => random_bytes(&mut random, length),
                1 => option_bytes(random.below(13) as u32, &random_bytes(&mut random, length)),
                2 => option_bytes(option::INFO, &client::info_request(b"x", &[0, 1, 2, 3])),
                3 => {
                    let code = 9 + random.below(2) as u32;
                    option_bytes(code, &client::meta_query(b"x", &[wire::BASE_ALLOCATION]))
                }
                _ => option_bytes(option::STRUCTURED_REPLY, &[]),
            };
            damage(&mut random, &mut bytes);
            feed(&mut rig, &bytes);
        }
    }
}

#[test]
fn random_requests_and_random_bytes_in_the_transmission() {
    let mut random = Random(0x8765_4321);
    for round in 0..150 {
        let mut rig = Rig::started(round % 2 == 0);
        rig.disk().read_only = round % 5 == 0;
        for _ in 0..40 {
            let offset = match random.below(4) {
                0 => random.next(),
                1 => SIZE - random.below(10_000),
                _ => random.below(SIZE),
            };
            let length = match random.below(6) {
                0 => random.next() as u32,
                1 => random.below(40 << 20) as u32,
                _ => random.below(10_000) as u32,
            };
            let code = random.below(10) as u16;
            let flags = if random.below(3) == 0 { random.below(64) as u16 } else { 0 };
            let mut bytes = request(code, flags, random.next(), offset, length);
            if code == command::WRITE && length < 100_000 {
                bytes.extend(random_bytes(&mut random, length.into()));
            }
            damage(&mut random, &mut bytes);
            feed(&mut rig, &bytes);
        }
        if round % 3 == 0 {
            let bytes = random_bytes(&mut random, 1000);
            feed(&mut rig, &bytes);
        }
    }
}
