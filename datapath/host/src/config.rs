//! The configuration of the product, read from the environment once, at the start of a program.
//!
//! Invariants: a value that cannot be used is reported with its variable, never replaced by the
//! default in silence; every path is absolute, so it means the same after a change of directory and
//! in another process.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use smapiv3_syslog::{Facility, Faults, Syslog};
use tapctl::ControlDir;

use crate::{
    environment::Environment,
    variables::{self, Variable},
};

/// Where xapi keeps all SR mounts.
const SR_ROOT_DEFAULT: &str = "/run/sr-mount";

/// Where the locks of SRs under the default root lie. Not below `/run/lock`, where on many systems every
/// user may create files.
const LOCK_DIR_DEFAULT: &str = "/run/xapi-storage-ram";

/// The directory of locks below any other root.
const LOCK_DIR_NAME: &str = ".lock";

/// The name of our tapdisk, which is installed beside the plugins.
const TAPDISK_NAME: &str = "tapdisk-ram";

/// Our tapdisk, where there is none beside the calling program.
const TAPDISK_INSTALLED: &str = "/usr/libexec/xapi-storage-ram/tapdisk-ram";

/// Where packages of blktap put their tapdisk (`mk/blktap.spec.in`, `control/tap-ctl-spawn.c`).
const BLKTAP_INSTALLED: [&str; 2] = ["/usr/libexec/tapdisk", "/usr/sbin/tapdisk"];

/// The name of blktap's tapdisk, looked for in `PATH`.
const BLKTAP_NAME: &str = "tapdisk";

/// How long the loop of a tapdisk polls before it sleeps. A wake-up across cores takes about half
/// of that.
const POLL_DEFAULT: Duration = Duration::from_micros(50);

/// How long an activation may be without a client before others need not wait for it: longer than
/// dom0's clients try to reconnect (`nbd-client -timeout 90 -persist`, `nbd_client_manager.py` of xapi).
const UNUSED_DEFAULT: Duration = Duration::from_secs(120);

/// The name of the datapath plugin, which is installed beside the volume plugin.
const DATAPATH_PLUGIN_NAME: &str = "datapath-plugin";

/// The datapath plugin, where there is none beside the calling program.
const DATAPATH_PLUGIN_INSTALLED: &str = "/usr/libexec/xapi-storage-ram/datapath-plugin";

/// The configuration of a program.
#[derive(Clone, Debug)]
pub struct Config {
    /// One directory per SR lies here.
    pub sr_root: PathBuf,
    /// One lock per SR lies here, outside of the SR's own memory.
    pub lock_dir: PathBuf,
    /// Whether an SR is a mount of its own, or a directory on an existing tmpfs.
    pub may_mount: bool,
    /// The tapdisks' sockets, minors and statistics.
    pub control: ControlDir,
    /// How long the loop of a tapdisk polls before it sleeps.
    pub poll: Duration,
    /// After how long without a client an activation is ended where it is in the way.
    pub unused: Duration,
    /// Guests that are no guests, instead of those of Xen.
    pub mock_xen: Option<PathBuf>,
    /// Whether the datapath plugin started this program, as the tapdisk of a volume.
    pub started_by_plugin: bool,
    /// Values that were replaced by a default because nothing depends on them but speed.
    pub warnings: Vec<String>,
    syslog: Option<PathBuf>,
    tapdisk: Option<PathBuf>,
    blktap: Option<PathBuf>,
    search_path: Vec<PathBuf>,
}

/// Values of environment variables that cannot be used: all of them, each with its variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misconfigured(Vec<String>);

impl fmt::Display for Misconfigured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the environment is not valid: {}", self.0.join("; "))
    }
}

impl std::error::Error for Misconfigured {}

