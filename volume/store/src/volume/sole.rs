//! Sole sets: the frozen layers that only one volume's data needs. Blocks that it overwrites there
//! can be freed at once.

use std::{collections::HashSet, ops::ControlFlow};

use super::{
    destroy::Destroyed,
    let_go::{LastUsers, Left},
    sharing::{SharingVolumes, User, Users, for_layers},
};
use crate::{
    block::{CHUNK_BYTES, Layer},
    error::Result,
    files::{Dirs, Entry, allocated},
    live::Live,
    record::{Pages, Record, View, for_data_until, served_by},
    sr::Exclusive,
};

/// The cost of looking a layer up, in pages that could be read instead.
const LOOK_PAGES: usize = 8;
/// So many layers are looked up without further thought.
const LOOKS_FEW: usize = 64;

/// The users of the layers that may have become sole by a destruction: the layers that the
/// destroyed volume named and, if it could be written, those that it had stopped using before,
/// which no operation has accounted for yet. The users of all other layers are unchanged.
fn users_without(
    dirs: &Dirs,
    sharing: &SharingVolumes<'_>,
    destroyed: &Destroyed,
) -> Result<Users> {
    let mut pages = Pages::new(dirs);
    let mut users = Users::default();
    let mut seen = HashSet::new();
    let mut add = |view: &View| -> Result<()> {
        // Neighbours have most of their pages in common.
        for (chunk, named) in view.chunks() {
            if !seen.insert((chunk, named.base, named.delta.copied())) {
                continue;
            }
            let user = sharing.user(view.number, chunk, named)?;
            if user == Some(User::Several) {
                continue;
            }
            for_layers(&*pages.of(named, chunk)?, |layer| {
                let known = users.entry(layer).or_default();
                if let Some(user) = user {
                    user.join(known);
                }
            });
            pages.forget();
        }
        Ok(())
    };
    destroyed.views.iter().try_for_each(&mut add)?;
    if destroyed.was_written {
        let writers = sharing.records.iter().filter(|it| it.has_data && it.read_write());
        for record in writers {
            View::all_of(dirs, record)?.iter().try_for_each(&mut add)?;
        }
    }
    for &layer in &destroyed.former_sole {
        users.entry(layer).or_default();
    }
    for layer in sharing.owned().iter().chain(sharing.records.iter().flat_map(|it| &it.sole)) {
        users.remove(layer);
    }
    let open = users.values().filter(|user| !sharing.is_decided(**user)).count();
    if open > LOOKS_FEW && open * LOOK_PAGES > sharing.count_pages()? {
        let mut all = sharing.all_users()?;
        all.retain(|layer, _| users.contains_key(layer));
        for &layer in users.keys() {
            all.entry(layer).or_default();
        }
        return Ok(all);
    }
    for (&layer, user) in &mut users {
        if !sharing.is_decided(*user) {
            look_up(dirs, sharing, &mut pages, layer, user)?;
        }
    }
    Ok(users)
}

/// Finds the users of a layer, up to the second one.
fn look_up(
    dirs: &Dirs,
    sharing: &SharingVolumes<'_>,
    pages: &mut Pages<'_>,
    layer: Layer,
    user: &mut Option<User>,
) -> Result<()> {
    let file = match dirs.read(Entry::Layer(layer)) {
        // It has no blocks left; only maps without data still name them.
        Err(error) if error.is_missing_file() => return Ok(()),
        file => file?,
    };
    let mut next = 0;
    for_data_until(
        &file,
        || dirs.path(Entry::Layer(layer)),
        |start, end| {
            let first = usize::try_from(start / CHUNK_BYTES).expect("64-bit host").max(next);
            next = usize::try_from(end.div_ceil(CHUNK_BYTES)).expect("64-bit host");
            for chunk in first..next {
                sharing.find_users(pages, chunk, layer, user)?;
                pages.forget();
                if sharing.is_decided(*user) {
                    return Ok(ControlFlow::Break(()));
                }
            }
            Ok(ControlFlow::Continue(()))
        },
    )
}

