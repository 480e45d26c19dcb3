//! The plugins that authors start from: each does what xapi asks of a small SR, in xapi's order, and other
//! programs read and write its disks.

use std::{
    fs,
    io::Write,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Stdio,
};

use end_to_end::{Failure, Side, Xapi, programs, tools};
use scratch::Scratch;
use serde_json::{Value, json};

use crate::MIB;

/// Not a multiple of any block but a sector.
const SIZE: u64 = 3 * MIB + 512;

/// The example of `smapiv3-plugin`, from SR.create to SR.destroy.
#[test]
fn the_directory_sr_in_rust_does_what_xapi_asks() {
    if !tools::present(&["python3", "qemu-nbd", "nbdcopy", "nbdinfo", "bash"]) {
        return;
    }
    does_what_xapi_asks(&rust(), "dir");
}

/// The one in Python, which was written from SMAPIv3.md alone.
#[test]
fn the_directory_sr_in_python_does_what_xapi_asks() {
    if !tools::present(&["python3", "qemu-nbd", "nbdcopy", "nbdinfo", "bash"]) {
        return;
    }
    does_what_xapi_asks(&python(), "pydir");
}

/// A host with the example in Rust.
pub(crate) fn rust() -> Xapi {
    let program = programs::path("examples/dir-sr");
    let methods = tools::run(&program.to_string_lossy(), &["methods"]);
    let archive = tools::attempt(&program.to_string_lossy(), &["python-archive"]).stdout;
    host(&program, methods.lines(), &archive, ("dir", "DIR_SR_RUN"))
}

/// A host with the one in Python.
pub(crate) fn python() -> Xapi {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/examples/dir_sr.py");
    let text = fs::read_to_string(&program).unwrap();
    // It dispatches without regard to case; the files are spelled as the interface is.
    let is_there = |name: &&str| text.contains(&format!("\"{}\":", name.to_lowercase()));
    let methods = smapiv3::methods().map(|it| it.name).filter(is_there);
    host(&program, methods, &[], ("pydir", "PYDIR_SR_RUN"))
}

/// A host with one program as both plugins, which has these methods. What holds until the host restarts is where
/// `variable` says, and an SR's disks go to the directory `disks`.
fn host<'a>(
    program: &Path,
    methods: impl Iterator<Item = &'a str>,
    archive: &[u8],
    (scheme, variable): (&str, &str),
) -> Xapi {
    let root = Scratch::in_memory();
    // A caller that traces runs it through Python: the archive behind a program makes that work.
    let copy = root.path().join(program.file_name().unwrap());
    fs::copy(program, &copy).unwrap();
    fs::OpenOptions::new().append(true).open(&copy).unwrap().write_all(archive).unwrap();
    let program = &copy;
    let volume = root.path().join("volume").join(format!("org.example.{scheme}"));
    let datapath = root.path().join("datapath").join(scheme);
    for directory in [&volume, &datapath] {
        fs::create_dir_all(directory).unwrap();
        symlink(program, directory.join("Plugin.query")).unwrap();
    }
    for method in methods.filter(|it| *it != "Plugin.query") {
        let own = if method.starts_with("Datapath.") { &datapath } else { &volume };
        symlink(program, own.join(method)).unwrap();
    }
    fs::create_dir(root.path().join("disks")).unwrap();
    let run = root.path().join("run").to_string_lossy().into_owned();
    Xapi::foreign(root, &volume, &datapath, &[(variable, &run)])
}

/// A plugged disk: where its NBD server is, and what unplugs it.
struct Plugged {
    uri: String,
    domain: String,
    nbd: String,
}

/// Calls of a host for one SR.
struct Sr<'a> {
    xapi: &'a Xapi,
    sr: Value,
    /// The directory of the datapath plugin: the scheme of the URIs that it is for.
    scheme: &'a str,
    /// Whether the datapath has asked for Datapath.open and Datapath.close.
    opens: bool,
}

