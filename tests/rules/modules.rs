//! The modules of a crate, and the paths by which each one refers to others. Read from the text:
//! what macros make is not seen.

use std::{
    collections::BTreeMap,
    fs,
    path::{Component, Path},
};

use crate::files;

/// The names from the root of a crate down to a module, or to an item in one.
pub(crate) type Place = Vec<String>;

/// A crate.
#[derive(Debug)]
pub(crate) struct Modules(BTreeMap<Place, Module>);

/// A file of it.
#[derive(Debug, Default)]
struct Module {
    /// Paths that `use` brings into the module, by the name that they have there.
    imports: BTreeMap<String, Place>,
    /// All paths that begin with `crate` or `super`.
    paths: Vec<Place>,
}

impl Modules {
    /// Reads the crate in a directory with `src/`. Unit tests are left out: they may use anything.
    pub(crate) fn read(source: &Path) -> Self {
        let is_test = |path: &Path| {
            path.components().any(|it| it == Component::Normal("tests".as_ref()))
                || path.file_stem().is_some_and(|it| it.to_string_lossy().ends_with("tests"))
        };
        let mut modules = BTreeMap::new();
        for file in files(source, ".rs") {
            let below = file.strip_prefix(source).expect("it was found there");
            if !is_test(below) {
                let text = fs::read_to_string(&file).expect("a source file");
                modules.insert(place_of(below), Module::parse(&text));
            }
        }
        Self(modules)
    }

    /// Every reference of a module to another one: from where, by which path, to where.
    pub(crate) fn references(&self) -> impl Iterator<Item = (&Place, &Place, Place)> {
        self.0.iter().flat_map(move |(from, module)| {
            module.paths.iter().map(move |path| (from, path, self.resolve(from, path, 0)))
        })
    }

    /// The module that a path leads to, through re-exports.
    fn resolve(&self, from: &Place, path: &[String], depth: usize) -> Place {
        let mut at = from.clone();
        for (position, name) in path.iter().enumerate() {
            match name.as_str() {
                "crate" => at.clear(),
                "super" => drop(at.pop()),
                "self" => {}
                _ => {
                    let below = [at.as_slice(), std::slice::from_ref(name)].concat();
                    if self.0.contains_key(&below) {
                        at = below;
                        continue;
                    }
                    let import = self.0.get(&at).and_then(|module| module.imports.get(name));
                    if let Some(import) = import.filter(|_| depth < 8) {
                        let rest = [import.as_slice(), &path[position + 1..]].concat();
                        return self.resolve(&at, &rest, depth + 1);
                    }
                    break;
                }
            }
        }
        at
    }
}

impl Module {
    fn parse(text: &str) -> Self {
        let text = code_of(text);
        let mut module = Self::default();
        for statement in statements(&text) {
            let mut found = Vec::new();
            expand(statement, &mut Vec::new(), &mut found);
            for (path, name) in found {
                if is_inner(&path) {
                    module.paths.push(path.clone());
                }
                module.imports.insert(name, path);
            }
        }
        for begin in ["crate::", "super::"] {
            for (at, _) in text.match_indices(begin) {
                let is_whole = !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
                if is_whole && !text[..at].ends_with("::") {
                    module.paths.push(path_at(&text[at..]));
                }
            }
        }
        module
    }
}

fn is_inner(path: &[String]) -> bool {
    matches!(path.first().map(String::as_str), Some("crate" | "super"))
}

/// `a/b.rs`, `a/b/mod.rs` and `lib.rs` as places.
fn place_of(path: &Path) -> Place {
    let mut place: Place = path
        .with_extension("")
        .components()
        .map(|component| component.as_os_str().to_string_lossy().into_owned())
        .collect();
    let last = place.last().map(String::as_str);
    if last == Some("mod") || place.len() == 1 && matches!(last, Some("lib" | "main")) {
        place.pop();
    }
    place
}

/// The text without comments and without what comes after `#[cfg(test)]` before an inline module.
fn code_of(text: &str) -> String {
    let text = text.find("#[cfg(test)]\nmod tests {").map_or(text, |end| &text[..end]);
    let code = text.lines().map(|line| match line.find("//") {
        Some(at) if !line[..at].contains('"') => &line[..at],
        _ => line,
    });
    code.collect::<Vec<_>>().join("\n")
}

/// The text between `use` and `;` of all imports, public ones too.
fn statements(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices("use ").filter_map(|(at, word)| {
        let line = text[..at].rsplit('\n').next().unwrap_or_default().trim();
        let is_use =
            line.is_empty() || line == "pub" || line.starts_with("pub(") && line.ends_with(')');
        let rest = &text[at + word.len()..];
        is_use.then(|| &rest[..rest.find(';').unwrap_or_default()])
    })
}

/// The paths of `a::{b::{self, C as D}, e}`, each with the name that it gets.
fn expand(tree: &str, before: &mut Place, found: &mut Vec<(Place, String)>) {
    let tree = tree.trim();
    let (head, rest) = match tree.find(['{', ',']) {
        Some(at) if tree[at..].starts_with('{') => (&tree[..at], Some(&tree[at + 1..])),
        _ => (tree, None),
    };
    let length = before.len();
    let (path, alias) = head.split_once(" as ").unwrap_or((head, ""));
    let names = path.split("::").map(str::trim).filter(|name| !name.is_empty() && *name != "self");
    before.extend(names.map(str::to_owned));
    match rest {
        Some(rest) => {
            let inside = rest.rsplit_once('}').map_or(rest, |(inside, _)| inside);
            split(inside).into_iter().for_each(|part| expand(part, before, found));
        }
        None if !tree.is_empty() => {
            let name = if alias.is_empty() {
                before.last().cloned()
            } else {
                Some(alias.trim().to_owned())
            };
            found.extend(name.map(|name| (before.clone(), name)));
        }
        None => {}
    }
    before.truncate(length);
}

/// The parts between commas that are in no braces.
fn split(text: &str) -> Vec<&str> {
    let (mut depth, mut begin, mut parts) = (0, 0, Vec::new());
    for (at, letter) in text.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[begin..]);
    parts
}

/// The path that a text begins with.
fn path_at(text: &str) -> Place {
    let end =
        text.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':').unwrap_or(text.len());
    text[..end].split("::").filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[test]
fn use_statements_are_understood() {
    let text = "pub(crate) use crate::{a::{self, B as C}, d};\n// use super::x;\nuse std::fs;\n\
                fn f() { crate::e::g(); super::super::h }\n#[cfg(test)]\nmod tests {\nuse super::*;";
    let module = Module::parse(text);
    let paths: Vec<String> = module.paths.iter().map(|path| path.join("::")).collect();
    let wanted = ["crate::a", "crate::a::B", "crate::d", "crate", "crate::e::g", "super::super::h"];
    assert_eq!(paths, wanted);
    assert_eq!(module.imports["C"], ["crate", "a", "B"]);
}
