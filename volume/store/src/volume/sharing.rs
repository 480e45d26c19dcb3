//! Volumes that may share data, and the pages of maps that each of them names. Volumes that share a
//! page share all blocks that it names, so most questions are answered by the indexes of the
//! volumes made at about the same time, and only those are read.

use std::cell::OnceCell;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::{
    block::{Layer, is_data},
    error::Result,
    files::Dirs,
    record::{Index, Named, Pages, Record, View},
};

/// The volumes whose data needs a layer or a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum User {
    /// One volume, by its position among the records.
    One(usize),
    Several,
}

impl User {
    /// Adds this one to those that are known already.
    pub(crate) fn join(self, known: &mut Option<Self>) {
        *known = match *known {
            Some(other) if other != self => Some(Self::Several),
            _ => Some(self),
        };
    }
}

/// The users of each layer.
pub(crate) type Users = FxHashMap<Layer, Option<User>>;

/// The indexes of volumes.
#[derive(Debug)]
pub(crate) struct SharingVolumes<'a> {
    dirs: &'a Dirs,
    pub(crate) records: Vec<Record>,
    /// In the order in which they were made: neighbours are alike.
    members: Vec<Member>,
}

/// An index of a volume: its current one, or the one that it started from.
#[derive(Debug)]
struct Member {
    record: usize,
    /// The number of its index. Numbers are given out in one sequence, to layers too.
    number: u32,
    /// Whether the blocks that its pages name are needed, and not only the pages.
    has_data: bool,
    index: OnceCell<Index>,
    /// The layers whose maps have its pages.
    layers: OnceCell<FxHashSet<Layer>>,
}

impl<'a> SharingVolumes<'a> {
    pub(crate) fn new(dirs: &'a Dirs, records: Vec<Record>) -> Self {
        let mut members = Vec::with_capacity(records.len());
        for (position, record) in records.iter().enumerate() {
            let member = |number, has_data| Member {
                record: position,
                number,
                has_data,
                index: OnceCell::new(),
                layers: OnceCell::new(),
            };
            members.push(member(record.index, record.has_data));
            members.extend(record.base.map(|base| member(base, false)));
        }
        members.sort_unstable_by_key(|member| member.number);
        Self { dirs, records, members }
    }

    /// Forgets the indexes that may have changed since they were read: a disk that is served takes
    /// no lock.
    pub(crate) fn refresh(&mut self) {
        for member in &mut self.members {
            let record = &self.records[member.record];
            if member.number == record.index && record.read_write() {
                member.index.take();
                member.layers.take();
            }
        }
    }

    /// The layers that its volumes write to.
    pub(crate) fn owned(&self) -> Vec<Layer> {
        self.records.iter().flat_map(Record::owned).collect()
    }