impl Sr<'_> {
    fn call(&self, method: &str, more: &Value) -> Result<Value, Failure> {
        let mut params = json!({ "sr": self.sr });
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.xapi.volume(method, params)
    }

    fn volume(&self, method: &str, key: &Value, more: Value) -> Result<Value, Failure> {
        let mut params = more;
        params["key"] = key.clone();
        self.call(method, &params)
    }

    fn set(&self, key: &Value, pairs: &[(&str, &str)]) {
        for (k, v) in pairs {
            self.volume("Volume.set", key, json!({ "k": k, "v": v })).unwrap();
        }
    }

    /// `xe vdi-create`.
    fn create(&self, size: u64) -> Value {
        let params = json!({ "name": "n", "description": "d", "size": size, "sharable": false });
        let made = self.call("Volume.create", &params).unwrap();
        self.set(&made["key"], &[("vdi-type", "user")]);
        made["key"].clone()
    }

    fn stat(&self, key: &Value) -> Value {
        self.volume("Volume.stat", key, json!({})).unwrap()
    }

    fn keys(&self) -> Vec<Value> {
        let list = self.call("SR.ls", &json!({})).unwrap();
        list.as_array().unwrap().iter().map(|it| it["key"].clone()).collect()
    }

    /// Volume.stat before each step, and the URI whose scheme is the datapath's directory.
    fn step(&self, key: &Value, method: &str, domain: &str) -> (String, Value) {
        let stat = self.stat(key);
        let mut uris = stat["uri"].as_array().unwrap().iter().filter_map(Value::as_str);
        let uri = uris.find(|it| it.split(':').next() == Some(self.scheme)).expect("a URI of ours");
        let params = json!({ "uri": uri, "domain": domain });
        (uri.to_owned(), self.xapi.datapath(method, params).unwrap())
    }

    fn plug(&self, key: &Value, domain: &str, activate: &str) -> Plugged {
        if self.opens {
            let stat = self.stat(key);
            let params = json!({ "uri": stat["uri"][0], "persistent": true });
            self.xapi.datapath("Datapath.open", params).unwrap();
        }
        let (uri, backend) = self.step(key, "Datapath.attach", domain);
        self.step(key, activate, domain);
        let implementations = backend["implementations"].as_array().unwrap();
        let nbd = implementations.iter().rfind(|it| it[0] == "Nbd").expect("a server for dom0");
        let fields: Vec<&str> = nbd[1]["uri"].as_str().unwrap().split(':').collect();
        let ["nbd", "unix", socket, export] = fields[..] else {
            panic!("{nbd} has not four fields")
        };
        let export = export.strip_prefix("exportname=").expect("an export");
        let nbd = format!("nbd+unix:///{export}?socket={socket}");
        Plugged { uri, domain: domain.to_owned(), nbd }
    }

    fn unplug(&self, key: &Value, disk: &Plugged) {
        self.step(key, "Datapath.deactivate", &disk.domain);
        self.step(key, "Datapath.detach", &disk.domain);
        if self.opens {
            self.xapi.datapath("Datapath.close", json!({ "uri": disk.uri })).unwrap();
        }
    }

    /// What a backup reads: the disk is plugged for that, read-only.
    fn contents(&self, key: &Value) -> Vec<u8> {
        let disk = self.plug(key, "u0_backup", "Datapath.activate_readonly");
        let bytes = read(self.xapi, &disk.nbd);
        self.unplug(key, &disk);
        bytes
    }

    /// Writes a whole disk, as a guest of domain 5 does.
    fn fill(&self, key: &Value, bytes: &[u8]) {
        let disk = self.plug(key, "5", "Datapath.activate");
        let file = self.file("in");
        fs::write(&file, bytes).unwrap();
        tools::run("nbdcopy", &[file.to_str().unwrap(), &disk.nbd]);
        assert!(read(self.xapi, &disk.nbd) == bytes, "the disk has what was written");
        // A snapshot of a disk in use has what it was at that moment.
        let snapshot = self.volume("Volume.snapshot", key, json!({})).unwrap()["key"].clone();
        let blank = self.file("blank");
        fs::File::create(&blank).unwrap().set_len(bytes.len() as u64).unwrap();
        tools::run("nbdcopy", &[blank.to_str().unwrap(), &disk.nbd]);
        assert!(self.contents(&snapshot) == bytes, "the snapshot has what was there before");
        tools::run("nbdcopy", &[file.to_str().unwrap(), &disk.nbd]);
        self.volume("Volume.destroy", &snapshot, json!({})).unwrap();
        // A disk in use is neither lost nor torn from under its guest, and the error says what to do.
        let refused = self.volume("Volume.destroy", key, json!({})).unwrap_err();
        assert_eq!(refused.code, "SR_BACKEND_FAILURE_24");
        assert!(refused.params[1].contains("unplug"), "{refused}");
        self.unplug(key, &disk);
    }

    fn file(&self, name: &str) -> PathBuf {
        self.xapi.root().join(name)
    }
}

