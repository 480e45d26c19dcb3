//! The documents describe the tree as it is: links lead somewhere, paths exist, the picture of the
//! crates is what cargo knows.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use crate::{dependencies, files, root};

const DEVELOPERS: &str = "tests/DEVELOPING.md";

#[test]
fn links_lead_somewhere() {
    let mut broken = Vec::new();
    for document in files(&root(), ".md") {
        let text = fs::read_to_string(&document).expect("a document");
        for part in text.split("](").skip(1) {
            let target = part.split([')', '#']).next().unwrap_or_default();
            let is_foreign = target.contains("://") || target.is_empty();
            if !is_foreign && !document.with_file_name("").join(target).exists() {
                broken.push(format!("{}: {target}", document.display()));
            }
        }
    }
    assert_eq!(broken, [""; 0]);
}

/// Paths in backticks on the page for developers begin at the root.
#[test]
fn the_developers_page_names_files_that_exist() {
    let text = fs::read_to_string(root().join(DEVELOPERS)).expect("the page");
    let outside_blocks: String = text.split("```").step_by(2).collect();
    let spans = outside_blocks.split('`').skip(1).step_by(2);
    let missing: Vec<&str> = spans
        // The part before a placeholder still has to exist.
        .map(|span| span.split('<').next().unwrap_or_default())
        .filter(|span| span.contains('/') && !span.contains([' ', ':', '=']))
        .filter(|span| !span.starts_with('/') && !root().join(span).exists())
        .collect();
    assert_eq!(missing, [""; 0]);
}

#[test]
fn the_picture_of_the_crates_is_true() {
    let uses = dependencies::crates();
    let mut edges = BTreeSet::new();
    for (user, used) in &uses {
        for name in used {
            let longer = used.iter().any(|other| other != name && reaches(&uses, other, name));
            if !longer {
                edges.insert(format!("    {user} --> {name}"));
            }
        }
    }
    let picture = edges.into_iter().collect::<Vec<_>>().join("\n");
    let picture = format!("```mermaid\ngraph TD\n{picture}\n```");
    let path = root().join(DEVELOPERS);
    let page = fs::read_to_string(&path).expect("the page");
    if std::env::var_os("UPDATE_PICTURE").is_some() {
        let (before, rest) = page.split_once("```mermaid").expect("a picture");
        let (_, after) = rest.split_once("\n```").expect("its end");
        fs::write(&path, format!("{before}{picture}{after}")).expect("the page");
        return;
    }
    assert!(
        page.contains(&picture),
        "{DEVELOPERS} should have this picture (UPDATE_PICTURE=1 puts it there):\n{picture}"
    );
}

fn reaches(uses: &BTreeMap<String, BTreeSet<String>>, from: &str, to: &str) -> bool {
    uses.get(from).is_some_and(|used| {
        used.contains(to) || used.iter().any(|between| reaches(uses, between, to))
    })
}

/// Every variable, target and option of make that the documents tell of is there.
/// Authors are to read all of it before they begin.
#[test]
fn the_example_sr_has_less_than_300_lines_of_code() {
    let example = files(&root().join("schemas/plugin/examples/dir-sr"), ".rs");
    let text: String = example.iter().map(|it| fs::read_to_string(it).expect("a file")).collect();
    let lines = text.lines().map(str::trim).filter(|it| !it.is_empty() && !it.starts_with("//"));
    let count = lines.count();
    assert!((100..300).contains(&count), "{count} lines without comments");
}

#[test]
fn the_targets_of_make_that_are_told_of_exist() {
    let makefile = fs::read_to_string(root().join("Makefile")).expect("the Makefile");
    let phony = makefile.lines().find_map(|line| line.strip_prefix(".PHONY:")).expect("targets");
    let targets: Vec<&str> = phony.split_whitespace().collect();
    for document in [Path::new("README.md"), Path::new(DEVELOPERS)] {
        let text = fs::read_to_string(root().join(document)).expect("a document");
        for part in text.split("`make ").skip(1) {
            let told = part.split(['`', ' ', '\n']).next().unwrap_or_default();
            assert!(targets.contains(&told), "{}: make {told}", document.display());
        }
    }
}

/// Where a document says which test shows something, as `module::test`, there is that test.
#[test]
fn the_tests_that_documents_name_exist() {
    let sources: String = files(&root(), ".rs")
        .iter()
        .map(|file| fs::read_to_string(file).expect("a source file"))
        .collect();
    // Some are made by macros, from a name and a colon.
    let is_defined =
        |name: &str| ["fn {}(", " {}: "].iter().any(|it| sources.contains(&it.replace("{}", name)));
    let mut missing = Vec::new();
    for document in files(&root(), ".md") {
        let text = fs::read_to_string(&document).expect("a document");
        for span in text.split('`').skip(1).step_by(2) {
            let is_name = |part: &str| {
                !part.is_empty()
                    && part.chars().all(|c| c.is_lowercase() || c.is_numeric() || c == '_')
            };
            let Some((_, name)) = span.rsplit_once("::") else { continue };
            if span.split("::").all(is_name) && !is_defined(name) {
                missing.push(format!("{}: {span}", document.display()));
            }
        }
    }
    assert_eq!(missing, [""; 0]);
}
