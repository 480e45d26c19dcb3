//! A small and well-behaved SMAPIv3 plugin that keeps volumes in files, and breaks any one rule of
//! smapiv3-check on demand: `DOUBLE_FAULT=<rule>`. The tests show with it that each rule catches what it is
//! for and nothing else.
//!
//!     double install <directory>    makes the method files of both plugins
//!     double faults                 prints the rules that can be broken
//!     double call <path> --json     what a method file runs

mod background;
mod datapath;
mod faults;
mod install;
mod sr;
mod state;
mod volume;

use std::{
    io::{self, Read, Write},
    path::Path,
    process::ExitCode,
};

use serde_json::{Value, json};

use crate::{faults::has, state::Error};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["call", path, ..] => return call(path),
        ["install", directory] => install::install(Path::new(directory)),
        ["faults"] => print(&format!("{}\n", faults::ALL.join("\n"))),
        ["serve", socket, file, mode] => background::serve(socket, file, mode == "read"),
        ["import", socket, file] => background::import(socket, file),
        ["mirror", operation, file, socket] => background::mirror(operation, file, socket),
        _ => return ExitCode::from(2),
    }
    ExitCode::SUCCESS
}

fn call(path: &str) -> ExitCode {
    let path = Path::new(path);
    let method = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let side = path.parent().and_then(Path::parent).and_then(Path::file_name);
    let is_datapath = side.is_some_and(|it| it == "datapath");
    if has("call.stdin") && is_datapath && method == "Plugin.query" {
        print(&query(true).to_string());
        return ExitCode::SUCCESS;
    }
    let mut stdin = String::new();
    let params = io::stdin().read_to_string(&mut stdin).map_err(|it| it.to_string());
    let params = params.and_then(|_| serde_json::from_str(&stdin).map_err(|it| it.to_string()));
    let answer = match params {
        Ok(params) => answer(&method, is_datapath, &params),
        Err(error) => Err(Error::new("SR_BACKEND_FAILURE_143", format!("bad request: {error}"))),
    };
    match answer {
        Ok(value) => {
            print(&value.to_string());
            if has("form.value") && method == "Plugin.query" {
                print("\ndone\n");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            print(&error.reply().to_string());
            ExitCode::from(u8::from(!(has("form.exit") && error.is_unknown_sr())))
        }
    }
}

fn answer(method: &str, is_datapath: bool, params: &Value) -> Result<Value, Error> {
    let (interface, name) = method.split_once('.').unwrap_or_default();
    match (interface, name) {
        ("Plugin", "query") => Ok(query(is_datapath)),
        ("Plugin", "diagnostics") => Ok(json!("all is well")),
        ("SR", _) => sr::answer(name, params),
        ("Volume", _) => volume::answer(name, params),
        ("Datapath", _) => datapath::answer(name, params),
        ("Data", _) => datapath::operation(name, params),
        _ => Err(Error::new("Unimplemented", method.to_owned())),
    }
}

fn query(is_datapath: bool) -> Value {
    let mut features = match is_datapath {
        true => vec!["NONPERSISTENT", "VDI_MIRROR", "VDI_MIRROR_IN"],
        false => vec![
            "VDI_CONFIG_CBT",
            "VDI_MIRROR",
            "VDI_MIRROR_IN",
            "VDI_COMPOSE",
            "VDI_REVERT",
            "VDI_ACTIVATE_READONLY",
        ],
    };
    if has("query.features-known") {
        features.push("VDI_SNAPSHOTS");
    }
    if has("query.features-declared") {
        features.retain(|it| *it != "VDI_REVERT");
    }
    json!({
        "plugin": if has("query.plugin") { "" } else { "double" },
        "name": "double", "description": "a plugin for tests", "vendor": "", "copyright": "",
        "version": "1", "required_api_version": if has("query.version") { "6.0" } else { "5.0" },
        "features": features, "configuration": {}, "required_cluster_stack": [],
    })
}

fn print(text: &str) {
    // A caller that has closed its end needs no answer.
    let _closed = io::stdout().write_all(text.as_bytes());
}
