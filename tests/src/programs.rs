//! Where the programs of this workspace are: beside the one that asks.

use std::path::PathBuf;

/// The directory that cargo builds programs into.
///
/// # Panics
/// Where this program's own path is unknown.
#[must_use]
pub fn directory() -> PathBuf {
    let own = std::env::current_exe().expect("the path of this program");
    let directory = own.parent().expect("a program lies in a directory");
    // Tests lie one deeper.
    if directory.ends_with("deps") {
        directory.parent().expect("deps lies in a directory").to_owned()
    } else {
        directory.to_owned()
    }
}

/// A program of this workspace.
///
/// # Panics
/// Where it has not been built.
#[must_use]
pub fn path(name: &str) -> PathBuf {
    let path = directory().join(name);
    assert!(path.exists(), "{} is missing: run cargo build --workspace", path.display());
    path
}
