//! The event loop: one thread, which waits nowhere but in [`Poller::wait`].

use std::{
    io,
    time::{Duration, Instant},
};

use crate::{
    control::{ATTACH_RETRY, CALLERS_PAUSE, Look},
    poll::{Poller, Source},
    tapdisk::Tapdisk,
    vbd::Image,
};

/// After how long without requests clients give back memory that they hold only to be quick.
const IDLE: Duration = Duration::from_secs(1);
/// How often statistics are written, while they change.
const METRICS_INTERVAL: Duration = Duration::from_secs(1);

/// How long a process that the datapath plugin started waits for the first minor.
pub(crate) const UNUSED_TIMEOUT: Duration = Duration::from_secs(60);

/// How serving has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Everything is closed.
    Over,
    /// Another process is to go on.
    Replaced,
}

/// The loop, and what it serves.
pub(crate) struct EventLoop {
    tapdisk: Tapdisk,
    poller: Poller,
    /// Events of the current pass. Kept for their capacity, as `runnable` is: no pass allocates.
    ready: Vec<Source>,
    /// When statistics are to be written, if they may have changed.
    metrics_due: Option<Instant>,
    /// Since when nothing has happened; `None` once clients have given back their memory.
    idle_since: Option<Instant>,
}

impl EventLoop {
    pub(crate) fn new(tapdisk: Tapdisk, poller: Poller) -> Self {
        Self { tapdisk, poller, ready: Vec::new(), metrics_due: None, idle_since: None }
    }

    /// Removes what is left, once everything is served.
    pub(crate) fn close(self) {
        let Self { mut tapdisk, poller, .. } = self;
        tapdisk.vbds.clear();
        // Files that cannot be removed are removed by the next process that finds them.
        let _left = tapdisk.dir.metrics().remove(tapdisk.pid);
        tapdisk.info(format_args!("ended; longest pass of the loop {:?}", poller.longest_pass()));
    }

    /// Serves until the last VBD is detached, a signal ends the process, or another one is to go on.
    pub(crate) fn serve(&mut self) -> io::Result<End> {
        loop {
            let at_once = !self.tapdisk.runnable.is_empty()
                || self.tapdisk.has_busy_drives()
                || !self.tapdisk.closed.is_empty()
                || self.tapdisk.has_busy_mirrors();
            let timeout = if at_once { Some(Duration::ZERO) } else { self.timeout() };
            let mut ready = std::mem::take(&mut self.ready);
            let woken = self.poller.wait(timeout, &mut ready, &mut self.tapdisk)?;
            self.tapdisk.longest_pass = self.poller.longest_pass();
            self.tapdisk.woken = woken;
            let mut runnable = std::mem::take(&mut self.tapdisk.runnable);
            let busy = at_once || !ready.is_empty() || !runnable.is_empty();
            runnable.retain(|&(vbd, key)| !ready.contains(&Source::Client(vbd, key)));
            ready.drain(..).for_each(|source| self.handle(source));
            runnable.drain(..).for_each(|(vbd, key)| self.tapdisk.serve_client(vbd, key));
            if self.tapdisk.has_busy_drives() {
                self.tapdisk.work_on_drives();
            }
            if let Some(closed) = self.tapdisk.closed.last_mut()
                && !closed.step()
            {
                self.tapdisk.closed.pop();
            }
            self.expire(woken);
            self.ready = ready;
            if self.tapdisk.runnable.is_empty() {
                self.tapdisk.runnable = runnable;
            }
            self.relax(busy, woken);
            if self.tapdisk.is_over(woken) {
                return Ok(End::Over);
            }
            if self.tapdisk.is_replaced {
                let images = self.tapdisk.vbds.iter_mut().filter_map(|(_, vbd)| vbd.image_mut());
                images.for_each(Image::complete_writes);
                return Ok(End::Replaced);
            }
        }
    }

    fn handle(&mut self, source: Source) {
        match source {
            Source::Signal => self.handle_signals(),
            Source::Keeper => self.tapdisk.keeper_died(),
            Source::Control => self.tapdisk.accept_callers(),
            Source::Conversation(key) => self.tapdisk.converse(key),
            Source::Listener(vbd, endpoint) => self.tapdisk.accept_clients(vbd, endpoint),
            Source::Client(vbd, key) => self.tapdisk.serve_client(vbd, key),
            Source::Draining(slot) => self.tapdisk.drain_client(slot),
            Source::Receiver(slot) => self.tapdisk.receive_descriptor(slot),
            Source::Update(slot) => self.tapdisk.go_on_update(slot),
            Source::Opening(vbd) => self.tapdisk.go_on_opening(vbd, Instant::now()),
            Source::Mirror(vbd) => self.tapdisk.go_on_mirror(vbd, Instant::now()),
        }
    }

