//! Storage migrations as xapi performs them, call by call (`ocaml/xapi/storage_smapiv1_migrate.ml`,
//! `storage_smapiv3_migrate.ml`, `ocaml/xapi-storage-script/main.ml` of xapi-project/xen-api).

mod copies;
mod diagnostics;
mod incoming;
mod kills;
mod load;
mod outgoing;
mod proxy;
mod smapiv1;
mod tdnbd;
mod traps;

use end_to_end::{Failure, Xapi};
use serde_json::{Value, json};

/// The calls of xapi about the volumes of one SR. Each call of the datapath comes after a Volume.stat.
struct Calls<'a> {
    xapi: &'a Xapi,
    sr: String,
}

impl Calls<'_> {
    fn volume(&self, method: &str, key: &str, more: Value) -> Result<Value, Failure> {
        let mut params = json!({ "sr": self.sr, "key": key });
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.xapi.volume(&format!("Volume.{method}"), params)
    }

    fn datapath(&self, method: &str, key: &str, domain: &str) -> Result<Value, Failure> {
        let uri = self.xapi.stat(&self.sr, key)?["uri"][0].clone();
        let params = json!({ "uri": uri, "domain": domain });
        self.xapi.datapath(&format!("Datapath.{method}"), params)
    }

    /// Datapath calls that have to work.
    #[track_caller]
    fn steps(&self, methods: &[&str], key: &str, domain: &str) {
        for method in methods {
            if let Err(failure) = self.datapath(method, key, domain) {
                panic!("{method} of {key} for {domain}: {failure}");
            }
        }
    }

    /// VDI.create.
    fn create(&self, size: u64) -> String {
        let key = self.xapi.create_vdi(&self.sr, size);
        assert_eq!(self.xapi.stat(&self.sr, &key).unwrap()["virtual_size"], size);
        key
    }

    /// VDI.snapshot: Volume.snapshot and five Volume.set.
    fn snapshot(&self, key: &str) -> String {
        let snapshot = self.volume("snapshot", key, json!({})).unwrap();
        let snapshot = snapshot["key"].as_str().unwrap().to_owned();
        let content = self.xapi.stat(&self.sr, key).unwrap()["keys"]["content_id"].clone();
        for (k, v) in [
            ("snapshot_time", json!("20261126T12:00:00Z")),
            ("is_a_snapshot", json!("true")),
            ("snapshot_of", json!(key)),
            ("content_id", content),
            ("vdi-type", json!("user")),
        ] {
            self.volume("set", &snapshot, json!({ "k": k, "v": v })).unwrap();
        }
        snapshot
    }

    /// The socket of the first NBD implementation, taken apart as xapi does.
    fn socket(&self, attached: &Value) -> String {
        let implementations = attached["implementations"].as_array().unwrap();
        let nbd = implementations.iter().find(|it| it[0] == "Nbd").unwrap();
        let fields: Vec<&str> = nbd[1]["uri"].as_str().unwrap().split(':').collect();
        let ["nbd", "unix", socket, _] = fields[..] else { panic!("{nbd}") };
        socket.to_owned()
    }
}
