//! The configuration that an environment makes, and the errors for values that cannot be used.

use std::{
    ffi::OsString,
    os::unix::{ffi::OsStringExt, fs::PermissionsExt},
    path::Path,
    time::Duration,
};

use host::{Config, Environment, variables};

fn read(variables: &[(&str, &str)]) -> Config {
    Config::read(&Environment::fixed(variables.iter().copied())).unwrap()
}

fn refused(environment: &Environment) -> String {
    Config::read(environment).unwrap_err().to_string()
}

#[test]
fn without_variables_everything_has_its_default() {
    let config = read(&[("XAPI_RAM_SR_ROOT", "")]);
    assert_eq!(config.sr_root, Path::new("/run/sr-mount"));
    assert_eq!(config.lock_dir, Path::new("/run/xapi-storage-ram"));
    assert_eq!(config.control.path(), Path::new("/run/blktap-control"));
    assert_eq!(config.control.metrics().path(), Path::new("/dev/shm"));
    assert_eq!(config.poll, Duration::from_micros(50));
    assert_eq!(config.warnings, [""; 0]);
    assert!(config.tapdisk().is_absolute());
}

#[test]
fn a_private_root_has_private_locks_and_a_private_control_directory_private_statistics() {
    let config = read(&[("XAPI_RAM_SR_ROOT", "/x"), ("XAPI_RAM_CONTROL_DIR", "/c")]);
    assert_eq!(
        (config.sr_root.as_path(), config.lock_dir.as_path()),
        ("/x".as_ref(), "/x/.lock".as_ref())
    );
    assert_eq!(config.control.metrics().path(), Path::new("/c/shm"));
    let config = read(&[("XAPI_RAM_CONTROL_DIR", "/c"), ("XAPI_RAM_SHM_DIR", "/s")]);
    assert_eq!(config.control.metrics().path(), Path::new("/s"));
}

/// A tapdisk changes to / when it becomes a daemon: a relative path has to mean the same to it as to
/// the plugin that names the directory again.
#[test]
fn relative_paths_are_made_absolute_and_a_tapdisk_gets_them_so() {
    let here = std::env::current_dir().unwrap();
    let config = read(&[
        ("XAPI_RAM_SR_ROOT", "sr"),
        ("XAPI_RAM_CONTROL_DIR", "c"),
        ("XAPI_RAM_SHM_DIR", "s"),
        ("XAPI_RAM_TAPDISK", "bin/t"),
    ]);
    assert_eq!(config.sr_root, here.join("sr"));
    assert_eq!(config.lock_dir, here.join("sr/.lock"));
    assert_eq!(config.tapdisk(), here.join("bin/t"));
    let handed_on = config.for_tapdisk().map(|(name, path)| (name.to_owned(), path.to_owned()));
    let again = Config::read(&Environment::fixed(handed_on)).unwrap();
    assert_eq!(again.control, config.control);
    assert_eq!(again.control.path(), here.join("c"));
    assert_eq!(again.control.metrics().path(), here.join("s"));
}

#[test]
fn every_value_that_cannot_be_used_is_named_at_once_with_its_variable() {
    let bad = || OsString::from_vec(b"/dev/shm/\xff".to_vec());
    for variable in variables::ALL {
        if variable == variables::POLL_US {
            continue;
        }
        let message = refused(&Environment::fixed([(variable.name, bad())]));
        assert!(message.contains(variable.name) && message.contains(r"/dev/shm/\xFF"), "{message}");
    }
    let message = refused(&Environment::fixed([
        ("XAPI_RAM_MOUNT", OsString::from("nver")),
        ("XAPI_RAM_SR_ROOT", bad()),
    ]));
    for part in ["XAPI_RAM_MOUNT=\"nver\"", "\"never\"", "XAPI_RAM_SR_ROOT="] {
        assert!(message.contains(part), "{part} in {message}");
    }
}

/// A value that only costs speed does not keep a disk from being served.
#[test]
fn a_polling_time_that_is_no_number_is_a_warning() {
    let config = read(&[("XAPI_RAM_POLL_US", " 0 ")]);
    assert_eq!((config.poll, config.warnings.len()), (Duration::ZERO, 0));
    let config = read(&[("XAPI_RAM_POLL_US", "all the time")]);
    assert_eq!(config.poll, Duration::from_micros(50));
    let [warning] = config.warnings.as_slice() else { panic!("{:?}", config.warnings) };
    assert!(warning.contains("XAPI_RAM_POLL_US=\"all the time\""), "{warning}");
}

#[test]
fn the_hosts_own_tapdisk_is_the_one_that_is_named_or_one_in_path() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let missing = read(&[("XAPI_RAM_BLKTAP", path)]).blktap().unwrap_err();
    assert!(missing.contains("XAPI_RAM_BLKTAP") && missing.contains(path), "{missing}");
    let program = dir.path().join("tapdisk");
    let installed = ["/usr/libexec/tapdisk", "/usr/sbin/tapdisk"].map(Path::new);
    if !installed.iter().any(|it| it.is_file()) {
        let none = read(&[("PATH", path)]).blktap().unwrap_err();
        assert!(none.contains("PATH") && none.contains("XAPI_RAM_BLKTAP"), "{none}");
        std::fs::write(&program, "").unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        assert_eq!(read(&[("PATH", path)]).blktap().unwrap(), program);
    }
}
