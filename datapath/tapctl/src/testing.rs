//! A stand-in for a tapdisk, for tests of this crate and of its clients: it answers as the test
//! says, through the real server half, with a loop like tapdisk-ram's.

use std::{
    os::fd::AsFd,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use crate::{
    conversation::{Interest, Progress},
    dir::ControlDir,
    reply::Reply,
    request::Request,
    server::{Conversations, Key, Listener},
};

/// How long one pass of the loop waits for something to happen.
const PASS: Duration = Duration::from_millis(20);

/// A tapdisk in a thread of the test; dropping it ends it.
#[derive(Debug)]
pub struct StandIn {
    requests: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl StandIn {
    /// Listens as process `pid` and answers each request as `answer` says.
    ///
    /// # Panics
    /// Where it cannot listen.
    pub fn start(
        dir: &ControlDir,
        pid: u32,
        answer: impl FnMut(&Request) -> Reply + Send + 'static,
    ) -> Self {
        Self::start_with(dir, pid, move || answer)
    }

    /// The same; `make` runs in the thread, so that its result may hold values that cannot leave a
    /// thread. It has run when this returns.
    ///
    /// # Panics
    /// Where it cannot listen, or `make` panics.
    pub fn start_with<A: FnMut(&Request) -> Reply>(
        dir: &ControlDir,
        pid: u32,
        make: impl FnOnce() -> A + Send + 'static,
    ) -> Self {
        let listener = Listener::bind(dir, pid).expect("a control socket");
        let (requests, stop) =
            (Arc::<Mutex<Vec<Request>>>::default(), Arc::<AtomicBool>::default());
        let (log, stopped) = (Arc::clone(&requests), Arc::clone(&stop));
        let (send_ready, ready) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let mut answer = make();
            send_ready.send(()).expect("the test waits for it");
            let mut answer = |request: &Request| {
                log.lock().expect("no panic with the lock held").push(request.clone());
                answer(request)
            };
            let mut conversations = Conversations::new();
            while !stopped.load(Ordering::Relaxed) {
                pass(&listener, &mut conversations, &mut answer);
            }
        });
        ready.recv().expect("it starts");
        Self { requests, stop, thread: Some(thread) }
    }

    /// The requests so far.
    ///
    /// # Panics
    /// Where its thread did.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("no panic with the lock held").clone()
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || ended.is_some_and(|ended| ended.is_ok()));
    }
}

/// One pass of the loop of a process that stands in for a tapdisk: waits for a moment, and answers
/// the requests that have come.
///
/// # Panics
/// Where the listener fails.
pub fn pass(
    listener: &Listener,
    conversations: &mut Conversations,
    answer: &mut dyn FnMut(&Request) -> Reply,
) {
    let keys = wait(listener, conversations);
    conversations.expire(Instant::now());
    while let Some(key) = accept(listener, conversations) {
        advance(conversations, key, answer);
    }
    for key in keys {
        advance(conversations, key, answer);
    }
}

fn accept(listener: &Listener, conversations: &mut Conversations) -> Option<Key> {
    conversations.accept(listener, Instant::now(), |it, _| Ok(it)).expect("accept")
}

/// Keys that are ready, within one pass.
fn wait(listener: &Listener, conversations: &mut Conversations) -> Vec<Key> {
    let mut keys = Vec::new();
    let mut copies = Vec::new();
    for (key, conversation) in conversations.iter() {
        let events = match conversation.interest() {
            Interest::Read => PollFlags::IN,
            Interest::Write => PollFlags::OUT,
            Interest::None => PollFlags::empty(),
        };
        let copy = conversation.as_fd().try_clone_to_owned().expect("a descriptor");
        copies.push((copy, events));
        keys.push(key);
    }
    let accepting = conversations.can_accept(Instant::now());
    let mut fds: Vec<PollFd<'_>> =
        copies.iter().map(|(fd, events)| PollFd::new(fd, *events)).collect();
    if accepting {
        fds.push(PollFd::new(listener, PollFlags::IN));
    }
    let timeout = Timespec::try_from(PASS).expect("a short time");
    if let Err(errno) = poll(&mut fds, Some(&timeout)) {
        // A signal has come, and nothing is ready.
        assert_eq!(errno, Errno::INTR);
    }
    let ready = fds.iter().map(|fd| !fd.revents().is_empty());
    keys.into_iter().zip(ready).filter_map(|(key, ready)| ready.then_some(key)).collect()
}

fn advance(conversations: &mut Conversations, key: Key, answer: &mut dyn FnMut(&Request) -> Reply) {
    let Some(conversation) = conversations.get_mut(key) else { return };
    let progress = match conversation.ready() {
        Progress::Asked(request) => conversation.answer(&answer(&request)),
        progress => progress,
    };
    if progress == Progress::Finished {
        conversations.remove(key);
    }
}
