//! What a successor needs to know of a ring when the process that served it has died.
//!
//! The ring itself does not tell it: an answer is written into the slot of a request, and answers come in
//! another order than requests. So each request is copied here when it is taken, and each batch of answers
//! is recorded here before the first slot of the ring is overwritten. The journal is a file in memory
//! that another process keeps open; its pages outlive this one.
//!
//! The order of stores, between any two of which the process may die:
//!
//! | store | what a successor makes of it |
//! |---|---|
//! | requests into free slots | nothing: the slots say numbers that are not taken yet |
//! | `taken`, the number behind the last request taken | those requests are done, again if need be |
//! | answers | nothing: they are not recorded yet |
//! | `recorded`, the number behind the last answer | they are final: their requests are not done again |
//! | slots of answered requests are freed | the successor frees them again |
//! | answers into the ring, `rsp_prod` | if `rsp_prod` is not `recorded`, the successor writes them again |
//! | `published` | until then the successor finds `rsp_prod` to be `recorded` |
//!
//! Doing a request again is harmless as long as nothing that came behind it in the same blocks has been
//! answered: [`Ring`](crate::Ring) keeps that order.

use std::{
    fs::File,
    io,
    sync::atomic::{AtomicU32, Ordering},
};

use memory::WriteMap;
use rustix::fs::{MemfdFlags, memfd_create};

use crate::{
    layout::{SLOT_BYTES, Status},
    shared::{Answer, RawSlot},
    steps::step,
};

/// Marks a journal: "rJ", and the version of its layout.
const MAGIC: u32 = 0x724a_0001;

/// The most slots of any ring.
const ENTRIES_MAX: usize = 256;
const HEADER_BYTES: usize = 64;
/// State and number, then the request.
const ENTRY_BYTES: usize = 128;
const REQUEST_AT: usize = 16;
const ANSWER_BYTES: usize = 16;
const ANSWERS_AT: usize = HEADER_BYTES + ENTRIES_MAX * ENTRY_BYTES;
const LENGTH: usize = (ANSWERS_AT + ENTRIES_MAX * ANSWER_BYTES).next_multiple_of(4096);

const _: () = assert!(REQUEST_AT + SLOT_BYTES <= ENTRY_BYTES);

/// Words of the header.
mod word {
    pub(super) const MAGIC: usize = 0;
    pub(super) const ENTRIES: usize = 1;
    pub(super) const TAKEN: usize = 2;
    pub(super) const RECORDED: usize = 3;
    pub(super) const PUBLISHED: usize = 4;
}

const FREE: u32 = 0;
const HELD: u32 = 1;

/// Names a request that was taken and is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held(u16);

impl Held {
    /// Below the number of the ring's slots; no two requests that are held have the same.
    #[inline]
    pub(crate) fn index(self) -> usize {
        self.0.into()
    }
}

/// The journal of a ring.
#[derive(Debug)]
pub struct Journal {
    file: File,
    map: WriteMap,
    entries: u32,
    free: Vec<Held>,
}

impl Journal {
    /// A journal of no ring yet.
    ///
    /// # Errors
    /// Where there is no memory for it.
    pub fn create() -> io::Result<File> {
        let file = File::from(memfd_create("blkif-journal", MemfdFlags::CLOEXEC)?);
        file.set_len(LENGTH as u64)?;
        Ok(file)
    }

    /// Begins a journal for a ring of which the next request and the next answer have that number.
    pub(crate) fn begin(file: File, entries: u32, number: u32) -> io::Result<Self> {
        let mut journal = Self::map(file, entries)?;
        for index in (0..entries as u16).rev() {
            journal.state(Held(index)).store(FREE, Ordering::Relaxed);
            journal.free.push(Held(index));
        }
        for word in [word::TAKEN, word::RECORDED, word::PUBLISHED] {
            journal.word(word).store(number, Ordering::Relaxed);
        }
        journal.word(word::ENTRIES).store(entries, Ordering::Relaxed);
        journal.word(word::MAGIC).store(MAGIC, Ordering::Release);
        Ok(journal)
    }

    /// Goes on with the journal of a process that has died.
    ///
    /// # Errors
    /// Where it is not the journal of a ring of so many slots.
    pub(crate) fn resume(file: File, entries: u32) -> io::Result<Self> {
        if file.metadata()?.len() != LENGTH as u64 {
            return Err(io::Error::other("this file is no journal of a ring"));
        }
        let mut journal = Self::map(file, entries)?;
        let found =
            [word::MAGIC, word::ENTRIES].map(|word| journal.word(word).load(Ordering::Acquire));
        if found != [MAGIC, entries] {
            let [magic, slots] = found;
            return Err(io::Error::other(format!(
                "the journal is of another version or another ring: {magic:#x} with {slots} slots, \
                 and not {MAGIC:#x} with {entries}"
            )));
        }
        journal.free_answered();
        let taken = journal.word(word::TAKEN).load(Ordering::Relaxed);
        for index in (0..entries as u16).rev() {
            let held = Held(index);
            let is_held = journal.state(held).load(Ordering::Relaxed) == HELD;
            // Those behind `taken` are still in the ring.
            if !is_held || journal.number(held).wrapping_sub(taken) < entries {
                journal.state(held).store(FREE, Ordering::Relaxed);
                journal.free.push(held);
            }
        }
        Ok(journal)
    }

    fn map(file: File, entries: u32) -> io::Result<Self> {
        let map = WriteMap::new(&file, 0, LENGTH)?;
        Ok(Self { map, file, entries, free: Vec::with_capacity(entries as usize) })
    }

