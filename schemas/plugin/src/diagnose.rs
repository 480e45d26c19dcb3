//! From the bytes of a request to its parameters, or to everything that is wrong with them.
//!
//! The type decides. Only where it says no is the request held against the type's schema, which
//! names every unknown, missing and ill-typed parameter where the parser stops at the first.

use std::sync::LazyLock;

use serde_json::{Map, Value};
use smapiv3::{Call, Error, Failure};

use crate::near::nearest;

/// Longer values are cut in messages.
const VALUE_CHARS_MAX: usize = 60;

/// A fault of one parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Name of the parameter
    pub(crate) param: String,
    pub(crate) text: String,
}

/// The parameters of a request.
pub(crate) fn parse<C: Call>(request: &[u8]) -> Result<C::Params, Error> {
    // The parser would take an array for a struct.
    if request.trim_ascii_start().starts_with(b"{") {
        serde_json::from_slice(request).map_err(|error| Some(error.to_string()))
    } else {
        Err(None)
    }
    .map_err(|error| explain(C::INFO.name, &(C::INFO.request_schema)(), request, error))
}

/// The error for a request that was rejected, with the parser's own words where it had any.
fn explain(method: &str, schema: &Value, request: &[u8], parser: Option<String>) -> Error {
    if request.trim_ascii().is_empty() {
        let message =
            format!("{method}: nothing came on stdin, expected one JSON object of parameters");
        return Error::new(Failure::BadRequest, message);
    }
    match serde_json::from_slice::<Value>(request) {
        Err(error) => {
            let message = format!("{method}: the request on stdin is not valid JSON: {error}");
            Error::new(Failure::BadRequest, message)
        }
        Ok(Value::Object(request)) => {
            let mut found = problems(schema, &request);
            if found.is_empty() {
                // A schema cannot express that the same parameter was given twice.
                let text = parser.unwrap_or_default();
                found.push(Problem { param: String::new(), text });
            }
            bad_request(method, schema, &found)
        }
        Ok(other) => {
            let message = format!(
                "{method}: the request on stdin is {}, expected one JSON object of parameters",
                shown(&other)
            );
            Error::new(Failure::BadRequest, message)
        }
    }
}

/// One error for all that is wrong with a request.
pub(crate) fn bad_request(method: &str, schema: &Value, problems: &[Problem]) -> Error {
    let texts: Vec<&str> = problems.iter().map(|problem| problem.text.as_str()).collect();
    let known: Vec<&str> = properties(schema).keys().map(String::as_str).collect();
    let mut message = format!("{method}: {}", texts.join("; "));
    if problems.iter().any(|problem| !known.contains(&problem.param.as_str())) {
        message.push_str(&format!(" (the parameters are {})", known.join(", ")));
    }
    Error::new(Failure::BadRequest, message)
}

/// Everything that is wrong with a request, by its schema.
pub(crate) fn problems(schema: &Value, request: &Map<String, Value>) -> Vec<Problem> {
    let mut found = Vec::new();
    let properties = properties(schema);
    for (name, value) in request {
        let mut texts = Vec::new();
        match properties.get(name) {
            Some(schema) => check(schema, value, name, &mut texts),
            None => texts.push(unknown(name, value, properties)),
        }
        found.extend(texts.into_iter().map(|text| Problem { param: name.clone(), text }));
    }
    for name in required(schema).filter(|name| !request.contains_key(*name)) {
        let schema = &properties[name];
        let text = format!("parameter {name:?} is missing, expected {}", expected(schema));
        found.push(Problem { param: name.to_owned(), text });
    }
    found
}

fn unknown(name: &str, value: &Value, properties: &Map<String, Value>) -> String {
    let text = format!("there is no parameter {name:?} (it is {})", shown(value));
    match nearest(name, properties.keys().map(String::as_str)) {
        Some(near) => format!("{text}, perhaps {near:?} is meant"),
        None => text,
    }
}

