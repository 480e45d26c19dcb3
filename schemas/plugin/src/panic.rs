//! A panic of a method becomes an error with its source location, and prints nothing.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook, take_hook};
use std::sync::Once;

use smapiv3::{Error, Failure};

thread_local! {
    /// Whether this thread is inside [`catch`].
    static WATCHED: Cell<bool> = const { Cell::new(false) };
    /// Message and location of this thread's last panic, as the hook got them.
    static SEEN: RefCell<Option<Seen>> = const { RefCell::new(None) };
}

struct Seen {
    message: String,
    file: String,
    line: u32,
}

/// Runs a method; `method` names it in the error that its panic becomes.
pub(crate) fn catch<T>(method: &str, run: impl FnOnce() -> T) -> Result<T, Error> {
    install_hook();
    WATCHED.set(true);
    let outcome = catch_unwind(AssertUnwindSafe(run));
    WATCHED.set(false);
    outcome.map_err(|_| {
        let seen = SEEN.take();
        let message = seen.as_ref().map_or("no message", |seen| seen.message.as_str());
        let error = Error::new(
            Failure::SmGeneral,
            format!("{method} stopped at an internal error, please report it: {message}"),
        );
        match seen {
            Some(Seen { file, line, .. }) => error.at(file, line),
            None => error,
        }
    })
}

/// The default hook prints to stderr, which other threads' panics still shall.
fn install_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = take_hook();
        set_hook(Box::new(move |info| {
            if WATCHED.get() {
                SEEN.set(Some(see(info)));
            } else {
                previous(info);
            }
        }));
    });
}

fn see(info: &PanicHookInfo<'_>) -> Seen {
    let payload = info.payload();
    let message = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned());
    let (file, line) = info
        .location()
        .map_or_else(Default::default, |location| (location.file().to_owned(), location.line()));
    Seen { message, file, line }
}
