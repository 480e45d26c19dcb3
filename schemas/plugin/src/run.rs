//! One call, from argv to the exit status. The only place that writes stdout and stderr.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::path::Path;
use std::time::Instant;

use serde_json::Value;
use smapiv3::{Error, Failure};
use smapiv3_syslog::Syslog;

use crate::edges::Edges;
use crate::log::{Log, Subject};
use crate::registry::{Command, Context, Fault, Method, Registry};
use crate::{cli, diagnose, near, panic, runpy};

/// Exit status of a call that succeeded.
pub const EXIT_OK: u8 = 0;
/// Exit status of a call that failed.
pub const EXIT_FAILED: u8 = 1;
/// Exit status of a command line that makes no sense.
pub const EXIT_USAGE: u8 = 2;

const JSON_FLAG: &str = "--json";

/// Runs the call that the edges describe; returns the exit status of the process.
pub fn run<C>(mut edges: Edges<'_>, registry: &Registry<C>) -> u8 {
    let line = Line::of(&edges.argv);
    if line.json {
        run_json(&mut edges, registry, &line)
    } else {
        run_cli(&mut edges, registry, &line)
    }
}

/// The command line, as far as both sorts of call need it taken apart.
struct Line {
    /// The method or command: the base name of argv[0] if that is a method, else the first argument
    name: Option<String>,
    json: bool,
    /// The arguments behind the name
    rest: Vec<OsString>,
}

impl Line {
    fn of(argv: &[OsString]) -> Self {
        let mut rest: Vec<OsString> = argv.iter().skip(1).cloned().collect();
        let all = rest.len();
        rest.retain(|argument| argument != JSON_FLAG);
        let json = rest.len() < all;
        let called_as = argv.first().map(OsString::as_os_str).and_then(method_base_name);
        let name = match called_as {
            Some(name) => Some(name),
            None if rest.is_empty() => None,
            None => Some(rest.remove(0).to_string_lossy().into_owned()),
        };
        Self { name, json, rest }
    }
}

/// The base name of a path, if it is spelled as a method of one of the interfaces.
fn method_base_name(path: &OsStr) -> Option<String> {
    let name = Path::new(path).file_name()?.to_str()?;
    let (interface, _) = name.split_once('.')?;
    smapiv3::methods()
        .any(|method| method.interface.eq_ignore_ascii_case(interface))
        .then(|| name.to_owned())
}

/// A call of the toolstack: one JSON object in, one JSON value out.
fn run_json<C>(edges: &mut Edges<'_>, registry: &Registry<C>, line: &Line) -> u8 {
    // Always to the end: a request left in the pipe fails the call for its sender.
    let mut request = Vec::new();
    let read = edges.stdin.read_to_end(&mut request);
    let name = line.name.as_deref().unwrap_or_default();
    let outcome = match (resolve(registry, name), read, line.rest.first()) {
        (Err(error), _, _) => Err(logged(&edges.log, name, &request, error)),
        (Ok(method), Err(source), _) => {
            let message = format!("{}: the request cannot be read from stdin", method.info.name);
            let error = Error::new(Failure::BadRequest, message).caused_by(source);
            Err(logged(&edges.log, name, &request, error))
        }
        (Ok(method), Ok(_), Some(argument)) => {
            let message = format!(
                "{}: with {JSON_FLAG} the parameters come from stdin, so the argument {argument:?} is not allowed",
                method.info.name
            );
            let error = Error::new(Failure::BadRequest, message);
            Err(logged(&edges.log, name, &request, error))
        }
        (Ok(method), Ok(_), None) => {
            call(&edges.log, registry, method, &request).map_err(|fault| {
                let (Fault::Request(error) | Fault::Method(error)) = fault;
                error
            })
        }
    };
    let (answer, status) = match outcome {
        Ok(result) => (result, EXIT_OK),
        Err(error) => (serde_json::to_vec(&error.reply()).unwrap_or_default(), EXIT_FAILED),
    };
    written(edges.stdout.as_mut(), &answer, status)
}

/// A call from the command line.
fn run_cli<C>(edges: &mut Edges<'_>, registry: &Registry<C>, line: &Line) -> u8 {
    let mut arguments = vec![OsString::from(registry.name)];
    if let Some(name) = &line.name {
        match spelled(registry, name) {
            Ok(name) => arguments.push(name.as_ref().into()),
            Err((error, status)) => return complained(edges, registry, &error, status),
        }
    }
    arguments.extend(line.rest.iter().cloned());
    let matches = match cli::matches(registry, &arguments) {
        Ok(matches) => matches,
        Err(error) if error.use_stderr() => {
            return written(
                edges.stderr.as_mut(),
                error.render().to_string().as_bytes(),
                EXIT_USAGE,
            );
        }
        Err(help) => {
            return written(edges.stdout.as_mut(), help.render().to_string().as_bytes(), EXIT_OK);
        }
    };
    let Some((name, matches)) = matches.subcommand() else { return EXIT_USAGE };
    if name == cli::ARCHIVE_COMMAND {
        return written(edges.stdout.as_mut(), &runpy::archive(), EXIT_OK);
    }
    let outcome = if let Some(method) = registry.find(name) {
        cli_method(&edges.log, registry, method, matches)
    } else if let Some(command) = registry.commands.iter().find(|command| command.name == name) {
        let args = cli::command_args(command, matches);
        cli_command(&edges.log, registry, command, &args).map_err(|error| (error, EXIT_FAILED))
    } else {
        Ok(registry.method_names().map(|name| format!("{name}\n")).collect())
    };
    match outcome {
        Ok(text) => written(edges.stdout.as_mut(), text.as_bytes(), EXIT_OK),
        Err((error, status)) => complained(edges, registry, &error, status),
    }
}

