//! The process that is started: it starts the one that stays, hands on what that one announces,
//! and exits, as a tapdisk does (`control/tap-ctl-spawn.c` of blktap).

use std::{
    io::{self, Read, Write},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// Starts the process that stays and prints the path of its control socket.
pub(crate) fn run() -> Result<()> {
    memory::close_inherited_on_exec().context("looking for inherited descriptors")?;
    let program = std::env::current_exe().context("looking for this program")?;
    let mut child = Command::new(&program)
        .arg("serve")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {}", program.display()))?;
    let mut announced = String::new();
    let mut output = child.stdout.take().context("the child has no output")?;
    output.read_to_string(&mut announced).context("waiting for the tapdisk to start")?;
    if !announced.ends_with('\n') {
        let status = child.wait().context("waiting for the tapdisk")?;
        bail!("the tapdisk ended before it was ready: {status}");
    }
    let mut stdout = io::stdout().lock();
    let told = stdout.write_all(announced.as_bytes()).and_then(|()| stdout.flush());
    if told.is_err() {
        // The process that started this one is dead, so no other process knows of the daemon. It
        // removes its files when it is told to end, as it would not if it were killed.
        let _ended_already = kill_process(Pid::from_child(&child), Signal::TERM);
    }
    told.context("announcing")
}

/// Prints an error for the process that started this one.
pub(crate) fn complain(error: &anyhow::Error) {
    // An error of printing cannot be reported anywhere.
    let _unheard = writeln!(io::stderr(), "tapdisk-ram: {error:#}");
}
