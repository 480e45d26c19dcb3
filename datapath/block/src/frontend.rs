//! One client's way to a drive, as an event loop drives it.

use std::os::fd::AsFd;

use crate::{Budget, Disk, Drive, Stats};

/// The readiness of its descriptor that a frontend waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// Until there is something to receive.
    pub readable: bool,
    /// Until there is room to send.
    pub writable: bool,
}

/// How a turn ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// There was nothing to do.
    Idle,
    /// Something was done; the rest waits for the descriptor, or for the drive.
    Worked,
    /// The budget was spent before the work was done: the next turn need not wait for the descriptor.
    More,
    /// It is over, and the frontend can be dropped, which closes its descriptor.
    Closed {
        /// Why, where it was not the client that ended it properly.
        fault: Option<String>,
    },
}

/// A client of a drive: an NBD connection, a guest's ring.
///
/// The loop calls [`turn`](Self::turn) when the descriptor is ready for what
/// [`interest`](Self::interest) says, when the turn before ended with [`Progress::More`], and when the
/// drive has finished work that it was asked for. While a disk is paused the loop calls
/// [`drain`](Self::drain) instead.
pub trait Frontend<D: Disk>: AsFd {
    /// The readiness of the descriptor to wait for before the next turn.
    fn interest(&self) -> Interest;

    /// Takes requests, carries them out and answers them, until there are none or the budget is spent.
    fn turn(&mut self, drive: &mut Drive<D>, budget: &mut Budget) -> Progress;

    /// Completes the write that it has begun, if there is one. A large write may take several turns, between
    /// which the disk must not be paused, closed, or changed in its structure: a snapshot never has half of a
    /// write. Nor must the frontend be dropped.
    fn complete_write(&mut self, drive: &mut Drive<D>) {
        let _ = drive;
    }

    /// Whether there is a request that no event of the descriptor tells of. It costs next to nothing: a loop
    /// that polls asks again and again.
    fn has_unannounced(&self) -> bool {
        false
    }

    /// The loop is about to wait for the descriptor: from now on an event tells of the next request.
    /// Whether there is one already, so that a turn is due and not a wait.
    fn prepare_to_wait(&mut self) -> bool {
        false
    }

    /// Sends answers that wait, and takes no request: while the disk is paused, or closed.
    fn drain(&mut self) -> Progress;

    /// From now on requests are answered with an error and have no effect. The frontend is over when a
    /// turn finds nothing to answer and everything sent.
    fn stop(&mut self);

    /// Whether every answer is sent.
    fn is_drained(&self) -> bool;

    /// Whether every request that had come at the last turn was carried out, apart from large changes that
    /// the drive does in steps.
    fn is_caught_up(&self) -> bool;

    /// Whether the client has got as far as sending requests. Those that have not give way to others.
    fn is_established(&self) -> bool;

    /// An upper bound of the requests that were taken and whose answers are not sent.
    fn outstanding(&self) -> usize;

    /// Counters of the requests that it has served.
    fn stats(&self) -> &Stats;

    /// Gives back memory that it holds only to be quick: it has been idle.
    fn relax(&mut self);
}
