//! Sole sets: the frozen layers that only one volume's data needs. Blocks that it overwrites there
//! can be freed at once.

use std::ops::ControlFlow;

use super::{
    destroy::Destroyed,
    sharing::{SharingVolumes, User, Users, for_layers},
};
use crate::{
    block::{CHUNK_BYTES, Layer},
    error::Result,
    files::{Dirs, Entry},
    live::Live,
    record::{Pages, View, for_data_until, served_by},
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
    let mut add = |view: &View| -> Result<()> {
        for (chunk, layer) in view.pages() {
            let user = sharing.user(view.number, chunk, layer)?;
            if user == Some(User::Several) {
                continue;
            }
            for_layers(&*pages.get(layer, chunk)?, |layer| {
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
        writers.map(|record| View::of(dirs, record)).try_for_each(|view| add(&view?))?;
    }
    for layer in sharing.owned().iter().chain(sharing.records.iter().flat_map(|it| &it.sole)) {
        users.remove(layer);
    }
    let open = users.values().filter(|user| !sharing.is_decided(**user)).count();
    if open > LOOKS_FEW && open * LOOK_PAGES > sharing.count_pages()? {
        return sharing.all_users();
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
    let file = dirs.read(Entry::Layer(layer))?;
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
        let nothing = vec![Vec::new(); sharing.records.len()];
        self.hand_out(sharing, &users, nothing, live)
    }

    /// The same after a destruction.
    pub(crate) fn share_out_without(
        &mut self,
        sharing: &mut SharingVolumes<'_>,
        destroyed: &Destroyed,
        live: &mut dyn Live,
    ) -> Result<()> {
        let users = users_without(&self.dirs, sharing, destroyed)?;
        let before = sharing.records.iter().map(|record| record.sole.clone()).collect();
        self.hand_out(sharing, &users, before, live)
    }

    /// Adds the layers that only one volume needs to the sole sets `soles`.
    fn hand_out(
        &mut self,
        sharing: &mut SharingVolumes<'_>,
        users: &Users,
        mut soles: Vec<Vec<Layer>>,
        live: &mut dyn Live,
    ) -> Result<()> {
        let owned = sharing.owned();
        for (&layer, user) in users {
            if let Some(User::One(record)) = user
                && !owned.contains(&layer)
            {
                soles[*record].push(layer);
            }
        }
        for (record, mut sole) in sharing.records.iter_mut().zip(soles) {
            sole.sort_unstable();
            sole.dedup();
            if !record.has_data {
                sole.clear();
            }
            if sole == record.sole {
                continue;
            }
            record.sole = sole;
            self.write(record)?;
            let served = served_by(&self.dirs, &record.key)?;
            if let Some(serving) = served.filter(|_| record.previous_tops.is_empty()) {
                // A process that is not reached frees less than it could; a collection frees the
                // rest.
                let _untold = live.sole(&record.key, &serving);
            }
        }
        Ok(())
    }
}
