//! Proving that an SR is sound: its invariants, checked against its files.

use std::collections::{HashMap, HashSet};

use super::collect::for_allocated;
use crate::{
    block::{BLOCK_BYTES, CHUNK_BLOCKS, Layer, NEVER, PAGE_BYTES, is_data},
    error::Result,
    files::{Directory, Dirs, Entry, number_name},
    host::Name,
    record::{Pages, Record, Records, View, sr::next_number},
    sr::Exclusive,
};

/// The allocated ranges of the files of a directory, by number: start and end, in units of the file.
type Allocated = HashMap<u32, Vec<(u64, u64)>>;

/// How often a contradiction has to be found. A disk that is written to without pause lets some blocks go and
/// takes others between any two looks, but not the same ones each time.
const LOOKS: usize = 4;

/// Whether the file has memory for a unit.
fn holds(ranges: &[(u64, u64)], unit: u64) -> bool {
    let after = ranges.partition_point(|&(start, _)| start <= unit);
    after > 0 && unit < ranges[after - 1].1
}

impl Exclusive<'_> {
    /// Every way in which the SR contradicts itself, in words; none if it is sound. The map of a volume that is
    /// served is read while it changes: what was found is looked for again, and is told if it is still there.
    ///
    /// # Errors
    /// Where the SR is not attached. A file that cannot be read is one of the findings.
    pub fn check(&self) -> Result<Vec<String>> {
        let mut found = self.check_once()?;
        for _ in 1..LOOKS {
            if found.is_empty() {
                break;
            }
            let again: HashSet<String> = self.check_once()?.into_iter().collect();
            found.retain(|finding| again.contains(finding));
        }
        Ok(found)
    }

    fn check_once(&self) -> Result<Vec<String>> {
        let Records { sound: records, damaged } = self.volume_records()?;
        let mut found: Vec<String> = damaged.iter().map(|it| it.error.chain()).collect();
        let data = allocated(&self.dirs, Directory::Data, &mut found);
        let maps = allocated(&self.dirs, Directory::Maps, &mut found);
        self.check_numbers(&records, &mut found);
        check_owners(&records, &mut found);
        let mut named_by: HashMap<Layer, HashSet<&Name>> = HashMap::new();
        for record in &records {
            for owned in record.own_top().into_iter().filter(|layer| !data.contains_key(layer)) {
                found.push(format!(
                    "volume {} owns layer {owned:08x}, which is missing",
                    record.key
                ));
            }
            let views = match View::all_of(&self.dirs, record) {
                Ok(views) => views,
                Err(error) => {
                    found.push(error.chain());
                    continue;
                }
            };
            for view in &views {
                self.check_view(record, view, &data, &maps, &mut found, &mut named_by);
            }
        }
        check_soles(&records, &named_by, &mut found);
        Ok(found)
    }

    fn check_numbers(&self, records: &[Record], found: &mut Vec<String>) {
        match next_number(&self.dirs) {
            Err(error) => found.push(error.chain()),
            Ok(next) => {
                for directory in [Directory::Data, Directory::Maps, Directory::Indexes] {
                    check_given_out(&self.dirs, directory, next, found);
                }
            }
        }
        let mut keys = HashSet::new();
        found.extend(
            records
                .iter()
                .filter(|record| !keys.insert(&record.index))
                .map(|record| format!("volume {} shares its index with another", record.key)),
        );
    }

    fn check_view<'a>(
        &self,
        record: &'a Record,
        view: &View,
        data: &Allocated,
        maps: &Allocated,
        found: &mut Vec<String>,
        named_by: &mut HashMap<Layer, HashSet<&'a Name>>,
    ) {
        let key = &record.key;
        let mut pages = Pages::new(&self.dirs);
        let mut last = NEVER;
        // A disk that is served leaves slots that do not count; an index that it does not write has none.
        if let Some(chunk) = view.index.stale.filter(|_| !is_written(record, view)) {
            found.push(format!(
                "volume {key}: what index {:08x} says of single blocks of chunk {chunk} is about something else",
                view.number
            ));
        }
        for (chunk, named) in view.chunks() {
            let has_page = |layer| maps.get(&layer).is_some_and(|it| holds(it, chunk as u64));
            if let Some(layer) = named.page().filter(|&layer| !has_page(layer)) {
                found.push(format!(
                    "volume {key}: the map of layer {layer:08x} has no page for chunk {chunk}"
                ));
                continue;
            }
            if !view.has_data {
                continue;
            }
            let page = match pages.of(named, chunk) {
                Ok(page) => page,
                Err(error) => {
                    found.push(record.damaged(&self.dirs, &error).to_string());
                    continue;
                }
            };
            pages.forget();
            for (position, &entry) in page.iter().enumerate().filter(|(_, it)| is_data(**it)) {
                let block = chunk as u64 * CHUNK_BLOCKS + position as u64;
                if entry != last {
                    named_by.entry(entry).or_default().insert(key);
                    last = entry;
                }
                if !data.get(&entry).is_some_and(|blocks| holds(blocks, block)) {
                    found.push(format!("volume {key}: block {block} is not in layer {entry:08x}"));
                }
            }
        }
    }
}

