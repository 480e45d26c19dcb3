//! How answers are written. Each of these judges every call of the run.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock},
};

use jsonschema::Validator;
use serde_json::Value;

use super::{Check::Each, Rule, source};
use crate::caller::{End, Exchange};

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "form.value",
        title: "a call that succeeds prints exactly one JSON value",
        reference: source::RPC,
        consequence: "SCRIPT_FAILED, bad json on stdout",
        needs: &[],
        check: Each(one_value),
    },
    Rule {
        id: "form.unit",
        title: "a method without a result prints null",
        reference: source::RPC,
        consequence: "SCRIPT_FAILED, though the operation was done",
        needs: &[],
        check: Each(unit),
    },
    Rule {
        id: "form.schema",
        title: "an answer has all required fields, and each value has its type",
        reference: source::CONTROL,
        consequence: "SCRIPT_FAILED, Unexpected exception: the daemon cannot read the answer",
        needs: &[],
        check: Each(schema),
    },
    Rule {
        id: "form.optional",
        title: "an optional field that has no value is left out, and is never null",
        reference: "mirage/ocaml-rpc, Rpcmarshal.unmarshal, Option",
        consequence: "SCRIPT_FAILED, Unexpected exception: the daemon cannot read the answer",
        needs: &[],
        check: Each(no_null),
    },
    Rule {
        id: "form.integers",
        title: "an integer is written without a fraction or an exponent",
        reference: "mirage/ocaml-rpc, Rpcmarshal.unmarshal, Int64",
        consequence: "SCRIPT_FAILED, Unexpected exception: the daemon cannot read the answer",
        needs: &[],
        check: Each(integers),
    },
    Rule {
        id: "form.error",
        title: "a call that fails prints code, params and backtrace, and nothing else",
        reference: "xen-api ocaml/xapi-storage-script/lib.ml, Types.error",
        consequence: "SCRIPT_FAILED, non-zero exit and bad json on stdout, instead of what was wrong",
        needs: &[],
        check: Each(error),
    },
    Rule {
        id: "form.error-text",
        title: "an error says in words what was wrong",
        reference: "xen-api ocaml/xapi-storage-script/main.ml, backend_backtrace_error",
        consequence: "the user reads an empty message, or one of the plugin's language",
        needs: &[],
        check: Each(error_text),
    },
    Rule {
        id: "form.exit",
        title: "the exit status is 0 for a result and another one for an error, and no signal ends a call",
        reference: source::RPC,
        consequence: "an error is read as a result, or SCRIPT_FAILED hides it",
        needs: &[],
        check: Each(exit),
    },
    Rule {
        id: "form.outputs",
        title: "no background process keeps stdout or stderr of a call that has ended",
        reference: source::RUN,
        consequence: "the operation hangs until that process ends, and so does the task in xapi",
        needs: &[],
        check: Each(outputs),
    },
    Rule {
        id: "form.time",
        title: "each call ends",
        reference: source::RUN,
        consequence: "the operation hangs for ever: the daemon has no time limit",
        needs: &[],
        check: Each(time),
    },
];

/// Exceptions of Python that tell of a fault in the plugin's code and of nothing else.
const OF_PYTHON: [&str; 7] = [
    "KeyError",
    "AttributeError",
    "NameError",
    "TypeError",
    "IndexError",
    "UnboundLocalError",
    "ImportError",
];

fn succeeded(exchange: &Exchange) -> Option<Value> {
    let value = exchange.value().filter(|_| exchange.ended.end == End::Exit(0))?;
    (!Exchange::has_error_form(&value)).then_some(value)
}

fn one_value(exchange: &Exchange) -> Option<String> {
    let is_empty_unit = exchange.returns_unit() && exchange.ended.stdout.is_empty();
    if exchange.ended.end != End::Exit(0) || is_empty_unit {
        return None;
    }
    let read = serde_json::from_slice::<Value>(&exchange.ended.stdout);
    read.err().map(|error| format!("stdout is not one JSON value: {error}"))
}

fn unit(exchange: &Exchange) -> Option<String> {
    if exchange.ended.end != End::Exit(0) || !exchange.returns_unit() {
        return None;
    }
    if exchange.ended.stdout.is_empty() {
        return Some("it printed nothing instead of null".into());
    }
    succeeded(exchange)
        .filter(|it| !it.is_null())
        .map(|it| format!("it printed {it} instead of null"))
}

fn schema(exchange: &Exchange) -> Option<String> {
    if exchange.returns_unit() {
        return None;
    }
    wrong_by(&exchange.method, &lenient(succeeded(exchange)?))
}

