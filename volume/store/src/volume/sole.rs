//! Which frozen layers only one volume's data needs: what it overwrites there can be freed at once.

use std::collections::HashMap;

use super::{
    Live, Record,
    view::{Pages, View},
};
use crate::{
    block::{Layer, is_data},
    error::Result,
    host::Name,
    sr::{Layout, Sr},
};

/// Whose data needs a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum User {
    /// One view, by its position.
    One(usize),
    Several,
}

impl User {
    fn and(self, other: Self) -> Self {
        if self == other { self } else { Self::Several }
    }
}

/// Who needs which layer. A page that several views share is looked at once.
fn users(layout: &Layout, views: &[View]) -> Result<HashMap<Layer, User>> {
    let mut users: HashMap<Layer, User> = HashMap::new();
    let mut pages = Pages::new(layout);
    let mut layers: Vec<Layer> = Vec::new();
    for (chunk, named) in page_users(views).into_iter().enumerate() {
        for (layer, user) in named {
            layers.clear();
            layers.extend(pages.get(layer, chunk)?.iter().filter(|&&entry| is_data(entry)));
            layers.dedup();
            for &layer in &layers {
                users.entry(layer).and_modify(|known| *known = known.and(user)).or_insert(user);
            }
        }
        pages.forget();
    }
    Ok(users)
}

/// For each chunk, the layers whose maps have a page of it, and who reads that.
fn page_users(views: &[View]) -> Vec<Vec<(Layer, User)>> {
    let mut users: Vec<Vec<(Layer, User)>> = Vec::new();
    for (view, pages) in views.iter().map(View::pages).enumerate() {
        for (chunk, layer) in pages {
            if users.len() <= chunk {
                users.resize(chunk + 1, Vec::new());
            }
            match users[chunk].iter_mut().find(|(named, _)| *named == layer) {
                Some((_, user)) => *user = User::Several,
                None => users[chunk].push((layer, User::One(view))),
            }
        }
    }
    users
}

impl Sr {
    /// Works out the sole sets of a whole family, keeps them, and tells those that are served. Only
    /// for when nothing becomes shared that was not: sets that grow may be told afterwards.
    pub(crate) fn share_out(&self, family: &mut [Record], live: &mut dyn Live) -> Result<()> {
        let with_data = |record: &&mut Record| record.has_data;
        let views = family.iter_mut().filter(with_data);
        let views: Vec<View> =
            views.map(|record| View::of(&self.layout, record)).collect::<Result<_>>()?;
        let mut soles = vec![Vec::new(); views.len()];
        for (layer, user) in users(&self.layout, &views)? {
            if let User::One(view) = user {
                soles[view].push(layer);
            }
        }
        let mut soles = soles.into_iter();
        for record in family.iter_mut() {
            let mut sole = if record.has_data { soles.next().unwrap_or_default() } else { vec![] };
            sole.retain(|layer| record.owned().all(|owned| owned != *layer));
            sole.sort_unstable();
            if sole == record.sole {
                continue;
            }
            record.sole = sole;
            record.write(&self.layout)?;
            let key = Name::parse(&record.key)?;
            if let Some(serving) = self.serving(&key)?.filter(|_| record.leaving.is_empty()) {
                // Not reached, it frees less than it could; a collection frees the rest.
                let _untold = live.sole(&key, &serving);
            }
        }
        Ok(())
    }
}