    /// How long there is nothing to do unless something happens.
    fn timeout(&self) -> Option<Duration> {
        let now = Instant::now();
        let tapdisk = &self.tapdisk;
        let deadlines = [
            // Where there is no room the deadline may have passed: callers pause before the next try.
            tapdisk.conversations.next_deadline().map(|at| at.max(now + CALLERS_PAUSE)),
            tapdisk.receivers.next_deadline(),
            tapdisk.draining.iter().map(|(_, client)| client.until).min(),
            tapdisk.next_closing(),
            tapdisk.next_hold(),
            tapdisk.next_update(),
            tapdisk.next_opening(),
            tapdisk.next_mirror(),
            (!tapdisk.attaching.is_empty()).then(|| now + ATTACH_RETRY),
            tapdisk.end,
            tapdisk.unused_until,
            tapdisk.end.is_none().then_some(tapdisk.names_due),
            tapdisk.callers_resume.filter(|_| tapdisk.end.is_none()),
            tapdisk.accept_resumes,
            self.metrics_due,
            self.idle_since.map(|since| since + IDLE),
        ];
        let next = deadlines.into_iter().flatten().min()?;
        Some(next.saturating_duration_since(now))
    }

    /// Does what is due.
    fn expire(&mut self, now: Instant) {
        let tapdisk = &mut self.tapdisk;
        tapdisk.conversations.expire(now);
        tapdisk.receivers.expire(now);
        tapdisk.draining.retain(|_, client| client.until > now);
        tapdisk.retry_attaching(now);
        tapdisk.go_on_openings(now);
        tapdisk.go_on_mirrors(now);
        tapdisk.finish_closings(now);
        tapdisk.expire_holds(now);
        tapdisk.expire_updates(now);
        let is_due = |at: &mut Instant| *at <= now;
        if tapdisk.unused_until.take_if(is_due).is_some()
            && tapdisk.vbds.is_empty()
            && tapdisk.attaching.is_empty()
        {
            tapdisk.info(format_args!("ending, as no minor was attached in {UNUSED_TIMEOUT:?}"));
            tapdisk.stop();
        }
        if tapdisk.names_due <= now {
            tapdisk.restore_names(now, Look::Due);
        }
        if tapdisk.end.is_none() && tapdisk.callers_resume.take_if(is_due).is_some() {
            tapdisk.set_accepting_callers(true);
        }
        if tapdisk.accept_resumes.take_if(is_due).is_some() {
            tapdisk.set_accepting(true);
        }
        if self.metrics_due.take_if(is_due).is_some() {
            self.tapdisk.restore_names(now, Look::Due);
            self.tapdisk.log_room(now);
            let images = self.tapdisk.vbds.iter_mut().filter_map(|(_, vbd)| vbd.image_mut());
            // What cannot be written now may be the next time.
            images.for_each(|image| _ = image.write_metrics());
        }
    }

    /// Takes note of whether something has happened; where nothing has for long, clients give back
    /// memory that they hold only to be quick.
    fn relax(&mut self, busy: bool, now: Instant) {
        if busy {
            self.idle_since = Some(now);
            self.metrics_due.get_or_insert(now + METRICS_INTERVAL);
        } else if self.idle_since.take_if(|since| now - *since >= IDLE).is_some() {
            let images = self.tapdisk.vbds.iter_mut().filter_map(|(_, vbd)| vbd.image_mut());
            let clients = images.flat_map(|image| image.clients.iter_mut());
            clients.for_each(|(_, client)| client.frontend.relax());
            if std::mem::take(&mut self.tapdisk.has_lost_clients) {
                memory::return_freed();
            }
        }
    }

    fn handle_signals(&mut self) {
        let asked = self.tapdisk.signals.take();
        if asked.look {
            self.tapdisk.restore_names(Instant::now(), Look::Asked);
        }
        if !asked.end {
            return;
        }
        if !self.tapdisk.is_stopping() {
            self.tapdisk.info(format_args!("ending, as a signal says"));
        }
        self.tapdisk.end();
    }
}
