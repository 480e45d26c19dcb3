//! Which program a keeper starts as its server.

use std::{
    ffi::OsString,
    fs::File,
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result};
use host::{Config, variables::STARTED_FOR};
use tapctl::keeper::SERVE_FOR;

/// The program of the keeper itself, also when another one was installed under its name since.
const OWN: &str = "/proc/self/exe";

/// The argument behind the keeper's name that says that the datapath plugin has started the tapdisk.
pub(crate) const BY_PLUGIN: &str = "by-plugin";

/// The program, and how it is started.
#[derive(Debug)]
pub(super) struct Program {
    /// The program that has served last, held open: it may be replaced under its name. `None`: the keeper's own.
    serving: Option<File>,
    /// One that is to replace it, until it serves.
    replacement: Option<File>,
    /// Where the keeper's own program was when it was started: where another one is installed.
    installed: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(&'static str, PathBuf)>,
}

impl Program {
    /// The program of this process, for servers of the keeper of that name.
    pub(super) fn of_this_process(name: String, config: &Config) -> Result<Self> {
        let installed = std::env::current_exe().context("looking for this program")?;
        let mut arguments: Vec<OsString> = vec![SERVE_FOR.into(), name.into()];
        arguments.extend(config.started_by_plugin.then(|| BY_PLUGIN.into()));
        let paths = config.for_another_directory().into_iter();
        let environment = paths.map(|(name, path)| (name, path.to_owned())).collect();
        Ok(Self { serving: None, replacement: None, installed, arguments, environment })
    }

    /// Starts a server with its end of the channel. Where it `may_complain`, errors go to this
    /// process's standard error. A replacement that cannot be started is given up.
    pub(super) fn start(&mut self, channel: &UnixStream, may_complain: bool) -> Result<Child> {
        loop {
            let started = self.command(channel, may_complain).and_then(|mut it| it.spawn());
            match started {
                Err(_) if self.replacement.take().is_some() => {}
                started => return started.context("starting a server"),
            }
        }
    }

    fn command(&self, channel: &UnixStream, may_complain: bool) -> io::Result<Command> {
        let program = match self.replacement.as_ref().or(self.serving.as_ref()) {
            Some(file) => format!("/proc/self/fd/{}", file.as_raw_fd()),
            None => OWN.to_owned(),
        };
        let stderr = if may_complain { Stdio::inherit() } else { Stdio::null() };
        let mut command = Command::new(program);
        command
            .arg0(&self.installed)
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, path)| (name, path)))
            // Processes are found by it, and the one that is to be found is the keeper.
            .env_remove(STARTED_FOR.name)
            .stdin(Stdio::from(OwnedFd::from(channel.try_clone()?)))
            .stdout(Stdio::null())
            .stderr(stderr);
        Ok(command)
    }

    /// The next server is the program that is installed now.
    pub(super) fn replace(&mut self) -> io::Result<&Path> {
        self.replacement = Some(File::open(&self.installed)?);
        Ok(&self.installed)
    }

    /// The program that was started last serves.
    pub(super) fn is_ready(&mut self) {
        if self.replacement.is_some() {
            self.serving = self.replacement.take();
        }
    }

    /// The next server is the program that has served last; whether another one was to replace it.
    pub(super) fn give_up_replacement(&mut self) -> bool {
        self.replacement.take().is_some()
    }
}
