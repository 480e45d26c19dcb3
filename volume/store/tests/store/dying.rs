//! A process that is killed in the midst of an operation, while this one serves the disks.

use std::{
    env,
    io::{self, Read, Write},
    os::unix::{
        net::{UnixListener, UnixStream},
        process::ExitStatusExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

use store::{
    Error, ErrorKind, Live, Name, Result, Serving, Switch,
    testing::{Disks, failpoints},
};

/// Where that process is told what to do: operation, steps, SR root.
pub(crate) const TASK: &str = "STORE_CRASH_TASK";
/// signal(7).
pub(crate) const SIGKILL: i32 = 9;
/// Where it reaches the disks, below the SR root.
const SOCKET: &str = ".live";

/// Runs `operation` in a process that dies after so many steps, and serves disks meanwhile.
pub(crate) fn run(root: &Path, served: &mut Disks, operation: &str, steps: u32) -> ExitStatus {
    let listener = UnixListener::bind(root.join(SOCKET)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "crash::dying_process", "--ignored", "--test-threads", "1"])
        .env(TASK, format!("{operation}\n{steps}\n{}", root.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let status = serve_until_exit(served, &listener, &mut child);
    if !status.success() && status.signal() != Some(SIGKILL) {
        let mut said = String::new();
        child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        panic!("{operation} failed after {steps} steps: {said}");
    }
    status
}

fn serve_until_exit(served: &mut Disks, listener: &UnixListener, child: &mut Child) -> ExitStatus {
    loop {
        match listener.accept() {
            Ok((stream, _)) => answer(served, stream),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if let Some(status) = child.try_wait().unwrap() {
                    return status;
                }
                thread::sleep(Duration::from_micros(200));
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Does to a disk what the other process asks for: key, and for a switch its top and index.
fn answer(served: &mut Disks, mut stream: UnixStream) {
    let mut said = String::new();
    if stream.read_to_string(&mut said).is_err() {
        return;
    }
    let parts: Vec<&str> = said.lines().collect();
    let done = match parts[..] {
        [key, top, index] => {
            let switch = Switch { top: top.parse().unwrap(), index: index.into() };
            served.0.get_mut(key).unwrap().switch(&switch)
        }
        [key] => served.0.get_mut(key).unwrap().reload_sole(),
        // It died before it had said anything.
        _ => return,
    };
    done.unwrap();
    let _dead = stream.write_all(b"done");
}

/// Reaches the disks that the other process serves.
pub(crate) struct Remote(PathBuf);

impl Remote {
    /// Those of the process that has its SRs below `root`.
    pub(crate) fn new(root: &Path) -> Self {
        Self(root.join(SOCKET))
    }

    fn ask(&self, text: &str) -> Result<()> {
        let refused =
            |error: std::io::Error| Error::new(ErrorKind::Unresponsive, error.to_string());
        // Whatever is done over there may be done although this process is not told.
        failpoints::step();
        let mut stream = UnixStream::connect(&self.0).map_err(refused)?;
        stream.write_all(text.as_bytes()).map_err(refused)?;
        stream.shutdown(std::net::Shutdown::Write).map_err(refused)?;
        let mut said = String::new();
        stream.read_to_string(&mut said).map_err(refused)?;
        assert_eq!(said, "done");
        failpoints::step();
        Ok(())
    }
}

impl Live for Remote {
    fn switch(&mut self, key: &Name, _: &Serving, switch: &Switch) -> Result<()> {
        self.ask(&format!("{key}\n{}\n{}", switch.top, switch.index.display()))
    }

    fn sole(&mut self, key: &Name, _: &Serving) -> Result<()> {
        self.ask(key.as_str())
    }
}
