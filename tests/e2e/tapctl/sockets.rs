//! The NBD sockets of a disk: two that greet in fixed newstyle, and two that take a connection which
//! somebody else has, by SCM_RIGHTS, as xapi passes on that of an import.

use std::{
    fs::File,
    io::{IoSlice, Read, Write},
    mem::MaybeUninit,
    net::{TcpListener, TcpStream},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    path::Path,
    time::Duration,
};

use end_to_end::tools;
use nbd::{
    client::{Client as Nbd, Wish},
    wire::command,
};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::{Host, eventually};

/// Connects to a receiver and passes descriptors on, with a text.
pub(crate) fn pass(receiver: &Path, text: &[u8], descriptors: &[BorrowedFd<'_>]) {
    let socket = UnixStream::connect(receiver).unwrap();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(descriptors)));
    sendmsg(&socket, &[IoSlice::new(text)], &mut ancillary, SendFlags::empty()).unwrap();
}

/// Passes on one end of a new connection; the other end.
fn passed(receiver: &Path, text: &[u8]) -> UnixStream {
    let (ours, theirs) = UnixStream::pair().unwrap();
    pass(receiver, text, &[theirs.as_fd()]);
    ours.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    ours
}

#[test]
fn a_disk_has_the_sockets_of_blktap_for_as_long_as_it_is_open() {
    let host = Host::new();
    let tapdisk = host.serve("image", 65536);
    let (pid, minor) = (tapdisk.pid, tapdisk.minor);
    let of_vbd = ["nbd", "nbd-old", "nbdserver", "nbdserver-new"];
    let mut expected: Vec<String> = of_vbd.map(|name| format!("{name}{pid}.{minor}")).to_vec();
    expected.push(format!("ctl{pid}"));
    expected.sort();
    assert_eq!(host.names_of(pid), expected);
    tapdisk.control.pause(minor).unwrap();
    assert_eq!(host.names_of(pid), expected, "a pause keeps them");
    tapdisk.control.close(minor).unwrap();
    assert_eq!(host.names_of(pid), [format!("ctl{pid}")]);
    tapdisk.control.detach(minor).unwrap();
    tapdisk.ends();
    assert_eq!(host.names_of(pid), Vec::<String>::new());
}

#[test]
fn both_sockets_greet_in_fixed_newstyle() {
    let host = Host::new();
    let tapdisk = host.serve("image", 65536);
    let old = host.dir.nbd_old(tapdisk.pid, tapdisk.minor);
    // The name that blktap's own client asks for, its NUL included.
    let wish = Wish { name: b"tapdisk_client\0", ..Wish::default() };
    for socket in [host.nbd_path(&tapdisk), old] {
        let mut client = Nbd::connect(&socket, &wish).unwrap();
        assert_eq!(client.size(), 65536);
        assert_eq!(client.read(0, 5).unwrap(), b"image");
        client.disconnect().unwrap();
    }
}

#[test]
fn a_connection_that_is_passed_on_is_served() {
    let host = Host::new();
    let tapdisk = host.serve("image", 65536);
    let (pid, minor) = (tapdisk.pid, tapdisk.minor);
    let (old, new) = (host.dir.nbdserver(pid, minor), host.dir.nbdserver_new(pid, minor));
    for text in [b"a".as_slice(), b"OpaqueRef:1234", &[0; 5000]] {
        let mut client = Nbd::old_style(passed(&old, text)).unwrap();
        assert_eq!(client.size(), 65536);
        assert_eq!(client.read(0, 5).unwrap(), b"image");
        client.write(4096, text).unwrap();
        client.disconnect().unwrap();
        let mut client = Nbd::negotiate(passed(&new, text), &Wish::default()).unwrap();
        assert_eq!(client.read(4096, u32::try_from(text.len()).unwrap()).unwrap(), text);
        client.disconnect().unwrap();
    }
}

#[test]
fn a_tcp_connection_can_be_passed_on() {
    let host = Host::new();
    let tapdisk = host.serve("image", 65536);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (theirs, _) = listener.accept().unwrap();
    pass(&host.dir.nbdserver(tapdisk.pid, tapdisk.minor), b"tcp", &[theirs.as_fd()]);
    drop(theirs);
    ours.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut greeting = [0; 152];
    ours.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting[..8], b"NBDMAGIC");
    assert_eq!(u64::from_be_bytes(greeting[16..24].try_into().unwrap()), 65536);
    let mut request = 0x2560_9513_u32.to_be_bytes().to_vec();
    request.extend([0; 4]);
    request.extend(*b"a cookie");
    request.extend(0_u64.to_be_bytes());
    request.extend(5_u32.to_be_bytes());
    ours.write_all(&request).unwrap();
    let mut reply = [0; 21];
    ours.read_exact(&mut reply).unwrap();
    assert_eq!(&reply[8..], b"a cookieimage");
}

