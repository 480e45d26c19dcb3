//! The real dispatcher with injected edges: what goes in as argv and stdin, what comes out where.

use std::os::unix::net::UnixDatagram;

use serde_json::{Value, json};
use smapiv3::volume::{self, Volume};
use smapiv3::{Error, Failure, StringMap, data, plugin, sr};

use smapiv3_syslog::{Facility, Syslog};

use crate::testing::{Outcome, run_plugin, run_with_log};
use crate::{Arg, EXIT_FAILED, EXIT_OK, EXIT_USAGE, Edges, Registry, run};

/// The answer of a call that failed in the form for the toolstack.
fn error_of(outcome: &Outcome) -> Value {
    let Outcome { status, stdout, stderr, .. } = outcome;
    assert_eq!((*status, stderr.as_str()), (EXIT_FAILED, ""), "{stdout}");
    let reply: Value = serde_json::from_str(stdout).unwrap();
    let fields: Vec<&String> = reply.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["code", "params", "backtrace"]);
    reply
}

/// The message of a request that was refused.
fn message_of(outcome: &Outcome) -> String {
    let error = error_of(outcome);
    assert_eq!(error["code"], "SR_BACKEND_FAILURE_143");
    assert_eq!((&error["params"][0], &error["params"][2]), (&json!(""), &json!("")));
    assert_eq!(error["params"][1], error["backtrace"]["error"]);
    error["params"][1].as_str().unwrap().to_owned()
}

fn a_volume(params: volume::CreateParams) -> Volume {
    Volume {
        key: "k".into(),
        uuid: None,
        name: params.name,
        description: params.description,
        read_write: true,
        sharable: params.sharable,
        virtual_size: params.size.unsigned_abs(),
        physical_utilisation: 0,
        uri: vec![],
        keys: StringMap::new(),
        volume_type: None,
        cbt_enabled: None,
    }
}

const CHECK_ARGS: &[Arg] = &[
    Arg::required("sr", "The SR to look at"),
    Arg::option("depth", "How deep"),
    Arg::flag("repair", "Mend what is broken"),
];

/// A plugin whose methods behave in all the ways there are.
fn registry() -> Registry<Vec<String>> {
    Registry::new("volume-plugin", "1.2.3", "A plugin for tests", Ok::<_, &str>(vec!["s1".into()]))
        .method::<plugin::Diagnostics>(|context, _| {
            Ok(format!("{}|{}", context.method, context.dbg))
        })
        .method::<plugin::Ls>(|context, _| Ok(context.config.clone()))
        .method::<sr::Create>(|_, params| Ok(params.configuration))
        .method::<sr::Detach>(|context, _| {
            context.log.info("about to do it");
            Ok(())
        })
        .method::<volume::Create>(|_, params| Ok(a_volume(params)))
        .method::<volume::Destroy>(|_, params| panic!("no {}\nat all", params.key))
        .method::<volume::Stat>(|_, params| {
            Err(Error::volume_does_not_exist(params.sr, params.key))
        })
        .method::<volume::Resize>(|_, _| {
            let cause = std::io::Error::other("disk on fire");
            Err(Error::new(Failure::Eio, "cannot resize").caused_by(cause))
        })
        .method::<data::Cancel>(|_, _| Ok(()))
        .method::<data::Copy>(|_, _| Ok(data::Operation::CopyV1("c".into())))
        .command("check", "Look for damage", CHECK_ARGS, |context, args| {
            let (sr, depth) = (args.get("sr"), args.get("depth"));
            Ok(format!("{} {sr:?} {depth:?} {}\n", context.method, args.given("repair")))
        })
        .command("break", "Fail", &[], |_, _| panic!("broken"))
}

fn run_with(argv: &[&str], stdin: &str) -> Outcome {
    run_plugin(&registry(), argv, stdin)
}

/// A call as the toolstack makes it.
fn json_call(method: &str, request: &str) -> Outcome {
    let outcome = run_with(&[&format!("/plugins/test/{method}"), "--json"], request);
    assert_eq!(outcome.unread, 0);
    outcome
}

/// A call as a person makes it.
fn cli(arguments: &[&str]) -> Outcome {
    run_with(&[&["/usr/bin/volume-plugin"], arguments].concat(), "not for me")
}

const CREATE: &str = r#"{"sharable":true,"size":0,"description":"","name":"n","sr":"s","dbg":"d"}"#;

