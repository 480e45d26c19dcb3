//! What sharing must not cost and must not hide, case by case: memory that comes back, zeros that
//! count, changes that are told.

use store::{Disk, Error, ErrorKind, Inactive, Live, Name, Result, Serving, Sr, Switch};

use store::testing::{Disks, Fixture, content};

use crate::map_pages;

const BLOCK: u64 = 4096;
const MIB: u64 = 1 << 20;

/// An SR in which a disk of `bytes` is served that was written throughout.
pub(crate) fn full_disk(sr_bytes: u64, bytes: u64) -> (Fixture, String, Disks) {
    let fixture = Fixture::new(sr_bytes);
    let key = fixture.create(i64::try_from(bytes).unwrap());
    let mut disks = Disks::default();
    disks.0.insert(key.clone(), fixture.open(&key, false).unwrap());
    rewrite(&mut disks, &key, 1);
    (fixture, key, disks)
}

pub(crate) fn rewrite(disks: &mut Disks, key: &str, byte: u8) {
    let disk = disks.0.get_mut(key).unwrap();
    for at in (0..disk.size()).step_by(1 << 20) {
        disk.write(at, &[byte; 1 << 20]).unwrap();
    }
}

/// The backup cycle on an SR with hardly more room than the disk: each rewritten block has to free
/// the one before at once.
#[test]
fn a_disk_that_was_backed_up_needs_its_size_once_while_it_is_served() {
    let (fixture, key, mut disks) = full_disk(33 * MIB, 32 * MIB);
    for byte in 2..5 {
        let snapshot = fixture.lock().snapshot_volume(&key, &mut disks).unwrap().key;
        fixture.lock().destroy_volume(snapshot.as_str(), &mut disks).unwrap();
        rewrite(&mut disks, &key, byte);
        assert_eq!(fixture.sr.stat().unwrap().used, 32 * MIB);
        let utilisation = fixture.sr.volume(&key).unwrap().utilisation;
        assert!(utilisation.abs_diff(32 * MIB) < MIB, "{utilisation}");
    }
    assert!(content(disks.0.get_mut(&key).unwrap()) == [4; 32 << 20]);
}

#[test]
fn a_disk_that_was_backed_up_needs_its_size_once_when_it_was_idle() {
    let (fixture, key, mut disks) = full_disk(33 * MIB, 32 * MIB);
    for byte in 2..5 {
        disks.0.clear();
        let snapshot = fixture.lock().snapshot_volume(&key, &mut Inactive).unwrap().key;
        fixture.lock().destroy_volume(snapshot.as_str(), &mut Inactive).unwrap();
        disks.0.insert(key.clone(), fixture.open(&key, false).unwrap());
        rewrite(&mut disks, &key, byte);
        assert_eq!(fixture.sr.stat().unwrap().used, 32 * MIB);
    }
    assert!(fixture.lock().check().unwrap().is_empty());
}

/// What a golden image had let go of before it went, its clone alone has needed since.
#[test]
fn a_clone_whose_origin_was_rewritten_and_destroyed_needs_its_size_once() {
    let (fixture, origin, mut disks) = full_disk(65 * MIB, 32 * MIB);
    let clone = fixture.lock().clone_volume(&origin, &mut disks).unwrap().key.to_string();
    disks.0.insert(clone.clone(), fixture.open(&clone, false).unwrap());
    // One block of each map page is its own.
    for at in (0..32 * MIB).step_by(4 << 20) {
        disks.0.get_mut(&clone).unwrap().write(at, &[3; 4096]).unwrap();
    }
    rewrite(&mut disks, &origin, 2);
    disks.0.remove(&origin);
    fixture.lock().destroy_volume(&origin, &mut disks).unwrap();
    rewrite(&mut disks, &clone, 4);
    // Also those blocks are gone that both had let go of while the layer was shared.
    assert_eq!(fixture.sr.stat().unwrap().used, 32 * MIB);
    assert_eq!(fixture.lock().collect(&mut disks).unwrap(), 0);
    let (said, real) = store::testing::counted(&fixture.sr);
    assert_eq!(said, real);
    assert!(fixture.lock().check().unwrap().is_empty());
}

