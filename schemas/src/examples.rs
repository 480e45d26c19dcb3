//! Examples for the JSON Schemas: the exchanges that were recorded from programs, and a few that no program of
//! this repository has, written by hand. A schema has the values whole, and each of its fields its part of them.

use std::sync::LazyLock;

use schemars::Schema;
use serde_json::{Map, Value};

/// Made by a test that calls the programs (`tests/e2e/exchanges.rs`).
const RECORDED: &str = include_str!("../exchanges.jsonl");
const UNRECORDED: &str = include_str!("../exchanges-unrecorded.jsonl");

static EXCHANGES: LazyLock<Vec<Value>> = LazyLock::new(|| {
    let lines = RECORDED.lines().chain(UNRECORDED.lines());
    lines.filter_map(|line| serde_json::from_str(line).ok()).collect()
});

/// Whole values that a schema shows, at most.
const WHOLE_MAX: usize = 2;

/// What went over one of the streams.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Parameters
    Stdin,
    /// Results
    Stdout,
}

/// What methods were asked, or answered when they succeeded.
pub(crate) fn of(method: &str, stream: Stream) -> Vec<&'static Value> {
    let exchanges = EXCHANGES.iter().filter(|it| it["method"] == method && it["status"] == 0);
    distinct(exchanges.map(|it| &it[if stream == Stream::Stdin { "stdin" } else { "stdout" }]))
}

/// What methods answered when they failed.
pub(crate) fn of_errors() -> Vec<&'static Value> {
    distinct(EXCHANGES.iter().filter(|it| it["status"] != 0).map(|it| &it["stdout"]))
}

/// Gives a schema, and all that it consists of, titles and examples.
pub(crate) fn annotate(schema: &mut Schema, values: &[&Value]) {
    if let Some(fields) = schema.as_object_mut() {
        show(fields, values, WHOLE_MAX);
    }
}

fn show(schema: &mut Map<String, Value>, values: &[&Value], examples_max: usize) {
    let examples: Vec<Value> = values.iter().take(examples_max).map(|it| (*it).clone()).collect();
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        for (name, property) in properties {
            let Some(property) = property.as_object_mut() else { continue };
            property.entry("title").or_insert_with(|| title(name).into());
            show(property, &distinct(values.iter().filter_map(|it| it.get(name))), 1);
        }
    }
    if let Some(items) = schema.get_mut("items").and_then(Value::as_object_mut) {
        show(items, &distinct(values.iter().filter_map(|it| it.as_array()).flatten()), 0);
    }
    if let Some(places) = schema.get_mut("prefixItems").and_then(Value::as_array_mut) {
        for (index, place) in places.iter_mut().enumerate() {
            let Some(place) = place.as_object_mut() else { continue };
            show(place, &distinct(values.iter().filter_map(|it| it.get(index))), 0);
        }
    }
    if let Some(variants) = schema.get_mut("oneOf").and_then(Value::as_array_mut) {
        for variant in variants.iter_mut().filter_map(Value::as_object_mut) {
            let tag =
                variant.get("const").or_else(|| variant.get("prefixItems")?.pointer("/0/const"));
            let Some(tag) = tag.cloned() else { continue };
            let mut own: Vec<&Value> =
                values.iter().filter(|it| is_variant(it, &tag)).copied().collect();
            if own.is_empty() {
                // Of this place there is none: one of another place is as good.
                own = EXCHANGES.iter().flat_map(|it| parts(it)).collect();
                own.retain(|it| is_variant(it, &tag));
            }
            variant.insert("title".into(), tag.clone());
            show(variant, &distinct(own.into_iter()), 1);
        }
    }
    if !examples.is_empty() {
        schema.entry("examples").or_insert(examples.into());
    }
}

/// Whether a value is the variant of that tag.
fn is_variant(value: &Value, tag: &Value) -> bool {
    value == tag || value.as_array().is_some_and(|it| it.len() == 2 && it[0] == *tag)
}

/// A value and all values inside of it.
fn parts(value: &Value) -> Vec<&Value> {
    let inner: Vec<&Value> = match value {
        Value::Array(items) => items.iter().collect(),
        Value::Object(fields) => fields.values().collect(),
        _ => Vec::new(),
    };
    std::iter::once(value).chain(inner.into_iter().flat_map(parts)).collect()
}

/// A field's name as a title: `virtual_size` is "Virtual size".
fn title(name: &str) -> String {
    let word = |word: &str| match word {
        "sr" | "uri" | "uuid" | "cbt" | "api" | "id" => word.to_uppercase(),
        _ => word.to_owned(),
    };
    let text = name.split('_').map(word).collect::<Vec<_>>().join(" ");
    let mut letters = text.chars();
    let first = letters.next().map(|it| it.to_uppercase().to_string()).unwrap_or_default();
    first + letters.as_str()
}

fn distinct<'a>(values: impl Iterator<Item = &'a Value>) -> Vec<&'a Value> {
    let mut found: Vec<&Value> = Vec::new();
    for value in values {
        if !found.contains(&value) {
            found.push(value);
        }
    }
    found
}
