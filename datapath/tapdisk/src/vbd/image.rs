//! The image that is open under a minor, and its clients.

use std::{io, mem, os::unix::net::UnixStream, rc::Rc, time::Instant};

use block::{Drive, Stats};
use nbd::{Connection, Export, ReceiveLimit};
use slab::Slab;
use smapiv3_syslog::Severity;
use store::Closed;
use tapctl::Failure;

use super::{
    disk_state::{DiskState, Paused},
    listeners::Listeners,
    room::{Message, Room},
};
use crate::{
    frontend::{Client, Origin, RingInfo},
    kept::Group,
    metrics::{Files, Served},
    poll::{ClientKey, Endpoint},
    volume::{Structure, path_of},
};

/// How many connections may wait for a paused disk's size, to be told it in an old-style greeting.
const WAITING_MAX: usize = 16;

/// The image that is open under a minor.
#[derive(Debug)]
pub(crate) struct Image {
    /// `<type>:<path>`, as it was asked for.
    pub(crate) params: String,
    pub(crate) disk: DiskState,
    /// The lock of the volume, as the keeper holds it, while the disk is not paused.
    pub(crate) lock: Option<Group>,
    /// Until when no request of the clients is taken.
    pub(crate) held_until: Option<Instant>,
    /// `None` once the disk is about to be closed.
    pub(crate) listeners: Option<Listeners>,
    pub(crate) clients: Slab<Client>,
    /// When the last client left, or the image was opened.
    client_left_at: Instant,
    /// Counters of the clients that have left.
    served_before: Served,
    pub(crate) files: Option<Files>,
    pub(super) room: Room,
    export: Rc<Export>,
}

