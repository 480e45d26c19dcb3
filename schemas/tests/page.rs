//! SMAPIv3.md says what the types say: its reference is made from them and from the recorded exchanges.
//!
//! After a change of either: `UPDATE_PAGES=1 cargo test -p smapiv3 --test page`.

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::{Map, Value};

const RECORDED: &str = include_str!("../exchanges.jsonl");
const UNRECORDED: &str = include_str!("../exchanges-unrecorded.jsonl");
const ERRORS: &str = include_str!("../src/error.rs");

fn page() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("SMAPIv3.md")
}

#[test]
fn the_page_is_what_the_types_and_the_exchanges_say() {
    let page = page();
    let mut text = fs::read_to_string(&page).unwrap();
    let made = [
        ("call", exchange("Volume.create")),
        ("errors", errors()),
        ("dialogue", dialogue()),
        ("methods", methods()),
    ];
    for (name, part) in made {
        let (begin, end) = (format!("<!-- made: {name} -->\n"), "<!-- end -->");
        let (before, rest) = text.split_once(&begin).unwrap_or_else(|| panic!("no part {name}"));
        let (old, after) = rest.split_once(end).expect("a part ends");
        if std::env::var_os("UPDATE_PAGES").is_none() {
            assert!(old == part, "{name} has drifted: run UPDATE_PAGES=1 cargo test -p smapiv3");
        }
        text = format!("{before}{begin}{part}{end}{after}");
    }
    fs::write(page, text).unwrap();
}

fn exchanges() -> Vec<Value> {
    let lines = RECORDED.lines().chain(UNRECORDED.lines());
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What was asked and answered, as the streams had it.
fn shown(exchange: &Value) -> String {
    let (method, status) = (exchange["method"].as_str().unwrap(), &exchange["status"]);
    let exit = if status == 0 { String::new() } else { format!("exit status {status}\n") };
    format!("{method} --json\n< {}\n> {}\n{exit}", exchange["stdin"], exchange["stdout"])
}

fn exchange(method: &str) -> String {
    let all = exchanges();
    let of_method: Vec<_> = all.iter().filter(|it| it["method"] == method).collect();
    let good = of_method.iter().find(|it| it["status"] == 0).expect("one that succeeds");
    let bad = of_method.iter().find(|it| it["status"] != 0);
    let text: Vec<String> = [Some(good), bad].into_iter().flatten().map(|it| shown(it)).collect();
    format!("```\n{}```\n", text.join("\n"))
}

/// The calls of one disk, without those that are of no use to most plugins.
fn dialogue() -> String {
    let steps = [
        "SR.create",
        "SR.attach",
        "SR.stat",
        "Volume.create",
        "Volume.set",
        "Volume.stat",
        "Datapath.attach",
        "Datapath.activate",
        "Volume.snapshot",
        "Datapath.deactivate",
        "Datapath.detach",
        "Volume.destroy",
        "SR.detach",
    ];
    let all = exchanges();
    let found = steps.iter().map(|step| all.iter().find(|it| it["method"] == *step).unwrap());
    format!("```\n{}```\n", found.map(shown).collect::<Vec<_>>().join("\n"))
}

/// The numbers of `Failure`, with the sentence above each.
fn errors() -> String {
    let (_, rest) = ERRORS.split_once("pub enum Failure {").unwrap();
    let mut table = "| code | when |\n|---|---|\n".to_owned();
    let mut about = "";
    for line in rest.split('}').next().unwrap().lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("/// ") {
            about = text;
        } else if let Some((_, number)) = line.trim_end_matches(',').split_once(" = ") {
            table.push_str(&format!("| `SR_BACKEND_FAILURE_{number}` | {about} |\n"));
        }
    }
    let all = exchanges();
    let missing = |it: &&Value| it["method"] == "Volume.stat" && it["status"] != 0;
    let failed = shown(all.iter().find(missing).expect("one that fails"));
    format!("{table}\nSuch a call:\n\n```\n{failed}```\n")
}

