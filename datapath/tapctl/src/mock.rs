//! The other side as a mock, for tests of this crate: a tapdisk that answers what it is told to,
//! through the real server half, in a thread with a loop like tapdisk-ram's.

use std::{
    os::fd::AsFd,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::{
    conversation::{Interest, Progress},
    dir::ControlDir,
    reply::Reply,
    request::Request,
    server::{Conversations, Listener},
};

/// A tapdisk in a thread; dropping it ends it.
pub(crate) struct Mock {
    pub(crate) requests: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Mock {
    pub(crate) fn start(
        dir: &ControlDir,
        pid: u32,
        answer: impl Fn(&Request) -> Reply + Send + 'static,
    ) -> Self {
        let listener = Listener::bind(dir, pid).unwrap();
        let (requests, stop) =
            (Arc::<Mutex<Vec<Request>>>::default(), Arc::<AtomicBool>::default());
        let (log, stopped) = (Arc::clone(&requests), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut conversations = Conversations::new();
            while !stopped.load(Ordering::Relaxed) {
                turn(&listener, &mut conversations, &|request| {
                    log.lock().unwrap().push(request.clone());
                    answer(request)
                });
            }
        });
        Self { requests, stop, thread: Some(thread) }
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || ended.is_some_and(|ended| ended.is_ok()));
    }
}

/// One turn of the loop.
pub(crate) fn turn(
    listener: &Listener,
    conversations: &mut Conversations,
    answer: &dyn Fn(&Request) -> Reply,
) {
    let keys = wait(listener, conversations);
    conversations.expire(Instant::now());
    while let Some(key) = conversations.accept(listener, Instant::now()).unwrap() {
        go_on(conversations, key, answer);
    }
    for key in keys {
        go_on(conversations, key, answer);
    }
}

/// Keys that are ready, within 20 ms.
fn wait(listener: &Listener, conversations: &mut Conversations) -> Vec<usize> {
    let mut keys = Vec::new();
    let mut copies = Vec::new();
    for key in 0..crate::server::CONVERSATIONS_MAX {
        let Some(conversation) = conversations.get_mut(key) else { continue };
        let events = match conversation.interest() {
            Interest::Read => PollFlags::IN,
            Interest::Write => PollFlags::OUT,
            Interest::None => PollFlags::empty(),
        };
        copies.push((conversation.as_fd().try_clone_to_owned().unwrap(), events));
        keys.push(key);
    }
    let accepting = conversations.can_accept(Instant::now());
    let mut fds: Vec<PollFd<'_>> =
        copies.iter().map(|(fd, events)| PollFd::new(fd, *events)).collect();
    if accepting {
        fds.push(PollFd::new(listener, PollFlags::IN));
    }
    let timeout = Timespec::try_from(Duration::from_millis(20)).unwrap();
    poll(&mut fds, Some(&timeout)).unwrap();
    let ready = fds.iter().map(|fd| !fd.revents().is_empty());
    keys.into_iter().zip(ready).filter_map(|(key, ready)| ready.then_some(key)).collect()
}

fn go_on(conversations: &mut Conversations, key: usize, answer: &dyn Fn(&Request) -> Reply) {
    let Some(conversation) = conversations.get_mut(key) else { return };
    let progress = match conversation.ready() {
        Progress::Asked(request) => conversation.answer(&answer(&request)),
        progress => progress,
    };
    if progress == Progress::Finished {
        conversations.remove(key);
    }
}
