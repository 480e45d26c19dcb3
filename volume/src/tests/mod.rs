//! The real dispatcher with the real methods on a private root in `/dev/shm`: what goes in as JSON
//! and what comes out. Every answer is held against the JSON Schema of its method.

mod branches;
mod commands;
mod life;
mod refusals;

use std::path::Path;

use plugin::{EXIT_OK, Edges, Env};
use serde_json::{Value, json};
use store::{Disk, Host, Layout, Name, Open, Serving};
use tempfile::TempDir;

use crate::registry;

/// The SR of most tests.
const SR: &str = "0f0e0d0c-0000-4000-8000-000000000001";
const MIB: u64 = 1 << 20;

/// What a failed call answers.
#[derive(Debug, PartialEq)]
struct Refusal {
    code: String,
    message: String,
}

/// A host of its own, which vanishes with it.
struct Plugin {
    root: TempDir,
}

impl Plugin {
    fn new() -> Self {
        Self { root: TempDir::with_prefix_in("xapi-ram-", "/dev/shm").unwrap() }
    }

    /// With an attached SR of 64 MiB.
    fn with_sr() -> Self {
        let plugin = Self::new();
        plugin.attach(SR);
        plugin
    }

    fn variables(&self) -> [(&'static str, String); 3] {
        [
            ("XAPI_RAM_SR_ROOT", self.root.path().to_str().unwrap().to_owned()),
            ("XAPI_RAM_MOUNT", "never".into()),
            (plugin::syslog::SOCKET_VARIABLE, "/nonexistent/log".into()),
        ]
    }

    /// The host that the plugin sees.
    fn host(&self) -> Host {
        let variables = self.variables();
        Host::from_env(|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone())
        })
    }

    fn run(&self, argv: &[&str], stdin: &str) -> (u8, String, String) {
        let (mut input, mut stdout, mut stderr) = (stdin.as_bytes(), Vec::new(), Vec::new());
        let edges = Edges {
            argv: argv.iter().map(Into::into).collect(),
            stdin: Box::new(&mut input),
            stdout: Box::new(&mut stdout),
            stderr: Box::new(&mut stderr),
            env: Env::fixed(self.variables()),
        };
        let status = plugin::run(edges, &registry());
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status, text(stdout), text(stderr))
    }

    /// A call as the toolstack makes it.
    fn call(&self, method: &str, mut params: Value) -> Result<Value, Refusal> {
        params["dbg"] = "test".into();
        let path = format!("/plugins/org.xen.xapi.storage.ram/{method}");
        let (status, stdout, _) = self.run(&[&path, "--json"], &params.to_string());
        let answer: Value = serde_json::from_str(&stdout).unwrap();
        let info = schemas::find(method).unwrap();
        if status == EXIT_OK {
            assert_valid(method, &(info.response_schema)(), &answer);
            return Ok(answer);
        }
        assert_valid(method, &schemas::error_schema(), &answer);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Err(Refusal { code: text(&answer["code"]), message: text(&answer["params"][1]) })
    }

    /// A call that works.
    fn ok(&self, method: &str, params: Value) -> Value {
        self.call(method, params).unwrap_or_else(|refusal| panic!("{method}: {refusal:?}"))
    }

    /// A call that is refused with that number, and a message with all these parts.
    fn refused(&self, method: &str, params: Value, number: u16, parts: &[&str]) {
        let refusal = self.call(method, params.clone()).expect_err(method);
        let what = format!("{method} {params}: {refusal:?}");
        assert_eq!(refusal.code, format!("SR_BACKEND_FAILURE_{number}"), "{what}");
        for part in parts {
            assert!(refusal.message.contains(part), "{part:?} is not in {what}");
        }
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