impl Exclusive<'_> {
    /// Computes the sole sets of all sharing volumes, records them, and notifies the processes that
    /// serve them. Only for operations after which no more is shared than before: a larger set may
    /// be announced afterwards.
    pub(crate) fn share_out(
        &mut self,
        sharing: &mut SharingVolumes<'_>,
        live: &mut dyn Live,
    ) -> Result<()> {
        let users = sharing.all_users()?;
        let mut sets = vec![Sets::default(); sharing.records.len()];
        for (position, sets) in sets.iter_mut().enumerate() {
            sets.add_maps(sharing, position, |_| true)?;
        }
        self.hand_out(sharing, &users, sets, Some(live))
    }

    /// The same after a destruction. Returns the last users of the layers that have one or none now.
    pub(crate) fn share_out_without(
        &mut self,
        sharing: &mut SharingVolumes<'_>,
        destroyed: &Destroyed,
        live: Option<&mut dyn Live>,
    ) -> Result<Left> {
        let users = users_without(&self.dirs, sharing, destroyed)?;
        let pages = destroyed.views.iter().flat_map(View::pages);
        let mut freed: HashSet<Layer> = pages.map(|(_, layer)| layer).collect();
        freed.extend(&destroyed.former_sole_maps);
        let mut sets: Vec<Sets> = sharing.records.iter().map(Sets::of).collect();
        let mut maps = LastUsers::new();
        for (position, sets) in sets.iter_mut().enumerate() {
            let known = sets.maps.len();
            sets.add_maps(sharing, position, |layer| freed.contains(layer))?;
            maps.extend(sets.maps[known..].iter().map(|&layer| (layer, Some(position))));
        }
        let owned = sharing.owned();
        for &layer in freed.iter().filter(|layer| !owned.contains(layer)) {
            if !sharing.is_named_map(layer)? {
                maps.push((layer, None));
            }
        }
        self.hand_out(sharing, &users, sets, live)?;
        let few = users.into_iter().filter_map(|(layer, user)| match user {
            Some(User::Several) => None,
            Some(User::One(record)) => Some((layer, Some(record))),
            None => Some((layer, None)),
        });
        Ok(Left { data: few.collect(), maps })
    }

    /// Adds the layers that only one volume needs to the sole sets, and removes the files of those that
    /// have nothing left in them.
    fn hand_out(
        &mut self,
        sharing: &mut SharingVolumes<'_>,
        users: &Users,
        mut sets: Vec<Sets>,
        mut live: Option<&mut dyn Live>,
    ) -> Result<()> {
        let owned = sharing.owned();
        for (&layer, user) in users {
            if let Some(User::One(record)) = user
                && !owned.contains(&layer)
            {
                sets[*record].data.push(layer);
            }
        }
        for (record, Sets { mut data, mut maps }) in sharing.records.iter_mut().zip(sets) {
            if !record.has_data {
                data.clear();
            }
            self.tidy(&mut data, Entry::Layer)?;
            self.tidy(&mut maps, Entry::Map)?;
            let is_new = data != record.sole || maps != record.sole_maps;
            if is_new {
                (record.sole, record.sole_maps) = (data, maps);
                self.write(record)?;
            } else if !record.untold {
                continue;
            }
            // Without it the caller holds all volumes that can be written.
            let Some(live) = live.as_deref_mut() else { continue };
            if !self.tell(record, live)? && !record.untold {
                record.untold = true;
                self.write(record)?;
            }
        }
        Ok(())
    }

    /// Tells the process that serves a volume, if there is one, of the sole sets that were recorded; whether
    /// it knows them now. One that does not frees less than it could, and a collection frees the rest.
    fn tell(&self, record: &Record, live: &mut dyn Live) -> Result<bool> {
        if record.hidden && !record.read_write() {
            // The source of a copy or of a save, which no tapdisk serves.
            return Ok(true);
        }
        let Some(serving) = served_by(&self.dirs, &record.key)? else { return Ok(true) };
        Ok(record.previous_tops.is_empty()
            && live.reaches()
            && (live.sole(&record.key, &serving).is_ok() || self.has_let_go(&record.key)?))
    }

    /// Sorts a sole set, and drops layers whose file has no memory any more: the volume has overwritten
    /// everything in it, and a frozen layer gains nothing.
    pub(crate) fn tidy(
        &self,
        set: &mut Vec<Layer>,
        entry: fn(Layer) -> Entry<'static>,
    ) -> Result<()> {
        set.sort_unstable();
        set.dedup();
        let mut tidied = Vec::with_capacity(set.len());
        for &layer in set.iter() {
            match self.dirs.find(entry(layer))? {
                Some(found) if allocated(&found) > 0 => tidied.push(layer),
                Some(_) => self.dirs.remove(entry(layer))?,
                None => {}
            }
        }
        *set = tidied;
        Ok(())
    }
}

/// The sole sets of one volume.
#[derive(Clone, Debug, Default)]
struct Sets {
    /// Layers whose blocks only it needs.
    data: Vec<Layer>,
    /// Layers whose map pages only it names.
    maps: Vec<Layer>,
}

impl Sets {
    /// Those that are recorded.
    fn of(record: &Record) -> Self {
        Self { data: record.sole.clone(), maps: record.sole_maps.clone() }
    }

    /// Adds the layers whose map pages only the volume at `position` names, of those that are `wanted`. A
    /// volume that is not written to frees none.
    fn add_maps(
        &mut self,
        sharing: &SharingVolumes<'_>,
        position: usize,
        wanted: impl Fn(&Layer) -> bool,
    ) -> Result<()> {
        let record = &sharing.records[position];
        if !record.read_write() {
            return Ok(());
        }
        let owned: Vec<Layer> = record.owned().collect();
        for &layer in sharing.map_layers(position)?.iter().filter(|layer| wanted(layer)) {
            if !owned.contains(&layer) && sharing.is_sole_map(layer, position)? {
                self.maps.push(layer);
            }
        }
        Ok(())
    }
}
