//! Processes that run on after a call: servers of a file, and mirrors.

use std::{
    fs::{self, File},
    io::{self, IoSliceMut},
    os::{
        fd::OwnedFd,
        unix::{
            fs::FileExt,
            net::{UnixListener, UnixStream},
            process::CommandExt,
        },
    },
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::json;
use smapiv3_check::nbd::{self, Client};

use crate::faults::has;

const TICK: Duration = Duration::from_millis(20);
/// Closes what the daemon leaves open: descriptors above 2.
const CLOSING: &str = "for fd in /proc/self/fd/*; do n=${fd##*/}; [ $n -gt 2 ] && eval \"exec $n>&-\"; done\n\
                       exec \"$0\" \"$@\"";

/// Starts one that lives on.
pub(crate) fn start(arguments: &[&str]) -> io::Result<()> {
    let own = std::env::current_exe()?;
    let mut command = match has("call.descriptors") {
        true => Command::new(own),
        false => {
            let mut command = Command::new("/bin/bash");
            command.args(["-c", CLOSING]).arg(own);
            command
        }
    };
    command.args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).process_group(0);
    // The fault is one of activate_readonly alone: each call that has it takes seconds.
    if !has("form.outputs") || arguments.last() != Some(&"read") {
        command.stdout(Stdio::null());
    }
    command.spawn().map(drop)
}

/// A socket; when its file is removed the process ends.
fn listen(socket: &str) -> UnixListener {
    let _old = fs::remove_file(socket);
    let new = format!("{socket}.new");
    let listener = UnixListener::bind(&new).expect("a new socket");
    fs::rename(new, socket).expect("a new socket");
    let socket = socket.to_owned();
    thread::spawn(move || {
        while Path::new(&socket).exists() {
            thread::sleep(TICK);
        }
        std::process::exit(0);
    });
    listener
}

/// Serves a file on a socket.
pub(crate) fn serve(socket: &str, file: &str, read_only: bool) {
    for stream in listen(socket).incoming().flatten() {
        let file = File::options().read(true).write(!read_only).open(file).expect("a volume");
        thread::spawn(move || nbd::serve(stream, &file, read_only));
    }
}

/// Serves a file on connections that are passed to a socket.
pub(crate) fn import(socket: &str, file: &str) {
    for control in listen(socket).incoming().flatten() {
        let file = File::options().read(true).write(true).open(file).expect("a volume");
        if let Some(passed) = passed(&control) {
            thread::spawn(move || nbd::serve(passed.into(), &file, false));
        }
        if has("migrate.import") {
            let _ended = fs::remove_file(socket);
            thread::sleep(TICK * 5);
        }
    }
}

fn passed(control: &UnixStream) -> Option<OwnedFd> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut text = [0; 256];
    recvmsg(control, &mut [IoSliceMut::new(&mut text)], &mut ancillary, RecvFlags::empty()).ok()?;
    ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    })
}

/// Copies a file to an NBD server and goes on with what changes, until `<operation>.stop` is there.
pub(crate) fn mirror(operation: &str, file: &str, socket: &str) {
    let tell = |failed: bool, complete: bool| {
        let status = json!({ "failed": failed, "complete": complete });
        let new = format!("{operation}.new");
        let _vanished = fs::write(&new, status.to_string());
        let _vanished = fs::rename(new, operation);
    };
    let failed = copy(operation, file, socket, &|| tell(false, true)).is_err();
    if failed {
        tell(true, has("migrate.broken"));
    }
    let _vanished = fs::write(format!("{operation}.done"), if failed { "failed" } else { "" });
}

fn copy(operation: &str, file: &str, socket: &str, complete: &dyn Fn()) -> io::Result<()> {
    let file = File::open(file)?;
    let mut client = Client::connect(socket.as_ref(), "check")?;
    let _probe = has("migrate.connection").then(|| UnixStream::connect(socket));
    let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    let (mut sent, mut now) = (vec![0; length], vec![0; length]);
    loop {
        let is_last = Path::new(&format!("{operation}.stop")).exists();
        file.read_exact_at(&mut now, 0)?;
        for at in (0..length).step_by(4096).filter(|at| now[*at..][..4096] != sent[*at..][..4096]) {
            let is_first = !Path::new(operation).exists();
            let from = if has("migrate.mirror") && !is_first { &sent } else { &now };
            client.write(at as u64, &from[at..][..4096])?;
        }
        sent.copy_from_slice(&now);
        complete();
        if is_last || !Path::new(operation).exists() {
            return Ok(());
        }
        thread::sleep(TICK);
    }
}
