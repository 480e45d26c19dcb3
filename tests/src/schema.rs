//! Whether what a plugin answers is what its schema promises.

use serde_json::Value;

/// Checks an answer, or the error object, of a method.
///
/// # Panics
/// Unless `value` is valid.
#[cfg(feature = "schema-checks")]
pub(crate) fn check(name: &str, what: &str, value: &Value) {
    use std::{
        collections::HashMap,
        sync::{Mutex, OnceLock},
    };

    static VALIDATORS: OnceLock<Mutex<HashMap<String, jsonschema::Validator>>> = OnceLock::new();
    let mut validators =
        VALIDATORS.get_or_init(Mutex::default).lock().expect("no test panics here");
    let validator = validators.entry(format!("{name} {what}")).or_insert_with(|| {
        let schema = match smapiv3::find(name) {
            None => smapiv3::error_schema(),
            Some(method) => (method.response_schema)(),
        };
        jsonschema::validator_for(&schema).expect("a schema is a schema")
    });
    let wrong: Vec<String> = validator
        .iter_errors(value)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    drop(validators);
    assert!(wrong.is_empty(), "{name} {what} {value} is not valid: {wrong:#?}");
}

/// The demonstration and the benchmark take what comes.
#[cfg(not(feature = "schema-checks"))]
pub(crate) fn check(_: &str, _: &str, _: &Value) {}
