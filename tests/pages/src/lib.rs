//! Man pages and completions that say what the code says. A page is a committed file, written by hand but
//! for parts that are made from the command line and the configuration; a completion is made as a
//! whole. Tests of the programs hold the files against what is made, and write them anew where
//! `UPDATE_PAGES` is set, so that building and installing need nothing of this.
//!
//! A made part stands between two comments, `.\" made: <name>` and `.\" end`.

mod command;
mod completion;
mod roff;

use std::{fs, path::Path};

use clap::Command;

pub use command::{commands, synopsis};
pub use roff::{definitions, text, variables};

/// With this variable in the environment files are written instead of compared.
const UPDATE: &str = "UPDATE_PAGES";

/// Checks, or with `UPDATE_PAGES` writes, the made part `name` of the page at `path`.
///
/// # Panics
/// Where the page has another text there, or no such part.
#[track_caller]
pub fn check_part(path: &Path, name: &str, made: &str) {
    let is_update = std::env::var_os(UPDATE).is_some();
    // Other tests, which may run at the same time, write other parts.
    let file = fs::File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    if is_update {
        file.lock().expect("a page can be locked");
    }
    let page = read(path);
    let begin = format!(".\\\" made: {name}\n");
    let (before, rest) = page
        .split_once(&begin)
        .unwrap_or_else(|| panic!("{} has no part {name:?}", path.display()));
    let (there, after) = rest.split_once(".\\\" end\n").expect("the end of a part");
    if is_update {
        let whole = format!("{before}{begin}{made}.\\\" end\n{after}");
        fs::write(path, whole).expect("a page can be written");
    } else {
        assert!(there == made, "{}: {name} {}", path.display(), difference(there, made));
    }
}

/// Checks, or with `UPDATE_PAGES` writes, the completions of a program: below `directory` one for each shell,
/// under the name by which the shell finds it.
///
/// # Panics
/// Where a file has another text.
#[track_caller]
pub fn check_completions(directory: &Path, program: &Command) {
    let name = program.get_name();
    check_file(&directory.join("bash").join(name), &completion::bash(program));
    check_file(&directory.join(format!("fish/{name}.fish")), &completion::fish(program));
    check_file(&directory.join(format!("zsh/_{name}")), &completion::zsh(program));
}

/// Checks, or with `UPDATE_PAGES` writes, a file that is made as a whole.
#[track_caller]
fn check_file(path: &Path, made: &str) {
    if std::env::var_os(UPDATE).is_some() {
        fs::create_dir_all(path.parent().expect("a file lies in a directory"))
            .expect("a directory");
        fs::write(path, made).expect("a file can be written");
    } else {
        let there = read(path);
        assert!(there == made, "{} {}", path.display(), difference(&there, made));
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn difference(there: &str, made: &str) -> String {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let (there, made) = (lines(there), lines(made));
    let same = there.iter().zip(&made).take_while(|(there, made)| there == made).count();
    let line = |lines: &[String]| lines.get(same).cloned().unwrap_or_default();
    format!(
        "is not what the code says ({UPDATE}=1 makes it so): {:?} should be {:?}",
        line(&there),
        line(&made)
    )
}
