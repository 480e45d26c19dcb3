//! `make install`: what lies where, as xapi-storage-script finds it.

use std::{fs, path::Path};

use end_to_end::{INSTALLER, programs, tools};

#[test]
fn the_installed_plugins_work_from_their_final_place_and_go_without_a_trace() {
    let root = scratch::Scratch::on_disk();
    let (built, dest) = (programs::directory(), root.path().join("dest dir"));
    for program in ["volume-plugin", "datapath-plugin", "tapdisk-ram", "tap-ctl-ram"] {
        let _built = programs::path(program);
    }
    let script = |act: &str| {
        tools::run("sh", &[INSTALLER, act, built.to_str().unwrap(), dest.to_str().unwrap()])
    };
    // Twice: an upgrade replaces what is there.
    for _ in 0..2 {
        let _quiet = script("install");
    }
    let libexec = dest.join("usr/libexec");
    let volume = libexec.join("xapi-storage-script/volume");
    assert_eq!(entries(&volume), ["org.xen.xapi.storage.ram"], "each entry becomes a plugin");
    assert_eq!(entries(&libexec), ["xapi-storage-ram", "xapi-storage-script"]);
    let methods = entries(&volume.join("org.xen.xapi.storage.ram"));
    for method in ["Plugin.query", "SR.create", "SR.attach", "Volume.create", "Volume.destroy"] {
        assert!(methods.iter().any(|it| it == method), "{method} is missing: {methods:?}");
    }
    assert!(!methods.iter().any(|it| it.starts_with("Data")), "the datapath lies elsewhere");
    let datapath = libexec.join("xapi-storage-script/datapath/ram");
    for method in entries(&datapath) {
        let target = fs::canonicalize(datapath.join(&method)).unwrap();
        assert_eq!(
            target,
            fs::canonicalize(libexec.join("xapi-storage-ram/datapath-plugin")).unwrap()
        );
    }
    let xapi = end_to_end::Xapi::installed(&libexec.join("xapi-storage-script"));
    let sr = xapi.create_sr("16MiB");
    let disk = xapi.plug(&sr, &xapi.create_vdi(&sr, 4096), "5");
    let program = disk.tapdisk().executable_path().unwrap();
    assert_eq!(program, fs::canonicalize(libexec.join("xapi-storage-ram/tapdisk-ram")).unwrap());
    disk.unplug();
    trace(&volume.join("org.xen.xapi.storage.ram/Plugin.query"));
    drop(xapi);
    let _quiet = script("uninstall");
    assert_eq!(entries(&volume), [""; 0]);
    assert!(!datapath.exists());
}

/// With tracing on, the daemon has Python run the method's file (`python3/packages/observer.py` of
/// xapi-project/xen-api). It sends what it has recorded of the call when Python exits, so Python has
/// to come that far, with the status of the method.
fn trace(method: &Path) {
    if !tools::present(&["python3"]) {
        return;
    }
    let script = "import atexit, runpy, sys; sys.argv = sys.argv[1:]; \
                  atexit.register(sys.stderr.write, 'spans'); \
                  runpy.run_path(sys.argv[0], run_name='__main__')";
    let run = |request: &[u8]| {
        let mut child = std::process::Command::new("/usr/bin/python3")
            .args(["-c", script])
            .arg(method)
            .arg("--json")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), request).unwrap();
        let output = child.wait_with_output().unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "spans");
        (output.status.code(), answer)
    };
    let (status, answer) = run(b"{\"dbg\":\"x\"}");
    assert_eq!((status, &answer["plugin"]), (Some(0), &"ram".into()));
    let (status, answer) = run(b"{}");
    assert_eq!((status, &answer["code"]), (Some(1), &"SR_BACKEND_FAILURE_143".into()));
}

fn entries(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