impl Config {
    /// Reads all variables.
    ///
    /// # Errors
    /// Every value that cannot be used, with its variable.
    pub fn read(environment: &Environment) -> Result<Self, Misconfigured> {
        let mut reader = Reader { environment, problems: Vec::new() };
        let named_root = reader.path(variables::SR_ROOT);
        let lock_dir = lock_dir(named_root.as_deref());
        let (poll, warnings) = reader.poll();
        let config = Self {
            sr_root: named_root.unwrap_or_else(|| SR_ROOT_DEFAULT.into()),
            lock_dir,
            may_mount: reader.may_mount() && rustix::process::geteuid().is_root(),
            control: reader.control(),
            poll,
            unused: reader.unused(),
            mock_xen: reader.path(variables::MOCK_XEN),
            started_by_plugin: reader.text(variables::STARTED_FOR).is_some(),
            warnings,
            syslog: reader.path(variables::SYSLOG),
            tapdisk: reader.path(variables::TAPDISK),
            blktap: reader.path(variables::BLKTAP),
            search_path: search_path(environment),
        };
        if reader.problems.is_empty() { Ok(config) } else { Err(Misconfigured(reader.problems)) }
    }

    /// The program that serves disks.
    #[must_use]
    pub fn tapdisk(&self) -> PathBuf {
        self.tapdisk.clone().unwrap_or_else(|| beside(TAPDISK_NAME, TAPDISK_INSTALLED))
    }

    /// The last warnings and errors of all programs.
    #[must_use]
    pub fn faults(&self) -> Faults {
        Faults::of(&self.lock_dir)
    }

    /// The datapath plugin.
    #[must_use]
    pub fn datapath_plugin(&self) -> PathBuf {
        beside(DATAPATH_PLUGIN_NAME, DATAPATH_PLUGIN_INSTALLED)
    }

    /// The host's own tapdisk.
    ///
    /// # Errors
    /// A sentence with the places that were searched and the remedy.
    pub fn blktap(&self) -> Result<PathBuf, String> {
        let variable = variables::BLKTAP;
        let otherwise = "use an SR with device-config:tapdisk=ram";
        match &self.blktap {
            Some(named) if named.is_file() => Ok(named.clone()),
            Some(named) => Err(format!(
                "{variable} names {} as the host's own tapdisk, which is no program: name another \
                 one, or {otherwise}",
                named.display()
            )),
            None => {
                let installed = BLKTAP_INSTALLED.into_iter().map(PathBuf::from);
                let in_path = self.search_path.iter().map(|it| it.join(BLKTAP_NAME));
                installed.chain(in_path).find(|program| program.is_file()).ok_or_else(|| {
                    format!(
                        "device-config:tapdisk=blktap needs the host's own tapdisk, and there is \
                         neither {} nor a {BLKTAP_NAME} in PATH: install blktap, name the program \
                         ({variable}), or {otherwise}",
                        BLKTAP_INSTALLED.join(" nor ")
                    )
                })
            }
        }
    }

    /// The variables whose paths depend on the directory in which this program was started, for the same
    /// program started in another one.
    #[must_use]
    pub fn for_another_directory(&self) -> Vec<(&'static str, &Path)> {
        let optional = [(variables::MOCK_XEN, &self.mock_xen), (variables::SYSLOG, &self.syslog)];
        let set = optional.into_iter().filter_map(|(it, path)| Some((it.name, path.as_deref()?)));
        self.for_tapdisk().into_iter().chain(set).collect()
    }

