//! Things are called what the field calls them. Metaphors that once were names do not come back: a
//! reader who knows NBD, blktap or xapi would have to learn them.

use std::{collections::BTreeMap, fs};

use crate::{files, root};

/// Words that are in no name, and what is said instead.
const RETIRED: [(&str, &str); 20] = [
    ("crowded", "contended"),
    ("door", "listener, socket"),
    ("family", "sharing volumes"),
    ("farewell", "graceful or forced shutdown"),
    ("gone", "destroyed, dead, disconnected"),
    ("leaving", "draining"),
    ("lend", "pin"),
    ("lending", "pin"),
    ("lent", "pinned"),
    ("loan", "pin, external holder"),
    ("loans", "pins"),
    ("obey", "handle, execute"),
    ("obeyed", "handled, executed"),
    ("polite", "graceful"),
    ("recall", "copy out"),
    ("relatives", "sharing volumes"),
    ("settle", "copy out"),
    ("settled", "copied out"),
    ("stray", "orphan"),
    ("vain", "empty poll"),
];

/// A name of more words is the sentence that a test is called by.
const WORDS_MAX: usize = 4;

#[test]
fn retired_names_do_not_come_back() {
    let mut found: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for file in files(&root(), ".rs") {
        let text = fs::read_to_string(&file).expect("a source file");
        let place = file.strip_prefix(root()).expect("below the root").display().to_string();
        for name in names(&text).into_iter().chain(file.file_stem().and_then(|it| it.to_str())) {
            let words = words(name);
            let retired = RETIRED.iter().filter(|(retired, _)| {
                words.len() <= WORDS_MAX && words.iter().any(|word| word == retired)
            });
            for (word, _) in retired {
                found.entry(word).or_default().push(format!("{name} in {place}"));
            }
        }
    }
    let told = found.iter().map(|(word, places)| {
        let instead = RETIRED.iter().find(|(retired, _)| retired == word).map_or("", |it| it.1);
        format!("{word} (say: {instead}): {}", places.join(", "))
    });
    assert_eq!(told.collect::<Vec<_>>().join("\n"), "");
}

/// The names that a source defines: functions, types, modules, constants, fields and variants are on
/// lines of their own; locals and parameters are the author's.
fn names(text: &str) -> Vec<&str> {
    let words = ["fn", "struct", "enum", "trait", "type", "mod", "const", "static"];
    let mut found = Vec::new();
    for line in text.lines() {
        let line = line.trim_start();
        if line.starts_with("//") {
            continue;
        }
        let mut before = "";
        for word in line.split(|c: char| !c.is_alphanumeric() && c != '_') {
            if words.contains(&before) {
                found.push(word);
            }
            before = word;
        }
    }
    found
}

/// `HasGone`, `has_gone` and `HAS_GONE` in small words.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut was_small = false;
    for letter in name.chars() {
        if letter == '_' || letter.is_uppercase() && was_small {
            words.push(String::new());
        }
        if letter != '_' {
            words.last_mut().expect("never empty").extend(letter.to_lowercase());
        }
        was_small = letter.is_lowercase() || letter.is_numeric();
    }
    words
}

#[test]
fn names_are_found_and_taken_apart() {
    let text = "/// fn of a comment\npub(crate) fn hasIt(x: u8) {\n    enum Disk { Open }\n";
    assert_eq!(names(text), ["hasIt", "Disk"]);
    assert_eq!(words("HasGone"), ["has", "gone"]);
    assert_eq!(words("PARTS_MAX2"), ["parts", "max2"]);
}