/// Of three that share, two remain; of two, one: only then it frees what it overwrites.
#[test]
fn what_two_still_share_is_freed_by_neither_and_by_the_last_one_at_once() {
    let (fixture, key, mut disks) = full_disk(128 * MIB, 16 * MIB);
    let snapshot =
        |disks: &mut Disks| fixture.lock().snapshot_volume(&key, disks).unwrap().key.to_string();
    let (first, second) = (snapshot(&mut disks), snapshot(&mut disks));
    // Each page of the map is its own by now, and nothing can be told from the indexes.
    for at in (0..16 * MIB).step_by(1 << 20) {
        disks.0.get_mut(&key).unwrap().write(at, &[2; 4096]).unwrap();
    }
    fixture.lock().destroy_volume(&first, &mut disks).unwrap();
    rewrite(&mut disks, &key, 3);
    assert_eq!(fixture.sr.stat().unwrap().used, 32 * MIB);
    assert!(content(&mut fixture.open(&second, true).unwrap()) == [1; 16 << 20]);
    fixture.lock().destroy_volume(&second, &mut disks).unwrap();
    assert_eq!(fixture.sr.stat().unwrap().used, 16 * MIB);
    let third = snapshot(&mut disks);
    disks.0.get_mut(&key).unwrap().write(0, &[4; 4096]).unwrap();
    fixture.lock().destroy_volume(&third, &mut disks).unwrap();
    rewrite(&mut disks, &key, 5);
    assert_eq!(fixture.sr.stat().unwrap().used, 16 * MIB);
}

#[test]
fn zeros_of_a_child_hide_the_data_of_a_parent_that_it_is_composed_over() {
    let fixture = Fixture::new(64 * MIB);
    let parent = fixture.create(5 << 20);
    fixture.open(&parent, false).unwrap().write(0, &[1; 4 << 20]).unwrap();
    let child = fixture.lock().clone_volume(&parent, &mut Inactive).unwrap().key.to_string();
    let mut disk = fixture.open(&child, false).unwrap();
    disk.write_zeroes(BLOCK, BLOCK, false).unwrap();
    disk.discard(3 * BLOCK, BLOCK).unwrap();
    disk.write_zeroes(5 * BLOCK + 100, 200, false).unwrap();
    // Where there was nothing when the child began, zeros are an update all the same.
    disk.write_zeroes(4 << 20, BLOCK, false).unwrap();
    drop(disk);
    fixture.open(&parent, false).unwrap().write(0, &[2; 5 << 20]).unwrap();
    fixture.lock().compose_volumes(&child, &parent, &mut Inactive).unwrap();
    assert_eq!(fixture.sr.volume(&parent).unwrap_err().kind(), ErrorKind::VolumeMissing);
    let mut wanted = vec![2; 5 << 20];
    wanted[4096..8192].fill(0);
    wanted[3 * 4096..4 * 4096].fill(0);
    wanted[5 * 4096..6 * 4096].fill(1);
    wanted[5 * 4096 + 100..5 * 4096 + 300].fill(0);
    wanted[4 << 20..(4 << 20) + 4096].fill(0);
    assert!(content(&mut fixture.open(&child, true).unwrap()) == wanted);
    assert!(fixture.lock().check().unwrap().is_empty());
}

