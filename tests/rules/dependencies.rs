//! The dependencies of this repository: their licences, their versions, and the reason for each.
//!
//! Read from `cargo metadata` and, for what that does not tell, from the manifests themselves.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
    sync::OnceLock,
};

use serde_json::Value;

use crate::{files, root};

/// Licences of code that may be linked into programs under the MIT licence.
const LICENCES: [&str; 9] = [
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Zlib",
];
/// The programs that are installed.
const PROGRAMS: [&str; 3] = ["volume-plugin", "datapath-plugin", "tapdisk-ram"];
/// Packages with C or assembly in them, which they bring along and link statically: compression and hashing at the
/// speed of a disk.
const FOREIGN: [&str; 2] = ["blake3", "zstd-sys"];
/// Packages of which tests have two versions, since two of their dependencies do not agree.
const TWICE_IN_TESTS: [&str; 2] = ["getrandom", "syn"];
/// Where each dependency has its reason.
const TABLE: &str = "tests/DEVELOPING.md";

/// The packages of this workspace and all that they depend on, on this platform.
fn metadata() -> &'static Value {
    static METADATA: OnceLock<Value> = OnceLock::new();
    METADATA.get_or_init(|| {
        let host = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
        let output = Command::new(env!("CARGO"))
            .args(["metadata", "--format-version=1", "--locked", "--offline"])
            .args(["--filter-platform", "x86_64-unknown-linux-gnu", "--manifest-path", host])
            .output()
            .expect("cargo runs");
        let told = String::from_utf8_lossy(&output.stderr);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {told}"))
    })
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Packages of this workspace.
fn members() -> impl Iterator<Item = &'static Value> {
    list(&metadata()["packages"]).iter().filter(|package| package["source"].is_null())
}

/// Packages that the installed programs consist of, and those that build them.
fn of_programs() -> Vec<&'static Value> {
    of_programs_without(&[])
}

/// The same without some packages, and without what only those need.
fn of_programs_without(without: &[&str]) -> Vec<&'static Value> {
    let packages = list(&metadata()["packages"]);
    let nodes = list(&metadata()["resolve"]["nodes"]);
    let mut found = BTreeSet::new();
    let mut next: Vec<&str> = members()
        .filter(|it| PROGRAMS.contains(&text(&it["name"])))
        .map(|it| text(&it["id"]))
        .collect();
    assert_eq!(next.len(), PROGRAMS.len());
    let is_left_out = |id: &str| {
        let package = packages.iter().find(|package| package["id"] == id).expect("a package");
        without.contains(&text(&package["name"]))
    };
    while let Some(id) = next.pop() {
        if !is_left_out(id) && found.insert(id) {
            let node = nodes.iter().find(|node| node["id"] == id).expect("every package is a node");
            let is_built =
                |dep: &&Value| list(&dep["dep_kinds"]).iter().any(|kind| kind["kind"] != "dev");
            next.extend(list(&node["deps"]).iter().filter(is_built).map(|dep| text(&dep["pkg"])));
        }
    }
    packages.iter().filter(|package| found.contains(text(&package["id"]))).collect()
}

/// Which crates of this workspace use which others of it, tests left out.
pub(crate) fn crates() -> BTreeMap<String, BTreeSet<String>> {
    let is_test = |package: &&Value| text(&package["manifest_path"]).contains("/tests/");
    let uses = members().filter(|package| !is_test(package)).map(|package| {
        let inner = list(&package["dependencies"]).iter();
        // What is optional is for tests, too.
        let is_used = |it: &&Value| it["kind"].is_null() && it["optional"] == false;
        let inner = inner.filter(|it| it["source"].is_null()).filter(is_used);
        let inner = inner.map(|it| text(&it["name"]).to_owned()).collect();
        (text(&package["name"]).to_owned(), inner)
    });
    uses.collect()
}

/// Whether an SPDX expression lets us: any part of an OR, all parts of an AND.
fn is_allowed(expression: &str) -> bool {
    let expression = expression.trim();
    for operator in [" AND ", " OR "] {
        let parts = outside_parentheses(expression, operator);
        if parts.len() > 1 {
            return match operator {
                " AND " => parts.into_iter().all(is_allowed),
                _ => parts.into_iter().any(is_allowed),
            };
        }
    }
    match expression.strip_prefix('(').and_then(|it| it.strip_suffix(')')) {
        Some(inside) => is_allowed(inside),
        None => LICENCES.contains(&expression),
    }
}

fn outside_parentheses<'a>(expression: &'a str, operator: &str) -> Vec<&'a str> {
    let (mut depth, mut begin, mut parts) = (0, 0, Vec::new());
    for (at, letter) in expression.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ if depth == 0 && at >= begin && expression[at..].starts_with(operator) => {
                parts.push(&expression[begin..at]);
                begin = at + operator.len();
            }
            _ => {}
        }
    }
    parts.push(&expression[begin..]);
    parts
}

#[test]
fn licence_expressions_are_understood() {
    for allowed in ["MIT", "GPL-2.0 OR MIT", "(MIT OR Apache-2.0) AND Unicode-3.0"] {
        assert!(is_allowed(allowed), "{allowed}");
    }
    for refused in ["GPL-3.0", "MIT AND GPL-2.0", "(GPL-2.0 OR GPL-3.0) AND MIT", ""] {
        assert!(!is_allowed(refused), "{refused}");
    }
}

