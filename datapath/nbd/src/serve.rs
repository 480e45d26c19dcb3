//! A plain loop that serves a disk: the other side for tests of clients, and the shortest example of
//! how a loop drives connections.
//!
//! `poll` is enough for a test; a process that serves many clients takes something better.

use std::{
    io,
    os::unix::net::{UnixListener, UnixStream},
    rc::Rc,
    sync::atomic::{AtomicBool, Ordering},
};

use block::{Budget, Disk, Drive, Stats};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::{Connection, Export, ReceiveLimit, Turned};

/// How long the loop sleeps at most, to notice that it is to stop.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// How [`serve`] greets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// Fixed newstyle.
    New,
    /// Old style.
    Old,
}

/// Serves a drive to every client that connects, until `stop` is set. Returns counters of what was served.
///
/// # Errors
/// Where the listener or the waiting fails. What goes wrong with a client ends only its connection.
pub fn serve<D: Disk>(
    listener: &UnixListener,
    greeting: Greeting,
    drive: &mut Drive<D>,
    stop: &AtomicBool,
) -> io::Result<Stats> {
    listener.set_nonblocking(true)?;
    let export = Export::new("memory", "a disk in memory", &ReceiveLimit::new());
    let export = Rc::new(export);
    let mut connections: Vec<Connection> = Vec::new();
    let mut served = Stats::default();
    let mut more = false;
    while !stop.load(Ordering::Relaxed) {
        let ready = wait(listener, &connections, more)?;
        // A connection whose large change was finished has an answer to send.
        let finished = drive.work(&mut Budget::turn());
        let at_once = more || finished;
        more = drive.attachments().has_work();
        // From the back: removing a connection moves only those that had their turn already.
        for index in (0..connections.len()).rev() {
            if at_once || ready[1 + index] {
                match connections[index].turn(drive, &mut Budget::turn()) {
                    Turned::Closed(_) => served += *connections.swap_remove(index).stats(),
                    Turned::More => more = true,
                    Turned::Idle | Turned::Worked => {}
                }
            }
        }
        if ready[0] {
            match listener.accept() {
                Ok((socket, _)) => connections.push(greet(socket, greeting, &export, drive)?),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
    connections.iter().for_each(|connection| served += *connection.stats());
    Ok(served)
}

fn greet<D: Disk>(
    socket: UnixStream,
    greeting: Greeting,
    export: &Rc<Export>,
    drive: &Drive<D>,
) -> io::Result<Connection> {
    let pins = drive.attachments().pins();
    match greeting {
        Greeting::New => Connection::new(socket, Rc::clone(export), pins),
        Greeting::Old => Connection::old_style(socket, Rc::clone(export), drive),
    }
}

/// Waits until something can be done, and says for the listener and each connection whether it is that.
fn wait(
    listener: &UnixListener,
    connections: &[Connection],
    at_once: bool,
) -> io::Result<Vec<bool>> {
    let mut descriptors = vec![PollFd::new(listener, PollFlags::IN)];
    for connection in connections {
        let interest = connection.interest();
        let mut events = PollFlags::empty();
        events.set(PollFlags::IN, interest.readable);
        events.set(PollFlags::OUT, interest.writable);
        descriptors.push(PollFd::new(connection, events));
    }
    let timeout = if at_once { Timespec { tv_sec: 0, tv_nsec: 0 } } else { TICK };
    match poll(&mut descriptors, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(descriptors.iter().map(|descriptor| !descriptor.revents().is_empty()).collect())
}