#[test]
fn what_was_discarded_and_written_again_between_two_snapshots_has_changed() {
    let (fixture, key, mut disks) = full_disk(64 * MIB, 8 * MIB);
    let old = fixture.lock().snapshot_volume(&key, &mut disks).unwrap().key.to_string();
    let disk = disks.0.get_mut(&key).unwrap();
    // As it was; of a whole chunk, so that its page of the map goes and comes back; and zeros only.
    disk.discard(0, BLOCK).unwrap();
    disk.write(0, &[1; 4096]).unwrap();
    disk.discard(4 << 20, 4 << 20).unwrap();
    disk.write(6 << 20, &[9; 4096]).unwrap();
    let new = fixture.lock().snapshot_volume(&key, &mut disks).unwrap().key.to_string();
    let ranges = [(0, BLOCK), (4 << 20, 4 << 20)];
    assert_eq!(fixture.lock().compare_volumes(&new, &old).unwrap(), ranges);
    assert_eq!(granules(&fixture.sr, &old, &new), [0..1, 64..128]);
    // Also when only the map of the older one is left.
    fixture.lock().destroy_volume_data(&old, &mut disks).unwrap();
    assert_eq!(granules(&fixture.sr, &old, &new), [0..1, 64..128]);
    assert_eq!(granules(&fixture.sr, &new, &key), []);
}

/// The granules that changed, in ranges.
fn granules(sr: &Sr, old: &str, new: &str) -> Vec<std::ops::Range<usize>> {
    let bitmap = sr.lock().unwrap().changed_blocks(old, new, 0, -1).unwrap().bitmap;
    let mut ranges: Vec<std::ops::Range<usize>> = Vec::new();
    let bits = (0..bitmap.len() * 8).filter(|bit| bitmap[bit / 8] & (0x80 >> (bit % 8)) != 0);
    for bit in bits {
        match ranges.last_mut() {
            Some(last) if last.end == bit => last.end += 1,
            _ => ranges.push(bit..bit + 1),
        }
    }
    ranges
}

#[test]
fn volumes_of_two_sizes_are_compared_to_the_end_of_the_newer() {
    let (fixture, key, mut disks) = full_disk(64 * MIB, 6 * MIB);
    let old = fixture.lock().snapshot_volume(&key, &mut disks).unwrap().key.to_string();
    let size = fixture.lock().resize_volume(&key, 13 << 20).unwrap();
    let disk = disks.0.get_mut(&key).unwrap();
    disk.resize(size).unwrap();
    assert_eq!(
        fixture.lock().compare_volumes(&key, &old).unwrap(),
        [],
        "growing alone changes nothing"
    );
    disk.write(12 << 20, &[1; 100]).unwrap();
    disk.write(7 << 20, &[1; 100]).unwrap();
    let new = fixture.lock().snapshot_volume(&key, &mut disks).unwrap().key.to_string();
    assert_eq!(
        fixture.lock().compare_volumes(&new, &old).unwrap(),
        [(7 << 20, BLOCK), (12 << 20, BLOCK)]
    );
    assert_eq!(granules(&fixture.sr, &old, &new), [112..113, 192..193]);
    // The other way round there is nothing beyond the end of the smaller one to be told.
    assert_eq!(granules(&fixture.sr, &new, &old), []);
    assert_eq!(fixture.lock().changed_blocks(&new, &old, 0, -1).unwrap().bitmap.len(), 12);
}

