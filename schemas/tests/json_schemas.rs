//! The committed JSON Schemas are what the types say, and say it in valid draft 2020-12.
//!
//! After a change of the types: `UPDATE_SCHEMAS=1 cargo test -p smapiv3 --test json_schemas`.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

const HOW_TO_UPDATE: &str =
    "run UPDATE_SCHEMAS=1 cargo test -p smapiv3 --test json_schemas and commit schemas/json";

/// File name and schema of everything that lies in `schemas/json`.
fn generated() -> BTreeMap<String, Value> {
    let mut files = BTreeMap::from([("error.json".to_owned(), smapiv3::error_schema())]);
    for method in smapiv3::methods() {
        files.insert(format!("{}.request.json", method.name), (method.request_schema)());
        files.insert(format!("{}.response.json", method.name), (method.response_schema)());
    }
    files
}

#[test]
fn the_committed_files_have_not_drifted() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("json");
    let update = std::env::var_os("UPDATE_SCHEMAS").is_some();
    let generated = generated();
    if update {
        std::fs::create_dir_all(&directory).unwrap();
    }
    for (name, schema) in &generated {
        let path = directory.join(name);
        let text = serde_json::to_string_pretty(schema).unwrap() + "\n";
        if update {
            std::fs::write(&path, &text).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(committed == text, "{} has drifted: {HOW_TO_UPDATE}", path.display());
    }
    for entry in std::fs::read_dir(&directory).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if !generated.contains_key(&name) {
            assert!(update, "{name} belongs to no method: {HOW_TO_UPDATE}");
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
}

#[test]
fn each_schema_is_valid_draft_2020_12_and_needs_no_other_file() {
    for (name, schema) in generated() {
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema", "{name}");
        jsonschema::draft202012::meta::validate(&schema)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(!schema.to_string().contains("\"$ref\""), "{name} refers to something");
    }
}

/// What a schema lacks for a reader: titles, descriptions and examples of all that has a name, and examples that
/// are none.
fn lacks(schema: &Value, place: &str, has_name: bool, found: &mut Vec<String>) {
    let texts = ["title", "description"].into_iter().filter(|it| !schema[*it].is_string());
    if has_name {
        found.extend(texts.map(|it| format!("{place}: {it}")));
        if schema["examples"].as_array().is_none_or(Vec::is_empty) {
            found.push(format!("{place}: examples"));
        }
    }
    for example in schema["examples"].as_array().into_iter().flatten() {
        if let Err(error) = jsonschema::draft202012::validate(schema, example) {
            found.push(format!("{place}: {example}: {error}"));
        }
    }
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        lacks(field, &format!("{place}.{name}"), true, found);
    }
    for variant in schema["oneOf"].as_array().into_iter().flatten() {
        let tag = variant.get("const").or(variant.pointer("/prefixItems/0/const"));
        lacks(variant, &format!("{place}={}", tag.unwrap()), true, found);
    }
    for inner in schema["prefixItems"].as_array().into_iter().flatten().chain(schema.get("items")) {
        lacks(inner, &format!("{place}[]"), false, found);
    }
}

#[test]
fn everything_has_a_title_a_description_and_an_example_that_fits() {
    let mut found = Vec::new();
    for (name, schema) in generated() {
        lacks(&schema, &name, true, &mut found);
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Whoever reads `--help` sees these: nothing may go without a description.
#[test]
fn every_parameter_has_a_description() {
    for method in smapiv3::methods() {
        assert!(!method.about.is_empty() && !method.about.contains('\n'), "{}", method.name);
        let schema = (method.request_schema)();
        for (name, parameter) in schema["properties"].as_object().unwrap() {
            assert!(parameter["description"].is_string(), "{} {name}", method.name);
        }
    }
}

#[test]
fn the_list_is_the_whole_interface_and_is_searched_without_regard_to_case() {
    let mut count = BTreeMap::new();
    for method in smapiv3::methods() {
        assert!(method.name.starts_with(&format!("{}.", method.interface)));
        *count.entry(method.interface).or_insert(0) += 1;
    }
    let expected =
        [("Data", 6), ("Datapath", 8), ("Plugin", 3), ("SR", 9), ("Task", 4), ("Volume", 19)];
    assert_eq!(count, BTreeMap::from(expected));
    assert_eq!(smapiv3::find("plugin.QUERY").unwrap().name, "Plugin.query");
    assert!(smapiv3::find("Plugin.quer").is_none());
}
