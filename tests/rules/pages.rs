//! The man pages: what they list is what the programs have, and `man` shows them without a complaint.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use end_to_end::tools;

use crate::{files, root};

/// The page that tells administrators what to do about each error.
const ERRORS: &str = "volume/man/ram-sr.7";
/// Where the numbers of errors have their names.
const NUMBERS: &str = "schemas/src/error.rs";

fn pages() -> Vec<PathBuf> {
    let found: Vec<PathBuf> =
        [".7", ".8"].iter().flat_map(|section| files(&root(), section)).collect();
    assert!(found.len() >= 5, "{found:?}");
    found
}

/// The numbers of `SR_BACKEND_FAILURE_<n>` by their names in the code.
fn numbers() -> BTreeMap<String, String> {
    let text = fs::read_to_string(root().join(NUMBERS)).expect("the errors");
    let (_, rest) = text.split_once("pub enum Failure {").expect("the numbers");
    let variants = rest.split('}').next().unwrap_or_default().lines();
    let pairs = variants.filter_map(|line| line.trim().trim_end_matches(',').split_once(" = "));
    pairs.map(|(name, number)| (name.to_owned(), number.to_owned())).collect()
}

/// The text of every program, without tests.
fn sources() -> String {
    let is_test = |path: &PathBuf| {
        let path = path.strip_prefix(root()).expect("below the root");
        path.components().any(|part| part.as_os_str() == "tests")
            || path.to_string_lossy().ends_with("tests.rs")
    };
    let mut sources = String::new();
    for part in ["schemas", "volume", "datapath"] {
        for file in files(&root().join(part), ".rs").iter().filter(|file| !is_test(file)) {
            let text = fs::read_to_string(file).expect("a source file");
            sources.push_str(text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default());
        }
    }
    sources
}

#[test]
fn the_page_for_administrators_lists_every_error_that_the_programs_have() {
    let numbers = numbers();
    let text = sources();
    let used: BTreeSet<String> = text
        .split("Failure::")
        .skip(1)
        .map(|rest| rest.split(|it: char| !it.is_alphanumeric()).next().unwrap_or_default())
        .filter_map(|name| numbers.get(name))
        .map(|number| format!("SR_BACKEND_FAILURE_{number}"))
        .collect();
    assert!(used.len() > 10, "{used:?}");
    let page = fs::read_to_string(root().join(ERRORS)).expect("the page");
    let (_, errors) = page.split_once("\n.SH ERRORS\n").expect("errors");
    let errors = errors.split("\n.SH ").next().unwrap_or_default();
    let mut told = BTreeSet::new();
    for entry in errors.split("\n.TP\n").skip(1) {
        let (head, remedy) = entry.split_once('\n').expect("a code, then what to do");
        let code = head.trim_start_matches(".B ");
        assert!(remedy.len() > 40, "{code}: say what to do");
        if code.starts_with("SR_") {
            assert!(told.insert(code.to_owned()), "{code} twice");
        }
    }
    assert_eq!(told, used, "{ERRORS} has an entry for each error of the programs, and no other");
}

#[test]
fn man_shows_every_page_without_a_complaint() {
    // The width is that of a terminal, whatever the one of the test.
    let man = ["MANWIDTH=80", "man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z"];
    let mandoc = ["mandoc", "-T", "lint", "-W", "warning"];
    if !tools::present(&["man", "mandoc"]) {
        return;
    }
    for page in pages() {
        let page = page.to_str().expect("a path in UTF-8");
        let shown = tools::attempt("env", &[&man[..], &[page]].concat());
        let complaints = String::from_utf8_lossy(&shown.stderr);
        assert!(shown.status.success() && complaints.is_empty(), "{page}: {complaints}");
        let checked = tools::attempt("env", &[&mandoc[..], &[page]].concat());
        let complaints = String::from_utf8_lossy(&checked.stdout);
        assert!(checked.status.success() && complaints.is_empty(), "{page}: {complaints}");
    }
}