/// Nothing is left to be written, and still snapshots come, go, and give back what they alone held.
#[test]
fn a_full_sr_takes_and_loses_snapshots() {
    let (fixture, key, mut disks) = full_disk(16 * MIB + (64 << 10), 12 * MIB);
    let fill = |disk: &mut Disk, byte: u8| {
        let first = 4 << 20;
        (0..).find(|at| disk.write(first + at * BLOCK, &[byte; 4096]).is_err()).unwrap()
    };
    let snapshot = fixture.lock().snapshot_volume(&key, &mut disks).unwrap().key.to_string();
    let disk = disks.0.get_mut(&key).unwrap();
    disk.write(0, &[2; 4 << 20]).unwrap();
    let more = fill(disk, 2);
    assert_eq!(disk.write(8 << 20, &[2; 4096]).unwrap_err().kind(), ErrorKind::NoSpace);
    assert_eq!(fixture.sr.stat().unwrap().free, 0);
    let second = fixture.lock().snapshot_volume(&key, &mut disks).unwrap().key.to_string();
    let clone = fixture.lock().clone_volume(&snapshot, &mut disks).unwrap().key.to_string();
    let mut other = fixture.open(&clone, false).unwrap();
    assert_eq!(other.write(0, &[3; 4096]).unwrap_err().kind(), ErrorKind::NoSpace);
    // Letting go of what is shared frees nothing; of what is not, all of it, for whoever asks.
    other.discard(0, 4 << 20).unwrap();
    fixture.lock().destroy_volume(&second, &mut disks).unwrap();
    assert_eq!(fixture.sr.stat().unwrap().free, 0);
    fixture.lock().destroy_volume(&snapshot, &mut disks).unwrap();
    let used = fixture.sr.stat().unwrap().used;
    assert_eq!(used, 12 * MIB + more * BLOCK, "4 MiB are free, and what the clone kept is not");
    disks.0.get_mut(&key).unwrap().write(0, &[4; 8192]).unwrap();
    other.write(0, &[3; 3 << 20]).unwrap();
    let last = fill(&mut other, 3);
    assert!((246..=256 + more).contains(&last), "of the 4 MiB, 3 MiB and {last} blocks");
    assert_eq!(other.write(8 << 20, &[3; 4096]).unwrap_err().kind(), ErrorKind::NoSpace);
    drop(other);
    fixture.lock().destroy_volume(&clone, &mut disks).unwrap();
    rewrite(&mut disks, &key, 5);
    // What both had let go of while the disk was served waits for a collection.
    fixture.lock().collect(&mut disks).unwrap();
    assert_eq!(fixture.sr.stat().unwrap().used, 12 * MIB);
    assert!(fixture.lock().check().unwrap().is_empty());
}

/// Keeps the switches that it is to pass on; obeys them only if it is told to.
#[derive(Default)]
struct Late(Vec<Switch>, Option<Disks>);

impl Live for Late {
    fn switch(&mut self, key: &Name, serving: &Serving, switch: &Switch) -> Result<()> {
        self.0.push(switch.clone());
        match &mut self.1 {
            Some(disks) => disks.switch(key, serving, switch),
            None => Err(Error::new(ErrorKind::Unresponsive, "no answer")),
        }
    }

    fn sole(&mut self, _: &Name, _: &Serving) -> Result<()> {
        Ok(())
    }
}

/// A message that comes twice, after another one.
#[test]
fn a_switch_that_was_obeyed_is_not_obeyed_again_after_a_later_one() {
    let (fixture, key, disks) = full_disk(64 * MIB, 8 * MIB);
    let mut late = Late(Vec::new(), Some(disks));
    fixture.lock().snapshot_volume(&key, &mut late).unwrap();
    late.1.as_mut().unwrap().0.get_mut(&key).unwrap().write(0, &[2; 4096]).unwrap();
    fixture.lock().snapshot_volume(&key, &mut late).unwrap();
    late.1.unwrap().0.get_mut(&key).unwrap().switch(&late.0[0]).unwrap_err();
}

/// The disk goes on in the top that its record names no more, and that was empty so far.
#[test]
fn a_disk_that_was_never_switched_keeps_what_it_writes() {
    let (fixture, key, mut disks) = full_disk(64 * MIB, 8 * MIB);
    fixture.lock().snapshot_volume(&key, &mut disks).unwrap();
    fixture.lock().snapshot_volume(&key, &mut Late::default()).unwrap_err();
    fixture.lock().collect(&mut disks).unwrap();
    disks.0.get_mut(&key).unwrap().write(0, &[2; 4096]).unwrap();
    disks.0.clear();
    fixture.lock().collect(&mut disks).unwrap();
    assert_eq!(content(&mut fixture.open(&key, false).unwrap())[..4096], [2; 4096]);
    assert!(fixture.lock().check().unwrap().is_empty());
}

