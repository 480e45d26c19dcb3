//! Calling the plugins as xapi-storage-script does (`ocaml/xapi-storage-script/lib.ml`, `main.ml` of
//! xapi-project/xen-api): one execution of one file per method, `--json` as the only argument, one
//! object on stdin, one value on stdout, read to its end.

use std::{
    fmt, fs,
    io::Write,
    os::unix::fs::{DirBuilderExt, MetadataExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::Arc,
};

use scratch::Scratch;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{programs, schema, tools};

/// The script that `make install` runs.
pub const INSTALLER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/install.sh");

/// Which plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// SR.*, Volume.*, Plugin.*
    Volume,
    /// Datapath.*, Plugin.*
    Datapath,
}

impl Side {
    /// The directory of its method files, below the plugins' root.
    #[must_use]
    pub fn directory(self) -> &'static str {
        match self {
            Self::Volume => "volume/org.xen.xapi.storage.ram",
            Self::Datapath => "datapath/ram",
        }
    }

    fn program(self) -> &'static str {
        match self {
            Self::Volume => "volume-plugin",
            Self::Datapath => "datapath-plugin",
        }
    }
}

/// An error as it reaches xapi.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// `SR_BACKEND_FAILURE_<n>` or an error of the interface.
    pub code: String,
    /// The params of the error, which `xe` shows.
    pub params: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.code, self.params)
    }
}

impl std::error::Error for Failure {}

/// A host with the plugins, and nothing else on it.
#[derive(Debug)]
pub struct Xapi {
    /// Everything of this host, its tapdisks and mounts too: they end with it.
    root: Arc<Scratch>,
    /// Where the method files of either side lie.
    volume_plugin: PathBuf,
    datapath_plugin: PathBuf,
    environment: Vec<(String, String)>,
}

impl Xapi {
    /// A host whose SRs are tmpfs mounts if this is root, directories otherwise.
    ///
    /// # Panics
    /// Where the plugins have not been built, or `/dev/shm` is no tmpfs.
    #[must_use]
    pub fn new() -> Self {
        Self::with(&[])
    }

    /// A host with more environment variables for the plugins.
    ///
    /// # Panics
    /// As [`Xapi::new`].
    #[must_use]
    pub fn with(environment: &[(&str, &str)]) -> Self {
        let root = Scratch::in_memory();
        let plugins = root.path().join("plugins");
        for side in [Side::Volume, Side::Datapath] {
            install(side, &programs::directory(), &plugins.join(side.directory()));
        }
        Self::on(root, &plugins, environment)
    }

    /// The same host with the plugins of another directory: of another version, which is installed
    /// while disks are in use. Both can be called.
    ///
    /// # Panics
    /// Where that directory has no plugins.
    #[must_use]
    pub fn with_programs(&self, directory: &Path) -> Self {
        let name = directory.to_string_lossy().replace('/', "-");
        let plugins = self.root.path().join(format!("plugins{name}"));
        for side in [Side::Volume, Side::Datapath] {
            install(side, directory, &plugins.join(side.directory()));
        }
        Self {
            root: Arc::clone(&self.root),
            volume_plugin: plugins.join(Side::Volume.directory()),
            datapath_plugin: plugins.join(Side::Datapath.directory()),
            environment: self.environment.clone(),
        }
    }

    /// A host whose plugins were installed elsewhere.
    ///
    /// # Panics
    /// Where its directories cannot be made.
    #[must_use]
    pub fn installed(plugins: &Path) -> Self {
        Self::on(Scratch::in_memory(), plugins, &[])
    }

    /// A host whose plugins are others than this product's: the directory of a volume plugin, and the one of
    /// a datapath plugin. What they start ends with the host if a variable of theirs names a place below `root`.
    #[must_use]
    pub fn foreign(
        root: Scratch,
        volume: &Path,
        datapath: &Path,
        environment: &[(&str, &str)],
    ) -> Self {
        let (volume_plugin, datapath_plugin) = (volume.to_owned(), datapath.to_owned());
        let environment = environment.iter().map(|&(name, value)| (name.into(), value.into()));
        let environment = environment.collect();
        Self { root: root.into(), volume_plugin, datapath_plugin, environment }
    }

    /// A host on which `make install` has installed programs of that directory.
    ///
    /// # Panics
    /// Where that fails.
    #[must_use]
    pub fn install(built: &Path) -> Self {
        let root = Scratch::in_memory();
        let destination = root.path().join("installed");
        let text = |path: &Path| path.to_str().expect("a path in UTF-8").to_owned();
        tools::run("sh", &[INSTALLER, "install", &text(built), &text(&destination)]);
        Self::on(root, &destination.join("usr/libexec/xapi-storage-script"), &[])
    }