#[test]
fn every_licence_allows_what_is_done_here() {
    let refused = list(&metadata()["packages"]).iter().filter_map(|package| {
        // Some still write a slash for OR.
        let licence = text(&package["license"]).replace('/', " OR ");
        (!is_allowed(&licence)).then(|| format!("{} ({licence})", text(&package["name"])))
    });
    assert_eq!(refused.collect::<Vec<_>>(), [""; 0]);
}

#[test]
fn no_package_is_there_in_two_versions() {
    let twice = |packages: &[&'static Value]| {
        let mut count: BTreeMap<&str, usize> = BTreeMap::new();
        packages.iter().for_each(|package| *count.entry(text(&package["name"])).or_default() += 1);
        count.into_iter().filter(|(_, count)| *count > 1).map(|(name, _)| name).collect::<Vec<_>>()
    };
    assert_eq!(twice(&of_programs()), [""; 0], "in the programs");
    let all: Vec<&Value> = list(&metadata()["packages"]).iter().collect();
    assert_eq!(twice(&all), TWICE_IN_TESTS, "in tests");
}

/// The programs are linked statically, for hosts with other libraries: they bring no foreign code that
/// a C compiler makes or a linker finds.
#[test]
fn the_programs_consist_of_rust_alone_but_for_what_packs_and_hashes_saves() {
    for package in of_programs_without(&FOREIGN) {
        let name = text(&package["name"]);
        assert!(package["links"].is_null(), "{name} links {}", package["links"]);
        let builders = ["cc", "cmake", "pkg-config", "bindgen"];
        assert!(!builders.contains(&name), "{name} builds or finds foreign code");
    }
}

#[test]
fn every_dependency_is_used() {
    let mut unused = Vec::new();
    for package in members() {
        let manifest = Path::new(text(&package["manifest_path"]));
        let directory = manifest.parent().expect("a manifest lies in a directory");
        // A package may lie below another one.
        let inner = members().map(|it| Path::new(text(&it["manifest_path"])).parent().unwrap());
        let inner: Vec<&Path> =
            inner.filter(|it| *it != directory && it.starts_with(directory)).collect();
        let own = |file: &&std::path::PathBuf| !inner.iter().any(|it| file.starts_with(it));
        let sources: Vec<String> = files(directory, ".rs")
            .iter()
            .filter(own)
            .map(|file| fs::read_to_string(file).expect("a source file"))
            .collect();
        for dependency in list(&package["dependencies"]) {
            let name = text(&dependency["name"]);
            if name != text(&package["name"]) && !sources.iter().any(|it| mentions(it, name)) {
                unused.push(format!("{name} by {}", text(&package["name"])));
            }
        }
    }
    assert_eq!(unused, [""; 0], "declared and not used");
}

/// Whether a source has a path that begins with a crate.
fn mentions(source: &str, package: &str) -> bool {
    let name = package.replace('-', "_");
    source.match_indices(&name).any(|(at, _)| {
        let before = source[..at].chars().next_back();
        let after = &source[at + name.len()..];
        let is_begin = !before.is_some_and(|it| it.is_alphanumeric() || it == '_');
        is_begin && (after.starts_with("::") || after.starts_with(';') || after.starts_with(" as "))
    })
}

/// The names below `[workspace.dependencies]` that come from elsewhere.
fn declared() -> Vec<String> {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("the workspace's manifest");
    let (_, rest) = manifest.split_once("[workspace.dependencies]\n").expect("dependencies");
    let table = rest.split("\n[").next().unwrap_or_default();
    let lines = table.lines().filter(|line| !line.starts_with(['#', ' ', ']']));
    let foreign = lines.filter(|line| !line.contains("path ="));
    foreign.filter_map(|line| Some(line.split_once(" =")?.0.to_owned())).collect()
}

#[test]
fn every_dependency_has_its_reason_and_a_member_that_has_it() {
    let page = fs::read_to_string(root().join(TABLE)).expect("the developer's page");
    let (_, rest) = page.split_once("\n| dependency |").expect("a table of dependencies");
    let rows = rest.lines().skip(2).take_while(|line| line.starts_with('|'));
    let mut told: Vec<&str> = Vec::new();
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        assert!(cells.len() == 2 && cells.iter().all(|cell| !cell.is_empty()), "{row}");
        told.push(cells[0].trim_matches('`'));
    }
    let declared = declared();
    assert_eq!(
        told, declared,
        "{TABLE} has a row for each of [workspace.dependencies], in that order"
    );
    for name in &declared {
        let has =
            |package: &Value| list(&package["dependencies"]).iter().any(|it| it["name"] == **name);
        assert!(members().any(has), "no member depends on {name}");
    }
}

/// A member that asked for a feature of its own would have the dependency built anew for every
/// selection of packages with and without it.
#[test]
fn features_are_named_in_the_workspace_alone() {
    for manifest in files(&root(), "Cargo.toml") {
        let text = fs::read_to_string(&manifest).expect("a manifest");
        for line in text.lines().filter(|line| line.contains("workspace = true")) {
            let place = manifest.display();
            assert!(!line.contains("features"), "{place}: {line}: the root's Cargo.toml says it");
        }
    }
}