/// The switch of an operation that gave up waiting may be obeyed much later, or never.
#[test]
fn a_switch_that_comes_late_changes_nothing() {
    let (fixture, key, mut disks) = full_disk(64 * MIB, 8 * MIB);
    let mut late = Late::default();
    let error = fixture.lock().snapshot_volume(&key, &mut late).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unresponsive);
    fixture.lock().snapshot_volume(&key, &mut late).unwrap_err();
    fixture.lock().collect(&mut disks).unwrap();
    disks.0.get_mut(&key).unwrap().write(0, &[2; 4096]).unwrap();
    let snapshot = fixture.lock().snapshot_volume(&key, &mut disks).unwrap().key.to_string();
    for switch in &late.0 {
        // One that was killed instead would have left the file.
        std::fs::write(&switch.index, "").unwrap();
        disks.0.get_mut(&key).unwrap().switch(switch).unwrap_err();
    }
    rewrite(&mut disks, &key, 3);
    let mut wanted = vec![1; 8 << 20];
    wanted[..4096].fill(2);
    assert!(content(&mut fixture.open(&snapshot, true).unwrap()) == wanted);
    assert!(fixture.lock().check().unwrap().is_empty());
    fixture.lock().destroy_volume(&snapshot, &mut disks).unwrap();
    fixture.lock().collect(&mut disks).unwrap();
    assert_eq!(fixture.sr.stat().unwrap().used, 8 * MIB);
}

/// Dies when it is asked to switch: before or after it has obeyed, and has written once more.
struct Dying {
    disks: Disks,
    obeys: bool,
}

impl Live for Dying {
    fn switch(&mut self, key: &Name, _: &Serving, switch: &Switch) -> Result<()> {
        let mut disk = self.disks.0.remove(key.as_str()).unwrap();
        if self.obeys {
            disk.switch(switch)?;
            disk.write(0, &[2; 4096])?;
        }
        Err(Error::new(ErrorKind::Unresponsive, "the connection ended before the answer did"))
    }

    fn sole(&mut self, _: &Name, _: &Serving) -> Result<()> {
        Ok(())
    }
}

/// A guest is being shut down while its disk is backed up.
#[test]
fn a_snapshot_of_a_disk_that_dies_over_the_question_is_one_of_an_idle_disk() {
    for obeys in [false, true] {
        let (fixture, key, disks) = full_disk(64 * MIB, 8 * MIB);
        let mut dying = Dying { disks, obeys };
        let snapshot = fixture.lock().snapshot_volume(&key, &mut dying).unwrap().key.to_string();
        let mut wanted = vec![1; 8 << 20];
        wanted[..4096].fill(if obeys { 2 } else { 1 });
        fixture.open(&key, false).unwrap().write(0, &[3; 8192]).unwrap();
        assert!(content(&mut fixture.open(&snapshot, true).unwrap()) == wanted, "{obeys}");
        assert!(fixture.lock().check().unwrap().is_empty());
        fixture.lock().destroy_volume(&snapshot, &mut Inactive).unwrap();
        fixture.lock().collect(&mut Inactive).unwrap();
        assert_eq!(fixture.sr.stat().unwrap().used, 8 * MIB);
    }
}

