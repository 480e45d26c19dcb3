//! xapi's proxy between the two hosts of a migration (`Unixext.proxy`): a socket on the source that takes
//! one connection, and a thread that copies 64 KiB at a time each way.

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
};

pub(super) struct Proxy {
    socket: PathBuf,
    listener: UnixListener,
    /// Both ends, once there is a connection.
    ends: Ends,
}

/// The connections of a proxy.
pub(super) type Ends = Arc<Mutex<Vec<UnixStream>>>;

impl Proxy {
    /// Listens on a socket, and connects the first connection to `to`.
    pub(super) fn start(socket: PathBuf, to: &Path) -> Self {
        let listener = UnixListener::bind(&socket).unwrap();
        let accepting = listener.try_clone().unwrap();
        let ends = Arc::new(Mutex::new(Vec::new()));
        let (to, kept) = (to.to_owned(), Arc::clone(&ends));
        thread::spawn(move || {
            let (source, _) = accepting.accept().unwrap();
            // The other host may be dead.
            let Ok(destination) = UnixStream::connect(to) else { return };
            kept.lock().unwrap().extend([&source, &destination].map(|it| it.try_clone().unwrap()));
            let back = [&destination, &source].map(|it| it.try_clone().unwrap());
            thread::spawn(move || copy(&back[0], &back[1]));
            copy(&source, &destination);
        });
        Self { socket, listener, ends }
    }

    /// Checks that the one connection which xapi accepts is all that there was: another one would hang.
    pub(super) fn assert_no_connection_waits(&self) {
        self.listener.set_nonblocking(true).unwrap();
        assert_eq!(self.listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    /// Where the source is to connect to.
    pub(super) fn uri(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.socket.display())
    }

    /// Breaks the connection, as the death of xapi does.
    pub(super) fn cut(&self) {
        cut(&self.ends);
    }

    /// What [`cut`] breaks.
    pub(super) fn ends(&self) -> Ends {
        Arc::clone(&self.ends)
    }
}

/// Breaks a connection.
pub(super) fn cut(ends: &Ends) {
    for end in ends.lock().unwrap().iter() {
        // It may be closed already.
        let _closed = end.shutdown(Shutdown::Both);
    }
}

fn copy(mut from: &UnixStream, mut to: &UnixStream) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count) = from.read(&mut buffer)
        && count > 0
        && to.write_all(&buffer[..count]).is_ok()
    {}
    let _closed = to.shutdown(Shutdown::Write);
}
