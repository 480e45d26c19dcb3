//! Zeroes that are written take no memory, whichever way they come: by a guest's ring, from an NBD client, or
//! from a mirror.

use std::time::Duration;

use store::testing::{Fixture, content};
use tapctl::{Mirror, MirrorStage};

use crate::{
    host::{Host, frontend},
    switch::path,
};

const MIB: u64 = 1 << 20;
const BYTES: i64 = 8 << 20;
const BLOCK: usize = 4096;
const SOURCE: u16 = 0;
const DESTINATION: u16 = 1;
const OPERATION: u64 = 7;

#[test]
fn zeroes_take_no_memory_by_whichever_way_they_come() {
    let host = Host::start();
    let fixture = Fixture::new(64 * MIB);
    let keys = [fixture.create(BYTES), fixture.create(BYTES)];
    for (minor, key) in [SOURCE, DESTINATION].into_iter().zip(&keys) {
        host.open(minor, &format!("ram:{}", path(&fixture, key).display()));
    }
    let blocks = || fixture.sr.stat().unwrap().used / BLOCK as u64;

    let guest = host.guest(4);
    let (mut disk, ring) = frontend(&guest, 0);
    host.client().connect(SOURCE, ring).unwrap();
    disk.write(0, &[0; 11 * BLOCK]).unwrap();
    assert_eq!(blocks(), 0, "a guest's zeroes");
    let mut mixed = [0; 8 * BLOCK];
    mixed[3 * BLOCK - 1] = 1;
    mixed[5 * BLOCK] = 1;
    disk.write(MIB, &mixed).unwrap();
    assert_eq!(blocks(), 2, "a guest's zeroes beside data");

    // More than is written in one turn.
    host.nbd(SOURCE).write(2 * MIB, &vec![0; 6 << 20]).unwrap();
    assert_eq!(blocks(), 2, "a client's zeroes");
    host.nbd(SOURCE).write(MIB + 4 * BLOCK as u64, &[7; 3 * BLOCK]).unwrap();
    assert_eq!(blocks(), 4, "a client's data beside the guest's");

    disk.write(MIB + 5 * BLOCK as u64, &[0; BLOCK]).unwrap();
    assert_eq!(blocks(), 4, "in place");
    let socket = host.dir.nbd(host.pid, DESTINATION);
    let remote = format!("nbd+unix:///x?socket={}", socket.display()).into();
    host.client().mirror(SOURCE, Mirror { operation: OPERATION, remote }).unwrap();
    let stage =
        || host.client().mirror_status(SOURCE, OPERATION, Duration::from_secs(5)).unwrap().stage;
    while stage() == MirrorStage::Copying {}
    assert_eq!(stage(), MirrorStage::InSync);
    assert_eq!(blocks(), 4 + 3, "a mirror's destination has no block of zeroes");
    disk.write(MIB + 20 * BLOCK as u64, &[0; BLOCK]).unwrap();
    host.client().mirror_finish(SOURCE, OPERATION).unwrap();
    assert_eq!(blocks(), 4 + 3);

    for minor in [SOURCE, DESTINATION] {
        host.client().close(minor).unwrap();
    }
    let read = |key: &String| content(&mut fixture.open(key, true).unwrap());
    let bytes = read(&keys[0]);
    assert!(bytes == read(&keys[1]));
    assert_eq!(bytes.iter().filter(|&&byte| byte == 7).count(), 2 * BLOCK);
}