/// Whoever reaches the control socket can ask for anything: what is asked for has to be what the
/// record says, or it would write over what belongs to others.
#[test]
fn a_switch_or_a_size_that_the_record_does_not_know_of_is_refused() {
    let (fixture, key, mut disks) = full_disk(64 * MIB, 8 * MIB);
    let other = fixture.create(8 << 20);
    fixture.open(&other, false).unwrap().write(0, &[5; 8 << 20]).unwrap();
    let mut late = Late::default();
    fixture.lock().snapshot_volume(&key, &mut late).unwrap_err();
    let asked = &late.0[0];
    let indexes = asked.index.parent().unwrap();
    let disk = disks.0.get_mut(&key).unwrap();
    let outside = indexes.join("../tmp/x");
    std::fs::write(&outside, "").unwrap();
    for index in [indexes.join("00000004"), indexes.join("00000002"), outside.clone()] {
        let error = disk.switch(&Switch { index, ..asked.clone() }).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadArgument);
    }
    std::fs::remove_file(outside).unwrap();
    std::fs::write(&asked.index, "").unwrap();
    for top in [asked.top - 1, asked.top + 1, 3, u32::MAX] {
        disk.switch(&Switch { top, ..asked.clone() }).unwrap_err();
    }
    assert_eq!(disk.resize((8 << 20) + BLOCK).unwrap_err().kind(), ErrorKind::BadSize);
    disk.switch(asked).unwrap();
    disk.write(0, &[2; 4096]).unwrap();
    std::fs::remove_file(&asked.index).unwrap();
    assert!(content(&mut fixture.open(&other, true).unwrap()) == [5; 8 << 20]);
    assert!(fixture.lock().check().unwrap().is_empty());
}

/// A weekly fstrim of a disk that is backed up.
#[test]
fn a_discard_of_blocks_without_data_changes_nothing() {
    let fixture = Fixture::new(64 * MIB);
    let key = fixture.create(33 << 20);
    let mut disks = Disks::default();
    disks.0.insert(key.clone(), fixture.open(&key, false).unwrap());
    let disk = disks.0.get_mut(&key).unwrap();
    disk.write(0, &[1; 1 << 20]).unwrap();
    disk.write(9 << 20, &[1; 8192]).unwrap();
    let mut old = fixture.lock().snapshot_volume(&key, &mut disks).unwrap().key.to_string();
    for round in 0..3 {
        let disk = disks.0.get_mut(&key).unwrap();
        // Whole chunks and parts of some, with pages of the map and without, up to the end.
        disk.discard(MIB, 8 * MIB).unwrap();
        disk.discard((9 << 20) + 2 * BLOCK, (24 << 20) - 2 * BLOCK).unwrap();
        let new = fixture.lock().snapshot_volume(&key, &mut disks).unwrap().key.to_string();
        assert_eq!(fixture.lock().compare_volumes(&new, &old).unwrap(), [], "round {round}");
        old = new;
    }
    // Of a range with data and without, the data has changed, and once.
    let disk = disks.0.get_mut(&key).unwrap();
    disk.discard(0, 33 << 20).unwrap();
    assert_eq!(content(disk), [0; 33 << 20]);
    let new = fixture.lock().snapshot_volume(&key, &mut disks).unwrap().key.to_string();
    let changed = [(0, MIB), (9 << 20, 2 * BLOCK)];
    assert_eq!(fixture.lock().compare_volumes(&new, &old).unwrap(), changed);
    disks.0.get_mut(&key).unwrap().discard(0, 33 << 20).unwrap();
    let last = fixture.lock().snapshot_volume(&key, &mut disks).unwrap().key.to_string();
    assert_eq!(fixture.lock().compare_volumes(&last, &new).unwrap(), []);
    assert_eq!(fixture.lock().check().unwrap(), [""; 0]);
}

/// Switches its disks, and never says so.
struct Unanswered(Disks);

impl Live for Unanswered {
    fn switch(&mut self, key: &Name, serving: &Serving, switch: &Switch) -> Result<()> {
        self.0.switch(key, serving, switch)?;
        Err(Error::new(ErrorKind::Unresponsive, "no answer"))
    }

    fn sole(&mut self, _: &Name, _: &Serving) -> Result<()> {
        Ok(())
    }
}