    /// What a member's index says of a chunk.
    fn at<'m>(&self, member: &'m Member, chunk: usize) -> Result<Named<'m>> {
        if let Some(index) = member.index.get() {
            return Ok(index.at(chunk));
        }
        let index = View::index(self.dirs, &self.records[member.record], member.number)?;
        Ok(member.index.get_or_init(|| index).at(chunk))
    }

    /// The members, those that were made at about the same time as a number first.
    fn near(&self, number: u32) -> impl Iterator<Item = &Member> {
        let middle = self.members.partition_point(|member| member.number < number);
        let (before, after) = self.members.split_at(middle);
        let (mut before, mut after) = (before.iter().rev(), after.iter());
        let mut newer = false;
        std::iter::from_fn(move || {
            newer = !newer;
            if newer {
                after.next().or_else(|| before.next())
            } else {
                before.next().or_else(|| after.next())
            }
        })
    }

    /// The users of a chunk of which the view `number` says this, and of all its blocks. Those of which an index
    /// says something else may use some of its blocks, too.
    pub(crate) fn user(&self, number: u32, chunk: usize, named: Named<'_>) -> Result<Option<User>> {
        let mut user = None;
        for member in self.near(number).filter(|member| member.has_data) {
            if self.at(member, chunk)? == named {
                User::One(member.record).join(&mut user);
                if user == Some(User::Several) {
                    break;
                }
            }
        }
        Ok(user)
    }

    /// Whether any volume names this page.
    pub(crate) fn has_page(&self, number: u32, chunk: usize, layer: Layer) -> Result<bool> {
        for member in self.near(number) {
            if self.at(member, chunk)?.base == layer {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The layers whose maps have pages of the current index of the record at `position`.
    pub(crate) fn map_layers(&self, position: usize) -> Result<&FxHashSet<Layer>> {
        let index = self.records[position].index;
        let member = self.members.iter().find(|member| member.number == index);
        self.layers(member.expect("each record has one"))
    }

    /// Whether no index but the current one of the record at `position` names pages of the map of `layer`.
    pub(crate) fn is_sole_map(&self, layer: Layer, position: usize) -> Result<bool> {
        for member in &self.members {
            let record = &self.records[member.record];
            let is_current = member.number == record.index;
            let is_own = is_current && member.record == position;
            // An index that was frozen before there was the layer does not name it.
            let is_older = member.number < layer && !(is_current && record.read_write());
            if !is_own && !is_older && self.layers(member)?.contains(&layer) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether any index names pages of the map of `layer`.
    pub(crate) fn is_named_map(&self, layer: Layer) -> Result<bool> {
        for member in &self.members {
            if self.layers(member)?.contains(&layer) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn layers<'m>(&self, member: &'m Member) -> Result<&'m FxHashSet<Layer>> {
        if let Some(layers) = member.layers.get() {
            return Ok(layers);
        }
        self.at(member, 0)?;
        let index = member.index.get().expect("just read");
        Ok(member.layers.get_or_init(|| index.pages().map(|(_, layer)| layer).collect()))
    }

    /// Calls `each` with what indexes whose data is needed say of a chunk, once with the same, until it returns
    /// false. Those of volumes made at about the same time as the view `number` come first.
    pub(crate) fn for_named(
        &self,
        number: u32,
        chunk: usize,
        mut each: impl FnMut(Named<'_>) -> Result<bool>,
    ) -> Result<()> {
        let mut seen = Vec::new();
        for member in self.near(number).filter(|member| member.has_data) {
            let named = self.at(member, chunk)?;
            let is_empty = named.page().is_none() && named.delta.is_none();
            if !is_empty && !seen.contains(&named) {
                seen.push(named);
                if !each(named)? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Adds the users of `layer` in a chunk to `user`, until the answer is decided.
    pub(crate) fn find_users(
        &self,
        pages: &mut Pages<'_>,
        chunk: usize,
        layer: Layer,
        user: &mut Option<User>,
    ) -> Result<()> {
        let mut last = (Named::default(), false);
        for member in self.near(layer).filter(|member| member.has_data) {
            if self.is_decided(*user) {
                return Ok(());
            }
            let named = self.at(member, chunk)?;
            let reader = User::One(member.record);
            if *user == Some(reader) || !named.may_name(layer) {
                continue;
            }
            if last.0 != named {
                last = (named, pages.of(named, chunk)?.contains(&layer));
            }
            if last.1 {
                reader.join(user);
            }
        }
        Ok(())
    }

    /// Whether no further page could change the answer. Of several users not all have to be known.
    pub(crate) fn is_decided(&self, user: Option<User>) -> bool {
        let with_data = self.records.iter().filter(|record| record.has_data).take(2).count();
        match user {
            Some(User::Several) => true,
            Some(User::One(_)) => with_data < 2,
            None => with_data == 0,
        }
    }

    /// The users of all layers, found by reading all pages, each once.
    pub(crate) fn all_users(&self) -> Result<Users> {
        let mut users = Users::default();
        let mut pages = Pages::new(self.dirs);
        for (chunk, named) in self.chunk_users()?.into_iter().enumerate() {
            for (named, user) in named {
                for_layers(&*pages.of(named, chunk)?, |layer| {
                    user.join(users.entry(layer).or_default());
                });
            }
            pages.forget();
        }
        Ok(users)
    }

    /// How many pages that would be, or a few more.
    pub(crate) fn count_pages(&self) -> Result<usize> {
        let mut count = 0;
        let mut before: Option<&Member> = None;
        for member in self.members.iter().filter(|member| member.has_data) {
            self.at(member, 0)?;
            let index = member.index.get().expect("just read");
            let known = before.and_then(|before| before.index.get());
            let is_new =
                |&(chunk, named): &(usize, Named<'_>)| known.is_none_or(|it| it.at(chunk) != named);
            count += index.chunks().filter(is_new).count();
            before = Some(member);
        }
        Ok(count)
    }

    /// For each chunk what indexes say of it, and whose data needs that.
    fn chunk_users(&self) -> Result<Vec<Vec<(Named<'_>, User)>>> {
        let mut users: Vec<Vec<(Named<'_>, User)>> = Vec::new();
        for member in self.members.iter().filter(|member| member.has_data) {
            self.at(member, 0)?;
            for (chunk, named) in member.index.get().expect("just read").chunks() {
                if users.len() <= chunk {
                    users.resize(chunk + 1, Vec::new());
                }
                let user = User::One(member.record);
                // Mostly it is that of the one before.
                match users[chunk].iter_mut().rev().find(|(known, _)| *known == named) {
                    Some((_, known)) if *known == user => {}
                    Some((_, known)) => *known = User::Several,
                    None => users[chunk].push((named, user)),
                }
            }
        }
        Ok(users)
    }
}

/// Calls `each` with the layers that a page names; with some of them several times.
pub(crate) fn for_layers(page: &[Layer], mut each: impl FnMut(Layer)) {
    let mut last = 0;
    for &entry in page {
        if entry != last && is_data(entry) {
            each(entry);
        }
        last = entry;
    }
}
