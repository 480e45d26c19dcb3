//! The pages that backend and frontend share: the indices, requests on their way in, responses on their
//! way out (`xen/io/ring.h`).
//!
//! The guest may change every byte at any moment. Indices are loaded once, requests are copied once, and
//! nothing is ever decided by looking at these pages twice.

use std::sync::atomic::{AtomicU32, Ordering, fence};

use memory::WriteMap;

use crate::layout::{
    Abi, HEADER_BYTES, Layout, SLOT_BYTES, Status,
    at::{ANSWER_ID, ANSWER_OPERATION, ANSWER_STATUS},
    word,
};

/// The bytes of a slot as they were when they were copied. Those behind the slot's own length are zeroes.
pub(crate) type RawSlot = [u8; SLOT_BYTES];

/// The answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) id: u64,
    pub(crate) operation: u8,
    pub(crate) status: Status,
}

/// The mapped pages of a ring.
#[derive(Debug)]
pub(crate) struct Shared {
    map: WriteMap,
    layout: &'static Layout,
    entries: u32,
}

impl Shared {
    /// A ring on mapped pages, of which there are two to the power of `order`.
    ///
    /// # Panics
    /// If the mapping has another length.
    pub(crate) fn new(map: WriteMap, abi: Abi, order: u32) -> Self {
        assert_eq!(map.reader().length(), crate::PAGE_BYTES << order);
        Self { map, layout: abi.layout(), entries: abi.entries(order) }
    }

    /// How many slots there are.
    pub(crate) fn entries(&self) -> u32 {
        self.entries
    }

    fn word(&self, index: usize) -> &AtomicU32 {
        &self.map.words()[index]
    }

    /// The number of the request behind the last one; requests up to it can be read.
    #[inline]
    pub(crate) fn requests_end(&self) -> u32 {
        self.word(word::REQ_PROD).load(Ordering::Acquire)
    }

    /// The number of the response behind the last one that is published.
    pub(crate) fn answers_end(&self) -> u32 {
        self.word(word::RSP_PROD).load(Ordering::Acquire)
    }

    /// Asks for an event with the request of that number.
    pub(crate) fn ask_for_event(&self, number: u32) {
        self.word(word::REQ_EVENT).store(number, Ordering::Relaxed);
        // Before the caller looks again: or a request that comes between is not noticed.
        fence(Ordering::SeqCst);
    }

    /// The request event that was asked for last.
    pub(crate) fn requested_event(&self) -> u32 {
        self.word(word::REQ_EVENT).load(Ordering::Relaxed)
    }

    /// The response with which the frontend wants an event.
    pub(crate) fn answer_event(&self) -> u32 {
        self.word(word::RSP_EVENT).load(Ordering::Relaxed)
    }

    fn slot(&self, number: u32) -> usize {
        HEADER_BYTES + (number & (self.entries - 1)) as usize * self.layout.stride
    }

    /// Copies the slot of a request.
    #[inline]
    pub(crate) fn copy_request(&self, number: u32) -> RawSlot {
        let mut raw = [0; SLOT_BYTES];
        self.map.reader().read(self.slot(number), &mut raw[..self.layout.stride]);
        raw
    }

    /// Writes a response. It can be seen once it is published.
    #[inline]
    pub(crate) fn write_answer(&self, number: u32, answer: Answer) {
        let mut raw = [0; 16];
        raw[ANSWER_ID..ANSWER_ID + 8].copy_from_slice(&answer.id.to_le_bytes());
        raw[ANSWER_OPERATION] = answer.operation;
        let status = (answer.status as i16).to_le_bytes();
        raw[ANSWER_STATUS..ANSWER_STATUS + 2].copy_from_slice(&status);
        self.map.write(self.slot(number), &raw[..self.layout.answer_bytes]);
    }

    /// Publishes all responses before the one of number `end`; whether the frontend wants an event for
    /// them. `begin`: the first that was not published yet.
    #[inline]
    pub(crate) fn publish(&self, begin: u32, end: u32) -> bool {
        self.word(word::RSP_PROD).store(end, Ordering::Release);
        // Before the frontend's wish is looked at: it sets that, and then looks for responses.
        fence(Ordering::SeqCst);
        let wanted = self.answer_event();
        end.wrapping_sub(wanted) < end.wrapping_sub(begin)
    }
}