impl Image {
    /// An image without clients.
    pub(crate) fn new(
        disk: DiskState,
        params: &str,
        listeners: Listeners,
        limit: &ReceiveLimit,
    ) -> Result<Self, Failure> {
        let name = path_of(params)?.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self {
            params: params.to_owned(),
            disk,
            lock: None,
            held_until: None,
            listeners: Some(listeners),
            clients: Slab::new(),
            client_left_at: Instant::now(),
            served_before: Served::default(),
            files: None,
            room: Room::default(),
            export: Rc::new(Export::new(&name, "RAM disk", limit)),
        })
    }

    /// The connection of a client that has come through a socket. `None` where it waits for the disk to
    /// be resumed, as its greeting says the size.
    pub(crate) fn connect(
        &mut self,
        socket: UnixStream,
        endpoint: Endpoint,
    ) -> io::Result<Option<Connection>> {
        let export = Rc::clone(&self.export);
        if endpoint != Endpoint::Receiver {
            let pins = self.disk.attachments().pins();
            return Connection::new(socket, export, pins).map(Some);
        }
        match &mut self.disk {
            DiskState::Running(drive) => Connection::old_style(socket, export, drive).map(Some),
            DiskState::Paused(paused) if paused.waiting.len() < WAITING_MAX => {
                paused.waiting.push(socket);
                Ok(None)
            }
            DiskState::Paused(_) => Err(io::Error::other(format!(
                "{WAITING_MAX} connections wait already for the paused disk"
            ))),
            DiskState::Closing(_) => Err(io::Error::other("the disk is being closed")),
        }
    }

    /// Removes a client that has left, and keeps its counters.
    pub(crate) fn remove_client(&mut self, key: ClientKey) -> Option<Client> {
        let mut client = self.clients.try_remove(key)?;
        if let Some(drive) = self.disk.drive() {
            client.frontend.complete_write(drive);
        }
        self.client_left_at = Instant::now();
        add(&mut self.served_before, &client);
        Some(client)
    }

    /// How many clients there are, those included that wait for a paused disk.
    pub(crate) fn clients_count(&self) -> usize {
        let waiting = match &self.disk {
            DiskState::Paused(paused) => paused.waiting.len(),
            DiskState::Running(_) | DiskState::Closing(_) => 0,
        };
        self.clients.len() + waiting
    }

    /// Since when there has been no client, where there is none.
    pub(crate) fn unused_since(&self) -> Instant {
        self.client_left_at
    }

    /// Completes the writes that clients have begun.
    pub(crate) fn complete_writes(&mut self) {
        if let Some(drive) = self.disk.drive() {
            self.clients.iter_mut().for_each(|(_, client)| client.frontend.complete_write(drive));
        }
    }

    /// The structure of the disk, unless it is paused. No write is half done.
    pub(crate) fn structure(&mut self) -> Option<&mut Structure> {
        self.complete_writes();
        self.disk.drive().map(Drive::structure)
    }

    /// Takes all clients out, and keeps their counters.
    pub(crate) fn take_clients(&mut self) -> Vec<Client> {
        self.complete_writes();
        self.served_before = self.served();
        self.clients.drain().collect()
    }

    /// Whether requests of clients wait: the disk is paused, or held.
    pub(crate) fn is_waiting(&self) -> bool {
        self.held_until.is_some() || self.disk.is_paused()
    }

    /// Whether the drive has large changes to make and may make them.
    pub(crate) fn has_work(&self) -> bool {
        self.held_until.is_none() && self.disk.has_work()
    }

    /// Whether every request that had come when the disk was about to be closed is served.
    pub(crate) fn is_quiesced(&self) -> bool {
        !self.disk.has_work() && self.clients.iter().all(|(_, client)| client.is_quiesced)
    }

    /// Counters of all clients since the image was opened.
    pub(crate) fn served(&self) -> Served {
        let mut served = self.served_before;
        self.clients.iter().for_each(|(_, client)| add(&mut served, client));
        served
    }

    /// Sectors read and written since it was opened.
    pub(crate) fn sectors(&self) -> [u64; 2] {
        let Stats { read, write, .. } = self.served().total();
        [read.sectors, write.sectors]
    }

    /// Requests that were taken and whose answers are not sent.
    pub(crate) fn outstanding(&self) -> usize {
        self.clients.iter().map(|(_, client)| client.frontend.outstanding()).sum()
    }

    /// Closes the disk so that other processes may change it, and hands out what is left of it. A loaded
    /// file stays: it exists nowhere else.
    pub(crate) fn pause(&mut self) -> Option<Closed> {
        self.complete_writes();
        self.held_until = None;
        let mut closed = None;
        self.change_disk(|disk| match disk {
            DiskState::Running(drive) => {
                let paused;
                (paused, closed) = Paused::of(drive);
                DiskState::Paused(paused)
            }
            other => other,
        });
        self.lock = None;
        closed
    }

    /// Closes the image and its disk, and hands out what is left of that.
    pub(super) fn close(self) -> Option<Closed> {
        self.disk.close()
    }

    /// Replaces the state of the disk by one that is made of it.
    pub(crate) fn change_disk(&mut self, change: impl FnOnce(DiskState) -> DiskState) {
        // Takes the place of the disk until `change` returns.
        let nothing = DiskState::Paused(Paused::nothing());
        let disk = mem::replace(&mut self.disk, nothing);
        self.disk = change(disk);
    }

    /// Brings the statistics files up to date.
    pub(crate) fn write_metrics(&mut self) -> io::Result<()> {
        let served = self.served();
        if let Some(files) = &mut self.files {
            files.write(&served)?;
        }
        self.clients.iter_mut().try_for_each(|(_, client)| client.write_metrics())
    }

    /// What is to be logged, where writes have begun to find no room, or find some again.
    pub(crate) fn look_at_room(&mut self, now: Instant) -> Option<(Severity, String)> {
        let params = &self.params;
        Some(match self.room.look(self.disk.no_room(), now)? {
            Message::Full(why) => {
                (Severity::Warning, format!("writes to {params} fail with ENOSPC: {why}"))
            }
            Message::Free => (Severity::Info, format!("writes to {params} find room again")),
        })
    }

    /// The rings of guests, each with the key of its client.
    pub(crate) fn rings(&self) -> impl Iterator<Item = (ClientKey, &RingInfo)> {
        self.clients.iter().filter_map(|(key, client)| Some((key, client.origin.ring()?)))
    }

    /// The rings of guests.
    pub(crate) fn rings_mut(&mut self) -> impl Iterator<Item = &mut RingInfo> {
        self.clients.iter_mut().filter_map(|(_, client)| match &mut client.origin {
            Origin::Ring(ring) => Some(&mut **ring),
            Origin::Socket(_) => None,
        })
    }
}

/// Adds the counters of a client.
fn add(served: &mut Served, client: &Client) {
    match &client.origin {
        Origin::Socket(endpoint) => served.add(*endpoint, client.stats()),
        Origin::Ring(_) => served.add_ring(client.stats()),
    }
}