/// The name of a method or command as clap has to see it, or why it means nothing.
fn spelled<'a, C>(registry: &Registry<C>, name: &'a str) -> Result<Cow<'a, str>, (Error, u8)> {
    let is_command = registry.commands.iter().any(|command| command.name == name);
    if name.starts_with('-')
        || is_command
        || [cli::METHODS_COMMAND, cli::ARCHIVE_COMMAND, "help"].contains(&name)
    {
        return Ok(name.into());
    }
    let status = if smapiv3::find(name).is_some() { EXIT_FAILED } else { EXIT_USAGE };
    resolve(registry, name).map(|method| method.info.name.into()).map_err(|error| (error, status))
}

fn cli_method<C>(
    syslog: &Syslog,
    registry: &Registry<C>,
    method: &Method<C>,
    matches: &clap::ArgMatches,
) -> Result<String, (Error, u8)> {
    let schema = (method.info.request_schema)();
    let (request, mut problems) = cli::request(&schema, matches);
    if !problems.is_empty() {
        let mut others = diagnose::problems(&schema, &request);
        others.retain(|other| problems.iter().all(|problem| problem.param != other.param));
        problems.extend(others);
        return Err((diagnose::bad_request(method.info.name, &schema, &problems), EXIT_USAGE));
    }
    let request = Value::Object(request).to_string();
    match call(syslog, registry, method, request.as_bytes()) {
        Ok(answer) => Ok(pretty(&answer)),
        Err(Fault::Request(error)) => Err((error, EXIT_USAGE)),
        Err(Fault::Method(error)) => Err((error, EXIT_FAILED)),
    }
}

fn cli_command<C>(
    syslog: &Syslog,
    registry: &Registry<C>,
    command: &Command<C>,
    args: &crate::Args,
) -> Result<String, Error> {
    let log = Log::new(syslog, command.name, &Subject::default());
    let context =
        Context { method: command.name, dbg: "cli", config: registry.config()?, log: &log };
    panic::catch(command.name, || (command.run)(&context, args)).unwrap_or_else(Err)
}

/// Runs a method and logs how that ended.
fn call<C>(
    syslog: &Syslog,
    registry: &Registry<C>,
    method: &Method<C>,
    request: &[u8],
) -> Result<Vec<u8>, Fault> {
    let started = Instant::now();
    let name = method.info.name;
    let subject = Subject::of(request);
    let log = Log::new(syslog, name, &subject);
    let dbg = subject.dbg.as_deref().unwrap_or_default();
    let outcome = registry.config().map_err(Fault::Method).and_then(|config| {
        let context = Context { method: name, dbg, config, log: &log };
        panic::catch(name, || (method.call)(&context, request))
            .unwrap_or_else(|error| Err(Fault::Method(error)))
    });
    let took = started.elapsed();
    match &outcome {
        Ok(_) => log.info(format_args!("done in {took:.1?}")),
        Err(Fault::Request(error) | Fault::Method(error)) => {
            log.error(format_args!("failed in {took:.1?}: {}: {}", error.code(), error.chain()));
        }
    }
    outcome
}

/// Logs an error that no method was called for.
fn logged(syslog: &Syslog, name: &str, request: &[u8], error: Error) -> Error {
    let log = Log::new(syslog, name, &Subject::of(request));
    log.error(format_args!("failed: {}: {}", error.code(), error.chain()));
    error
}

/// The method of that name, or why there is none.
fn resolve<'a, C>(registry: &'a Registry<C>, name: &str) -> Result<&'a Method<C>, Error> {
    if let Some(method) = registry.find(name) {
        return Ok(method);
    }
    if let Some(known) = smapiv3::find(name) {
        return Err(Error::unimplemented(known.name));
    }
    let available: Vec<&str> = registry.method_names().collect();
    let mut message = match name {
        "" => format!("{}: no method was named", registry.name),
        _ => format!("{}: there is no method {name:?}", registry.name),
    };
    if let Some(near) = near::nearest(name, available.iter().copied()) {
        message.push_str(&format!(", perhaps {near} is meant"));
    }
    message.push_str(&format!(" (the methods are {})", available.join(", ")));
    Err(Error::new(Failure::BadRequest, message))
}

/// An answer on the command line: a string as it is, nothing for unit, the rest as indented JSON.
fn pretty(answer: &[u8]) -> String {
    match serde_json::from_slice::<Value>(answer) {
        Ok(Value::Null) => String::new(),
        Ok(Value::String(text)) if text.ends_with('\n') => text,
        Ok(Value::String(text)) => text + "\n",
        Ok(other) => format!("{other:#}\n"),
        Err(_) => String::from_utf8_lossy(answer).into_owned(),
    }
}

/// Prints an error on the command line, in one line.
fn complained<C>(edges: &mut Edges<'_>, registry: &Registry<C>, error: &Error, status: u8) -> u8 {
    let message = error.chain();
    let prefix = format!("{}: ", registry.name);
    let message = message.strip_prefix(&prefix).unwrap_or(&message).replace(['\n', '\r'], " ");
    written(edges.stderr.as_mut(), format!("{prefix}{message}\n").as_bytes(), status)
}

/// Writes the output; an answer that cannot be written is a failure.
fn written(stream: &mut dyn Write, text: &[u8], status: u8) -> u8 {
    match stream.write_all(text).and_then(|()| stream.flush()) {
        Ok(()) => status,
        Err(_) => status.max(EXIT_FAILED),
    }
}