fn methods() -> String {
    let mut text = String::new();
    // Which method has shown a result of that form first.
    let mut results: BTreeMap<String, &str> = BTreeMap::new();
    for method in smapiv3::methods() {
        text.push_str(&format!("### {}\n\n{}.\n\n", method.name, method.about));
        let mut rows = Vec::new();
        let request = (method.request_schema)();
        fields(&request, "", &mut rows);
        rows.retain(|(name, _)| name != "dbg");
        text.push_str(&table("parameter", &rows));
        let response = (method.response_schema)();
        let mut rows = Vec::new();
        inside(&response, "", &mut rows);
        let form = spell(&response);
        text.push_str(&match results.get(&format!("{rows:?}")) {
            Some(first) if !rows.is_empty() => format!("Result: {form}, as of {first}.\n\n"),
            _ => format!("Result: {form}.\n\n{}", table("field", &rows)),
        });
        results.entry(format!("{rows:?}")).or_insert(method.name);
        text.push_str(&exchange(method.name));
        text.push('\n');
    }
    text
}

fn table(head: &str, rows: &[(String, String)]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let rows = rows.iter().map(|(name, about)| format!("| `{name}` | {about} |\n"));
    format!("| {head} | |\n|---|---|\n{}\n", rows.collect::<String>())
}

/// A row for each field of a record, and for what is inside of each.
fn fields(record: &Value, place: &str, rows: &mut Vec<(String, String)>) {
    let none = Map::new();
    let required = record["required"].as_array();
    for (name, field) in record["properties"].as_object().unwrap_or(&none) {
        let optional = !required.is_some_and(|it| it.contains(&name.as_str().into()));
        let dot = if place.is_empty() { "" } else { "." };
        let full = format!("{place}{dot}{name}");
        let mark = if optional { "?" } else { "" };
        let about = field["description"].as_str().unwrap_or_default();
        rows.push((format!("{full}{mark}"), format!("{}: {about}", spell(field))));
        inside(field, &full, rows);
    }
}

/// Rows for what is inside of a value.
fn inside(schema: &Value, place: &str, rows: &mut Vec<(String, String)>) {
    fields(schema, place, rows);
    if let Some(items) = schema.get("items") {
        inside(items, &format!("{place}[]"), rows);
    }
    for variant in schema["oneOf"].as_array().into_iter().flatten() {
        let about = variant["description"].as_str().unwrap_or_default();
        if let Some(tag) = variant.get("const") {
            rows.push((format!("{place} = {tag}"), about.to_owned()));
        } else {
            let (tag, payload) = (&variant["prefixItems"][0]["const"], &variant["prefixItems"][1]);
            let full = format!("{place} = [{tag}, ...]");
            rows.push((full, format!("{about}; then {}", spell(payload))));
            inside(payload, &format!("{place}[1]"), rows);
        }
    }
}

/// A type in words.
fn spell(schema: &Value) -> String {
    if schema.get("oneOf").is_some() {
        return "one of the variants below".into();
    }
    let inner = schema["prefixItems"].as_array();
    match (schema["type"].as_str(), inner) {
        (Some("array"), Some(_)) => "a pair".into(),
        (Some("array"), None) => match spell(&schema["items"]).split_once(' ') {
            Some(("a" | "an", noun)) if noun.starts_with("map") => "a list of maps".into(),
            Some(("a" | "an", noun)) => format!("a list of {noun}s"),
            _ => "a list of variants".into(),
        },
        (Some("object"), _) if schema.get("additionalProperties").is_some_and(Value::is_object) => {
            "a map of strings".into()
        }
        (Some("object"), _) => "a record".into(),
        (Some("null"), _) => "`null`".into(),
        (Some("integer"), _) => "an integer".into(),
        (Some(other), _) => format!("a {other}"),
        (None, _) => panic!("{schema} has no type"),
    }
}
