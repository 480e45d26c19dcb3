//! A host with a tapdisk of its own, or something in its place.

use std::{
    fs,
    io::Write as _,
    os::unix::{fs::symlink, net::UnixDatagram},
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
};

use end_to_end::{Xapi, programs};
use serde_json::json;
use tapctl::ControlDir;

use crate::maintenance::assert_sound;

/// Names the host's tapdisk, to the plugin and to these tests.
pub(super) const BLKTAP: &str = "XAPI_RAM_BLKTAP";
/// A message that a test sends to the log to mark the end of what it has read.
const LOOK: &str = "look";

/// A host with a tapdisk of its own.
pub(super) struct Stock {
    pub(super) xapi: Xapi,
    pub(super) control: ControlDir,
    is_real: bool,
    log: mpsc::Receiver<String>,
    _tools: tempfile::TempDir,
}

impl Stock {
    pub(super) fn stand_in() -> Self {
        let tools = tempfile::tempdir().unwrap();
        let program = tools.path().join("tapdisk");
        symlink(programs::path("tapdisk-ram"), &program).unwrap();
        Self::of(tools, &[(BLKTAP, program.to_str().unwrap())], None)
    }

    /// blktap's own, whose control directory is compiled in.
    fn real() -> Option<Self> {
        let Some(program) = std::env::var_os(BLKTAP) else {
            let text = format!("SKIPPED: blktap's tapdisk ({BLKTAP} does not name one)\n");
            let _unseen = std::io::stderr().write_all(text.as_bytes());
            return None;
        };
        let control = tapctl::CONTROL_DIR;
        let variables = [(BLKTAP, program.to_str()?), ("XAPI_RAM_CONTROL_DIR", control)];
        Some(Self::of(tempfile::tempdir().unwrap(), &variables, Some(control)))
    }

    fn of(tools: tempfile::TempDir, variables: &[(&str, &str)], control: Option<&str>) -> Self {
        let xapi = Xapi::with(variables);
        let is_real = control.is_some();
        let control = control.map_or_else(|| xapi.control_dir(), ControlDir::new);
        let log = listen(&xapi.root().join("log"));
        Self { xapi, control, is_real, log, _tools: tools }
    }

    /// An SR whose disks its tapdisk serves.
    pub(super) fn sr(&self, size: &str) -> String {
        let wanted = json!({ "size": size, "tapdisk": "blktap" });
        self.xapi.attach_sr(&self.xapi.configure_sr(wanted).unwrap())
    }

    /// The messages that were logged since the last call.
    pub(super) fn logged(&self) -> String {
        // Messages come in order: with this one, all before it are there.
        let socket = self.xapi.root().join("log");
        UnixDatagram::unbound().unwrap().send_to(LOOK.as_bytes(), socket).unwrap();
        self.log.iter().take_while(|message| message != LOOK).collect::<Vec<_>>().join("\n")
    }

    /// The images of an SR's volumes that were laid out and are still there.
    pub(super) fn images(&self, sr: &str) -> Vec<PathBuf> {
        let volumes = fs::read_dir(self.xapi.sr_dir(sr).join("meta/volume")).into_iter().flatten();
        let keys = volumes.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let directory = self.control.metrics().path();
        keys.map(|key| directory.join(format!("xapi-storage-ram-{key}")))
            .filter(|path| path.exists())
            .collect()
    }

    /// That no process, image or reservation is left, and the SR is sound.
    #[track_caller]
    pub(super) fn assert_nothing_left(&self, sr: &str) {
        assert_eq!(self.images(sr), [] as [PathBuf; 0]);
        if !self.is_real {
            assert_eq!(self.control.tapdisks().unwrap(), [0; 0]);
            assert_eq!(self.control.reserved().unwrap(), [0; 0]);
        }
        assert_sound(&self.xapi, sr);
    }
}

/// Receives messages at once: a log that is not read blocks the programs that write to it.
fn listen(path: &Path) -> mpsc::Receiver<String> {
    let (sender, messages) = mpsc::channel();
    let log = UnixDatagram::bind(path).unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 8192];
        while let Ok(count) = log.recv(&mut buffer) {
            let message = String::from_utf8_lossy(&buffer[..count]).into_owned();
            if sender.send(message).is_err() {
                break;
            }
        }
    });
    messages
}

/// Does it with the stand-in, and with blktap's own tapdisk where there is one.
pub(super) fn with_each(test: impl Fn(&Stock)) {
    test(&Stock::stand_in());
    if let Some(real) = Stock::real() {
        test(&real);
    }
}
