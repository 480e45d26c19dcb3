//! The real dispatcher with the real methods on a private root in `/dev/shm`: what goes in as JSON
//! and what comes out. Every answer is held against the JSON Schema of its method.

mod branches;
mod commands;
mod life;
mod pages;
mod refusals;
mod saves;

use std::path::Path;

use host::{Config, Environment};
use scratch::Scratch;
use serde_json::{Value, json};
use smapiv3_plugin::testing::{self, Outcome, Refusal};
use store::{Disk, Host, Layout, Name, Open, Serving};

use crate::registry;

/// The SR of most tests.
const SR: &str = store::testing::SR_UUID;
const MIB: u64 = 1 << 20;

/// A host of its own, which vanishes with it.
struct Plugin {
    root: Scratch,
}

impl Plugin {
    fn new() -> Self {
        Self { root: Scratch::in_memory() }
    }

    /// With an attached SR of 64 MiB.
    fn with_sr() -> Self {
        let plugin = Self::new();
        plugin.attach(SR);
        plugin
    }

    fn environment(&self) -> Environment {
        let root = self.root.path().to_str().unwrap();
        let control = format!("{root}/.control");
        Environment::fixed([
            ("XAPI_RAM_SR_ROOT", root),
            ("XAPI_RAM_MOUNT", "never"),
            ("XAPI_RAM_CONTROL_DIR", &control),
        ])
    }

    fn config(&self) -> Config {
        Config::read(&self.environment()).unwrap()
    }

    /// The host that the plugin sees.
    fn host(&self) -> Host {
        let Config { sr_root, lock_dir, may_mount, .. } = self.config();
        Host::new(sr_root, lock_dir, may_mount)
    }

    /// A call as a person makes it.
    fn run(&self, argv: &[&str], stdin: &str) -> Outcome {
        testing::run_plugin(&registry(Ok(self.config())), argv, stdin)
    }

    /// A call as the toolstack makes it.
    fn call(&self, method: &str, params: Value) -> Result<Value, Refusal> {
        let answer = testing::call(&registry(Ok(self.config())), method, params)?;
        let info = smapiv3::find(method).unwrap();
        assert_valid(method, &(info.response_schema)(), &answer);
        Ok(answer)
    }

    /// A call that works.
    fn ok(&self, method: &str, params: Value) -> Value {
        self.call(method, params).unwrap_or_else(|refusal| panic!("{method}: {refusal:?}"))
    }

    /// A call that is refused with that number, and a message with all these parts.
    #[track_caller]
    fn refused(&self, method: &str, params: Value, number: u16, parts: &[&str]) {
        testing::assert_refused(self.call(method, params), number, parts);
    }

    /// Creates and attaches an SR of 64 MiB; its configuration.
    fn attach(&self, uuid: &str) -> Value {
        let configuration = self.ok(
            "SR.create",
            json!({"uuid": uuid, "configuration": {"size": "64MiB"}, "name": "scratch", "description": "d"}),
        );
        assert_eq!(self.ok("SR.attach", json!({"configuration": configuration})), uuid);
        configuration
    }

    /// A volume of `size` bytes in the usual SR; its key.
    fn create(&self, size: u64) -> String {
        let volume = self.ok(
            "Volume.create",
            json!({"sr": SR, "name": "disk", "description": "about", "size": size, "sharable": false}),
        );
        key_of(&volume)
    }

    /// A method on one volume of the usual SR.
    fn volume(&self, method: &str, key: &str) -> Value {
        self.ok(&format!("Volume.{method}"), json!({"sr": SR, "key": key}))
    }

    /// Opens a volume as its tapdisk would.
    fn disk(&self, key: &str, read_only: bool) -> Disk {
        self.disk_as(key, read_only, std::process::id(), Path::new("/nonexistent"))
    }

    fn disk_as(&self, key: &str, read_only: bool, pid: u32, control_dir: &Path) -> Disk {
        let control_dir = control_dir.to_str().unwrap().to_owned();
        let serving = Serving { pid, control_dir, minor: 3, read_only };
        Disk::open(&self.record(key), &Open { serving }).unwrap()
    }

    /// What a tapdisk opens.
    fn record(&self, key: &str) -> std::path::PathBuf {
        let layout = Layout::new(&self.host().sr_root, &Name::parse(SR).unwrap());
        layout.volume(&Name::parse(key).unwrap())
    }

    /// Fills a part of an inactive volume.
    fn write(&self, key: &str, offset: u64, length: usize, byte: u8) {
        self.disk(key, false).write(offset, &vec![byte; length]).unwrap();
    }

    /// One byte of an inactive volume.
    fn byte(&self, key: &str, offset: u64) -> u8 {
        let mut bytes = [0xee];
        self.disk(key, true).read_into(offset, &mut bytes).unwrap();
        bytes[0]
    }
}

fn key_of(volume: &Value) -> String {
    volume["key"].as_str().unwrap().to_owned()
}

fn assert_valid(method: &str, schema: &Value, answer: &Value) {
    jsonschema::validate(schema, answer)
        .unwrap_or_else(|error| panic!("{method}: {answer} is not valid: {error}"));
}
