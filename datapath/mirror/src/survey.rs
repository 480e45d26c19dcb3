//! Where the destination reads as zeroes before anything is sent there: its `base:allocation`, asked
//! for piece by piece ahead of the copy.

use std::collections::VecDeque;

use block::StatusExtent;

/// How many ranges of an answer are kept. The rest is asked for again when it is needed.
const RANGES_MAX: usize = 4096;
/// The range of the first question, and bounds of later ones, in bytes. Answers with many ranges make
/// the next question smaller.
const RANGE_BYTES_FIRST: u64 = 64 << 20;
const RANGE_BYTES_MIN: u64 = 1 << 20;
const RANGE_BYTES_MAX: u64 = 1 << 30;

/// What is known about a place of the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// So many bytes read as zeroes.
    Zeroes(u64),
    /// So many bytes may hold anything.
    Anything(u64),
    /// That has to be asked, or the answer has not come yet.
    NotYet,
}

/// Answers that were given, of which what lies before the copy is forgotten.
#[derive(Debug)]
pub(crate) struct Survey {
    size: u64,
    /// Whether the server answers at all. Otherwise any place may hold anything.
    is_offered: bool,
    /// Where the first of the ranges begins.
    start: u64,
    /// Where the last of them ends.
    end: u64,
    /// Lengths, and whether they read as zeroes.
    ranges: VecDeque<(u64, bool)>,
    /// Whether an answer is outstanding.
    is_asked: bool,
    /// How much the next question asks for.
    bytes: u64,
    /// How many ranges the outstanding answer has so far.
    answered: usize,
}

impl Survey {
    pub(crate) fn new(size: u64, is_offered: bool) -> Self {
        Self {
            size,
            is_offered,
            start: 0,
            end: 0,
            ranges: VecDeque::new(),
            is_asked: false,
            bytes: RANGE_BYTES_FIRST,
            answered: 0,
        }
    }

    /// Whether there is or was anything to ask.
    pub(crate) fn is_offered(&self) -> bool {
        self.is_offered
    }

    /// What is known about the destination from `at` on. What lies before is forgotten.
    pub(crate) fn at(&mut self, at: u64) -> Known {
        if !self.is_offered {
            return Known::Anything(u64::MAX);
        }
        while let Some(&(length, zero)) = self.ranges.front() {
            let end = self.start + length;
            if at < end && at >= self.start {
                let left = end - at;
                return if zero { Known::Zeroes(left) } else { Known::Anything(left) };
            }
            self.ranges.pop_front();
            self.start = end;
        }
        if self.end < at && !self.is_asked {
            (self.start, self.end) = (at, at);
        }
        Known::NotYet
    }

    /// The next question, offset and length: as soon as the answers before are used up to a half.
    pub(crate) fn question(&self) -> Option<(u64, u32)> {
        let is_wanted = self.is_offered && !self.is_asked && self.ranges.len() < RANGES_MAX / 2;
        let length = self.bytes.min(self.size - self.end.min(self.size));
        // It is not larger than RANGE_BYTES_MAX.
        (is_wanted && length > 0).then_some((self.end, length as u32))
    }

    /// The question was sent.
    pub(crate) fn asked(&mut self) {
        (self.is_asked, self.answered) = (true, 0);
    }

    /// A range of the answer.
    pub(crate) fn answer(&mut self, extent: StatusExtent) {
        self.answered += 1;
        // A range may reach beyond what was asked for, but not beyond the disk.
        let length = extent.length.min(self.size - self.end.min(self.size));
        if self.ranges.len() >= RANGES_MAX || length == 0 {
            return;
        }
        self.end += length;
        match self.ranges.back_mut() {
            Some((last, zero)) if *zero == extent.zero => *last += length,
            _ => self.ranges.push_back((length, extent.zero)),
        }
    }

    /// The answer has ended. One that said nothing, or an error, is the last one: then nothing is known
    /// about what lies behind.
    pub(crate) fn answered(&mut self, is_error: bool) {
        self.is_asked = false;
        if is_error || self.answered == 0 {
            self.is_offered = false;
            self.ranges.clear();
        } else if self.answered > RANGES_MAX / 4 {
            self.bytes = (self.bytes / 2).max(RANGE_BYTES_MIN);
        } else {
            self.bytes = (self.bytes * 2).min(RANGE_BYTES_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(length: u64, zero: bool) -> StatusExtent {
        StatusExtent { length, hole: zero, zero }
    }

    #[test]
    fn answers_are_used_in_order_and_asked_for_ahead() {
        let mut survey = Survey::new(1 << 30, true);
        assert_eq!(survey.at(0), Known::NotYet);
        let (offset, length) = survey.question().unwrap();
        assert_eq!((offset, u64::from(length)), (0, RANGE_BYTES_FIRST));
        survey.asked();
        assert_eq!(survey.question(), None, "one question at a time");
        survey.answer(extent(4096, true));
        survey.answer(extent(4096, true));
        survey.answer(extent(8192, false));
        survey.answered(false);
        assert_eq!(survey.at(100), Known::Zeroes(8092));
        assert_eq!(survey.at(8192), Known::Anything(8192));
        assert_eq!(survey.at(16384), Known::NotYet);
        assert_eq!(survey.question().unwrap().0, 16384);
    }

    /// A server with ranges of a sector each costs bounded memory, and smaller questions.
    #[test]
    fn an_answer_without_end_is_kept_in_part() {
        let mut survey = Survey::new(1 << 30, true);
        survey.asked();
        for number in 0..100_000 {
            survey.answer(extent(512, number % 2 == 0));
        }
        survey.answered(false);
        assert_eq!(survey.ranges.len(), RANGES_MAX);
        assert_eq!(survey.end, 512 * RANGES_MAX as u64);
        assert!(survey.bytes < RANGE_BYTES_FIRST);
        assert_eq!(survey.question(), None);
    }

    #[test]
    fn after_an_error_any_place_may_hold_anything() {
        let mut survey = Survey::new(1 << 30, true);
        survey.asked();
        survey.answer(extent(1 << 20, true));
        survey.answered(true);
        assert_eq!(survey.at(0), Known::Anything(u64::MAX));
        assert_eq!(survey.question(), None);
    }

    /// The last range may reach beyond the disk (proto.md, `BLOCK_STATUS`), which is no more to ask for.
    #[test]
    fn nothing_is_asked_beyond_the_end() {
        let mut survey = Survey::new(1 << 20, true);
        survey.asked();
        survey.answer(extent(1 << 30, true));
        survey.answered(false);
        assert_eq!(survey.at(0), Known::Zeroes(1 << 20));
        assert_eq!(survey.question(), None);
    }
}