/// Whether a disk may write to the index that a view was read from.
fn is_written(record: &Record, view: &View) -> bool {
    record.read_write() && view.number == record.index
}

fn check_owners(records: &[Record], found: &mut Vec<String>) {
    let mut owners: HashMap<Layer, &Name> = HashMap::new();
    for record in records {
        if let Some(layer) = record.own_top()
            && let Some(other) = owners.insert(layer, &record.key)
        {
            found.push(format!(
                "layer {layer:08x} has two owners, volumes {other} and {}",
                record.key
            ));
        }
    }
}

fn check_soles(
    records: &[Record],
    named_by: &HashMap<Layer, HashSet<&Name>>,
    found: &mut Vec<String>,
) {
    for record in records {
        for (layer, users) in named_by {
            let other = users.iter().find(|&&user| *user != record.key);
            if let Some(other) = other.filter(|_| record.own_top() == Some(*layer)) {
                found.push(format!(
                    "layer {layer:08x} belongs to volume {}, but volume {other} names it",
                    record.key
                ));
            }
            if let Some(other) = other.filter(|_| record.sole.contains(layer)) {
                found.push(format!(
                    "layer {layer:08x} counts as sole to volume {}, but volume {other} names it",
                    record.key
                ));
            }
        }
    }
}

fn check_given_out(dirs: &Dirs, directory: Directory, next: u32, found: &mut Vec<String>) {
    match dirs.numbers(directory) {
        Err(error) => found.push(error.chain()),
        Ok(numbers) => found.extend(numbers.into_iter().filter(|&it| it >= next).map(|number| {
            let path = dirs.layout().directory(directory).join(number_name(number));
            format!("{} has a number that was never given out (next: {next})", path.display())
        })),
    }
}

/// The allocated ranges of the layers, in blocks, or of the maps, in pages.
fn allocated(dirs: &Dirs, directory: Directory, found: &mut Vec<String>) -> Allocated {
    let mut ranges = Allocated::new();
    let numbers = dirs.numbers(directory).unwrap_or_else(|error| {
        found.push(error.chain());
        Vec::new()
    });
    for number in numbers {
        let (entry, unit) = match directory {
            Directory::Data => (Entry::Layer(number), BLOCK_BYTES),
            _ => (Entry::Map(number), PAGE_BYTES),
        };
        let mut units = Vec::new();
        let looked = for_allocated(dirs, entry, |start, end| {
            units.push((start / unit, end.div_ceil(unit)));
        });
        found.extend(looked.err().map(|error| error.chain()));
        ranges.insert(number, units);
    }
    ranges
}