    /// The file, to be kept for a successor.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    fn word(&self, index: usize) -> &AtomicU32 {
        &self.map.words()[index]
    }

    fn state(&self, held: Held) -> &AtomicU32 {
        self.word(entry(held) / 4)
    }

    fn number(&self, held: Held) -> u32 {
        self.word(entry(held) / 4 + 1).load(Ordering::Relaxed)
    }

    /// How many further requests can be taken.
    #[inline]
    pub(crate) fn room(&self) -> u32 {
        self.free.len() as u32
    }

    /// How many requests are taken and not answered.
    #[inline]
    pub(crate) fn held(&self) -> usize {
        self.entries as usize - self.free.len()
    }

    /// The number of the next request to take.
    #[inline]
    pub(crate) fn taken(&self) -> u32 {
        self.word(word::TAKEN).load(Ordering::Relaxed)
    }

    /// The number of the next answer.
    pub(crate) fn recorded(&self) -> u32 {
        self.word(word::RECORDED).load(Ordering::Relaxed)
    }

    /// The number of the next answer to publish.
    pub(crate) fn published(&self) -> u32 {
        self.word(word::PUBLISHED).load(Ordering::Relaxed)
    }

    /// Copies a request of that number. It counts once [`commit_taken`](Self::commit_taken) says so.
    ///
    /// # Panics
    /// Without [`room`](Self::room).
    #[inline]
    pub(crate) fn take(&mut self, number: u32, raw: &RawSlot) -> Held {
        let held = self.free.pop().expect("the caller has asked for room");
        step();
        self.map.write(entry(held) + REQUEST_AT, raw);
        self.word(entry(held) / 4 + 1).store(number, Ordering::Relaxed);
        self.state(held).store(HELD, Ordering::Release);
        held
    }

    /// All requests before that number are taken.
    #[inline]
    pub(crate) fn commit_taken(&self, number: u32) {
        step();
        self.word(word::TAKEN).store(number, Ordering::Release);
    }

    /// The bytes of a request that is taken.
    pub(crate) fn request(&self, held: Held) -> RawSlot {
        let mut raw = [0; SLOT_BYTES];
        self.map.reader().read(entry(held) + REQUEST_AT, &mut raw);
        raw
    }

    /// All requests that are taken and not answered, in the order in which they came.
    pub(crate) fn unanswered(&self) -> Vec<Held> {
        let taken = self.taken();
        let mut found: Vec<Held> = (0..self.entries as u16)
            .map(Held)
            .filter(|&held| self.state(held).load(Ordering::Relaxed) == HELD)
            .collect();
        found.sort_by_key(|&held| u32::MAX - taken.wrapping_sub(self.number(held)));
        found
    }

    /// Records answers: from now on they are final, and their requests are not done again.
    #[inline]
    pub(crate) fn record(&mut self, answers: &[(Held, Answer)]) {
        let begin = self.recorded();
        let mut end = begin;
        for &(held, answer) in answers {
            step();
            let mut raw = [0; ANSWER_BYTES];
            raw[..8].copy_from_slice(&answer.id.to_le_bytes());
            raw[8..10].copy_from_slice(&held.0.to_le_bytes());
            raw[10] = answer.operation;
            raw[12..14].copy_from_slice(&(answer.status as i16).to_le_bytes());
            self.map.write(self.answer_at(end), &raw);
            end = end.wrapping_add(1);
        }
        step();
        self.word(word::RECORDED).store(end, Ordering::Release);
        for &(held, _) in answers {
            step();
            self.state(held).store(FREE, Ordering::Relaxed);
            self.free.push(held);
        }
    }

    /// A recorded answer.
    #[inline]
    pub(crate) fn answer(&self, number: u32) -> Answer {
        let raw = self.raw_answer(number);
        let status = match i16::from_le_bytes([raw[12], raw[13]]) {
            0 => Status::Okay,
            -2 => Status::NotSupported,
            _ => Status::Error,
        };
        let id = u64::from_le_bytes(raw[..8].try_into().expect("eight bytes"));
        Answer { id, operation: raw[10], status }
    }

    /// All answers before that number are published.
    #[inline]
    pub(crate) fn commit_published(&self, number: u32) {
        step();
        self.word(word::PUBLISHED).store(number, Ordering::Release);
    }

    fn answer_at(&self, number: u32) -> usize {
        ANSWERS_AT + (number & (self.entries - 1)) as usize * ANSWER_BYTES
    }

    fn raw_answer(&self, number: u32) -> [u8; ANSWER_BYTES] {
        let mut raw = [0; ANSWER_BYTES];
        self.map.reader().read(self.answer_at(number), &mut raw);
        raw
    }

    /// Frees the slots of answers that are recorded and may not have been freed.
    fn free_answered(&self) {
        let mut number = self.published();
        // No more than a ring's worth of answers can be unpublished, whatever the file says.
        for _ in 0..self.recorded().wrapping_sub(number).min(self.entries) {
            let raw = self.raw_answer(number);
            let held = Held(u16::from_le_bytes([raw[8], raw[9]]));
            if u32::from(held.0) < self.entries {
                self.state(held).store(FREE, Ordering::Relaxed);
            }
            number = number.wrapping_add(1);
        }
    }
}

/// Where the entry of a request begins.
fn entry(held: Held) -> usize {
    HEADER_BYTES + usize::from(held.0) * ENTRY_BYTES
}
