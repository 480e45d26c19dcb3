//! The real dispatcher and the real methods over a real store, with a tapdisk process that is real
//! in everything but the bytes of the disk (`fake.rs`, an example in the eyes of cargo).

mod lifecycle;
mod nonpersistent;
mod pages;
mod recovery;
mod unused;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use host::{Config, Environment};
use scratch::Scratch;
use serde_json::{Value, json};
use smapiv3_plugin::testing::{self, Refusal, assert_refused as refused};
use store::{Host, Inactive, Name, Sr};
use tapctl::{
    Client, ControlDir, Identity, Minor,
    process::{self, Executable},
};

use crate::state::State;

const SR: &str = store::testing::SR_UUID;

/// An SR, a volume in it and a control directory; all of it vanishes, with the tapdisks.
struct Fixture {
    host: Host,
    sr: Sr,
    key: String,
    control: ControlDir,
    program: String,
    root: Scratch,
}

/// The tapdisk of these tests, which cargo builds beside them.
fn fake() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.parent().and_then(Path::parent).unwrap().join("examples/fake-tapdisk");
    assert!(program.exists(), "cargo test -p datapath-plugin builds {}", program.display());
    program
}

impl Fixture {
    fn new() -> Self {
        // A short path: sockets have 107 bytes for theirs.
        let root = Scratch::in_memory();
        let host = store::testing::host(&root.path().join("s"));
        let sr = host.attach(&store::testing::attachment(&host, 16 << 20)).unwrap();
        let key = store::testing::create(&sr, 1 << 20).to_string();
        let control = ControlDir::new(root.path().join("c"));
        Self { host, sr, key, control, program: path(fake()), root }
    }

    fn uri(&self) -> String {
        format!("ram://{SR}/{}", self.key)
    }

    fn config(&self) -> Config {
        Config::read(&Environment::fixed([
            ("XAPI_RAM_SR_ROOT", path(self.host.sr_root.clone())),
            ("XAPI_RAM_MOUNT", "never".into()),
            ("XAPI_RAM_CONTROL_DIR", path(self.control.path().into())),
            ("XAPI_RAM_TAPDISK", self.program.clone()),
        ]))
        .unwrap()
    }

    fn call(&self, method: &str, request: Value) -> Result<Value, Refusal> {
        testing::call(&crate::registry(Ok(self.config())), method, request)
    }

    /// `Datapath.<method>` for a domain.
    fn run(&self, method: &str, domain: &str) -> Result<Value, Refusal> {
        let request = json!({ "uri": self.uri(), "domain": domain });
        self.call(&format!("Datapath.{method}"), request)
    }

    /// The same, where it has to work.
    #[track_caller]
    fn ok(&self, method: &str, domain: &str) {
        if let Err(error) = self.run(method, domain) {
            panic!("{method} {domain}: {error:?}");
        }
    }

    fn open(&self, persistent: bool) -> Result<Value, Refusal> {
        self.call("Datapath.open", json!({ "uri": self.uri(), "persistent": persistent }))
    }

    /// `end-unused` for the SR, as a person calls it; what it prints.
    fn end_unused(&self) -> String {
        let registry = crate::registry(Ok(self.config()));
        let argv = ["datapath-plugin", "end-unused", "--sr", SR];
        let outcome = testing::run_plugin(&registry, &argv, "");
        assert_eq!((outcome.status, outcome.stderr.as_str()), (smapiv3_plugin::EXIT_OK, ""));
        outcome.stdout
    }

    fn close(&self) -> Result<Value, Refusal> {
        self.call("Datapath.close", json!({ "uri": self.uri() }))
    }

    fn state_path(&self) -> PathBuf {
        self.sr.layout().root().join("meta/datapath").join(&self.key)
    }

    fn state(&self) -> State {
        match fs::read(self.state_path()) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap(),
            Err(_) => State::default(),
        }
    }

    fn write_state(&self, state: &State) {
        fs::write(self.state_path(), serde_json::to_vec(state).unwrap()).unwrap();
    }

    /// The tapdisk that is remembered.
    fn tapdisk(&self) -> (Identity, Minor) {
        let tapdisk = self.state().tapdisk.unwrap();
        (tapdisk.identity.unwrap(), tapdisk.minor)
    }

    /// What the remembered tapdisk serves, by its own word.
    fn serving(&self) -> Option<(String, bool)> {
        let (identity, minor) = self.tapdisk();
        let serving = Client::new(&self.control, identity.pid).serving(minor).unwrap();
        let key = serving.path?.file_name().unwrap().to_str().unwrap().to_owned();
        Some((key, serving.read_only))
    }

    /// Ends a tapdisk as nobody should.
    fn kill(&self) -> Identity {
        let (identity, _) = self.tapdisk();
        identity.kill().unwrap();
        assert!(identity.wait(Duration::from_secs(10)).unwrap());
        identity
    }

    fn snapshot(&self) -> String {
        self.sr.lock().unwrap().snapshot_volume(&self.key, &mut Inactive).unwrap().key.to_string()
    }

    fn link(&self) -> PathBuf {
        self.control.path().join("nbd").join(SR).join(&self.key)
    }

    fn link_target(&self) -> PathBuf {
        fs::read_link(self.link()).unwrap()
    }

    fn asked(&self) -> Vec<String> {
        let asked = fs::read_to_string(self.control.path().join("asked")).unwrap_or_default();
        asked.lines().map(str::to_owned).collect()
    }

    /// Has the tapdisks behave as the file says (see `fake.rs`).
    fn tell(&self, file: &str) {
        fs::create_dir_all(self.control.path()).unwrap();
        fs::write(self.control.path().join(file), "").unwrap();
    }

    /// The same with a text in the file.
    fn tell_that(&self, file: &str, text: &str) {
        self.tell(file);
        fs::write(self.control.path().join(file), text).unwrap();
    }

    /// The mark of the volume, as a call has it.
    fn mark(&self) -> String {
        format!("{} {}", self.control.path().display(), self.uri())
    }

    /// That no process, reservation, link or record is left.
    #[track_caller]
    fn assert_nothing_left(&self) {
        assert_eq!(
            process::started_with("XAPI_RAM_STARTED_FOR", self.mark().as_ref()).unwrap(),
            []
        );
        assert_eq!(self.control.tapdisks().unwrap(), [0; 0]);
        assert_eq!(self.control.reserved().unwrap(), [0; 0]);
        assert_eq!(fs::read_dir(self.control.minors()).into_iter().flatten().count(), 0);
        assert!(!self.link().parent().unwrap().exists());
        let left = |directory: &Path| -> Vec<_> {
            let entries = fs::read_dir(directory).into_iter().flatten();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        };
        let sockets = left(self.control.path());
        assert!(!sockets.iter().any(|name| name.contains('.')), "{sockets:?}");
        assert_eq!(left(self.state_path().parent().unwrap()), [""; 0]);
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        // They would end by themselves when their directory is gone, but for those that hang.
        let fake = Executable::of(&fake()).ok();
        for pid in self.control.tapdisks().unwrap_or_default() {
            if let Ok(Some(identity)) = Identity::of(pid)
                && identity.executable == fake
            {
                let _ended_already = identity.kill();
            }
        }
        assert!(self.root.path().starts_with("/dev/shm"));
    }
}

fn path(path: PathBuf) -> String {
    path.to_str().unwrap().to_owned()
}
