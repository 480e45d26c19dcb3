//! How far a save or a restore is: a bar for a person at a terminal, lines in the log for everyone else.

use std::{
    io::{IsTerminal, stderr},
    sync::atomic::{AtomicU64, Ordering},
};

use indicatif::{ProgressBar, ProgressStyle};
use save::Progress;
use store::human;

use crate::Context;

/// One line in the log for each of so many parts.
const PARTS: u64 = 10;

/// Shows `what` is being done, on the terminal that standard error is, or in the log.
pub(crate) fn new<'a>(ctx: &'a Context<'_>, what: String) -> Box<dyn Progress + 'a> {
    if stderr().is_terminal() {
        return Box::new(Bar::new(what));
    }
    let (total, done) = (AtomicU64::new(0), AtomicU64::new(0));
    let tell = move |line: String| ctx.log.info(format_args!("{what}: {line}"));
    Box::new(Lines { tell, total, done })
}

/// A bar, which vanishes when it is dropped.
struct Bar(ProgressBar);

impl Bar {
    fn new(what: String) -> Self {
        let style = ProgressStyle::with_template(
            "{msg} [{bar:30}] {percent}% of {total_bytes}, {binary_bytes_per_sec}, {eta} left",
        );
        let bar = ProgressBar::new(0).with_message(what);
        Self(bar.with_style(style.expect("a template without faults").progress_chars("=> ")))
    }
}

impl Progress for Bar {
    fn begin(&self, total: u64) {
        self.0.set_length(total);
        self.0.tick();
    }

    /// Moves the bar under its lock: for one line indicatif reads the position twice, for the percentage and the bar.
    fn advance(&self, bytes: u64) {
        self.0.update(|state| state.set_pos(state.pos() + bytes));
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

/// Lines in the log.
struct Lines<T> {
    tell: T,
    total: AtomicU64,
    done: AtomicU64,
}

impl<T: Fn(String) + Sync> Progress for Lines<T> {
    fn begin(&self, total: u64) {
        self.total.store(total, Ordering::Relaxed);
        (self.tell)(format!("{} of data", human(total)));
    }

    fn advance(&self, bytes: u64) {
        let total = self.total.load(Ordering::Relaxed).max(1);
        let before = self.done.fetch_add(bytes, Ordering::Relaxed);
        let parts = |done: u64| done * PARTS / total;
        if parts(before + bytes) > parts(before) {
            (self.tell)(format!("{} %", parts(before + bytes) * 100 / PARTS));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn the_log_has_a_line_for_each_tenth() {
        let told = Mutex::new(Vec::new());
        let tell = |line: String| told.lock().unwrap().push(line);
        let lines = Lines { tell, total: AtomicU64::new(0), done: AtomicU64::new(0) };
        lines.begin(8 << 20);
        (0..32).for_each(|_| lines.advance(256 << 10));
        let told = told.into_inner().unwrap();
        assert_eq!(told.len(), 11, "{told:?}");
        assert_eq!([&told[0], &told[1], &told[10]], ["8 MiB of data", "10 %", "100 %"]);
    }
}