    fn on(root: Scratch, plugins: &Path, environment: &[(&str, &str)]) -> Self {
        let own = |name: &str| root.path().join(name).to_string_lossy().into_owned();
        let mut variables = vec![
            ("XAPI_RAM_SR_ROOT".to_owned(), own("sr")),
            ("XAPI_RAM_CONTROL_DIR".to_owned(), own("ctl")),
            ("XAPI_RAM_SYSLOG".to_owned(), own("log")),
        ];
        variables.extend(environment.iter().map(|&(name, value)| (name.into(), value.into())));
        for name in ["sr", "ctl"] {
            fs::DirBuilder::new()
                .mode(0o700)
                .create(root.path().join(name))
                .expect("a new directory");
        }
        Self {
            root: root.into(),
            volume_plugin: plugins.join(Side::Volume.directory()),
            datapath_plugin: plugins.join(Side::Datapath.directory()),
            environment: variables,
        }
    }

    /// Leaves the host as it is, with its running disks, until [`scratch::end`] is called for the
    /// directory that this returns.
    ///
    /// # Panics
    /// Where the directory cannot be written, or the host is used with other programs too.
    #[must_use]
    pub fn keep(self) -> PathBuf {
        let root = Arc::into_inner(self.root).expect("the only programs of this host");
        root.keep().expect("a directory of one's own")
    }

    /// Everything of this host lies here.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// Where control sockets lie.
    #[must_use]
    pub fn control_dir(&self) -> tapctl::ControlDir {
        tapctl::ControlDir::new(self.root.path().join("ctl"))
    }

    /// The directory of an SR.
    #[must_use]
    pub fn sr_dir(&self, sr: &str) -> PathBuf {
        self.root.path().join("sr").join(sr)
    }

    /// A command with this host's environment, without arguments.
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Where the method files of a side lie.
    #[must_use]
    pub fn plugin(&self, side: Side) -> &Path {
        match side {
            Side::Volume => &self.volume_plugin,
            Side::Datapath => &self.datapath_plugin,
        }
    }

