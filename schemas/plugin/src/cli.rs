//! The command line: clap's commands from the registry, JSON requests from its matches.
//!
//! Names, types, defaults and help of the arguments come from the request schemas, that is from the
//! types and their docs. clap only takes the line apart: a parameter that is missing or ill-typed is
//! left for the validation that the JSON path has too, so that both say the same.

use std::ffi::OsString;

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::{Map, Value};

use crate::diagnose::{Problem, is_string_map, properties};
use crate::registry::{self, ArgKind, Registry};
use crate::size;

/// The built-in command that prints the names of the methods.
pub(crate) const METHODS_COMMAND: &str = "methods";

/// The built-in command that prints the archive with which a program runs under Python's runpy.
pub(crate) const ARCHIVE_COMMAND: &str = "python-archive";

/// Schema keyword: the value of a parameter that is left out on the command line.
const DEFAULT: &str = "x-cli-default";

/// The form of a parameter on the command line.
#[derive(Clone, Copy)]
enum Shape {
    Text,
    Size,
    Switch,
    Map,
    Json,
}

fn shape(schema: &Value) -> Shape {
    match schema.get("type").and_then(Value::as_str) {
        Some("string") => Shape::Text,
        Some("integer") => Shape::Size,
        Some("boolean") => Shape::Switch,
        _ if is_string_map(schema) => Shape::Map,
        _ => Shape::Json,
    }
}

/// Takes the command line apart.
pub(crate) fn matches<C>(
    registry: &Registry<C>,
    line: &[OsString],
) -> clap::error::Result<ArgMatches> {
    command(registry).try_get_matches_from(line)
}

/// The command line of a plugin.
pub(crate) fn command<C>(registry: &Registry<C>) -> Command {
    let mut command = Command::new(registry.name)
        .version(registry.version)
        .about(registry.about)
        .after_help(
            "With --json a method takes its parameters as one JSON object from stdin \
             and prints one JSON value.",
        )
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand_value_name("METHOD")
        .subcommand_help_heading("Methods and commands");
    for method in &registry.methods {
        let schema = (method.info.request_schema)();
        command = command.subcommand(
            Command::new(method.info.name).about(method.info.about).args(method_args(&schema)),
        );
    }
    for own in &registry.commands {
        let args = own.args.iter().map(command_arg);
        command = command.subcommand(Command::new(own.name).about(own.about).args(args));
    }
    command
        .subcommand(Command::new(METHODS_COMMAND).about("List the methods that are implemented"))
        .subcommand(Command::new(ARCHIVE_COMMAND).about(
            "Print the archive that installing appends to this program, for callers that trace",
        ))
}

fn method_args(schema: &Value) -> Vec<Arg> {
    let arg = |(name, schema): (&String, &Value)| {
        let arg = Arg::new(name.clone())
            .long(name.clone())
            .help(help(schema))
            .value_name(name.to_uppercase());
        let arg = if name.contains('_') { arg.alias(name.replace('_', "-")) } else { arg };
        match shape(schema) {
            Shape::Text => arg,
            Shape::Size => arg.allow_negative_numbers(true).value_name("SIZE"),
            Shape::Switch => arg
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
                .value_name("true|false"),
            Shape::Map => arg.action(ArgAction::Append).value_name("KEY=VALUE"),
            Shape::Json => arg.value_name("JSON"),
        }
    };
    properties(schema).iter().map(arg).collect()
}

fn help(schema: &Value) -> String {
    let description = schema.get("description").and_then(Value::as_str).unwrap_or_default();
    let mut help = description.replace('\n', " ");
    match shape(schema) {
        Shape::Size => help.push_str("; a number may have a unit, e.g. 8GiB"),
        Shape::Map => help.push_str("; may be repeated"),
        _ => {}
    }
    match schema.get(DEFAULT) {
        None => help.push_str(" (required)"),
        Some(Value::String(text)) if !text.is_empty() => {
            help.push_str(&format!(" [default: {text}]"));
        }
        Some(Value::Number(number)) => help.push_str(&format!(" [default: {number}]")),
        Some(_) => {}
    }
    help
}

fn command_arg(arg: &registry::Arg) -> Arg {
    let built = Arg::new(arg.name).long(arg.name).help(arg.about);
    match arg.kind {
        ArgKind::Flag => built.action(ArgAction::SetTrue),
        ArgKind::Option => built,
        ArgKind::Required => built.required(true),
    }
}

/// The arguments of a maintenance command.
pub(crate) fn command_args<C>(
    command: &registry::Command<C>,
    matches: &ArgMatches,
) -> crate::registry::Args {
    let value = |arg: &registry::Arg| match arg.kind {
        ArgKind::Flag => matches.get_flag(arg.name).then(String::new),
        _ => matches.get_one::<String>(arg.name).cloned(),
    };
    let given = command.args.iter().filter_map(|arg| Some((arg.name, value(arg)?)));
    registry::Args(given.collect())
}

/// The request that the arguments of a method make, and the faults in their spelling. An argument that
/// cannot be parsed stays in the request as text.
pub(crate) fn request(schema: &Value, matches: &ArgMatches) -> (Map<String, Value>, Vec<Problem>) {
    let mut request = Map::new();
    let mut problems = Vec::new();
    for (name, schema) in properties(schema) {
        let given: Vec<&String> = matches.get_many(name).into_iter().flatten().collect();
        let [.., last] = given.as_slice() else {
            if let Some(default) = schema.get(DEFAULT) {
                request.insert(name.clone(), default.clone());
            }
            continue;
        };
        let value = match shape(schema) {
            Shape::Map => pairs(&given),
            shape => value(shape, last),
        };
        let value = value.unwrap_or_else(|problem| {
            let text = format!("{name:?}: {problem}");
            problems.push(Problem { param: name.clone(), text });
            Value::from(last.as_str())
        });
        request.insert(name.clone(), value);
    }
    (request, problems)
}

fn value(shape: Shape, text: &str) -> Result<Value, String> {
    match shape {
        Shape::Size => match text.parse::<i64>() {
            Ok(number) => Ok(number.into()),
            Err(_) => size::parse(text).map(Value::from).map_err(|error| error.to_string()),
        },
        Shape::Switch => text
            .parse::<bool>()
            .map(Value::from)
            .map_err(|_| format!("{text:?} is not true or false")),
        Shape::Json => serde_json::from_str(text)
            .map_err(|error| format!("{text:?} is not valid JSON: {error}")),
        Shape::Text | Shape::Map => Ok(text.into()),
    }
}

fn pairs(given: &[&String]) -> Result<Value, String> {
    let mut map = Map::new();
    for text in given {
        let Some((key, value)) = text.split_once('=') else {
            return Err(format!("{text:?} is not KEY=VALUE"));
        };
        if map.insert(key.to_owned(), value.into()).is_some() {
            return Err(format!("{key:?} is given twice"));
        }
    }
    Ok(Value::Object(map))
}
