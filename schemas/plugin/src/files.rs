//! For plugins that keep their state in files and serve disks by programs of others: what each of them needs,
//! and what is easily got wrong.

use std::{
    fs::{self, File},
    io,
    path::Path,
    process::{Command, Stdio},
};

use serde::{Serialize, de::DeserializeOwned};
use smapiv3::{Error, Failure};

/// Closes what it inherited but the three streams, and becomes the program. (bash knows descriptors of more
/// than one digit.)
const DETACHED: &str = r#"for fd in /proc/$$/fd/*; do fd=${fd##*/}; [ $fd -lt 3 ] || eval "exec $fd>&-"; done; exec "$@""#;

/// The result of an operation on a file as one of a method.
///
/// # Errors
/// `SR_BACKEND_FAILURE_200` (EIO) with the path and the cause.
pub fn of_file<T>(path: &Path, result: io::Result<T>) -> Result<T, Error> {
    result.map_err(|error| Error::new(Failure::Eio, path.display().to_string()).caused_by(error))
}

/// A key that may become the name of a file: it leads out of no directory.
///
/// # Errors
/// Unless it consists of letters, digits, `-` and `_`, as a UUID does.
///
/// ```
/// use smapiv3_plugin::files::file_name;
///
/// assert!(file_name("6c3bba4a-29a4-41d6-a7a0-3e2d4c1b8a41").is_ok());
/// assert!(file_name("../../etc/passwd").is_err());
/// ```
pub fn file_name(key: &str) -> Result<&str, Error> {
    let is_plain = |it: u8| it.is_ascii_alphanumeric() || b"-_".contains(&it);
    if !key.is_empty() && key.bytes().all(is_plain) {
        return Ok(key);
    }
    let text = format!("{key:?} is not the name of an SR or a disk, which is a UUID");
    Err(Error::new(Failure::InvalidArg, text))
}

/// Waits for the lock of a directory, and has it as long as the file is kept. Calls come at the same time, also
/// for one disk: what changes something has to hold it until it is done.
///
/// # Errors
/// As [`of_file`]; the file `.lock` in the directory is made.
pub fn lock(directory: &Path) -> Result<File, Error> {
    let path = directory.join(".lock");
    of_file(&path, File::create(&path).and_then(|file| file.lock().map(|()| file)))
}

/// Reads a record, which is a file of JSON.
///
/// # Errors
/// As [`of_file`]; also where it is no record of this type.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    of_file(path, fs::read(path).and_then(|text| Ok(serde_json::from_slice(&text)?)))
}

/// Writes a record. Readers find the old one or the new one and nothing in between, also where the process is
/// killed.
///
/// # Errors
/// As [`of_file`].
pub fn write(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let new = path.with_extension("new");
    let text = of_file(path, serde_json::to_vec_pretty(value).map_err(Into::into))?;
    of_file(path, fs::write(&new, text).and_then(|()| fs::rename(&new, path)))
}

/// Runs a program that leaves a server behind and ends when that listens, as `qemu-nbd --fork` does. The server
/// has nothing of the call: xapi reads stdout and stderr to their ends, and a server that held one of them would
/// hang it, and whatever else was inherited might be a lock. What it prints goes into `log`.
///
/// # Errors
/// `SR_BACKEND_FAILURE_46` (the VDI is not available) with what the program has printed.
pub fn start_server(command: &Command, log: &Path) -> Result<(), Error> {
    let printed = of_file(log, File::create(log))?;
    let mut detached = Command::new("bash");
    detached.args(["-c", DETACHED, "bash"]).arg(command.get_program()).args(command.get_args());
    detached.stdin(Stdio::null()).stdout(of_file(log, printed.try_clone())?).stderr(printed);
    if of_file(Path::new("bash"), detached.status())?.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned();
    let program = command.get_program().display();
    Err(Error::new(Failure::VdiUnavailable, format!("{program} did not start: {text}")))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs::TryLockError};

    use rustix::io::{FdFlags, fcntl_setfd};

    use super::*;

    #[test]
    fn a_record_is_replaced_as_a_whole_and_an_error_names_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk.json");
        let record = |value: &str| BTreeMap::from([("name".to_owned(), value.to_owned())]);
        write(&path, &record("old")).unwrap();
        let old = File::open(&path).unwrap();
        write(&path, &record("new")).unwrap();
        assert_eq!(read::<BTreeMap<String, String>>(&path).unwrap(), record("new"));
        assert!(io::read_to_string(old).unwrap().contains("old"), "it was written in place");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);

        fs::write(&path, "{").unwrap();
        let error = read::<BTreeMap<String, String>>(&path).unwrap_err();
        assert_eq!(error.code(), "SR_BACKEND_FAILURE_200");
        assert!(error.params()[1].contains("disk.json"), "{error:?}");
    }

    #[test]
    fn a_name_leads_out_of_no_directory() {
        for name in ["", ".", "..", "a/b", "/a", "a\0b", "a.json", "ä"] {
            assert!(file_name(name).is_err(), "{name:?}");
        }
        assert_eq!(file_name("a-B_9").unwrap(), "a-B_9");
    }

    #[test]
    fn a_lock_is_held_until_its_file_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let held = lock(directory.path()).unwrap();
        let other = File::open(directory.path().join(".lock")).unwrap();
        assert!(matches!(other.try_lock(), Err(TryLockError::WouldBlock)));
        drop(held);
        other.try_lock().unwrap();
    }

    #[test]
    fn a_server_inherits_nothing_and_what_it_printed_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let (_reader, writer) = io::pipe().unwrap();
        // A descriptor that a child inherits, as a careless caller leaves one.
        fcntl_setfd(&writer, FdFlags::empty()).unwrap();
        let mut server = Command::new("sh");
        server.args(["-c", "sleep 60 & echo $!"]);
        start_server(&server, &log).unwrap();
        let pid = fs::read_to_string(&log).unwrap();
        let held = fs::read_dir(format!("/proc/{}/fd", pid.trim())).unwrap().count();
        assert!(Command::new("kill").arg(pid.trim()).status().unwrap().success());
        assert_eq!(held, 3, "stdin, stdout and stderr");

        let mut broken = Command::new("sh");
        broken.args(["-c", "echo no such disk >&2; exit 1"]);
        let error = start_server(&broken, &log).unwrap_err();
        assert!(error.params()[1].contains("sh did not start: no such disk"), "{error:?}");
    }
}
