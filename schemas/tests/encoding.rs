//! Type and schema agree on what is accepted: recorded requests and samples are, mutants are not.
//!
//! `requests.jsonl` holds the stdin of every call that the caller makes, as recorded from it.

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use smapiv3::{Blocklist, Call, NoParams, StringMap, data, datapath, plugin, sr, task, volume};

/// One way to hold a value against a type: parse it, say whether that worked.
type Parses = fn(&Value) -> bool;

fn parses<T: DeserializeOwned + Serialize>(value: &Value) -> bool {
    serde_json::from_value::<T>(value.clone())
        .is_ok_and(|parsed| &serde_json::to_value(parsed).unwrap() == value)
}

/// A sample of what goes over the wire, with the type and the schema it belongs to.
struct Sample {
    what: String,
    value: Value,
    schema: Value,
    parses: Parses,
}

fn sample<C: Call>(params: &C::Params, result: &C::Result) -> [Sample; 2] {
    [
        Sample {
            what: format!("{} request", C::INFO.name),
            value: serde_json::to_value(params).unwrap(),
            schema: (C::INFO.request_schema)(),
            parses: parses::<C::Params>,
        },
        Sample {
            what: format!("{} response", C::INFO.name),
            value: serde_json::to_value(result).unwrap(),
            schema: (C::INFO.response_schema)(),
            parses: parses::<C::Result>,
        },
    ]
}

/// Parameters of the commoner shapes, with the same values everywhere.
fn params<T: DeserializeOwned + JsonSchema>(mut value: Value) -> T {
    value["dbg"] = json!("d");
    serde_json::from_value(value).unwrap()
}

fn a_volume() -> volume::Volume {
    volume::Volume {
        key: "k".into(),
        uuid: Some("u".into()),
        name: "n".into(),
        description: String::new(),
        read_write: true,
        sharable: false,
        virtual_size: 1 << 40,
        physical_utilisation: 0,
        uri: vec!["ram://s/k".into()],
        keys: StringMap::from([("vdi-type".into(), "user".into())]),
        volume_type: Some(volume::VolumeType::DataAndCbtMetadata),
        cbt_enabled: Some(true),
    }
}

fn an_sr() -> sr::SrStat {
    sr::SrStat {
        sr: "s".into(),
        name: "n".into(),
        uuid: Some("u".into()),
        description: "d".into(),
        free_space: 1,
        total_space: 2,
        datasources: vec!["xeno+shm://x".into()],
        clustered: false,
        health: sr::Health::Healthy("fine".into()),
    }
}

fn a_query() -> plugin::QueryResult {
    plugin::QueryResult {
        plugin: "ram".into(),
        name: "n".into(),
        description: "d".into(),
        vendor: "v".into(),
        copyright: "c".into(),
        version: "1".into(),
        required_api_version: plugin::API_VERSION.into(),
        features: vec!["VDI_CREATE".into()],
        configuration: StringMap::from([("size".into(), "bytes".into())]),
        required_cluster_stack: vec![],
    }
}

fn a_backend() -> datapath::Backend {
    use datapath::{BlockDevice, File, Implementation, Nbd, XenDisk};
    datapath::Backend {
        implementations: vec![
            Implementation::XenDisk(XenDisk {
                params: "p".into(),
                extra: StringMap::new(),
                backend_type: "vbd3".into(),
            }),
            Implementation::BlockDevice(BlockDevice { path: "/dev/b".into() }),
            Implementation::File(File { path: "/f".into() }),
            Implementation::Nbd(Nbd { uri: "nbd:unix:/s:exportname=k".into() }),
        ],
    }
}

fn a_task(state: task::State) -> task::Task {
    task::Task { id: "1".into(), debug_info: "d".into(), ctime: 1.5, state }
}

