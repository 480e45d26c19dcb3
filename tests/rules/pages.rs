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

/// What programs of other authors use, and ours do not.
const FOR_OTHERS: &str = "schemas/plugin/src/files.rs";

/// The text of every program, without tests and examples.
fn sources() -> String {
    let is_test = |path: &PathBuf| {
        let path = path.strip_prefix(root()).expect("below the root");
        path.components().any(|part| ["tests", "examples"].iter().any(|it| part.as_os_str() == *it))
            || path.to_string_lossy().ends_with("tests.rs")
            || path == FOR_OTHERS
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

/// Each shell takes the files where it looks for them, and completes with them.
#[test]
fn fish_and_zsh_complete_what_bash_does() {
    if !tools::present(&["fish", "zsh"]) {
        return;
    }
    for part in ["volume", "datapath"] {
        let completions = root().join(part).join("completions");
        for file in files(&completions.join("bash"), "") {
            let bash = fs::read_to_string(&file).expect("a completion");
            let name = file.file_name().and_then(|it| it.to_str()).expect("a program's name");
            let (_, first) =
                bash.split_once("COMP_CWORD == 1)); then\n        words='").expect("words");
            let mut wanted: Vec<_> =
                first.split('\'').next().unwrap_or_default().split(' ').collect();
            wanted.retain(|word| !word.starts_with('-'));

            let fish = completions.join(format!("fish/{name}.fish"));
            let script = format!("source {}; complete -C '{name} '", fish.display());
            let offered = tools::run("fish", &["--no-config", "-c", &script]);
            let offered: BTreeSet<_> =
                offered.lines().filter_map(|it| it.split('\t').next()).collect();
            let missing: Vec<_> = wanted.iter().filter(|it| !offered.contains(**it)).collect();
            assert!(missing.is_empty(), "fish, {name}: {missing:?}");

            // What zsh offers is seen in a terminal alone; here, that it parses the function and binds it.
            let directory = completions.join("zsh");
            let script = format!(
                "fpath=({} $fpath); autoload -U compinit; compinit -D -u; print $_comps[{name}]; \
                 autoload +X _{name}",
                directory.display()
            );
            let zsh = format!("zsh/_{name}");
            let offered = tools::run("zsh", &["-f", "-e", "-c", &script]);
            assert!(offered.starts_with(&format!("_{name}\n")), "{zsh}: {offered}");
            let text = fs::read_to_string(completions.join(&zsh)).expect("a completion");
            let is_offered = |word: &&&str| text.contains(&format!("\n'{word}:"));
            let missing: Vec<_> = wanted.iter().filter(|it| !is_offered(it)).collect();
            assert!(missing.is_empty() && wanted.len() > 2, "{zsh}: {missing:?}");
        }
    }
}