#[test]
fn whatever_is_passed_on_nobody_else_waits() {
    let host = Host::new();
    let tapdisk = host.serve("image", 65536);
    let (pid, minor) = (tapdisk.pid, tapdisk.minor);
    let mut client = host.connect(&tapdisk);
    let receivers = [host.dir.nbdserver(pid, minor), host.dir.nbdserver_new(pid, minor)];
    let server = tapdisk.server().pid;
    let open = || std::fs::read_dir(format!("/proc/{server}/fd")).unwrap().count();
    let before = open();
    let mut silent = Vec::new();
    for receiver in &receivers {
        // More than there is room for: none of them ever says anything.
        silent.extend((0..40).map(|_| UnixStream::connect(receiver).unwrap()));
        // A text, and no descriptor.
        UnixStream::connect(receiver).unwrap().write_all(b"text alone").unwrap();
        // What is no connection: a pipe, a device, a directory, a listening socket.
        let (reader, writer) = std::io::pipe().unwrap();
        pass(receiver, b"pipe", &[writer.as_fd()]);
        pass(receiver, b"pipe", &[reader.as_fd()]);
        pass(receiver, b"zeroes", &[File::open("/dev/zero").unwrap().as_fd()]);
        pass(receiver, b"directory", &[File::open("/").unwrap().as_fd()]);
        pass(receiver, b"listener", &[TcpListener::bind("127.0.0.1:0").unwrap().as_fd()]);
        // Its own control socket, and a connection that is closed already.
        let own = UnixStream::connect(host.dir.ctl(pid)).unwrap();
        pass(receiver, b"own", &[own.as_fd()]);
        drop(passed(receiver, b"closed"));
        assert_eq!(client.read(0, 5).unwrap(), b"image");
    }
    drop(silent);
    let mut last = Nbd::old_style(passed(&receivers[0], b"x")).unwrap();
    assert_eq!(last.read(0, 5).unwrap(), b"image");
    assert_eq!(tapdisk.control.pid().unwrap(), pid);
    // No descriptor is kept of all that, but `last` and the two ends of each connection of its own
    // to itself: half a control message, of which the rest may still come.
    eventually("given back", || open() <= before + 5);
}

#[test]
fn a_connection_that_is_set_to_wait_is_not_waited_for() {
    let host = Host::new();
    let tapdisk = host.serve("image", 16 << 20);
    let (pid, minor) = (tapdisk.pid, tapdisk.minor);
    let (ours, theirs) = UnixStream::pair().unwrap();
    pass(&host.dir.nbdserver(pid, minor), b"kept", &[theirs.as_fd()]);
    let mut client = Nbd::old_style(ours).unwrap();
    client.read(0, 5).unwrap();
    // The mode belongs to the connection, and so to all who have it. It is changed between two
    // turns: the tapdisk has long been waiting for the next request.
    std::thread::sleep(Duration::from_millis(300));
    theirs.set_nonblocking(false).unwrap();
    let read = client.submit(0, command::READ, 0, 16 << 20, &[]).unwrap();
    let waits = tapdisk.control.timeout(Duration::from_secs(3));
    assert_eq!(waits.pid().unwrap(), pid);
    assert_eq!(host.dir.tapdisks().unwrap(), [pid]);
    assert_eq!(&client.finish_read(read, 0, 16 << 20).unwrap()[..5], b"image");
}

#[test]
fn a_paused_disk_greets_when_it_is_resumed() {
    let host = Host::new();
    let sr = host.xapi.create_sr("64MiB");
    let key = host.xapi.create_vdi(&sr, 1 << 20);
    let disk = host.xapi.plug(&sr, &key, "0");
    let pid = disk.tapdisk().pid;
    let control = tapctl::Client::new(&host.dir, pid);
    let minor = u16::try_from(control.list().unwrap()[0].minor).unwrap();
    control.pause(minor).unwrap();
    let old = passed(&host.dir.nbdserver(pid, minor), b"early");
    let new = passed(&host.dir.nbdserver_new(pid, minor), b"early");
    assert_eq!(control.pid().unwrap(), pid);
    control.resume(minor, tapctl::Resume::default()).unwrap();
    assert_eq!(Nbd::old_style(old).unwrap().size(), 1 << 20);
    assert_eq!(Nbd::negotiate(new, &Wish::default()).unwrap().size(), 1 << 20);
    disk.unplug();
}

