//! In the steady state no request allocates, whatever lies below the top.

use store::{Disk, testing::Fixture};

const BLOCK: u64 = 4096;
const BLOCKS: u64 = 2048;

/// Does everything that clients ask for, in places all over the disk; how often it allocated.
fn allocations(disk: &mut Disk, round: u64, what: &str) -> u64 {
    let data = [round as u8; 2 * 4096];
    let counted = allocation_counter::measure(|| {
        for i in 0..500 {
            let at = (i * 7919 + round * 31) % (BLOCKS - 2) * BLOCK;
            match what {
                "write" => disk.write(at, &data).unwrap(),
                "write zeroes as data" => disk.write(at, &[0; 2 * 4096]).unwrap(),
                "write in part" => disk.write(at + 100, &data[..300]).unwrap(),
                "discard" => disk.discard(at, 2 * BLOCK).unwrap(),
                "zeroes" => disk.write_zeroes(at, 2 * BLOCK, false).unwrap(),
                "zeroes in part" => disk.write_zeroes(at + 100, BLOCK, false).unwrap(),
                _ => disk.read(at, 2 * BLOCK, |_| {}).unwrap(),
            }
        }
    });
    counted.count_total
}

#[test]
fn reads_writes_discards_and_zeroes_allocate_nothing() {
    let fixture = Fixture::new(64 << 20);
    let key = fixture.create(i64::try_from(BLOCKS * BLOCK).unwrap());
    let fill =
        |disk: &mut Disk| (0..BLOCKS).for_each(|it| disk.write(it * BLOCK, &[1; 4096]).unwrap());
    let mut disk = fixture.open(&key, false).unwrap();
    fill(&mut disk);
    drop(disk);
    fixture.lock().snapshot_volume(&key, &mut store::Inactive).unwrap();
    let mut disk = fixture.open(&key, false).unwrap();
    let all = [
        "read",
        "write",
        "write zeroes as data",
        "write in part",
        "discard",
        "zeroes",
        "zeroes in part",
    ];
    // Layers are opened, windows are mapped, vectors find their size.
    for what in all {
        (0..3).for_each(|round| _ = allocations(&mut disk, round, what));
        fill(&mut disk);
    }
    for what in all {
        assert_eq!(allocations(&mut disk, 3, what), 0, "{what}");
        assert_eq!(allocations(&mut disk, 4, what), 0, "{what}, where it was done before");
    }
}
