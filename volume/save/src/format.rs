//! The bytes of a manifest and of a data file: see [the description of the format](crate).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use store::{Contents, MapPage, SavedIndex, Unit};

/// The version of the format.
pub(crate) const VERSION: u32 = 2;
/// The version of manifests in which no index says anything of single blocks, and of data files.
pub(crate) const VERSION_FIRST: u32 = 1;
/// How a manifest begins.
const MANIFEST: [u8; 8] = *b"ram-save";
/// How a data file begins.
const DATA: [u8; 8] = *b"ram-data";
/// What a manifest has before its body: the part that is hashed, and the hash.
const HASHED_BYTES: usize = 32;
const HEADER_BYTES: usize = HASHED_BYTES + 32;
/// What a data file has before its frames.
pub(crate) const DATA_HEADER_BYTES: u64 = 16;
/// Of a body, much of which are equal numbers.
const BODY_LEVEL: i32 = 3;
/// No body is larger, in bytes: it is of an SR of about 10 TiB.
const BODY_BYTES_MAX: u64 = 16 << 30;
/// Says that the blocks of an index were never counted.
const NOT_COUNTED: u64 = u64::MAX;

/// The BLAKE3 hash of a unit.
pub(crate) type Hash = [u8; 32];

/// Where the bytes of a unit are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The number of the data file.
    pub(crate) file: u32,
    /// Bytes of the frame.
    pub(crate) length: u32,
    pub(crate) offset: u64,
}

/// A unit as it was saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SavedUnit {
    pub(crate) hash: Hash,
    pub(crate) place: Place,
}

/// What a manifest says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    /// Seconds since 1970.
    pub(crate) saved: u64,
    /// The version of the program that wrote it.
    pub(crate) program: String,
    /// Damaged volumes that it does not have, each with why.
    #[serde(default)]
    pub(crate) left_out: Vec<String>,
}

/// All that a manifest says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) head: Head,
    pub(crate) contents: Contents,
    /// The data files that it refers to, and how long each has to be.
    pub(crate) files: BTreeMap<u32, u64>,
    /// In the order of the contents' units.
    pub(crate) units: Vec<SavedUnit>,
}

/// Why bytes are no manifest, or no data file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// A later version has written them.
    Version(u32),
    /// They are not what was written.
    Damaged(&'static str),
}

/// Hashes a unit.
pub(crate) fn hash(mask: u64, bytes: &[u8]) -> Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&mask.to_le_bytes());
    hasher.update(bytes);
    *hasher.finalize().as_bytes()
}

/// How a data file begins.
pub(crate) fn data_header(number: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[..8].copy_from_slice(&DATA);
    header[8..12].copy_from_slice(&VERSION_FIRST.to_le_bytes());
    header[12..].copy_from_slice(&number.to_le_bytes());
    header
}

impl Manifest {
    /// Its bytes.
    pub(crate) fn to_bytes(&self) -> std::io::Result<Vec<u8>> {
        let version = self.version();
        let body = self.body(version);
        let stored = zstd::bulk::compress(&body, BODY_LEVEL)?;
        let mut bytes = Vec::with_capacity(HEADER_BYTES + stored.len());
        bytes.extend(MANIFEST);
        bytes.extend(version.to_le_bytes());
        bytes.extend(0u32.to_le_bytes());
        bytes.extend((stored.len() as u64).to_le_bytes());
        bytes.extend((body.len() as u64).to_le_bytes());
        let hash = blake3::Hasher::new().update(&bytes).update(&stored).finalize();
        bytes.extend(hash.as_bytes());
        bytes.extend(stored);
        Ok(bytes)
    }