/// What the schema of a method's result, or of errors where that is no method, says against a value. Each
/// schema is made ready once.
fn wrong_by(method: &str, value: &Value) -> Option<String> {
    static VALIDATORS: OnceLock<Mutex<HashMap<String, Arc<Validator>>>> = OnceLock::new();
    let mut validators = VALIDATORS.get_or_init(Mutex::default).lock().expect("no panic");
    let validator = validators.entry(method.to_owned()).or_insert_with(|| {
        let schema =
            smapiv3::find(method).map_or_else(smapiv3::error_schema, |it| (it.response_schema)());
        Arc::new(jsonschema::validator_for(&schema).expect("the interface's own schema"))
    });
    let wrong: Vec<String> = validator
        .iter_errors(value)
        .map(|error| match error.instance_path().to_string() {
            path if path.is_empty() => error.to_string(),
            path => format!("{path}: {error}"),
        })
        .collect();
    (!wrong.is_empty()).then(|| wrong.join("; "))
}

/// What other rules judge is taken out: null for an optional field, and how integers are written.
fn lenient(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.into_iter().filter(|(_, it)| !it.is_null());
            Value::Object(fields.map(|(name, it)| (name, lenient(it))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(lenient).collect()),
        Value::Number(number) => match number.as_f64() {
            Some(it) if number.is_f64() && it.fract() == 0.0 => {
                format!("{it:.0}").parse::<i64>().map_or(Value::Number(number), Value::from)
            }
            _ => Value::Number(number),
        },
        other => other,
    }
}

fn no_null(exchange: &Exchange) -> Option<String> {
    let mut found = Vec::new();
    walk(&succeeded(exchange)?, "", &mut |path, value| {
        if value.is_null() && !path.is_empty() {
            found.push(path.to_owned());
        }
    });
    (!found.is_empty()).then(|| format!("null in {}", found.join(", ")))
}

fn integers(exchange: &Exchange) -> Option<String> {
    let mut found = Vec::new();
    walk(&succeeded(exchange)?, "", &mut |path, value| {
        if value.is_f64() && !path.ends_with("progress") {
            found.push(format!("{value} in {path}"));
        }
    });
    (!found.is_empty()).then(|| found.join(", "))
}

fn walk(value: &Value, path: &str, visit: &mut dyn FnMut(&str, &Value)) {
    visit(path, value);
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(name, it)| walk(it, &format!("{path}/{name}"), visit));
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(at, it)| walk(it, &format!("{path}/{at}"), visit));
        }
        _ => {}
    }
}

fn error(exchange: &Exchange) -> Option<String> {
    if !matches!(exchange.ended.end, End::Exit(status) if status != 0) {
        return None;
    }
    let value = match serde_json::from_slice::<Value>(&exchange.ended.stdout) {
        Ok(value) => value,
        Err(error) => return Some(format!("stdout is not one JSON value: {error}")),
    };
    let backtrace = &value["backtrace"];
    let count = |name: &str| backtrace[name].as_array().map(Vec::len);
    wrong_by("", &value).or_else(|| {
        let differ = count("files") != count("lines");
        differ.then(|| "backtrace has not as many files as lines".to_owned())
    })
}

fn error_text(exchange: &Exchange) -> Option<String> {
    let value = exchange.value().filter(Exchange::has_error_form)?;
    let params = value["params"].as_array()?;
    let params: Vec<&str> = params.iter().filter_map(Value::as_str).map(str::trim).collect();
    if params.iter().any(|it| it.starts_with("Traceback (most recent call last)")) {
        return Some("the message is a traceback".into());
    }
    if let [class, ..] = params[..]
        && OF_PYTHON.contains(&class)
    {
        return Some(format!("the message is an exception of Python: {params:?}"));
    }
    let is_generic = value["code"].as_str().is_none_or(|it| {
        it.trim().is_empty() || it.starts_with("SR_BACKEND_FAILURE") || it == "Internal_error"
    });
    let says_nothing = params.iter().all(|it| !it.chars().any(char::is_alphabetic));
    (is_generic && says_nothing).then(|| format!("the params {params:?} say nothing"))
}

fn exit(exchange: &Exchange) -> Option<String> {
    match (&exchange.ended.end, exchange.value()) {
        (End::Signal(signal), _) => Some(format!("signal {signal} ended it")),
        (End::Exit(0), Some(value)) if Exchange::has_error_form(&value) => {
            Some("it printed an error and exited with status 0".into())
        }
        _ => None,
    }
}

fn outputs(exchange: &Exchange) -> Option<String> {
    let held = exchange.ended.outputs_held;
    held.then(|| "another process still held stdout or stderr 2 seconds after it had exited".into())
}

fn time(exchange: &Exchange) -> Option<String> {
    (exchange.ended.end == End::TimedOut).then(|| "it did not end in time (--timeout)".into())
}