    /// The command that executes one method.
    #[must_use]
    pub fn method(&self, side: Side, method: &str) -> Command {
        let mut command = self.command(&self.plugin(side).join(method));
        command.arg("--json").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Calls a method with bytes on its stdin.
    ///
    /// # Panics
    /// Where it cannot be executed.
    #[must_use]
    pub fn raw(&self, side: Side, method: &str, stdin: &[u8]) -> Output {
        let mut child = self
            .method(side, method)
            .spawn()
            .unwrap_or_else(|error| panic!("executing {method}: {error}"));
        let mut input = child.stdin.take().expect("piped");
        // xapi-storage-script fails a call whose method does not read all of its stdin.
        input.write_all(stdin).unwrap_or_else(|error| panic!("{method} reads its stdin: {error}"));
        drop(input);
        child.wait_with_output().expect("a child can be waited for")
    }

    /// Calls a method; `dbg` is added.
    ///
    /// # Errors
    /// The error that the method answers with exit status 1.
    ///
    /// # Panics
    /// Where the answer is none of those that the contract knows.
    pub fn call(&self, side: Side, method: &str, mut params: Value) -> Result<Value, Failure> {
        params["dbg"] = json!("OpaqueRef:0a1b|VDI.op");
        let output = self.raw(side, method, params.to_string().as_bytes());
        parse(method, &output)
    }

    /// Calls a method of the volume plugin.
    ///
    /// # Errors
    /// As [`Xapi::call`].
    pub fn volume(&self, method: &str, params: Value) -> Result<Value, Failure> {
        self.call(Side::Volume, method, params)
    }

    /// Calls a method of the datapath plugin.
    ///
    /// # Errors
    /// As [`Xapi::call`].
    pub fn datapath(&self, method: &str, params: Value) -> Result<Value, Failure> {
        self.call(Side::Datapath, method, params)
    }

    /// `xe sr-create`: Plugin.query, SR.create, SR.attach and SR.stat; the SR's handle.
    ///
    /// # Panics
    /// Where one of them fails.
    #[must_use]
    pub fn create_sr(&self, size: &str) -> String {
        let configuration = self.create_sr_only(size);
        self.attach_sr(&configuration)
    }

    /// SR.create: what attaches it.
    ///
    /// # Panics
    /// Where it fails.
    #[must_use]
    pub fn create_sr_only(&self, size: &str) -> Value {
        self.configure_sr(json!({ "size": size })).expect("SR.create")
    }

    /// SR.create with a device-config: what attaches it.
    ///
    /// # Errors
    /// The error that the plugin answers.
    ///
    /// # Panics
    /// Where Plugin.query fails.
    pub fn configure_sr(&self, configuration: Value) -> Result<Value, Failure> {
        let query = self.volume("Plugin.query", json!({})).expect("Plugin.query");
        assert_eq!(query["required_api_version"], "5.0");
        let params = json!({
            "uuid": Uuid::new_v4().to_string(),
            "configuration": configuration,
            "name": "scratch",
            "description": "made by a test",
        });
        self.volume("SR.create", params)
    }

    /// SR.attach and SR.stat: the SR's handle.
    ///
    /// # Panics
    /// Where one of them fails.
    #[must_use]
    pub fn attach_sr(&self, configuration: &Value) -> String {
        let sr =
            self.volume("SR.attach", json!({ "configuration": configuration })).expect("SR.attach");
        let stat = self.volume("SR.stat", json!({ "sr": sr })).expect("SR.stat");
        assert_eq!(stat["health"][0], "Healthy");
        sr.as_str().expect("a handle is a string").to_owned()
    }

    /// `xe vdi-create`: Volume.create and Volume.set; the key.
    ///
    /// # Panics
    /// Where one of them fails.
    #[must_use]
    pub fn create_vdi(&self, sr: &str, size: u64) -> String {
        let params = json!({
            "sr": sr, "name": "disk", "description": "", "size": size, "sharable": false,
        });
        let volume = self.volume("Volume.create", params).expect("Volume.create");
        let key = volume["key"].as_str().expect("a key is a string").to_owned();
        let set = json!({ "sr": sr, "key": key, "k": "vdi-type", "v": "user" });
        self.volume("Volume.set", set).expect("Volume.set");
        key
    }

    /// Volume.stat.
    ///
    /// # Errors
    /// The error that the plugin answers.
    pub fn stat(&self, sr: &str, key: &str) -> Result<Value, Failure> {
        self.volume("Volume.stat", json!({ "sr": sr, "key": key }))
    }

    /// Bytes that the data of the SR's volumes takes, by the files themselves.
    ///
    /// # Panics
    /// Where the SR is not there.
    #[must_use]
    pub fn data_in_use(&self, sr: &str) -> u64 {
        let layers = fs::read_dir(self.sr_dir(sr).join("data")).expect("an SR has data");
        // A layer that is removed meanwhile takes nothing.
        let blocks = |layer: fs::DirEntry| layer.metadata().map_or(0, |it| it.blocks());
        layers.map(|layer| blocks(layer.expect("an entry")) * 512).sum()
    }

    /// Bytes that are not free in the SR: data and metadata.
    ///
    /// # Panics
    /// Where SR.stat fails.
    #[must_use]
    pub fn used(&self, sr: &str) -> u64 {
        let stat = self.volume("SR.stat", json!({ "sr": sr })).expect("SR.stat");
        let field = |name: &str| stat[name].as_u64().expect("a size");
        field("total_space") - field("free_space")
    }

    /// The volume plugin as a person calls it, without arguments.
    ///
    /// # Panics
    /// Where it is not installed.
    #[must_use]
    pub fn volume_plugin(&self) -> Command {
        let program = self.plugin(Side::Volume).join("Volume.stat");
        let program = fs::canonicalize(program).expect("an installed link");
        self.command(&program)
    }
}

impl Default for Xapi {
    fn default() -> Self {
        Self::new()
    }
}

/// Makes the links to one plugin of `programs`: what `make install` does.
fn install(side: Side, programs: &Path, directory: &Path) {
    let program = programs.join(side.program());
    assert!(program.exists(), "{} is missing: run cargo build --bins", program.display());
    let methods = tools::run(&program.to_string_lossy(), &["methods"]);
    fs::create_dir_all(directory).expect("a new directory");
    for method in methods.lines() {
        symlink(&program, directory.join(method)).expect("a new link");
    }
}

/// Reads an answer as the caller does, and holds it against its schema.
fn parse(method: &str, output: &Output) -> Result<Value, Failure> {
    let text = String::from_utf8_lossy(&output.stdout);
    let value: Value = serde_json::from_str(&text).unwrap_or_else(|error| {
        panic!(
            "{method} answered no JSON ({error}): {text:?}, stderr {:?}, {}",
            String::from_utf8_lossy(&output.stderr),
            output.status
        )
    });
    if output.status.success() {
        schema::check(method, "response", &value);
        return Ok(value);
    }
    assert_eq!(output.status.code(), Some(1), "{method}: {}", output.status);
    schema::check("error", "", &value);
    let strings = |value: &Value| -> Vec<String> {
        let items = value.as_array().expect("checked");
        items.iter().map(|item| item.as_str().expect("checked").to_owned()).collect()
    };
    Err(Failure {
        code: value["code"].as_str().expect("checked").to_owned(),
        params: strings(&value["params"]),
    })
}
