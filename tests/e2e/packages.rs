//! `make deb` and `make rpm`: a package is installed into an empty root with dpkg or rpm, used from
//! there, upgraded under a disk that is written to all the time, and removed.
//!
//! The packages are made here, of the programs beside this test; `make test-packages` names those that `make
//! deb rpm` has made, and their programs, and runs the demonstration from each.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    io::Write,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use end_to_end::{Disk, INSTALLER, Side, Xapi, programs, tools};
use scratch::Scratch;
use serde_json::json;

use crate::{MIB, load::Watch, maintenance::assert_sound};

/// The script that makes packages.
const PACKAGER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/package.sh");
/// What rpm 4.11 can do, by the names under which packages require it.
const RPM_4_11: [&str; 5] = [
    "BuiltinLuaScripts",
    "CompressedFileNames",
    "FileDigests",
    "PayloadFilesHavePrefix",
    "PayloadIsXz",
];
/// The directory of packages that are made already.
const PACKAGES: &str = "PACKAGES";
/// The directory of the programs that later packages are made of.
const PROGRAMS: &str = "PACKAGE_PROGRAMS";
const VOLUME: &str = "usr/libexec/xapi-storage-script/volume/org.xen.xapi.storage.ram";
const DATAPATH: &str = "usr/libexec/xapi-storage-script/datapath/ram";

/// Where programs that are installed keep their locks.
const LOCKS: &str = "run/xapi-storage-ram";
/// What disks were granted of the host's memory.
const GRANTED: &str = "run/sr-mount/.memory";

/// A package manager, and a root that it installs into.
struct Host {
    root: Scratch,
    kind: &'static str,
}

impl Host {
    /// A root with plugins that others have installed, and with ours as `make install` laid it out once.
    fn new(kind: &'static str) -> Self {
        let host = Self { root: Scratch::in_memory(), kind };
        for directory in ["info", "updates", "triggers"] {
            fs::create_dir_all(host.path("var/lib/dpkg").join(directory)).unwrap();
        }
        fs::write(host.path("var/lib/dpkg/status"), "").unwrap();
        for plugin in ["volume/org.xen.xapi.storage.other", "datapath/other"] {
            let other = host.path("usr/libexec/xapi-storage-script").join(plugin);
            fs::create_dir_all(&other).unwrap();
            fs::write(other.join("Plugin.query"), plugin).unwrap();
        }
        host
    }

    fn path(&self, below: &str) -> PathBuf {
        self.root.path().join(below)
    }

    fn manage(&self, dpkg: &[&str], rpm: &[&str]) -> String {
        let root = format!("--root={}", self.root.path().display());
        match self.kind {
            "deb" => {
                let all = [&[root.as_str(), "--force-script-chrootless"], dpkg].concat();
                tools::run("dpkg", &all)
            }
            _ => tools::run("rpm", &[&[root.as_str(), "--dbpath=/var/lib/rpm"], rpm].concat()),
        }
    }

    fn install(&self, package: &str) {
        // The root has no xapi-storage-script of rpm's.
        self.manage(&["--install", package], &["--upgrade", "--nodeps", package]);
    }

    fn remove(&self) {
        self.manage(&["--purge", "xapi-storage-ram"], &["--erase", "xapi-storage-ram"]);
    }

    /// Makes what the programs leave in the host's /run: the locks of these SRs, and more.
    fn use_run(&self, srs: &[&str]) {
        fs::create_dir_all(self.path(LOCKS)).unwrap();
        for name in [".faults", ".faults.old", ".promises"].iter().chain(srs) {
            fs::write(self.path(LOCKS).join(name), "").unwrap();
        }
        fs::create_dir_all(self.path(GRANTED).parent().unwrap()).unwrap();
        fs::write(self.path(GRANTED), "").unwrap();
    }

    /// Files and links with their contents, but for the records of the package manager.
    fn contents(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut found = BTreeMap::new();
        let mut directories = vec![self.root.path().to_owned()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).unwrap().flatten() {
                let (path, kind) = (entry.path(), entry.file_type().unwrap());
                let below = path.strip_prefix(self.root.path()).unwrap().to_owned();
                if below.starts_with("var") {
                    continue;
                } else if kind.is_dir() {
                    directories.push(path);
                } else if kind.is_symlink() {
                    let target = fs::read_link(&path).unwrap();
                    found.insert(below, target.into_os_string().into_encoded_bytes());
                } else {
                    found.insert(below, fs::read(&path).unwrap());
                }
            }
        }
        found
    }
}

/// Makes a package of the programs beside this test, or of those in the directory that the variable says.
fn package(kind: &str, version: &str, out: &Path) -> String {
    let built = std::env::var_os(PROGRAMS).map_or_else(programs::directory, PathBuf::from);
    let version = format!("VERSION={version}");
    let arguments = [PACKAGER, kind, built.to_str().unwrap(), out.to_str().unwrap()];
    let printed = tools::run("env", &[&[version.as_str(), "sh"], &arguments[..]].concat());
    printed.lines().last().unwrap().to_owned()
}