/// One snapshot is killed before the disk is switched, another one after it: which of the tops the disk
/// writes to is not known. The next collection finds out, and what is overwritten is freed.
#[test]
fn the_tops_of_switches_that_were_not_acknowledged_are_freed_while_the_disk_is_served() {
    for destroy in [false, true] {
        let (fixture, key, mut disks) = full_disk(64 * MIB, 8 * MIB);
        fixture.lock().snapshot_volume(&key, &mut Late::default()).unwrap_err();
        let mut unanswered = Unanswered(disks);
        fixture.lock().snapshot_volume(&key, &mut unanswered).unwrap_err();
        disks = unanswered.0;
        rewrite(&mut disks, &key, 2);
        assert_eq!(fixture.sr.stat().unwrap().used, 16 * MIB);
        if destroy {
            disks.0.clear();
            fixture.lock().destroy_volume(&key, &mut disks).unwrap();
            assert_eq!(fixture.sr.stat().unwrap().used, 0);
            assert_eq!(map_pages::metadata(&fixture), (0, 0, 0));
            continue;
        }
        fixture.lock().collect(&mut disks).unwrap();
        assert_eq!(fixture.sr.stat().unwrap().used, 8 * MIB);
        rewrite(&mut disks, &key, 3);
        assert_eq!(fixture.sr.stat().unwrap().used, 8 * MIB, "and nothing doubles again");
        assert!(content(disks.0.get_mut(&key).unwrap()) == [3; 8 << 20]);
        assert_eq!(fixture.lock().check().unwrap(), [""; 0]);
    }
}

/// Two volumes that share a layer let go of the same blocks of it, which neither may free as long as the
/// other reads the layer. In whichever order they go, with a snapshot between or without, nothing stays.
#[test]
fn what_two_have_let_go_of_is_freed_with_them_in_whichever_order_they_go() {
    for (all, with_snapshot, clone_first) in
        (0..8).map(|it| (it & 1 != 0, it & 2 != 0, it & 4 != 0))
    {
        let when = format!("all {all}, snapshot {with_snapshot}, clone first {clone_first}");
        let (fixture, key, mut disks) = full_disk(64 * MIB, 8 * MIB);
        let clone = fixture.lock().clone_volume(&key, &mut disks).unwrap().key.to_string();
        disks.0.insert(clone.clone(), fixture.open(&clone, false).unwrap());
        let size = if all { 8 << 20 } else { 5 << 20 };
        for key in [&key, &clone] {
            disks.0.get_mut(key).unwrap().write(0, &vec![7; size]).unwrap();
        }
        let mut snapshot = None;
        if with_snapshot {
            let made = fixture.lock().snapshot_volume(&key, &mut disks).unwrap().key;
            snapshot = Some(made.to_string());
        }
        let (first, last) = if clone_first { (&clone, &key) } else { (&key, &clone) };
        disks.0.clear();
        fixture.lock().destroy_volume(first, &mut disks).unwrap();
        disks.0.insert(last.clone(), fixture.open(last, false).unwrap());
        if !with_snapshot {
            assert_eq!(
                fixture.sr.stat().unwrap().used,
                8 * MIB,
                "{when}: what the other one reads"
            );
        }
        let content = content(disks.0.get_mut(last).unwrap());
        assert!(content[..size].iter().all(|&byte| byte == 7), "{when}");
        assert!(content[size..].iter().all(|&byte| byte == 1), "{when}");
        if let Some(snapshot) = snapshot {
            fixture.lock().destroy_volume(&snapshot, &mut disks).unwrap();
        }
        assert!(fixture.lock().check().unwrap().is_empty(), "{when}");
        disks.0.clear();
        fixture.lock().destroy_volume(last, &mut disks).unwrap();
        let stat = fixture.sr.stat().unwrap();
        assert_eq!((stat.used, stat.metadata), (0, 0), "{when}");
        assert_eq!(
            fixture.sr.layout().root().join("data").read_dir().unwrap().count(),
            0,
            "{when}"
        );
    }
}