    /// Reads it.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Wrong> {
        let Some((header, stored)) = bytes.split_at_checked(HEADER_BYTES) else {
            return Err(Wrong::Damaged("it is too short"));
        };
        let mut reader = Bytes(header);
        if reader.array::<8>()? != MANIFEST {
            return Err(Wrong::Damaged("it does not begin as a manifest does"));
        }
        let version = reader.u32()?;
        if !(VERSION_FIRST..=VERSION).contains(&version) {
            return Err(Wrong::Version(version));
        }
        reader.u32()?;
        let (stored_length, length) = (reader.u64()?, reader.u64()?);
        let hash = blake3::Hasher::new().update(&header[..HASHED_BYTES]).update(stored).finalize();
        if stored_length != stored.len() as u64 || *hash.as_bytes() != reader.array::<32>()? {
            return Err(Wrong::Damaged("it is not what was written"));
        }
        let length = usize::try_from(length.min(BODY_BYTES_MAX)).expect("64-bit host");
        let body = zstd::bulk::decompress(stored, length);
        let body = body.map_err(|_| Wrong::Damaged("its body cannot be unpacked"))?;
        Self::parse_body(&body, version)
    }

    /// The first version that can say all of it, so that earlier programs can read what they understand.
    fn version(&self) -> u32 {
        let has_deltas = self.contents.indexes.values().any(|index| !index.deltas.is_empty());
        if has_deltas { VERSION } else { VERSION_FIRST }
    }

    fn body(&self, version: u32) -> Vec<u8> {
        let Contents { sr, next_number, volumes, indexes, pages, units } = &self.contents;
        let mut body = Body(Vec::new());
        body.text(&serde_json::to_string(&self.head).expect("no failing fields"));
        body.text(sr);
        body.u32(*next_number);
        body.count(volumes.len());
        volumes.iter().for_each(|volume| body.text(volume));
        body.count(indexes.len());
        for (&number, index) in indexes {
            body.u32(number);
            body.u64(index.blocks.unwrap_or(NOT_COUNTED));
            body.count(index.entries.len());
            for &(chunk, layer) in &index.entries {
                body.u32(chunk);
                body.u32(layer);
            }
            if version > VERSION_FIRST {
                body.count(index.deltas.len());
                for (chunk, blocks) in &index.deltas {
                    body.u32(*chunk);
                    body.count(blocks.len());
                    for &(position, entry) in blocks {
                        body.u32(position);
                        body.u32(entry);
                    }
                }
            }
        }
        body.count(pages.len());
        for (&(layer, chunk), page) in pages {
            body.u32(layer);
            body.u32(chunk);
            page.iter().for_each(|&entry| body.u32(entry));
        }
        body.count(self.files.len());
        for (&number, &length) in &self.files {
            body.u32(number);
            body.u64(length);
        }
        body.count(units.len());
        for ((unit, &mask), saved) in units.iter().zip(&self.units) {
            body.u32(unit.layer);
            body.u32(unit.number);
            body.u64(mask);
            body.0.extend(saved.hash);
            body.u32(saved.place.file);
            body.u32(saved.place.length);
            body.u64(saved.place.offset);
        }
        body.0
    }

    fn parse_body(body: &[u8], version: u32) -> Result<Self, Wrong> {
        let mut reader = Bytes(body);
        let head = serde_json::from_str(&reader.text()?)
            .map_err(|_| Wrong::Damaged("its head makes no sense"))?;
        let mut manifest = Self { head, ..Self::default() };
        let contents = &mut manifest.contents;
        contents.sr = reader.text()?;
        contents.next_number = reader.u32()?;
        for _ in 0..reader.u32()? {
            contents.volumes.push(reader.text()?);
        }
        for _ in 0..reader.u32()? {
            let number = reader.u32()?;
            let blocks = Some(reader.u64()?).filter(|&blocks| blocks != NOT_COUNTED);
            let entries = reader.pairs()?;
            let mut deltas = Vec::new();
            if version > VERSION_FIRST {
                for _ in 0..reader.u32()? {
                    deltas.push((reader.u32()?, reader.pairs()?));
                }
            }
            contents.indexes.insert(number, SavedIndex { blocks, entries, deltas });
        }
        for _ in 0..reader.u32()? {
            let place = (reader.u32()?, reader.u32()?);
            let mut page: Box<MapPage> = Box::new([0; _]);
            for entry in page.iter_mut() {
                *entry = reader.u32()?;
            }
            contents.pages.insert(place, page);
        }
        for _ in 0..reader.u32()? {
            manifest.files.insert(reader.u32()?, reader.u64()?);
        }
        for _ in 0..reader.u32()? {
            let unit = Unit { layer: reader.u32()?, number: reader.u32()? };
            let (mask, hash) = (reader.u64()?, reader.array()?);
            let (file, length) = (reader.u32()?, reader.u32()?);
            let place = Place { file, length, offset: reader.u64()? };
            contents.units.insert(unit, mask);
            manifest.units.push(SavedUnit { hash, place });
        }
        if contents.units.len() != manifest.units.len() {
            return Err(Wrong::Damaged("it has a unit twice"));
        }
        Ok(manifest)
    }
}

/// A body that is being written.
struct Body(Vec<u8>);

impl Body {
    fn u32(&mut self, number: u32) {
        self.0.extend(number.to_le_bytes());
    }

    fn u64(&mut self, number: u64) {
        self.0.extend(number.to_le_bytes());
    }

    fn count(&mut self, count: usize) {
        self.u32(u32::try_from(count).expect("an SR has fewer parts of each sort"));
    }

    fn text(&mut self, text: &str) {
        self.count(text.len());
        self.0.extend(text.as_bytes());
    }
}

/// Bytes that are still to be read.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Wrong> {
        let found = self.0.split_at_checked(count);
        let (taken, rest) = found.ok_or(Wrong::Damaged("it ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Wrong> {
        Ok(self.take(N)?.try_into().expect("so many were taken"))
    }

    fn u32(&mut self) -> Result<u32, Wrong> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Wrong> {
        self.array().map(u64::from_le_bytes)
    }

    fn pairs(&mut self) -> Result<Vec<(u32, u32)>, Wrong> {
        (0..self.u32()?).map(|_| Ok((self.u32()?, self.u32()?))).collect()
    }

    fn text(&mut self) -> Result<String, Wrong> {
        let length = self.u32()? as usize;
        let text = std::str::from_utf8(self.take(length)?);
        Ok(text.map_err(|_| Wrong::Damaged("a text of it is no UTF-8"))?.to_owned())
    }
}