/// The package that `make` has made, where there is one, else one of the version before `version`.
fn made(kind: &str, out: &Path) -> String {
    let Some(directory) = std::env::var_os(PACKAGES) else { return package(kind, "0.0.9", out) };
    let entries = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|it| it == kind)).collect();
    assert_eq!(found.len(), 1, "packages of {kind} in {}", directory.display());
    found.remove(0).into_os_string().into_string().unwrap()
}

#[test]
fn a_deb_is_installed_used_upgraded_under_a_disk_and_removed_without_a_trace() {
    if tools::present(&["dpkg", "dpkg-deb"]) {
        live("deb");
    }
}

/// As root alone, since rpm changes its root directory.
#[test]
fn an_rpm_is_installed_used_upgraded_under_a_disk_and_removed_without_a_trace() {
    if tools::present(&["rpm", "rpmbuild"]) && rustix::process::getuid().is_root() {
        live("rpm");
    }
}

fn live(kind: &'static str) {
    let out = Scratch::in_memory();
    let (old, new) = (made(kind, out.path()), package(kind, "99.0.0", out.path()));
    let host = Host::new(kind);
    let others = host.contents();
    // Ours as `make install` laid it out once: a directory of links.
    fs::create_dir_all(host.path(VOLUME)).unwrap();
    symlink("../../../xapi-storage-ram/volume-plugin", host.path(VOLUME).join("Old")).unwrap();

    host.install(&old);
    assert_installed(&host);
    let plugins = host.path("usr/libexec/xapi-storage-script");
    if std::env::var_os(PACKAGES).is_some() {
        let demo = programs::path("demo");
        tools::run(demo.to_str().unwrap(), &["installed", plugins.to_str().unwrap()]);
    }
    let xapi = Xapi::installed(&plugins);
    let sr = xapi.create_sr("64MiB");
    let key = xapi.create_vdi(&sr, 8 * MIB);
    let disk = xapi.plug(&sr, &key, "5");
    let watch = Watch::default();
    let mut load = watch.during(&disk, || {
        upgrade_and_remove(&host, &xapi, &disk, [&sr, &key], &new, &watch);
        // An SR is in memory, and will be used again.
        assert_eq!(entries(&host, LOCKS), ["2"]);
        assert!(!host.path(GRANTED).exists());
        fs::remove_dir_all(host.path("run")).unwrap();
        assert!(host.contents() == others, "{:?}", host.contents().keys());
        // What was left can be used once the package is there again.
        host.install(&new);
    });
    load.check_all();
    assert_eq!(load.reconnects, 2, "its connection ended with the old program alone");
    let told = format!(
        "{kind}: {} writes, each read back, the slowest request took {:?}\n",
        watch.rounds(),
        load.longest
    );
    std::io::stderr().write_all(told.as_bytes()).unwrap();
    drop(load);
    disk.unplug();
    assert_sound(&xapi, &sr);
    host.use_run(&["1", "2"]);
    host.remove();
    assert!(host.contents() == others, "{:?}", host.contents().keys());
    assert!(!host.path(LOCKS).exists() && !host.path(GRANTED).exists());
}

