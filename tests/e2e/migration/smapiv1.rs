//! Migrations to an SR of SMAPIv1, whose tapdisk serves the destination (`tapdisk-nbdserver.c`): it knows READ,
//! WRITE and DISC, takes eight requests at a time, and says so by offering nothing.

use std::{
    io::{self, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    thread,
    time::Duration,
};

use nbd::wire::{self, command, handshake_flag, option, option_reply, transmission_flag};

use super::{
    outgoing::{GUEST, Guest, HALTED, Migration, SIZE, contents, hosts},
    proxy::Proxy,
};

/// Requests that it takes before it answers one (`NBD_SERVER_NUM_REQS`).
const REQUESTS_MAX: usize = 8;

/// What the server has in the end, or why it has given up.
type Served = io::Result<Vec<u8>>;

/// A server for one connection, whose disk has other bytes than any that are mirrored.
fn serve(socket: &Path) -> thread::JoinHandle<Served> {
    let listener = UnixListener::bind(socket).unwrap();
    thread::spawn(move || {
        let (mut socket, _) = listener.accept()?;
        negotiate(&mut socket)?;
        let mut disk = vec![0x55; SIZE as usize];
        while transmit(&mut socket, &mut disk)? {}
        Ok(disk)
    })
}

fn broken(what: impl Into<String>) -> io::Error {
    io::Error::other(what.into())
}

fn receive<const N: usize>(socket: &mut UnixStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    socket.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Fixed newstyle, and of the options EXPORT_NAME alone.
fn negotiate(socket: &mut UnixStream) -> io::Result<()> {
    let flags = handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES;
    socket.write_all(&wire::GREETING_MAGIC.to_be_bytes())?;
    socket.write_all(&wire::OPTION_MAGIC.to_be_bytes())?;
    socket.write_all(&flags.to_be_bytes())?;
    receive::<4>(socket)?;
    loop {
        let head = wire::OptionHead::from_bytes(&receive(socket)?);
        let mut data = vec![0; head.length as usize];
        socket.read_exact(&mut data)?;
        if head.option == option::EXPORT_NAME {
            let flags = transmission_flag::HAS_FLAGS;
            return socket.write_all(&wire::ExportName { size: SIZE, flags }.to_bytes());
        }
        let magic = wire::OPTION_REPLY_MAGIC;
        let kind = option_reply::ERR_UNSUP;
        let reply = wire::OptionReply { magic, option: head.option, kind, length: 0 };
        socket.write_all(&reply.to_bytes())?;
    }
}

/// Takes requests as long as they come, eight at most, and answers them, the last one first. Whether the session
/// goes on.
fn transmit(socket: &mut UnixStream, disk: &mut [u8]) -> io::Result<bool> {
    let mut cookies = Vec::new();
    loop {
        let request = wire::Request::from_bytes(&receive(socket)?);
        match request.command {
            command::WRITE if request.flags == 0 => {}
            command::DISC if cookies.is_empty() => return Ok(false),
            other => return Err(broken(format!("command {other} was not offered"))),
        }
        let (start, length) = (request.offset as usize, request.length as usize);
        let range = disk.get_mut(start..start + length).ok_or_else(|| broken("beyond the end"))?;
        socket.read_exact(range)?;
        cookies.push(request.cookie);
        if cookies.len() == REQUESTS_MAX {
            // Another one would come about now.
            thread::sleep(Duration::from_millis(2));
        }
        socket.set_nonblocking(true)?;
        let more = rustix::net::recv(&*socket, &mut [0_u8; 1], rustix::net::RecvFlags::PEEK);
        socket.set_nonblocking(false)?;
        if more.is_err() {
            break;
        }
        if cookies.len() == REQUESTS_MAX {
            return Err(broken("more than eight requests at a time"));
        }
    }
    for cookie in cookies.into_iter().rev() {
        let reply = wire::SimpleReply { magic: wire::SIMPLE_REPLY_MAGIC, error: 0, cookie };
        socket.write_all(&reply.to_bytes())?;
    }
    Ok(true)
}

/// The whole sequence, of a machine that writes and of one that is halted: every byte is there, holes as the
/// zeroes that they read as, and the server has been sent nothing else than what it offers.
#[test]
fn a_disk_moves_to_smapiv1() {
    for domain in [GUEST, HALTED] {
        let hosts = hosts();
        let mut migration = Migration::prepare(&hosts, domain);
        let socket = hosts[1].root().join("nbd4711.0");
        let served = serve(&socket);
        migration.proxy = Proxy::start(hosts[0].root().join("to-smapiv1"), &socket);
        let guest = (domain == GUEST).then(|| Guest::start(&migration));
        migration.until_complete(domain);
        migration.proxy.assert_no_connection_waits();
        migration.source.steps(&["deactivate", "detach"], &migration.key, migration.datapath);
        if let Some(guest) = guest {
            assert_ne!(guest.stop(), 0);
            migration.source.steps(&["deactivate", "detach"], &migration.key, GUEST);
        }
        let moved = served.join().unwrap().unwrap();
        assert!(moved == contents(&migration.source, &migration.key, "7"), "{domain}");
        migration.destroy_source();
    }
}
