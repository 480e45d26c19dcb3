//! Serves a disk in memory on a socket, for measuring with foreign programs:
//! `serve <socket> <MiB> [old]`.

use std::{env, fs, io, os::unix::net::UnixListener, sync::atomic::AtomicBool};

use block::{Drive, memory::Memory};
use nbd::serve::{Greeting, serve};

fn main() -> io::Result<()> {
    let usage = || io::Error::other("usage: serve <socket> <MiB> [old]");
    let mut arguments = env::args().skip(1);
    let path = arguments.next().ok_or_else(usage)?;
    let mebibytes: u64 = arguments.next().and_then(|text| text.parse().ok()).ok_or_else(usage)?;
    let greeting = if arguments.next().is_some() { Greeting::Old } else { Greeting::New };
    let _not_there = fs::remove_file(&path);
    let listener = UnixListener::bind(&path)?;
    let mut drive = Drive::new(Memory::new(mebibytes << 20)?);
    serve(&listener, greeting, &mut drive, &AtomicBool::new(false))?;
    Ok(())
}