fn read(xapi: &Xapi, nbd: &str) -> Vec<u8> {
    let file = xapi.root().join("out");
    let _of_an_earlier_read = fs::remove_file(&file);
    tools::run("nbdcopy", &[nbd, file.to_str().unwrap()]);
    fs::read(&file).unwrap()
}

/// As with tracing on: by Python, through whatever the file ends in.
fn runs_under_python(xapi: &Xapi) {
    let file = xapi.plugin(Side::Volume).join("Plugin.query");
    let code = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')";
    let mut traced = xapi.command(Path::new("/usr/bin/python3"));
    traced.args(["-c", code]).arg(file).arg("--json");
    traced.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = traced.spawn().unwrap();
    child.stdin.take().unwrap().write_all(br#"{"dbg":"d"}"#).unwrap();
    let output = child.wait_with_output().unwrap();
    let query: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(query["required_api_version"], "5.0");
}

/// `xe sr-create`, disks of it with snapshots and clones, and `xe sr-destroy`.
fn does_what_xapi_asks(xapi: &Xapi, scheme: &str) {
    let features: Vec<Value> = [Side::Volume, Side::Datapath].map(|side| query(xapi, side)).into();
    runs_under_python(xapi);
    let path = xapi.root().join("disks");
    let device_config = json!({ "path": path });
    let new = json!({
        "uuid": "0f0e0d0c-0000-4000-8000-000000000002",
        "configuration": device_config, "name": "n", "description": "d",
    });
    let configuration = xapi.volume("SR.create", new.clone()).unwrap();
    xapi.volume("SR.create", new).expect_err("one SR in a directory");
    let attach = || xapi.volume("SR.attach", json!({ "configuration": configuration })).unwrap();
    let sr = attach();
    assert_eq!(attach(), sr, "a second attach finds the first");
    let opens = features[1].as_array().unwrap().contains(&json!("NONPERSISTENT"));
    let sr = Sr { xapi, sr, scheme, opens };
    let stat = sr.call("SR.stat", &json!({})).unwrap();
    assert_eq!(stat["health"][0], "Healthy");
    assert!(stat["free_space"].as_u64() <= stat["total_space"].as_u64());
    sr.call("SR.set_name", &json!({ "new_name": "x" })).unwrap();
    sr.call("SR.set_description", &json!({ "new_description": "y" })).unwrap();
    let stat = sr.call("SR.stat", &json!({})).unwrap();
    assert_eq!((&stat["name"], &stat["description"]), (&json!("x"), &json!("y")));

    properties(&sr);
    let disk = sr.create(SIZE);
    let first = tools::noise(1, usize::try_from(SIZE).unwrap());
    sr.fill(&disk, &first);
    copies(&sr, &disk, &first);

    for _ in 0..2 {
        sr.call("SR.detach", &json!({})).expect("detaching twice");
    }
    let refused = sr.call("SR.ls", &json!({})).unwrap_err();
    assert!(refused.params.join(" ").contains("not_attached"), "{refused}");
    assert_eq!(attach(), sr.sr);
    assert!(sr.keys().contains(&disk), "disks outlive a detach");
    sr.call("SR.destroy", &json!({})).unwrap();
    let left: Vec<_> = fs::read_dir(path).unwrap().flatten().map(|it| it.file_name()).collect();
    let is_data = |it: &&std::ffi::OsString| !it.to_string_lossy().starts_with('.');
    assert_eq!(left.iter().filter(is_data).count(), 0, "{left:?}");
}

fn query(xapi: &Xapi, side: Side) -> Value {
    let query = xapi.call(side, "Plugin.query", json!({})).unwrap();
    assert_eq!(query["required_api_version"], "5.0");
    query["features"].clone()
}

/// Sizes, keys, and the calls that come twice or for what is not there.
fn properties(sr: &Sr<'_>) {
    for (asked, given) in [(0, 512), (1, 512), (SIZE, SIZE), (SIZE + 1, SIZE + 512)] {
        let key = sr.create(asked);
        let stat = sr.stat(&key);
        assert_eq!(stat["virtual_size"], given, "{asked}");
        assert_eq!(stat["uuid"], stat["key"]);
        assert_eq!(stat["keys"]["vdi-type"], "user");
        sr.volume("Volume.unset", &key, json!({ "k": "vdi-type" })).unwrap();
        sr.volume("Volume.unset", &key, json!({ "k": "vdi-type" }))
            .expect("unset of an absent key");
        sr.volume("Volume.set_name", &key, json!({ "new_name": "x" })).unwrap();
        sr.volume("Volume.set_description", &key, json!({ "new_description": "y" })).unwrap();
        let stat = sr.stat(&key);
        assert_eq!((&stat["name"], &stat["description"]), (&json!("x"), &json!("y")));
        assert!(stat["keys"].get("vdi-type").is_none());
        for _ in 0..2 {
            sr.volume("Volume.destroy", &key, json!({})).expect("destroying twice");
        }
        let gone = sr.volume("Volume.stat", &key, json!({})).unwrap_err();
        assert_eq!(gone.code, "SR_BACKEND_FAILURE_144");
    }
    let params = json!({ "name": "n", "description": "", "size": -1, "sharable": false });
    let refused = sr.call("Volume.create", &params).unwrap_err();
    assert!(refused.params[1].contains("-1"), "{refused}");
    let outside = json!("../../etc/passwd");
    sr.volume("Volume.destroy", &outside, json!({})).expect_err("no path out of the SR");

    // Calls come at the same time, also for one volume.
    let key = sr.create(SIZE);
    std::thread::scope(|scope| {
        for number in 0..8 {
            let (sr, key) = (&sr, &key);
            let k = format!("k{number}");
            scope.spawn(move || sr.set(key, &[(&k, "v")]));
        }
    });
    assert_eq!(sr.stat(&key)["keys"].as_object().unwrap().len(), 10, "{}", sr.stat(&key));
    sr.volume("Volume.destroy", &key, json!({})).unwrap();
}

/// A snapshot and a clone keep what they were made of, and have an identity of their own.
fn copies(sr: &Sr<'_>, disk: &Value, first: &[u8]) {
    let snapshot = sr.volume("Volume.snapshot", disk, json!({})).unwrap();
    assert_eq!((&snapshot["read_write"], &snapshot["name"]), (&json!(false), &json!("n")));
    let content = |volume: &Value| volume["keys"]["content_id"].clone();
    assert_ne!(content(&snapshot), content(&sr.stat(disk)));
    assert!(content(&snapshot).is_string());
    let snapshot = snapshot["key"].clone();
    let of = disk.as_str().unwrap();
    sr.set(&snapshot, &[("is_a_snapshot", "true"), ("snapshot_of", of), ("snapshot_time", "1")]);
    let second = tools::noise(2, first.len());
    sr.fill(disk, &second);
    let clone = sr.volume("Volume.clone", &snapshot, json!({})).unwrap();
    assert_eq!(clone["read_write"], true);
    assert!(clone["keys"].get("is_a_snapshot").is_none(), "{clone}");
    let clone = clone["key"].clone();
    assert!(sr.contents(&snapshot) == first && sr.contents(&clone) == first);
    sr.fill(&clone, &second);
    assert!(sr.contents(&snapshot) == first && sr.contents(disk) == second);

    let larger = SIZE + 4096;
    sr.volume("Volume.resize", disk, json!({ "new_size": larger })).unwrap();
    assert_eq!(sr.stat(disk)["virtual_size"], larger);
    let refused = sr.volume("Volume.resize", disk, json!({ "new_size": 512 })).unwrap_err();
    assert!(refused.params[1].contains("512"), "{refused}");
    let bytes = sr.contents(disk);
    assert!(bytes[..second.len()] == second && bytes[second.len()..].iter().all(|it| *it == 0));
    assert_eq!(bytes.len() as u64, larger);

    // Two users of one disk, and a third that attached it alone: its deactivate is no error and stops nothing.
    let reader = sr.plug(&clone, "u0_one", "Datapath.activate_readonly");
    let other = sr.plug(&clone, "u0_two", "Datapath.activate_readonly");
    sr.step(&clone, "Datapath.attach", "u0_mirror");
    sr.step(&clone, "Datapath.deactivate", "u0_mirror");
    sr.step(&clone, "Datapath.detach", "u0_mirror");
    sr.unplug(&clone, &other);
    let size = tools::run("nbdinfo", &["--size", &reader.nbd]);
    assert_eq!(size.trim(), SIZE.to_string());
    sr.call("SR.detach", &json!({})).expect_err("a disk is plugged");
    sr.unplug(&clone, &reader);
    sr.volume("Volume.destroy", &snapshot, json!({})).unwrap();
    assert!(sr.contents(&clone) == second, "a clone outlives its snapshot");
}