/// Holds a value against the schema of its type: the part of the vocabulary that ours use.
fn check(schema: &Value, value: &Value, path: &str, texts: &mut Vec<String>) {
    if let Some(chosen) = choose(schema, value) {
        return check(chosen, value, path, texts);
    }
    if !is_of_type(schema, value) {
        let expected = expected(schema);
        texts.push(format!("{path:?} is {}, expected {expected}", shown(value)));
        return;
    }
    match value {
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                let by_place = schema.get("prefixItems").and_then(|schemas| schemas.get(index));
                if let Some(schema) = by_place.or_else(|| schema.get("items")) {
                    check(schema, item, &format!("{path}[{index}]"), texts);
                }
            }
        }
        Value::Object(fields) => {
            for (name, field) in fields {
                let schema =
                    properties(schema).get(name).or_else(|| schema.get("additionalProperties"));
                if let Some(schema) = schema {
                    check(schema, field, &format!("{path}.{name}"), texts);
                }
            }
            for name in required(schema).filter(|name| !fields.contains_key(*name)) {
                texts.push(format!("{:?} is missing", format!("{path}.{name}")));
            }
        }
        _ => {}
    }
}

/// The variant of a tagged array that the value's tag names.
fn choose<'a>(schema: &'a Value, value: &Value) -> Option<&'a Value> {
    let tag = value.get(0)?;
    variants(schema).find(|variant| variant.pointer("/prefixItems/0/const") == Some(tag))
}

fn is_of_type(schema: &Value, value: &Value) -> bool {
    if schema.get("oneOf").is_some() {
        return variants(schema).any(|variant| variant.get("const") == Some(value));
    }
    if let Some(constant) = schema.get("const") {
        return constant == value;
    }
    let type_fits = match schema.get("type").and_then(Value::as_str) {
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("number") => value.is_number(),
        Some("integer") => match schema.get("minimum").and_then(Value::as_i64) {
            Some(0) => value.is_u64(),
            _ => value.is_i64(),
        },
        Some("array") => value.is_array(),
        Some("object") => value.is_object(),
        Some("null") => value.is_null(),
        _ => true,
    };
    let items = value.as_array().map_or(0, Vec::len) as u64;
    let limit = |name| schema.get(name).and_then(Value::as_u64);
    let length_fits = !value.is_array()
        || (limit("minItems").is_none_or(|min| items >= min)
            && limit("maxItems").is_none_or(|max| items <= max));
    type_fits && length_fits
}

/// The type that a schema requires, as the end of "expected ...".
fn expected(schema: &Value) -> String {
    let tags: Vec<String> = variants(schema)
        .filter_map(|variant| match variant.pointer("/prefixItems/0/const") {
            Some(tag) => Some(format!("[{tag}, ...]")),
            None => variant.get("const").map(Value::to_string),
        })
        .collect();
    if !tags.is_empty() {
        return tags.join(" or ");
    }
    let length = schema.get("maxItems").and_then(Value::as_u64);
    match (schema.get("type").and_then(Value::as_str), length) {
        (Some("integer"), _) if schema["minimum"] == 0 => "an integer that is not negative".into(),
        (Some("integer"), _) => "an integer of 64 bits".into(),
        (Some("array"), Some(length)) => format!("an array of {length}"),
        (Some("array"), None) => "an array".into(),
        (Some("object"), _) if is_string_map(schema) => "an object of strings".into(),
        (Some("object"), _) => "an object".into(),
        (Some(other), _) => format!("a {other}"),
        (None, _) => "something else".into(),
    }
}

/// Whether a schema is that of a map of strings.
pub(crate) fn is_string_map(schema: &Value) -> bool {
    schema.pointer("/additionalProperties/type").is_some_and(|kind| kind == "string")
}

/// The fields that an object's schema knows.
pub(crate) fn properties(schema: &Value) -> &Map<String, Value> {
    static NONE: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);
    schema.get("properties").and_then(Value::as_object).unwrap_or(&NONE)
}

fn required(schema: &Value) -> impl Iterator<Item = &str> {
    schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

fn variants(schema: &Value) -> impl Iterator<Item = &Value> {
    schema.get("oneOf").and_then(Value::as_array).into_iter().flatten()
}

/// A value with its type, for a message.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    let cut = match text.char_indices().nth(VALUE_CHARS_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    };
    match value {
        Value::Null => cut,
        Value::Bool(_) => format!("the boolean {cut}"),
        Value::Number(_) => format!("the number {cut}"),
        Value::String(_) => format!("the string {cut}"),
        Value::Array(_) => format!("the array {cut}"),
        Value::Object(_) => format!("the object {cut}"),
    }
}