#[test]
fn libnbd_is_served_at_every_door() {
    if !tools::present(&["nbdsh"]) {
        return;
    }
    let host = Host::new();
    let tapdisk = host.serve("image", 1 << 20);
    let (pid, minor) = (tapdisk.pid, tapdisk.minor);
    let script = format!(
        "
import socket
def check(h, newstyle):
    assert h.get_size() == 1 << 20
    assert h.get_protocol().startswith('newstyle') == newstyle, h.get_protocol()
    h.pwrite(b'x' * 5000, 70000)
    assert h.pread(5000, 70000) == bytearray(b'x' * 5000)
    assert h.pread(5, 0) == bytearray(b'image')
    h.shutdown()
for path in ['{nbd}', '{nbd_old}']:
    h = nbd.NBD()
    h.connect_unix(path)
    check(h, True)
for path, newstyle in [('{receiver}', False), ('{receiver_new}', True)]:
    ours, theirs = socket.socketpair()
    to = socket.socket(socket.AF_UNIX)
    to.connect(path)
    socket.send_fds(to, [b'from xapi'], [theirs.fileno()])
    theirs.close()
    h = nbd.NBD()
    h.connect_socket(ours.detach())
    check(h, newstyle)
",
        nbd = host.dir.nbd(pid, minor).display(),
        nbd_old = host.dir.nbd_old(pid, minor).display(),
        receiver = host.dir.nbdserver(pid, minor).display(),
        receiver_new = host.dir.nbdserver_new(pid, minor).display(),
    );
    // Its module is that of Debian's Python, whichever comes first in the path.
    tools::run("/usr/bin/python3", &["-m", "nbd", "-c", &script]);
}

/// The way from `Datapath.attach`'s answer to a guest: xenopsd's fields, the hotplug script's
/// pattern, tapback's pattern, and what tapback then asks (PROTOCOL.md has the sources).
#[test]
fn a_guests_disk_is_found_as_tapback_finds_it() {
    let host = Host::new();
    let sr = host.xapi.create_sr("64MiB");
    let key = host.xapi.create_vdi(&sr, 1 << 20);
    let disk = host.xapi.plug(&sr, &key, "5");
    let implementations = disk.backend["implementations"].as_array().unwrap();
    let of = |kind: &str| implementations.iter().find(|it| it[0] == kind).map(|it| &it[1]);
    assert!(of("BlockDevice").is_none() && of("File").is_none(), "either would be taken first");
    let (guest, nbd) = (of("XenDisk").unwrap(), of("Nbd").unwrap());
    assert_eq!(guest["backend_type"], "vbd3");
    assert_eq!(guest["params"], nbd["uri"]);
    assert_eq!(guest["extra"]["vdi-uuid"], key.as_str(), "xcp-rrdd reads it below sm-data");
    // block: what stands between nbd:unix: and the next colon, with links resolved.
    let params = nbd["uri"].as_str().unwrap();
    let (path, name) = params.strip_prefix("nbd:unix:").unwrap().split_once(':').unwrap();
    assert_eq!(name, format!("exportname={key}"));
    let path = std::fs::canonicalize(path).unwrap();
    // tapback: <control directory>/nbd<pid>.<minor>, and nothing behind it.
    assert_eq!(path.parent().unwrap(), host.dir.path());
    let name = path.file_name().unwrap().to_str().unwrap();
    let (pid, minor) = name.strip_prefix("nbd").unwrap().split_once('.').unwrap();
    let (pid, minor): (u32, u16) = (pid.parse().unwrap(), minor.parse().unwrap());
    let control = tapctl::Client::new(&host.dir, pid);
    assert!(control.list().unwrap().iter().any(|vbd| vbd.minor == i32::from(minor)));
    let info = control.disk_info(minor).unwrap();
    assert_eq!((info.sectors, info.sector_size, info.info), (2048, 512, 0));
    disk.unplug();
}
