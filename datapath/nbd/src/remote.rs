//! The address of a destination, as xapi writes it: `nbd+unix:///<export>?socket=<path>`.

use std::{
    error::Error,
    ffi::OsString,
    fmt,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

/// What a URI has before the name of the export.
const PREFIX: &str = "nbd+unix:///";
/// The longest path that can be connected to: `sun_path` less its NUL (unix(7)).
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// The longest name of an export (proto.md, Conventions).
const EXPORT_BYTES_MAX: usize = 4096;

/// A disk of an NBD server on a UNIX socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    socket: PathBuf,
    export: Vec<u8>,
}

/// Why a text is no such address: a sentence for an administrator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRemote(String);

impl fmt::Display for BadRemote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for BadRemote {}

impl Remote {
    /// Takes a URI apart.
    ///
    /// # Errors
    /// Where it is not of that form.
    pub fn parse(uri: &str) -> Result<Self, BadRemote> {
        let wrong = |why: &str| {
            BadRemote(format!(
                "the destination {uri:?} {why}: expected nbd+unix:///<export>?socket=<path>"
            ))
        };
        let rest = uri.strip_prefix(PREFIX).ok_or_else(|| wrong("is no NBD server on a socket"))?;
        let (export, query) = rest.split_once('?').ok_or_else(|| wrong("names no socket"))?;
        let decode = |text: &str| decode(text).ok_or_else(|| wrong("has a malformed % sequence"));
        let export = decode(export)?;
        let mut sockets = query.split('&').filter_map(|pair| pair.strip_prefix("socket="));
        let socket = decode(sockets.next().ok_or_else(|| wrong("names no socket"))?)?;
        if sockets.next().is_some() {
            return Err(wrong("names two sockets"));
        }
        let socket = PathBuf::from(OsString::from_vec(socket));
        if !socket.is_absolute() {
            return Err(wrong("names a socket by a path that does not begin with /"));
        }
        let path = socket.as_os_str().as_bytes();
        if path.len() > SOCKET_PATH_BYTES_MAX || path.contains(&0) {
            return Err(wrong("names a socket by a path that is too long or has a NUL in it"));
        }
        if export.len() > EXPORT_BYTES_MAX {
            return Err(wrong("has an export name of more than 4096 bytes"));
        }
        Ok(Self { socket, export })
    }

    /// The path of the socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The name of the export.
    #[must_use]
    pub fn export(&self) -> &[u8] {
        &self.export
    }
}

/// Replaces `%41` by `A`, and so on. `None`: a `%` without two hexadecimal digits.
fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let (digits, tail) = rest.split_first_chunk::<2>()?;
        let digit = |at: usize| char::from(digits[at]).to_digit(16);
        bytes.push(u8::try_from(digit(0)? * 16 + digit(1)?).ok()?);
        rest = tail;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What ocaml-uri makes of a name and a path: one slash before the name, slashes of the path as
    /// they are, other bytes that have a meaning escaped.
    #[test]
    fn xapis_uris_are_understood() {
        for (uri, export, socket) in [
            (
                "nbd+unix:///cf9f9c10?socket=/var/run/nbdproxy/export/MIR0a1b2c",
                &b"cf9f9c10"[..],
                "/var/run/nbdproxy/export/MIR0a1b2c",
            ),
            ("nbd+unix:///?socket=/s", b"", "/s"),
            ("nbd+unix:////a%20b%25?x=1&socket=%2Ftmp/a%3Fb", b"/a b%", "/tmp/a?b"),
        ] {
            let remote = Remote::parse(uri).unwrap();
            assert_eq!((remote.export(), remote.socket()), (export, Path::new(socket)), "{uri}");
        }
    }

    #[test]
    fn what_is_no_such_uri_is_refused_by_name() {
        let long = format!("nbd+unix:///e?socket=/{}", "x".repeat(107));
        for (uri, why) in [
            ("nbd://h/e", "no NBD server on a socket"),
            ("nbd+unix:///e", "names no socket"),
            ("nbd+unix:///e?sock=/s", "names no socket"),
            ("nbd+unix:///e?socket=s", "begin with /"),
            ("nbd+unix:///e?socket=/s%2", "malformed"),
            ("nbd+unix:///%zz?socket=/s", "malformed"),
            ("nbd+unix:///e?socket=/s%00", "NUL"),
            ("nbd+unix:///e?socket=/s&socket=/t", "two sockets"),
            (&long, "too long"),
        ] {
            let error = Remote::parse(uri).unwrap_err().to_string();
            assert!(error.contains(why) && error.contains(uri), "{error}");
        }
    }
}
