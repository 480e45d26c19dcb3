//! Blocks and map pages that all volumes which shared a layer have let go of, one after the other. None of
//! them could free those as long as another one read the layer, and no map names them any more. They are
//! found when a volume goes: then the layer has one reader left, or none.

use super::{
    collect::unneeded,
    free::{Garbage, Ranges},
    sharing::SharingVolumes,
};
use crate::{
    block::{BLOCK_BYTES, CHUNK_BLOCKS, Layer, PAGE_BYTES},
    error::Result,
    files::{Dirs, Entry},
    record::{Pages, View},
};

/// Layers with the only volume that needs them, by its position among the records; `None`: there is none
/// any more.
pub(crate) type LastUsers = Vec<(Layer, Option<usize>)>;

/// The last users of layers of which a volume that is destroyed was one.
#[derive(Debug, Default)]
pub(crate) struct Left {
    /// Of their data.
    pub(crate) data: LastUsers,
    /// Of their map pages.
    pub(crate) maps: LastUsers,
}

/// What the last user of a layer does not need of it.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) layer: Layer,
    /// Its position among the records.
    pub(crate) user: usize,
    /// Of the data, and of the map.
    pub(crate) blocks: Ranges,
    pub(crate) pages: Ranges,
}

impl Left {
    /// Adds files that no volume needs as a whole to the garbage. Where what was destroyed could be written,
    /// returns the parts of the others that the last user does not need either.
    ///
    /// The map of a disk that is served is read here while it changes. It only ever lets go of layers that
    /// are not its top, and its pages stay while maps are locked: what it does not name now it will not need.
    pub(crate) fn parts(
        self,
        garbage: &mut Garbage,
        dirs: &Dirs,
        sharing: &SharingVolumes<'_>,
        was_written: bool,
    ) -> Result<Vec<Part>> {
        let mut parts = Vec::new();
        let none = Ranges::new;
        for (layer, user) in self.data {
            match user {
                None => garbage.layers.push(layer),
                Some(record) if was_written => {
                    let view = View::of(dirs, &sharing.records[record])?;
                    let blocks = blocks_without(dirs, &view, layer)?;
                    parts.push(Part { layer, user: record, blocks, pages: none() });
                }
                Some(_) => {}
            }
        }
        for (layer, user) in self.maps {
            match user {
                None => garbage.maps.push(layer),
                Some(record) if was_written => {
                    let view = View::of(dirs, &sharing.records[record])?;
                    let is_named = |chunk| {
                        usize::try_from(chunk).is_ok_and(|chunk| view.at(chunk).base == layer)
                    };
                    let pages = unneeded(dirs, Entry::Map(layer), PAGE_BYTES, is_named);
                    let pages = unless_missing(pages)?;
                    parts.push(Part { layer, user: record, blocks: none(), pages });
                }
                Some(_) => {}
            }
        }
        Ok(parts)
    }
}

/// The blocks of a layer that a view does not name.
fn blocks_without(dirs: &Dirs, view: &View, layer: Layer) -> Result<Ranges> {
    let mut pages = Pages::new(dirs);
    let mut failed = None;
    let mut last = None;
    let mut is_named = |block: u64| {
        let chunk = usize::try_from(block / CHUNK_BLOCKS).expect("64-bit host");
        if last.as_ref().is_none_or(|&(known, _)| known != chunk) {
            pages.forget();
            match pages.entries(view, chunk) {
                Ok(page) => last = Some((chunk, page)),
                Err(error) => {
                    failed.get_or_insert(error);
                    return true;
                }
            }
        }
        let position = usize::try_from(block % CHUNK_BLOCKS).expect("in a chunk");
        last.as_ref().is_some_and(|(_, page)| page[position] == layer)
    };
    let found = unneeded(dirs, Entry::Layer(layer), BLOCK_BYTES, &mut is_named);
    match failed {
        Some(error) => Err(error),
        None => unless_missing(found),
    }
}

/// A file that is gone has nothing to be freed.
fn unless_missing(found: Result<Ranges>) -> Result<Ranges> {
    match found {
        Err(error) if error.is_missing_file() => Ok(Ranges::new()),
        found => found,
    }
}