#[test]
fn the_method_comes_from_argv0_or_the_first_argument_without_regard_to_case() {
    let dbg = r#"{"dbg":"d"}"#;
    for argv in [
        &["/x/Plugin.diagnostics", "--json"][..],
        &["/x/Plugin.Diagnostics", "--json"],
        &["PLUGIN.DIAGNOSTICS", "--json"],
        &["./volume-plugin", "plugin.diagnostics", "--json"],
        &["volume-plugin", "--json", "Plugin.diagnostics"],
        &["renamed.bin", "Plugin.diagnostics", "--json"],
    ] {
        let outcome = run_with(argv, dbg);
        assert_eq!(outcome.stdout, r#""Plugin.diagnostics|d""#, "{argv:?} {}", outcome.stderr);
        assert_eq!((outcome.status, outcome.stderr.as_str()), (EXIT_OK, ""));
    }
}

#[test]
fn unit_is_null_and_a_result_is_one_json_value() {
    assert_eq!(json_call("SR.detach", r#"{"sr":"s","dbg":"d"}"#).stdout, "null");
    let created = json_call("Volume.create", CREATE);
    assert_eq!(created.status, EXIT_OK);
    let volume: Value = serde_json::from_str(&created.stdout).unwrap();
    assert_eq!((&volume["name"], &volume["sharable"]), (&json!("n"), &json!(true)));
    assert_eq!(json_call("Plugin.ls", r#"{"dbg":"d"}"#).stdout, r#"["s1"]"#);
}

#[test]
fn an_error_of_a_method_has_code_params_and_backtrace() {
    let missing = error_of(&json_call("Volume.stat", r#"{"sr":"s1","key":"k9","dbg":"d"}"#));
    assert_eq!(missing["code"], "SR_BACKEND_FAILURE_144");
    let message = missing["params"][1].as_str().unwrap();
    assert!(message.starts_with("Volume_does_not_exist: ") && message.contains("k9"), "{message}");
    assert_eq!(missing["backtrace"]["files"], json!([]));
    let io =
        error_of(&json_call("Volume.resize", r#"{"sr":"s","key":"k","new_size":-1,"dbg":"d"}"#));
    assert_eq!(io["params"], json!(["", "cannot resize: disk on fire", ""]));
    assert_eq!(io["backtrace"]["error"], "cannot resize: disk on fire");
}

#[test]
fn a_panic_is_an_error_with_its_place_and_prints_nothing_else() {
    let panic = error_of(&json_call("Volume.destroy", r#"{"sr":"s","key":"k7","dbg":"d"}"#));
    assert_eq!(panic["code"], "SR_BACKEND_FAILURE_202");
    let message = panic["params"][1].as_str().unwrap();
    assert!(message.contains("Volume.destroy") && message.contains("no k7"), "{message}");
    let file = panic["backtrace"]["files"][0].as_str().unwrap();
    assert!(file.ends_with("tests.rs"), "{file}");
    assert!(panic["backtrace"]["lines"][0].as_u64().unwrap() > 0);
    assert_eq!(panic["backtrace"]["files"].as_array().unwrap().len(), 1);
}

#[test]
fn every_wrong_parameter_is_named_at_once_with_its_value() {
    let message =
        message_of(&json_call("Volume.create", r#"{"sr":7,"siz":5,"name":null,"sharable":"x"}"#));
    for part in [
        r#"Volume.create: "sr" is the number 7, expected a string"#,
        r#"there is no parameter "siz" (it is the number 5), perhaps "size" is meant"#,
        r#""name" is null, expected a string"#,
        r#""sharable" is the string "x", expected a boolean"#,
        r#"parameter "dbg" is missing, expected a string"#,
        r#"parameter "description" is missing"#,
        r#"parameter "size" is missing, expected an integer of 64 bits"#,
        "(the parameters are dbg, sr, name, description, size, sharable)",
    ] {
        assert!(message.contains(part), "{part} is not in {message}");
    }
}

#[test]
fn ill_typed_values_are_found_inside_of_maps_variants_and_records() {
    let map = r#"{"dbg":"d","uuid":"u","name":"n","description":"","configuration":{"size":5}}"#;
    let message = message_of(&json_call("SR.create", map));
    assert!(
        message.ends_with(r#""configuration.size" is the number 5, expected a string"#),
        "{message}"
    );
    let list = r#"{"dbg":"d","uuid":"u","name":"n","description":"","configuration":[["a","b"]]}"#;
    let message = message_of(&json_call("SR.create", list));
    assert!(
        message.ends_with(r#"is the array [["a","b"]], expected an object of strings"#),
        "{message}"
    );

    let variant = message_of(&json_call("Data.cancel", r#"{"dbg":"d","operation":["Copy","k"]}"#));
    assert!(variant.ends_with(r#"expected ["CopyV1", ...] or ["MirrorV1", ...]"#), "{variant}");
    let payload = message_of(&json_call("Data.cancel", r#"{"dbg":"d","operation":["CopyV1",5]}"#));
    assert!(payload.contains(r#""operation[1]" is the number 5, expected a string"#), "{payload}");
    let short = message_of(&json_call("Data.cancel", r#"{"dbg":"d","operation":["CopyV1"]}"#));
    assert!(short.contains("expected an array of 2"), "{short}");

    let record = r#"{"dbg":"d","uri":"u","domain":"0","remote":"r",
        "blocklist":{"ranges":[[0,1],[2,-3],[4]]}}"#;
    let message = message_of(&json_call("Data.copy", record));
    for part in [
        r#""blocklist.ranges[1][1]" is the number -3, expected an integer that is not negative"#,
        r#""blocklist.ranges[2]" is the array [4], expected an array of 2"#,
        r#""blocklist.blocksize" is missing"#,
    ] {
        assert!(message.contains(part), "{part} is not in {message}");
    }
}

#[test]
fn numbers_that_are_no_64_bit_integers_are_ill_typed() {
    for size in ["1.0", "1e6", "9223372036854775808", "-9223372036854775809"] {
        let message =
            message_of(&json_call("Volume.create", &CREATE.replace(":0,", &format!(":{size},"))));
        assert!(message.contains("expected an integer of 64 bits"), "{message}");
    }
}

#[test]
fn a_request_that_is_no_json_object_says_what_and_where() {
    for (request, part) in [
        ("", "nothing came on stdin"),
        (" \n", "nothing came on stdin"),
        ("{\"dbg\":\n oops}", "not valid JSON: expected value at line 2 column 2"),
        (r#"{"dbg":"d""#, "not valid JSON: EOF while parsing"),
        (r#"{"dbg":"d"} x"#, "not valid JSON: trailing characters at line 1 column 13"),
        (r#"["d"]"#, r#"is the array ["d"], expected one JSON object"#),
        ("null", "is null, expected one JSON object"),
        (r#"{"dbg":"d","dbg":"e"}"#, "duplicate field `dbg`"),
    ] {
        let message = message_of(&json_call("Plugin.diagnostics", request));
        assert!(message.starts_with("Plugin.diagnostics: "), "{message}");
        assert!(message.contains(part), "{part} is not in {message}");
    }
}

#[test]
fn a_long_value_is_cut_in_the_message() {
    let request = format!(r#"{{"dbg":["{}"]}}"#, "ä".repeat(1000));
    let message = message_of(&json_call("Plugin.diagnostics", &request));
    assert!(message.contains("ä...") && message.len() < 400, "{message}");
}

#[test]
fn an_unknown_method_names_the_nearest_and_an_unimplemented_one_has_the_interfaces_code() {
    let message = message_of(&json_call("Volume.craete", CREATE));
    assert!(message.contains("\"Volume.craete\", perhaps Volume.create is meant"), "{message}");
    assert!(message.contains("(the methods are Plugin.diagnostics, Plugin.ls, "), "{message}");
    let none = run_with(&["volume-plugin", "--json"], CREATE);
    assert!(message_of(&none).contains("no method was named"));
    assert_eq!(none.unread, 0);

    let copy = error_of(&json_call("volume.COPY", &"x".repeat(1 << 20)));
    assert_eq!(
        (&copy["code"], &copy["params"]),
        (&json!("Unimplemented"), &json!(["Volume.copy"]))
    );
}

#[test]
fn json_and_arguments_do_not_mix() {
    let outcome = run_with(&["Volume.create", "--json", "--size", "5"], CREATE);
    assert!(message_of(&outcome).contains("\"--size\""));
}

#[test]
fn a_person_gives_sizes_switches_and_maps_as_arguments() {
    let created =
        cli(&["volume.create", "--sr", "s", "--name", "n", "--size", "8GiB", "--sharable"]);
    assert_eq!((created.status, created.stderr.as_str()), (EXIT_OK, ""));
    assert!(created.stdout.starts_with("{\n  \"key\": \"k\",\n"), "{}", created.stdout);
    let volume: Value = serde_json::from_str(&created.stdout).unwrap();
    assert_eq!(volume["virtual_size"], 8_u64 << 30);
    assert_eq!((&volume["sharable"], &volume["description"]), (&json!(true), &json!("")));

    let not = cli(&["Volume.create", "--sr=s", "--name=n", "--size=0", "--sharable=false"]);
    assert!(not.stdout.contains("\"sharable\": false"), "{}{}", not.stdout, not.stderr);

    let map = &["--configuration", "size=1GiB", "--configuration", "uri=a=b"];
    let sr = cli(&[&["SR.create", "--uuid", "u", "--name", "n"][..], map].concat());
    assert_eq!(sr.stdout, "{\n  \"size\": \"1GiB\",\n  \"uri\": \"a=b\"\n}\n");

    let operation = cli(&["Data.cancel", "--operation", r#"["CopyV1","c"]"#]);
    assert_eq!((operation.status, operation.stdout.as_str()), (EXIT_OK, ""));
    let linked = run_with(&["/links/plugin.diagnostics"], "");
    assert_eq!(linked.stdout, "Plugin.diagnostics|cli\n");
    assert_eq!(cli(&["Plugin.diagnostics", "--dbg", "me"]).stdout, "Plugin.diagnostics|me\n");
}

#[test]
fn a_person_gets_one_line_per_error_and_2_for_bad_usage() {
    let failed = cli(&["Volume.resize", "--sr", "s", "--key", "k", "--new-size", "-5"]);
    assert_eq!(failed.status, EXIT_FAILED);
    assert_eq!(
        (failed.stdout.as_str(), failed.stderr.as_str()),
        ("", "volume-plugin: cannot resize: disk on fire\n",)
    );
    let panicked = cli(&["Volume.destroy", "--sr", "s", "--key", "k"]);
    assert_eq!((panicked.status, panicked.stderr.lines().count()), (EXIT_FAILED, 1));
    let unimplemented = cli(&["Volume.copy", "--sr", "s"]);
    assert_eq!(unimplemented.status, EXIT_FAILED);
    assert!(unimplemented.stderr.contains("Volume.copy is not implemented"));

    for (arguments, part) in [
        (&["Volume.creat"][..], "perhaps Volume.create is meant"),
        (&["Volume.stat", "--colour"], "--colour"),
        (&[], "Usage: volume-plugin"),
        (&["Volume.stat", "extra"], "extra"),
    ] {
        let outcome = cli(arguments);
        assert_eq!((outcome.status, outcome.stdout.as_str()), (EXIT_USAGE, ""), "{arguments:?}");
        assert!(outcome.stderr.contains(part), "{}", outcome.stderr);
    }
}

#[test]
fn missing_parameters_read_the_same_on_the_command_line_and_in_json() {
    let person = cli(&["Volume.stat"]);
    assert_eq!(person.status, EXIT_USAGE);
    let message = message_of(&json_call("Volume.stat", r#"{"dbg":"cli"}"#));
    assert_eq!(person.stderr, format!("volume-plugin: {message}\n"));
}

#[test]
fn badly_written_arguments_are_named_along_with_missing_ones() {
    let outcome = cli(&["Volume.create", "--sr", "s", "--size", "8GX", "--sharable=maybe"]);
    assert_eq!(outcome.status, EXIT_USAGE);
    for part in [
        "\"size\": \"8GX\" is not a size: there is no unit \"GX\"",
        "\"sharable\": \"maybe\" is not true or false",
        "parameter \"name\" is missing",
    ] {
        assert!(outcome.stderr.contains(part), "{part} is not in {}", outcome.stderr);
    }
    assert_eq!(outcome.stderr.lines().count(), 1);
    for (entries, part) in [
        (["--configuration", "size", "--configuration", "a=b"], "\"size\" is not KEY=VALUE"),
        (["--configuration", "a=1", "--configuration", "a=2"], "\"a\" is given twice"),
    ] {
        let outcome = cli(&[&["SR.create", "--uuid", "u", "--name", "n"], &entries[..]].concat());
        assert!(outcome.stderr.contains(part), "{}", outcome.stderr);
    }
}

#[test]
fn help_and_version_come_from_the_types_and_the_registry() {
    let top = cli(&["--help"]);
    assert_eq!((top.status, top.stderr.as_str()), (EXIT_OK, ""));
    for part in [
        "A plugin for tests",
        "Volume.create",
        "Create an empty volume; its size is rounded up, never down",
        "check",
        "Look for damage",
        "methods",
    ] {
        assert!(top.stdout.contains(part), "{part} is not in {}", top.stdout);
    }
    assert!(!top.stdout.contains("Volume.copy"));
    for arguments in [&["Volume.create", "--help"], &["help", "Volume.create"]] {
        let method = cli(arguments);
        assert_eq!(method.status, EXIT_OK);
        for part in [
            "--size <SIZE>",
            "The least number of bytes that it has to hold; a number may have a unit, e.g. 8GiB (required)",
            "[default: cli]",
        ] {
            assert!(method.stdout.contains(part), "{part} is not in {}", method.stdout);
        }
    }
    let map = cli(&["SR.create", "--help"]).stdout;
    assert!(map.contains("--configuration <KEY=VALUE>"), "{map}");
    assert_eq!(cli(&["--version"]).stdout, "volume-plugin 1.2.3\n");
}

#[test]
fn maintenance_commands_run_and_methods_are_listed_for_the_installation() {
    let check = cli(&["check", "--sr", "s", "--repair"]);
    assert_eq!((check.status, check.stdout.as_str()), (EXIT_OK, "check Some(\"s\") None true\n"));
    assert_eq!(cli(&["check", "--depth", "1"]).status, EXIT_USAGE);
    let broken = cli(&["break"]);
    assert_eq!(broken.status, EXIT_FAILED);
    assert!(broken.stderr.contains("broken"), "{}", broken.stderr);

    let listed = cli(&["methods"]);
    let expected: Vec<&str> = registry().method_names().collect();
    assert_eq!(listed.stdout.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn an_answer_that_cannot_be_written_is_a_failure() {
    struct Closed;
    impl std::io::Write for Closed {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let edges = Edges {
        argv: vec!["Plugin.ls".into(), "--json".into()],
        stdin: Box::new(&br#"{"dbg":"d"}"#[..]),
        stdout: Box::new(Closed),
        stderr: Box::new(std::io::sink()),
        log: Syslog::none(),
    };
    assert_eq!(run(edges, &registry()), EXIT_FAILED);
}

#[test]
fn the_log_says_which_call_what_about_and_how_it_ended() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let server = UnixDatagram::bind(&path).unwrap();
    server.set_nonblocking(true).unwrap();
    let call = |method, request| {
        let log = Syslog::connect(&path, Facility::Local2, "volume-plugin");
        run_with_log(&registry(), log, &[method, "--json"], request).status
    };
    let received = || {
        let mut buffer = vec![0; 1 << 16];
        server
            .recv(&mut buffer)
            .map(|length| String::from_utf8_lossy(&buffer[..length]).into_owned())
    };

    assert_eq!(call("SR.detach", r#"{"sr":"s1","dbg":"Op:1|SR detach"}"#), EXIT_OK);
    let pid = std::process::id();
    let about = r#"SR.detach dbg="Op:1|SR detach" sr=s1: "#;
    assert_eq!(received().unwrap(), format!("<150>volume-plugin[{pid}]: {about}about to do it"));
    let end = received().unwrap();
    assert!(end.contains(about) && end.contains("done in "), "{end}");

    // A caller that traces puts the traceparent behind a line end.
    let traced = r#"{"sr":"s1","key":"k1","dbg":"d\n00-ab-cd-01"}"#;
    assert_eq!(call("Volume.stat", traced), EXIT_FAILED);
    let error = received().unwrap();
    assert!(error.starts_with("<147>"), "{error}");
    for part in [
        "dbg=d traceparent=00-ab-cd-01 sr=s1 key=k1: failed in ",
        ": SR_BACKEND_FAILURE_144: Volume_does",
    ] {
        assert!(error.contains(part), "{error}");
    }

    assert_eq!(
        call("Volume.copy", r#"{"sr":"s1","key":"k1","dest_sr":"s2","dbg":"d","domain":"a\nb"}"#),
        EXIT_FAILED
    );
    let unimplemented = received().unwrap();
    assert!(!unimplemented.trim_end().contains('\n'), "{unimplemented}");
    assert!(
        unimplemented
            .contains(r#"Volume.copy dbg=d sr=s1 key=k1 domain="a\nb": failed: Unimplemented"#)
    );
    assert!(received().is_err(), "one line per call");
}

#[test]
fn a_configuration_that_cannot_be_read_fails_every_call_and_no_help() {
    let broken: Result<(), _> = Err("XAPI_X=\"y\" is not known");
    let registry = Registry::new("p", "1", "A plugin for tests", broken)
        .method::<plugin::Ls>(|_, _| Ok(vec![]))
        .command("check", "Look for damage", &[], |_, _| Ok(String::new()));
    let call = |argv: &[&str]| run_plugin(&registry, argv, r#"{"dbg":"d"}"#);
    let refused = error_of(&call(&["Plugin.ls", "--json"]));
    assert_eq!(refused["code"], "SR_BACKEND_FAILURE_1");
    assert_eq!(refused["params"][1], "XAPI_X=\"y\" is not known");
    let check = call(&["p", "check"]);
    assert_eq!(
        (check.status, check.stderr.as_str()),
        (EXIT_FAILED, "p: XAPI_X=\"y\" is not known\n")
    );
    assert_eq!(call(&["p", "methods"]).stdout, "Plugin.ls\n");
}