fn sr_samples() -> Vec<Sample> {
    let on_sr: sr::SrParams = params(json!({"sr": "s"}));
    let configured: sr::ConfigurationParams = params(json!({"configuration": {"size": "1GiB"}}));
    let probed = sr::ProbeResult {
        configuration: StringMap::from([("size".into(), "1".into())]),
        complete: true,
        sr: Some(an_sr()),
        extra_info: StringMap::new(),
    };
    let create = params(json!({"uuid": "u", "configuration": {}, "name": "n", "description": ""}));
    [
        sample::<sr::Probe>(&configured, &vec![probed]),
        sample::<sr::Create>(&create, &StringMap::from([("sr_uuid".into(), "u".into())])),
        sample::<sr::Attach>(&configured, &"s".into()),
        sample::<sr::Detach>(&on_sr, &()),
        sample::<sr::Destroy>(&on_sr, &()),
        sample::<sr::Stat>(&on_sr, &an_sr()),
        sample::<sr::SetName>(&params(json!({"sr": "s", "new_name": "n"})), &()),
        sample::<sr::SetDescription>(&params(json!({"sr": "s", "new_description": "n"})), &()),
        sample::<sr::Ls>(&on_sr, &vec![a_volume()]),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn volume_samples() -> Vec<Sample> {
    let on_volume: volume::VolumeParams = params(json!({"sr": "s", "key": "k"}));
    let create = params(json!({
        "sr": "s", "name": "n", "description": "", "size": 0, "sharable": false,
    }));
    let copy = params(json!({"sr": "s", "key": "k", "dest_sr": "t"}));
    let revert = params(json!({"sr": "s", "snapshot": "x", "key": "k"}));
    let name = params(json!({"sr": "s", "key": "k", "new_name": "n"}));
    let description = params(json!({"sr": "s", "key": "k", "new_description": "n"}));
    let set = params(json!({"sr": "s", "key": "k", "k": "a", "v": "b"}));
    let unset = params(json!({"sr": "s", "key": "k", "k": "a"}));
    let resize = params(json!({"sr": "s", "key": "k", "new_size": -1}));
    let compare = params(json!({"sr": "s", "key": "k", "key2": "l"}));
    let compose = params(json!({"sr": "s", "key": "k", "key2": "l"}));
    let changed = params(json!({"sr": "s", "key": "k", "key2": "l", "offset": 0, "length": -1}));
    let blocks = Blocklist { blocksize: 4096, ranges: vec![(0, 1), (7, 9)] };
    let bitmap = volume::ChangedBlocks { granularity: 65536, bitmap: "gA==".into() };
    [
        sample::<volume::Create>(&create, &a_volume()),
        sample::<volume::Snapshot>(&on_volume, &a_volume()),
        sample::<volume::Clone>(&on_volume, &a_volume()),
        sample::<volume::Copy>(&copy, &a_volume()),
        sample::<volume::Destroy>(&on_volume, &()),
        sample::<volume::Revert>(&revert, &()),
        sample::<volume::SetName>(&name, &()),
        sample::<volume::SetDescription>(&description, &()),
        sample::<volume::Set>(&set, &()),
        sample::<volume::Unset>(&unset, &()),
        sample::<volume::Resize>(&resize, &()),
        sample::<volume::Stat>(&on_volume, &a_volume()),
        sample::<volume::Compare>(&compare, &blocks),
        sample::<volume::SimilarContent>(&on_volume, &vec!["k".into()]),
        sample::<volume::EnableCbt>(&on_volume, &()),
        sample::<volume::DisableCbt>(&on_volume, &()),
        sample::<volume::DataDestroy>(&on_volume, &()),
        sample::<volume::ListChangedBlocks>(&changed, &bitmap),
        sample::<volume::Compose>(&compose, &()),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn datapath_samples() -> Vec<Sample> {
    let domain: datapath::DomainParams = params(json!({"uri": "ram://s/k", "domain": "5"}));
    [
        sample::<datapath::Open>(&params(json!({"uri": "u", "persistent": true})), &()),
        sample::<datapath::Attach>(&domain, &a_backend()),
        sample::<datapath::Activate>(&domain, &()),
        sample::<datapath::ActivateReadonly>(&domain, &()),
        sample::<datapath::ImportActivate>(&domain, &"/run/s".into()),
        sample::<datapath::Deactivate>(&domain, &()),
        sample::<datapath::Detach>(&domain, &()),
        sample::<datapath::Close>(&params(json!({"uri": "u"})), &()),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn other_samples() -> Vec<Sample> {
    let none = NoParams { dbg: "d".into() };
    let copy = data::Operation::CopyV1("c".into());
    let mirror = data::Operation::MirrorV1("m".into());
    let operation = data::OperationParams { dbg: "d".into(), operation: copy.clone() };
    let copy_params = params(json!({
        "uri": "u", "domain": "0", "remote": "nbd://h/e",
        "blocklist": {"blocksize": 4096, "ranges": [[0, 1]]},
    }));
    let mirror_params = params(json!({"uri": "u", "domain": "0", "remote": "nbd://h/e"}));
    let status = data::Status { failed: false, complete: false, progress: Some(0.5) };
    let task: task::TaskParams = params(json!({"id": "1"}));
    let completed = |result| task::State::Completed(task::Completion { duration: 0.5, result });
    [
        sample::<plugin::Query>(&none, &a_query()),
        sample::<plugin::Ls>(&none, &vec!["s".into()]),
        sample::<plugin::Diagnostics>(&none, &"fine".into()),
        sample::<data::Copy>(&copy_params, &copy),
        sample::<data::Mirror>(&mirror_params, &mirror),
        sample::<data::Stat>(&operation, &status),
        sample::<data::Cancel>(&operation, &()),
        sample::<data::Destroy>(&operation, &()),
        sample::<data::Ls>(&none, &vec![copy, mirror]),
        sample::<task::Stat>(&task, &a_task(task::State::Pending(0.25))),
        sample::<task::Stat>(&task, &a_task(task::State::Failed("bad".into()))),
        sample::<task::Stat>(
            &task,
            &a_task(completed(Some(task::AsyncResult::Volume(a_volume())))),
        ),
        sample::<task::Stat>(&task, &a_task(completed(Some(task::AsyncResult::UnitResult(()))))),
        sample::<task::Cancel>(&task, &()),
        sample::<task::Destroy>(&task, &()),
        sample::<task::Ls>(&none, &vec!["1".into()]),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn samples() -> Vec<Sample> {
    [sr_samples(), volume_samples(), datapath_samples(), other_samples()]
        .into_iter()
        .flatten()
        .collect()
}

/// Replaces what lies at `pointer`.
fn with(value: &Value, pointer: &str, new: Value) -> Value {
    let mut mutant = value.clone();
    *mutant.pointer_mut(pointer).unwrap() = new;
    mutant
}

/// Every value that differs from `root` at one place below `pointer` in a way that is an error.
fn mutants(root: &Value, pointer: &str, out: &mut Vec<Value>) {
    let here = root.pointer(pointer).unwrap();
    let wrong: &[Value] = match here {
        Value::Null => &[json!({}), json!(""), json!([])],
        Value::Bool(_) => &[json!(null), json!("true"), json!(1)],
        Value::Number(n) if n.is_f64() => &[json!(null), json!("1"), json!([0.5])],
        Value::Number(_) => &[json!(null), json!("1"), json!(1.5), json!([1]), json!(u64::MAX)],
        Value::String(_) => &[json!(null), json!(1), json!(["x"])],
        Value::Array(_) => &[json!(null), json!({}), json!("x")],
        Value::Object(_) => &[json!(null), json!([]), json!([["a", "b"]])],
    };
    out.extend(wrong.iter().map(|wrong| with(root, pointer, wrong.clone())));
    match here {
        Value::Object(fields) => {
            for name in fields.keys() {
                mutants(root, &format!("{pointer}/{name}"), out);
            }
        }
        Value::Array(items) => {
            for index in 0..items.len() {
                mutants(root, &format!("{pointer}/{index}"), out);
            }
        }
        _ => {}
    }
}

#[test]
fn every_method_has_samples_that_its_type_and_its_schema_accept() {
    let samples = samples();
    for method in smapiv3::methods() {
        for half in ["request", "response"] {
            let what = format!("{} {half}", method.name);
            assert!(samples.iter().any(|sample| sample.what == what), "no sample of a {what}");
        }
    }
    for Sample { what, value, schema, parses } in samples {
        let accepted = jsonschema::draft202012::validate(&schema, &value);
        assert!(accepted.is_ok(), "{what}: {:?}: {value}", accepted.err());
        assert!(parses(&value), "{what}: {value}");
    }
}

/// The schemas' own examples are read back as what they are.
#[test]
fn every_example_is_one_of_its_type() {
    let mut count = 0;
    for Sample { what, schema, parses, .. } in samples() {
        for example in schema["examples"].as_array().unwrap_or_else(|| panic!("{what}: none")) {
            assert!(parses(example), "{what}: {example}");
            count += 1;
        }
    }
    let errors = smapiv3::error_schema();
    for example in errors["examples"].as_array().unwrap() {
        assert!(parses::<smapiv3::ErrorReply>(example), "{example}");
        count += 1;
    }
    assert!(count > 100, "{count}");
}

#[test]
fn a_value_of_another_type_is_rejected_wherever_it_stands() {
    for Sample { what, value, schema, parses } in samples() {
        let validator = jsonschema::draft202012::new(&schema).unwrap();
        let mut all = Vec::new();
        mutants(&value, "", &mut all);
        for mutant in all {
            assert!(!validator.is_valid(&mutant), "{what}: schema accepts {mutant}");
            // The type is allowed the top half of u64, which the caller's has not: the schema is
            // what rejects that.
            let beyond = mutant.to_string().contains(&u64::MAX.to_string());
            assert!(beyond || !parses(&mutant), "{what}: type accepts {mutant}");
        }
    }
}

/// Fields that may be left out, as `<field>` of whichever record.
const OPTIONAL: &[&str] = &["uuid", "volume_type", "cbt_enabled", "sr", "progress"];

#[test]
fn a_missing_field_is_rejected_unless_it_is_optional() {
    for Sample { what, value, schema, parses } in samples() {
        let Value::Object(fields) = &value else { continue };
        if what == "SR.create response" {
            continue; // a map: no key of it is required
        }
        for name in fields.keys() {
            let mut mutant = value.clone();
            mutant.as_object_mut().unwrap().shift_remove(name);
            let request = what.ends_with("request");
            let stat_sr = what == "SR.stat response" && name == "sr";
            let optional = !request && !stat_sr && OPTIONAL.contains(&name.as_str());
            let valid = jsonschema::draft202012::is_valid(&schema, &mutant);
            assert_eq!((valid, parses(&mutant)), (optional, optional), "{what} without {name}");
        }
    }
}

#[test]
fn an_unknown_parameter_is_rejected_and_an_unknown_field_of_a_result_is_not() {
    for Sample { what, mut value, schema, .. } in samples() {
        let request = what.ends_with("request");
        if value.is_object() && what != "SR.create response" {
            value["unheard_of"] = json!({});
            assert_eq!(jsonschema::draft202012::is_valid(&schema, &value), !request, "{what}");
        }
    }
}

#[test]
fn variants_are_tagged_arrays_and_nothing_else() {
    let health = |value: Value| serde_json::from_value::<sr::Health>(value);
    assert_eq!(health(json!(["Healthy", "x"])).unwrap(), sr::Health::Healthy("x".into()));
    for wrong in [
        json!("Healthy"),
        json!({"Healthy": "x"}),
        json!(["Healthy"]),
        json!(["Healthy", "x", "y"]),
        json!(["healthy", "x"]),
        json!([]),
    ] {
        let mut stat = serde_json::to_value(an_sr()).unwrap();
        stat["health"] = wrong.clone();
        assert!(health(wrong.clone()).is_err(), "{wrong}");
        let schema = (sr::Stat::INFO.response_schema)();
        assert!(!jsonschema::draft202012::is_valid(&schema, &stat), "{wrong}");
    }
    let unit = serde_json::to_value(task::AsyncResult::UnitResult(())).unwrap();
    assert_eq!(unit, json!(["UnitResult", null]));
    assert_eq!(serde_json::to_value(volume::VolumeType::CbtMetadata).unwrap(), "CBT_Metadata");
}

#[test]
fn optional_fields_are_left_out() {
    let bare = volume::Volume { uuid: None, volume_type: None, cbt_enabled: None, ..a_volume() };
    let value = serde_json::to_value(&bare).unwrap();
    for name in ["uuid", "volume_type", "cbt_enabled"] {
        assert!(value.get(name).is_none(), "{name}");
    }
    assert!(parses::<volume::Volume>(&value));
}

#[test]
fn the_error_reply_fits_its_schema() {
    let reply = smapiv3::Error::sr_not_attached("s").at("f.rs", 1).reply();
    let schema = smapiv3::error_schema();
    let value = serde_json::to_value(reply).unwrap();
    jsonschema::draft202012::validate(&schema, &value).unwrap();
    let mut all = Vec::new();
    mutants(&value, "", &mut all);
    for mutant in all {
        assert!(!jsonschema::draft202012::is_valid(&schema, &mutant), "{mutant}");
        assert!(!parses::<smapiv3::ErrorReply>(&mutant), "{mutant}");
    }
}

/// The type of a request, by the name of its method.
fn request_parses(name: &str) -> Option<Parses> {
    let what = format!("{name} request");
    samples().into_iter().find(|sample| sample.what == what).map(|sample| sample.parses)
}

#[test]
fn every_recorded_request_is_accepted() {
    let mut count = 0;
    for line in include_str!("requests.jsonl").lines() {
        let recorded: Value = serde_json::from_str(line).unwrap();
        let script = recorded["script"].as_str().unwrap();
        let request = serde_json::from_str(recorded["stdin"].as_str().unwrap()).unwrap();
        let method = smapiv3::find(script).unwrap();
        let schema = (method.request_schema)();
        jsonschema::draft202012::validate(&schema, &request)
            .unwrap_or_else(|error| panic!("{script}: {error}"));
        assert!(request_parses(script).unwrap()(&request), "{script}: {request}");
        count += 1;
    }
    assert_eq!(count, 51);
}
