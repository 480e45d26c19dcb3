//! Plain loops that serve a disk: to one program that a process has started, to the other side of tests of
//! clients, and as the shortest example of how a loop drives connections.
//!
//! `poll` is enough for that; a process that serves many clients takes something better.

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
/// For a loop that has more to do.
const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

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
        let mut descriptors = vec![PollFd::new(listener, PollFlags::IN)];
        descriptors.extend(connections.iter().map(interest));
        let ready = wait(&mut descriptors, if more { Some(NOW) } else { Some(TICK) })?;
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

/// Serves a drive to the client at the other end of a socket, fixed newstyle, until that is over.
///
/// # Errors
/// Where the waiting fails.
pub fn serve_one<D: Disk>(socket: UnixStream, drive: &mut Drive<D>) -> io::Result<()> {
    let export = Rc::new(Export::new("", "a disk in memory", &ReceiveLimit::new()));
    let mut connection = Connection::new(socket, export, drive.attachments().pins())?;
    let mut more = false;
    loop {
        wait(&mut [interest(&connection)], more.then_some(NOW))?;
        drive.work(&mut Budget::turn());
        match connection.turn(drive, &mut Budget::turn()) {
            Turned::Closed(_) => return Ok(()),
            turned => more = matches!(turned, Turned::More) || drive.attachments().has_work(),
        }
    }
}

/// What a connection waits for.
fn interest(connection: &Connection) -> PollFd<'_> {
    let interest = connection.interest();
    let mut events = PollFlags::empty();
    events.set(PollFlags::IN, interest.readable);
    events.set(PollFlags::OUT, interest.writable);
    PollFd::new(connection, events)
}

/// Waits until something can be done, and says for each descriptor whether it is that.
fn wait(descriptors: &mut [PollFd<'_>], timeout: Option<Timespec>) -> io::Result<Vec<bool>> {
    match poll(descriptors, timeout.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(descriptors.iter().map(|descriptor| !descriptor.revents().is_empty()).collect())
}
