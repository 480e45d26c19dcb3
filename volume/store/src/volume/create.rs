//! Making a volume: empty, thin.

use uuid::Uuid;

use super::Volume;
use crate::{
    block::{self, Layer, VOLUME_BYTES_MAX},
    error::{Context, Error, ErrorKind, Result},
    files::{self, Entry, steps},
    host::Name,
    memory::human,
    random::random_uuid,
    record::{Record, Said},
    sr::{Exclusive, Sr},
    texts,
};

/// What the record of a new volume takes, in bytes.
const RECORD_BYTES: u64 = 4096;

/// The properties of a new volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewVolume<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its description.
    pub description: &'a str,
    /// Virtual size in bytes; rounded up to whole sectors of 512, at least one.
    pub size: i64,
    /// Whether several hosts may be told to share it.
    pub sharable: bool,
}

impl Exclusive<'_> {
    /// Makes an empty volume.
    ///
    /// # Errors
    /// [`ErrorKind::SrNotAttached`], [`ErrorKind::BadSize`], [`ErrorKind::NoSpace`] where there is not even room
    /// for its record.
    pub fn create_volume(&mut self, new: &NewVolume<'_>) -> Result<Volume> {
        let record = self.create_record(new, false)?;
        Ok(Volume::of(&self.dirs, record))
    }

    /// Makes an empty volume. One that is `unfinished` is not listed, and collected as soon as no
    /// process serves it.
    pub(crate) fn create_record(
        &mut self,
        new: &NewVolume<'_>,
        unfinished: bool,
    ) -> Result<Record> {
        let size = check_size(new.size)?;
        texts::check(new.name, new.description)?;
        let top = self.take_numbers(2, RECORD_BYTES)?;
        let index = top + 1;
        let mut record = Record {
            key: self.new_key(),
            name: new.name.to_owned(),
            description: new.description.to_owned(),
            size,
            sharable: new.sharable,
            top,
            previous_tops: Vec::new(),
            index,
            base: None,
            sharing_groups: vec![top],
            sole: Vec::new(),
            sole_maps: Vec::new(),
            untold: false,
            has_data: true,
            cbt_enabled: false,
            hidden: unfinished,
            owner: None,
            unfinished,
            external_holder: None,
            keys: [].into(),
            unknown: [].into(),
        };
        record.renew_content_id();
        self.make_layer(top, size)?;
        self.make_sparse(Entry::Index(index), Said::empty(self.record().has_slots()).length(0))?;
        self.write(&record)?;
        self.done();
        Ok(record)
    }

    /// Makes an empty layer for a volume of `size` bytes.
    pub(crate) fn make_layer(&self, layer: Layer, size: u64) -> Result<()> {
        self.make_sparse(Entry::Layer(layer), size)?;
        self.make_sparse(Entry::Map(layer), block::map_bytes(size))
    }

    fn make_sparse(&self, entry: Entry<'_>, bytes: u64) -> Result<()> {
        let make = || steps::set_len(&self.dirs.create(entry)?, bytes);
        files::with_ballast(&self.dirs, make).doing("creating", || self.dirs.path(entry))
    }

    pub(crate) fn new_key(&self) -> Name {
        new_key(&self.record().generation)
    }
}

impl Sr {
    /// A key for [`Exclusive::clone_hidden`], which no volume has.
    ///
    /// # Errors
    /// [`ErrorKind::SrNotAttached`].
    pub fn new_key(&self) -> Result<Name> {
        Ok(new_key(&self.attached()?.1.generation))
    }
}

/// A size from outside as the size of a volume, in bytes.
pub(crate) fn check_size(asked: i64) -> Result<u64> {
    let wrong = |why: String| {
        let limit = human(VOLUME_BYTES_MAX);
        Error::new(ErrorKind::BadSize, format!("size {why}: a volume holds at most {limit}"))
    };
    let bytes = u64::try_from(asked).map_err(|_| wrong(format!("{asked} is negative")))?;
    let size = block::round_up(bytes).filter(|&size| size <= VOLUME_BYTES_MAX);
    size.ok_or_else(|| wrong(format!("{} ({bytes} bytes) is too large", human(bytes))))
}

/// A UUID (version 8 of RFC 9562) that begins with the generation of the SR's memory.
fn new_key(generation: &str) -> Name {
    let mut bytes = random_uuid().into_bytes();
    let generation = u32::from_str_radix(generation, 16).unwrap_or_default();
    bytes[..4].copy_from_slice(&generation.to_be_bytes());
    Name::from(Uuid::new_v8(bytes))
}
