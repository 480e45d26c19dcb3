//! Rules about the configuration that hold for the whole workspace, read from its source.

use std::{
    fs,
    path::{Path, PathBuf},
};

use host::variables;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

/// Every source file of a program or a library, without tests and examples.
fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            if !["tests", "examples", "target", "testing"].contains(&name) {
                sources(&path, found);
            }
        } else if name.ends_with(".rs") && !name.ends_with("tests.rs") {
            found.push(path);
        }
    }
}

#[test]
fn the_page_for_administrators_has_the_variables_of_the_code() {
    let page = workspace().join("volume/man/ram-sr.7");
    let parts = variables::ALL.map(host::Variable::parts);
    pages::check_part(&page, "variables", &pages::variables(&parts));
}

/// Configuration is read once, at the edge: a variable that is named in a second place is one that
/// two programs will read differently.
#[test]
fn nothing_but_this_crate_names_or_reads_the_products_variables() {
    let mut files = Vec::new();
    for part in ["schemas", "volume", "datapath"] {
        sources(&workspace().join(part), &mut files);
    }
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    files.retain(|path| !path.starts_with(own));
    assert!(files.len() > 100, "{} files", files.len());
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        // The build script reads cargo's variables, when the programs are built.
        let is_build_script = path.ends_with("schemas/plugin/link.rs");
        for banned in ["\"XAPI_RAM_", "env::var", "env::set_var"] {
            if is_build_script && banned == "env::var" {
                continue;
            }
            assert!(!code.contains(banned), "{} has {banned}", path.display());
        }
        // A sentence may name one, by its right name.
        for named in code.split("XAPI_RAM_").skip(1) {
            let end = named.find(|it: char| !it.is_ascii_uppercase() && it != '_');
            let name = format!("XAPI_RAM_{}", &named[..end.unwrap_or(named.len())]);
            let known = variables::ALL.iter().any(|it| it.name == name);
            assert!(known, "{} names {name}", path.display());
        }
    }
}
