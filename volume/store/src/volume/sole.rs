//! Which frozen layers only one volume's data needs: what it overwrites there can be freed at once.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    rc::Rc,
};

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

/// The layers that pages name, each page looked at once.
#[derive(Debug)]
struct Names<'a> {
    layout: &'a Layout,
    pages: HashMap<(Layer, usize), Rc<[Layer]>>,
}

impl Names<'_> {
    fn of(&mut self, view: &View) -> Result<HashSet<Layer>> {
        let mut named = HashSet::new();
        let mut last = 0;
        let mut reader = Pages::new(self.layout);
        for (chunk, layer) in view.pages() {
            if let Entry::Vacant(vacant) = self.pages.entry((layer, chunk)) {
                let mut layers: Vec<Layer> = Vec::new();
                for &entry in reader.get(layer, chunk)?.iter() {
                    if is_data(entry) && layers.last() != Some(&entry) {
                        layers.push(entry);
                    }
                }
                layers.sort_unstable();
                layers.dedup();
                reader.forget();
                vacant.insert(layers.into());
            }
            for &layer in &*self.pages[&(layer, chunk)] {
                if layer != last {
                    named.insert(layer);
                    last = layer;
                }
            }
        }
        Ok(named)
    }
}

impl Sr {
    /// Works out the sole sets of a whole family, keeps them, and tells those that are served. Only
    /// for when nothing becomes shared that was not: sets that grow may be told afterwards.
    pub(crate) fn share_out(&self, family: &mut [Record], live: &mut dyn Live) -> Result<()> {
        let mut names = Names { layout: &self.layout, pages: HashMap::new() };
        let mut named_by: Vec<HashSet<Layer>> = Vec::new();
        let mut count: HashMap<Layer, u32> = HashMap::new();
        for record in family.iter() {
            let mut named = HashSet::new();
            if record.has_data {
                named = names.of(&View::of(&self.layout, record)?)?;
            }
            named.iter().for_each(|&layer| *count.entry(layer).or_default() += 1);
            named_by.push(named);
        }
        for (record, named) in family.iter_mut().zip(named_by) {
            let owned: Vec<Layer> = record.owned().collect();
            let mut sole: Vec<Layer> = named
                .into_iter()
                .filter(|layer| count[layer] == 1 && !owned.contains(layer))
                .collect();
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
