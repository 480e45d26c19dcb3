//! The path by which clients reach a volume, whichever process serves it: a symlink
//! `<control dir>/nbd/<sr>/<key>` to that process' socket, and the URI that names it.
//!
//! The URI that xapi got at attach stays valid when the tapdisk is replaced, since a new link is
//! renamed into place. A vbd3 disk's hotplug script resolves it before tapback parses the name, so the
//! target is the absolute `<control dir>/nbd<pid>.<minor>`.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, symlink},
    },
    path::PathBuf,
};

use host::variables::CONTROL_DIR;
use smapiv3::{Error, Failure};
use store::VolumeUri;
use tapctl::{ControlDir, Minor};

use crate::errors;

/// The directory of the links, below the control directory.
const LINKS_DIR: &str = "nbd";

/// The longest path that a client can connect to: `sun_path` less its NUL (unix(7)).
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// How often a directory is made anew that another volume's last detach has just removed.
const ATTEMPTS_MAX: u32 = 10;

/// The link of one volume.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    control: ControlDir,
    directory: PathBuf,
    key: String,
}

impl Link {
    pub(crate) fn new(control: &ControlDir, uri: &VolumeUri) -> Self {
        Self {
            control: control.clone(),
            directory: control.path().join(LINKS_DIR).join(uri.sr.as_str()),
            key: uri.key.to_string(),
        }
    }

    /// Where it lies.
    pub(crate) fn path(&self) -> PathBuf {
        self.directory.join(&self.key)
    }

    /// How a client names the volume: `nbd:unix:<link>:exportname=<key>`, which xapi takes apart at
    /// its colons.
    pub(crate) fn uri(&self) -> Result<String, Error> {
        let path = self.path();
        let directory = self.control.path().display();
        let wrong = |why| {
            let message = format!(
                "the control directory {directory} {why}: name another one ({CONTROL_DIR})"
            );
            Error::new(Failure::InvalidArg, message)
        };
        let text = path.to_str().ok_or_else(|| wrong("is not UTF-8"))?;
        if text.contains(':') {
            return Err(wrong("contains ':', which ends a field of the NBD URI"));
        }
        if path.as_os_str().as_bytes().len() > SOCKET_PATH_BYTES_MAX {
            return Err(wrong("has too long a path for the sockets in it"));
        }
        Ok(format!("nbd:unix:{text}:exportname={}", self.key))
    }

    /// Makes it point to the socket of a tapdisk.
    pub(crate) fn point(&self, pid: u32, minor: Minor) -> Result<(), Error> {
        let target = self.control.nbd(pid, minor);
        if fs::read_link(self.path()).is_ok_and(|current| current == target) {
            return Ok(());
        }
        let mut attempts = 0;
        loop {
            attempts += 1;
            match self.replace(&target) {
                Err(error)
                    if error.kind() == io::ErrorKind::NotFound && attempts < ATTEMPTS_MAX => {}
                done => {
                    let doing = || format!("linking {}", self.path().display());
                    return done.map_err(|error| errors::io(doing(), error));
                }
            }
        }
    }

    fn replace(&self, target: &std::path::Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        // One call at a time works on a volume: a link of this name was left by a call that was killed.
        let temporary = self.directory.join(format!(".{}", self.key));
        match symlink(target, &temporary) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_file(&temporary)?;
                symlink(target, &temporary)?;
            }
            made => made?,
        }
        fs::rename(&temporary, self.path())
    }

    /// The tapdisk and the minor that it points to; `None` where it is not there.
    pub(crate) fn target(&self) -> Option<(u32, Minor)> {
        let target = fs::read_link(self.path()).ok()?;
        let (pid, minor) = target.file_name()?.to_str()?.strip_prefix("nbd")?.split_once('.')?;
        Some((pid.parse().ok()?, minor.parse().ok()?))
    }

    /// Removes it; the directory of an SR's last link goes too.
    pub(crate) fn remove(&self) -> Result<(), Error> {
        match fs::remove_file(self.path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(errors::io(format!("removing {}", self.path().display()), error));
            }
            _ => {}
        }
        let _others_are_left = fs::remove_dir(&self.directory);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn link(dir: &str) -> Link {
        Link::new(&ControlDir::new(dir), &"ram://sr/key".parse().unwrap())
    }

    #[test]
    fn the_uri_has_four_fields() {
        let uri = link("/run/blktap-control").uri().unwrap();
        assert_eq!(uri, "nbd:unix:/run/blktap-control/nbd/sr/key:exportname=key");
        assert_eq!(uri.split(':').count(), 4);
    }

    #[test]
    fn a_directory_that_would_break_the_uri_is_refused_by_name() {
        for (dir, why) in [("/run/a:b", "':'"), (&format!("/{}", "x".repeat(100)), "too long")] {
            let error = link(dir).uri().unwrap_err();
            let message = &error.params()[1];
            assert!(message.contains(dir) && message.contains(why), "{message}");
        }
    }

    #[test]
    fn it_moves_from_one_tapdisk_to_the_next_and_goes_without_a_trace() {
        let dir = tempfile::tempdir().unwrap();
        let link = link(dir.path().to_str().unwrap());
        assert_eq!(link.target(), None);
        for pid in [7, 8] {
            link.point(pid, 3).unwrap();
            assert_eq!(link.target(), Some((pid, 3)));
            assert_eq!(fs::read_link(link.path()).unwrap(), dir.path().join(format!("nbd{pid}.3")));
        }
        let mode = fs::metadata(&link.directory).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        // A link that a call left when it was killed between the two steps is no obstacle.
        symlink("/nowhere", link.directory.join(".key")).unwrap();
        link.point(9, 3).unwrap();
        link.remove().unwrap();
        link.remove().unwrap();
        assert!(!link.directory.exists());
    }
}
