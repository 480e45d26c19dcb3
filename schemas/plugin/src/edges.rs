//! Where a call meets the process: argv, the three streams, the log.
//!
//! The dispatcher only ever sees these fields, so that the real one runs inside a unit test.

use std::ffi::OsString;
use std::io::{Read, Write};

use smapiv3_syslog::Syslog;

/// The parts of its process that a plugin call uses.
pub struct Edges<'a> {
    /// The command line, with the name that the program was called by first
    pub argv: Vec<OsString>,
    /// Where the request comes from
    pub stdin: Box<dyn Read + 'a>,
    /// Where the answer goes to, and nothing else
    pub stdout: Box<dyn Write + 'a>,
    /// Where errors go in a call from the command line
    pub stderr: Box<dyn Write + 'a>,
    /// Where the messages of calls go
    pub log: Syslog,
}

impl Edges<'static> {
    /// The edges of the process itself, whose messages go to `log`.
    ///
    /// ```no_run
    /// use smapiv3_plugin::{Edges, Registry, run};
    /// use smapiv3_syslog::{Facility, SOCKET_DEFAULT, Syslog};
    ///
    /// let log = Syslog::connect(SOCKET_DEFAULT.as_ref(), Facility::Local2, "my-plugin");
    /// let registry = Registry::new("my-plugin", "1.0", "Does nothing yet", Ok::<_, String>(()));
    /// std::process::exit(run(Edges::process(log), &registry).into());
    /// ```
    pub fn process(log: Syslog) -> Self {
        Self {
            argv: std::env::args_os().collect(),
            stdin: Box::new(std::io::stdin()),
            stdout: Box::new(std::io::stdout()),
            stderr: Box::new(std::io::stderr()),
            log,
        }
    }
}