/// The names in a directory of a host.
fn entries(host: &Host, below: &str) -> Vec<OsString> {
    let entries = fs::read_dir(host.path(below)).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

/// What lies where after an installation.
fn assert_installed(host: &Host) {
    assert_eq!(
        fs::read_link(host.path(DATAPATH)).unwrap(),
        Path::new("../../xapi-storage-ram/datapath")
    );
    assert!(
        !host.path(VOLUME).join("Old").exists() && host.path(VOLUME).join("SR.create").exists()
    );
    assert_eq!(entries(host, "usr/libexec"), ["xapi-storage-ram", "xapi-storage-script"]);
    let all = "usr/libexec/xapi-storage-script/volume";
    assert_eq!(entries(host, all), ["org.xen.xapi.storage.other", "org.xen.xapi.storage.ram"]);
    assert!(host.path("usr/share/man/man7/ram-sr.7.gz").exists());
    let of_zsh = if host.kind == "deb" { "vendor-completions" } else { "site-functions" };
    for completion in [
        "bash-completion/completions/volume-plugin",
        "fish/vendor_completions.d/volume-plugin.fish",
        &format!("zsh/{of_zsh}/_volume-plugin"),
    ] {
        assert!(host.path("usr/share").join(completion).exists(), "{completion}");
    }
}

/// Upgrades the package beside a load of the disk, has its tapdisk go on with the new program, and removes the
/// package. The load goes on after each step.
fn upgrade_and_remove(
    host: &Host,
    xapi: &Xapi,
    disk: &Disk<'_>,
    [sr, key]: [&str; 2],
    new: &str,
    watch: &Watch,
) {
    let (tapdisk, server) = (disk.tapdisk(), disk.server());
    let runs = |pid: u32| fs::read_link(format!("/proc/{pid}/exe")).unwrap();
    let installed =
        fs::canonicalize(host.path("usr/libexec/xapi-storage-ram/tapdisk-ram")).unwrap();
    assert_eq!(runs(server.pid), installed);
    // Behind what the load uses.
    let at = 4 * MIB;
    let mut client = disk.connect();
    client.write(at, &[1; 4096]).unwrap();
    let link = fs::symlink_metadata(host.path(DATAPATH)).unwrap();
    host.install(new);
    watch.progress();
    // The daemon would forget the plugin, and learn of it again, if its name came anew.
    let still = fs::symlink_metadata(host.path(DATAPATH)).unwrap();
    let inode = |it: &fs::Metadata| std::os::unix::fs::MetadataExt::ino(it);
    assert_eq!(inode(&link), inode(&still));
    client.write(at + 4096, &[2; 4096]).unwrap();
    let snapshot = xapi.volume("Volume.snapshot", json!({ "sr": sr, "key": key })).unwrap();
    client.write(at, &[3; 4096]).unwrap();
    assert_eq!((disk.tapdisk(), disk.server()), (tapdisk.clone(), server.clone()), "the same");
    let snapshot = snapshot["key"].as_str().unwrap();
    let snapshot = Disk::plug(xapi, sr, snapshot, "6", true).unwrap();
    let bytes = snapshot.connect().read(at, 8192).unwrap();
    assert!(bytes[..4096] == [1; 4096] && bytes[4096..] == [2; 4096]);
    snapshot.unplug();
    assert_sound(xapi, sr);

    let command = xapi.command(&host.path("usr/libexec/xapi-storage-ram/tap-ctl-ram"));
    let upgrade = ["upgrade", "-p", &tapdisk.pid.to_string()];
    assert_cmd::Command::from_std(command).args(upgrade).assert().success();
    watch.progress();
    assert_eq!(runs(disk.server().pid), installed, "the program of the new package");
    assert!(disk.tapdisk() == tapdisk && disk.server() != server);
    assert_sound(xapi, sr);

    let mut client = disk.connect();
    host.use_run(&["1", "2"]);
    fs::create_dir_all(host.path("run/sr-mount/2")).unwrap();
    host.remove();
    client.write(at + 8192, &[4; 4096]).unwrap();
    assert!(
        client.read(at, 4096).unwrap() == [3; 4096],
        "a disk that is plugged outlives the package"
    );
    watch.progress();
    assert!(!host.path("usr/libexec/xapi-storage-ram").exists());
}

#[test]
fn an_rpm_asks_for_nothing_that_rpm_of_the_host_cannot_do() {
    if !tools::present(&["rpm", "rpmbuild"]) {
        return;
    }
    let out = Scratch::in_memory();
    let made = package("rpm", "0.1.0", out.path());
    let asked = tools::run("rpm", &["--query", "--requires", "--package", &made]);
    for need in asked.lines() {
        let feature = need.strip_prefix("rpmlib(").and_then(|rest| rest.split(')').next());
        match feature {
            Some(feature) => assert!(RPM_4_11.contains(&feature), "{need}"),
            None => assert_eq!(need, "xapi-storage-script"),
        }
    }
    let format = "%{PAYLOADFORMAT} %{PAYLOADCOMPRESSOR} %{ARCH}";
    let payload = tools::run("rpm", &["--query", "--queryformat", format, "--package", &made]);
    assert_eq!(payload, "cpio gzip x86_64");
    // The same programs make the same package.
    let again = out.path().join("again");
    let twice = package("rpm", "0.1.0", &again);
    assert!(fs::read(&made).unwrap() == fs::read(twice).unwrap(), "{made} differs");
}

/// A file that is no XML makes the host's status report give up on those of all packages that follow.
#[test]
fn a_status_report_of_the_host_asks_this_package_for_its_state() {
    if !tools::present(&["python3"]) {
        return;
    }
    let root = Scratch::in_memory();
    let (built, dest) = (programs::directory(), root.path().join("dest"));
    let act =
        |act| tools::run("sh", &[INSTALLER, act, built.to_str().unwrap(), dest.to_str().unwrap()]);
    act("install");
    let bugtool = dest.join("etc/xensource/bugtool");
    // As xen-bugtool reads them: a capability, and beside it a directory of what to collect.
    let script = "import sys, os, xml.dom.minidom as m\n\
        top = m.parse(sys.argv[1] + '.xml').documentElement\n\
        assert top.tagName == 'capability' and top.getAttribute('pii') in ('no', 'maybe')\n\
        assert int(top.getAttribute('max_size')) > 0 and int(top.getAttribute('max_time')) > 0\n\
        for name in os.listdir(sys.argv[1]):\n\
        \x20   top = m.parse(os.path.join(sys.argv[1], name)).documentElement\n\
        \x20   assert top.tagName == 'collect'\n\
        \x20   for it in top.getElementsByTagName('command'):\n\
        \x20       assert it.getAttribute('label')\n\
        \x20       print(it.firstChild.data)";
    let ours = bugtool.join("xapi-storage-ram");
    let commands = tools::run("python3", &["-c", script, ours.to_str().unwrap()]);
    assert!(commands.lines().count() >= 3, "{commands}");
    let xapi = Xapi::installed(&dest.join("usr/libexec/xapi-storage-script"));
    let sr = xapi.create_sr("16MiB");
    let disk = xapi.plug(&sr, &xapi.create_vdi(&sr, MIB), "5");
    for command in commands.lines().filter(|it| it.contains("-plugin")) {
        let (program, arguments) = command.split_once(' ').unwrap();
        let program = dest.join(program.trim_start_matches('/'));
        let output = xapi.command(&program).args(arguments.split(' ')).output().unwrap();
        assert!(output.status.success(), "{command}");
        assert!(String::from_utf8(output.stdout).unwrap().contains(&sr), "{command}");
    }
    disk.unplug();
    let locks = dest.join(LOCKS);
    fs::create_dir_all(&locks).unwrap();
    fs::write(locks.join(".faults"), "").unwrap();
    act("uninstall");
    assert!(!locks.exists());
    assert_eq!(fs::read_dir(bugtool).unwrap().count(), 0);
}

/// With tracing on, the daemon has Python run a method's file (`python3/packages/observer.py` of
/// xapi-project/xen-api): what the method reads and answers has to be the same.
#[test]
fn every_installed_method_answers_the_same_when_python_runs_it() {
    if !tools::present(&["python3"]) {
        return;
    }
    let xapi = Xapi::install(&programs::directory());
    let sr = xapi.create_sr("16MiB");
    let key = xapi.create_vdi(&sr, MIB);
    let known = [
        ("sr", json!(sr)),
        ("key", json!(key)),
        ("key2", json!(key)),
        ("offset", json!(0)),
        ("length", json!(MIB)),
        ("operation", json!(["MirrorV1", format!("{sr}/{key}/0123456789abcdef")])),
    ];
    let mut methods = 0;
    for side in [Side::Volume, Side::Datapath] {
        let file = PathBuf::from(xapi.method(side, "Plugin.query").get_program());
        for entry in fs::read_dir(file.parent().unwrap()).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            // What reads alone gets parameters that it can use, the others too few.
            let reads = ["stat", "ls", "compare", "similar_content", "list_changed_blocks"];
            let is_read = reads.iter().any(|it| name.ends_with(&format!(".{it}")));
            let mut request = json!({ "dbg": "x" });
            let schema = (smapiv3::find(&name).unwrap().request_schema)();
            let wanted = |parameter: &str| schema["properties"].get(parameter).is_some();
            for (parameter, value) in known.iter().filter(|it| is_read && wanted(it.0)) {
                request[parameter] = value.clone();
            }
            let request = request.to_string();
            let direct = xapi.raw(side, &name, request.as_bytes());
            let traced = traced(&xapi, side, &name, request.as_bytes());
            assert_eq!(direct.status.success(), is_read || name.starts_with("Plugin."), "{name}");
            assert_eq!(direct.status, traced.status, "{name}");
            // The host's memory, which Plugin.diagnostics tells, differs from call to call.
            let text = |it: &[u8]| {
                let text = String::from_utf8_lossy(it).into_owned();
                let (before, rest) = text.split_once("memory: ").unwrap_or((&text, ""));
                before.to_owned() + rest.split_once("place: ").map_or(rest, |it| it.1)
            };
            assert_eq!(text(&direct.stdout), text(&traced.stdout), "{name}");
            assert_eq!(text(&direct.stderr), text(&traced.stderr), "{name}");
            methods += 1;
        }
    }
    assert!(methods > 30, "{methods}");
}

/// Runs a method's file as the observer does: Python runs it, with what follows as its arguments.
fn traced(xapi: &Xapi, side: Side, method: &str, stdin: &[u8]) -> Output {
    let file = xapi.method(side, method).get_program().to_owned();
    let script = "import runpy, sys; sys.argv = sys.argv[1:]; \
                  runpy.run_path(sys.argv[0], run_name='__main__')";
    let mut command = xapi.command(Path::new("/usr/bin/python3"));
    command.args(["-c", script]).arg(file).arg("--json");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), stdin).unwrap();
    child.wait_with_output().unwrap()
}