    /// The variables by which a tapdisk that is started agrees with this program on its directories.
    #[must_use]
    pub fn for_tapdisk(&self) -> [(&'static str, &Path); 2] {
        [
            (variables::CONTROL_DIR.name, self.control.path()),
            (variables::SHM_DIR.name, self.control.metrics().path()),
        ]
    }
}

/// The log of a program: syslog, facility local2, which XenServer and XCP-ng collect as SMlog. Warnings and
/// errors are kept in a small file, too, of which Plugin.diagnostics tells the last ones. Where
/// the variable cannot be used, which [`Config::read`] reports, messages go to the default socket.
#[must_use]
pub fn syslog(environment: &Environment, program: &str) -> Syslog {
    let mut reader = Reader { environment, problems: Vec::new() };
    let socket = reader.path(variables::SYSLOG);
    let socket = socket.unwrap_or_else(|| smapiv3_syslog::SOCKET_DEFAULT.into());
    let faults = Faults::of(&lock_dir(reader.path(variables::SR_ROOT).as_deref()));
    Syslog::connect(&socket, Facility::Local2, program).keeping(faults)
}

/// Where the locks of SRs lie, and the last faults of all programs.
fn lock_dir(named_root: Option<&Path>) -> PathBuf {
    named_root.map_or_else(|| LOCK_DIR_DEFAULT.into(), |root| root.join(LOCK_DIR_NAME))
}

/// The program of that name beside the calling program, where there is one.
fn beside(name: &str, installed: &str) -> PathBuf {
    let beside = std::env::current_exe().ok().map(|caller| caller.with_file_name(name));
    beside.filter(|program| program.exists()).unwrap_or_else(|| installed.into())
}

/// The directories of `PATH`; only the host's own programs are looked for in them.
fn search_path(environment: &Environment) -> Vec<PathBuf> {
    let path = environment.get("PATH").unwrap_or_default();
    std::env::split_paths(&path).collect()
}

/// Reads values, and collects their faults.
struct Reader<'a> {
    environment: &'a Environment,
    problems: Vec<String>,
}

impl Reader<'_> {
    /// A value as text. Paths have to be text too: they go into JSON, URIs and messages.
    fn text(&mut self, variable: Variable) -> Option<String> {
        match self.environment.get(variable.name)?.into_string() {
            Ok(text) => Some(text),
            Err(raw) => {
                self.problems.push(format!("{variable}={raw:?} is not valid UTF-8"));
                None
            }
        }
    }

    /// A path, from the current directory on.
    fn path(&mut self, variable: Variable) -> Option<PathBuf> {
        let text = self.text(variable)?;
        match std::path::absolute(&text) {
            Ok(path) => Some(path),
            Err(error) => {
                self.problems.push(format!(
                    "{variable}={text:?} is relative, and the current directory is unknown ({error})"
                ));
                None
            }
        }
    }

    fn may_mount(&mut self) -> bool {
        match self.text(variables::MOUNT) {
            None => true,
            Some(value) if value == "never" => false,
            Some(value) => {
                let variable = variables::MOUNT;
                self.problems.push(format!(
                    "{variable}={value:?} is not known: the only value is \"never\""
                ));
                true
            }
        }
    }

    fn control(&mut self) -> ControlDir {
        let named = self.path(variables::CONTROL_DIR);
        let control = named.map_or_else(ControlDir::default, ControlDir::new);
        match self.path(variables::SHM_DIR) {
            Some(metrics) => control.with_metrics(metrics),
            None => control,
        }
    }

    fn unused(&mut self) -> Duration {
        let Some(value) = self.text(variables::UNUSED_S) else { return UNUSED_DEFAULT };
        value.trim().parse().map(Duration::from_secs).unwrap_or_else(|_| {
            let variable = variables::UNUSED_S;
            self.problems.push(format!("{variable}={value:?} is no number of seconds"));
            UNUSED_DEFAULT
        })
    }

    /// For how long to poll, and a warning where the value is not valid. A wrong value costs speed and
    /// nothing else, so disks are served all the same.
    fn poll(&mut self) -> (Duration, Vec<String>) {
        let variable = variables::POLL_US;
        let Some(value) = self.environment.get(variable.name) else {
            return (POLL_DEFAULT, Vec::new());
        };
        let number = value.to_str().and_then(|text| text.trim().parse().ok());
        match number.map(Duration::from_micros) {
            Some(poll) => (poll, Vec::new()),
            None => {
                let (is, instead) = ("is no number of microseconds", POLL_DEFAULT.as_micros());
                (POLL_DEFAULT, vec![format!("{variable}={value:?} {is}; {instead} is used")])
            }
        }
    }
}
