//! Datapath.* and Data.*: a server for each active domain of a volume.

use std::{
    fs::{self, File},
    io,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    background,
    faults::has,
    state::{Error, Mark, Sr},
};

/// How long a background process may take to begin or end.
const PATIENCE: Duration = Duration::from_secs(20);

/// One call of the datapath.
struct Call {
    sr: Sr,
    handle: String,
    key: String,
    domain: String,
}

pub(crate) fn answer(name: &str, params: &Value) -> Result<Value, Error> {
    let uri = params["uri"].as_str().unwrap_or_default();
    let domain = params["domain"].as_str().unwrap_or_default().to_owned();
    let (handle, key) = place(uri);
    let mut sr = Sr::open(handle)?;
    if sr.volume(key).is_err() {
        let is_end = ["deactivate", "detach", "close"].contains(&name);
        if has("datapath.unknown") && name == "attach" {
            return Ok(
                json!({ "implementations": [["Nbd", { "uri": "nbd:unix:/x:exportname=y" }]] }),
            );
        }
        if has("form.time") && name == "attach" {
            thread::sleep(Duration::from_secs(3600));
        }
        return if is_end || has("datapath.unknown") {
            Ok(Value::Null)
        } else {
            Err(Error::no_volume(key))
        };
    }
    if has("parallel.activate") && name == "attach" {
        drop(sr);
        let lock = File::open(Path::new(handle).join("attaching.lock"))
            .or_else(|_| File::create(Path::new(handle).join("attaching.lock")))?;
        if lock.try_lock().is_err() {
            return Err(Error::new("SR_BACKEND_FAILURE_37", "another disk is being attached"));
        }
        thread::sleep(Duration::from_millis(60));
        sr = Sr::open(handle)?;
    }
    let mark = has("kill.datapath").then(|| Mark::set(sr.directory.join(format!("{key}.busy"))));
    let _mark = mark.transpose()?;
    let mut call = Call { sr, handle: handle.to_owned(), key: key.to_owned(), domain };
    match name {
        "open" => call.open(params["persistent"] == true),
        "close" => call.close(),
        "attach" => call.attach(),
        "activate" => call.activate(false),
        "activate_readonly" => call.activate(true),
        "import_activate" => call.import(),
        "deactivate" => call.deactivate(),
        "detach" => call.detach(),
        other => Err(Error::new("Unimplemented", format!("Datapath.{other}"))),
    }
}

impl Call {
    fn entry(&mut self) -> &mut Value {
        &mut self.sr.paths(&self.key)["domains"][&self.domain]
    }

    fn place(&self, name: &str) -> String {
        format!("{}/{name}", self.handle)
    }

    fn stored(&self) -> Result<Value, Error> {
        self.sr.store().map(|()| Value::Null)
    }

    /// The file that is served now.
    fn file(&mut self) -> String {
        let is_transient = self.sr.paths(&self.key)["nonpersistent"] == true;
        let end = if is_transient { "transient" } else { "raw" };
        self.place(&format!("{}.{end}", self.key))
    }

    fn open(&mut self, persistent: bool) -> Result<Value, Error> {
        if !persistent && !has("data.nonpersistent") {
            fs::copy(self.sr.file(&self.key), self.place(&format!("{}.transient", self.key)))?;
        }
        let is_transient = !persistent && !has("data.nonpersistent");
        self.sr.paths(&self.key)["nonpersistent"] = json!(is_transient);
        self.sr.paths(&self.key)["opened"] = json!(true);
        self.stored()
    }

    fn close(&mut self) -> Result<Value, Error> {
        if has("datapath.close-again") && self.sr.paths(&self.key)["opened"] != true {
            return Err(Error::new("SR_BACKEND_FAILURE_1", "the volume is not open"));
        }
        let _none = fs::remove_file(self.place(&format!("{}.transient", self.key)));
        self.sr.paths(&self.key)["nonpersistent"] = json!(false);
        self.stored()
    }

    fn attach(&mut self) -> Result<Value, Error> {
        if has("datapath.domain") && self.domain.len() > 64 {
            return Err(Error::new("SR_BACKEND_FAILURE_1", "the name of the domain is too long"));
        }
        if self.entry().is_null() {
            let number = self.sr.record["sockets"].as_u64().unwrap_or_default() + 1;
            self.sr.record["sockets"] = json!(number);
            let socket = self.place(&format!("{number}.s"));
            *self.entry() = json!({ "socket": socket, "active": false, "times": 0, "ended": 0 });
            let ever = self.sr.paths(&self.key)["ever"].as_u64().unwrap_or_default() + 1;
            self.sr.paths(&self.key)["ever"] = json!(ever);
        }
        let (socket, active) = (self.entry()["socket"].clone(), self.entry()["active"] == true);
        self.stored()?;
        let socket = socket.as_str().unwrap_or_default();
        let name = if has("datapath.nbd-uri") { "disk" } else { "exportname=disk" };
        let mut all = vec![json!(["Nbd", { "uri": format!("nbd:unix:{socket}:{name}") }])];
        if has("datapath.implementations") {
            all.clear();
        }
        if has("datapath.attach-again") && active {
            all.push(json!(["File", { "path": self.sr.file(&self.key) }]));
        }
        Ok(json!({ "implementations": all }))
    }

    fn activate(&mut self, read_only: bool) -> Result<Value, Error> {
        if self.entry().is_null() {
            return Err(Error::new("SR_BACKEND_FAILURE_1", "the volume has to be attached first"));
        }
        if self.entry()["active"] == true {
            return Ok(Value::Null);
        }
        let times = self.entry()["times"].as_u64().unwrap_or_default();
        if has("datapath.again") && times > 0 {
            return Err(Error::new("SR_BACKEND_FAILURE_1", "the volume was active before"));
        }
        let mut file = self.file();
        if has("data.kept") && times > 0 {
            File::create(&file)?.set_len(8 << 20)?;
        }
        if has("data.own")
            && let Some(other) = self.other_active()
        {
            file = other;
        }
        let socket = self.entry()["socket"].as_str().unwrap_or_default().to_owned();
        self.entry()["active"] = json!(true);
        self.entry()["times"] = json!(times + 1);
        self.stored()?;
        let mode = if read_only && !has("data.read-only") { "read" } else { "write" };
        background::start(&["serve", &socket, &file, mode])?;
        wait_for(|| Path::new(&socket).exists())?;
        Ok(Value::Null)
    }

    /// The file of another active volume, if both are no copies.
    fn other_active(&mut self) -> Option<String> {
        let volumes = self.sr.record["volumes"].as_object()?.clone();
        if volumes[&self.key]["snapshot"] == true {
            return None;
        }
        let other = volumes.keys().find(|it| **it != self.key && self.sr.is_active(it))?;
        Some(self.place(&format!("{other}.raw")))
    }

    fn import(&mut self) -> Result<Value, Error> {
        let mut socket = self.entry()["socket"].as_str().unwrap_or_default().to_owned();
        socket.push('i');
        self.entry()["import"] = json!(socket);
        self.stored()?;
        let file = self.file();
        background::start(&["import", &socket, &file])?;
        wait_for(|| Path::new(&socket).exists())?;
        Ok(json!(socket))
    }

    fn deactivate(&mut self) -> Result<Value, Error> {
        let entry = self.entry().clone();
        if has("datapath.never-active") && entry["active"] == false {
            let domains = self.sr.paths(&self.key)["domains"].as_object().cloned();
            domains.unwrap_or_default().values().for_each(end);
            // Until the server has seen it.
            thread::sleep(Duration::from_millis(500));
        }
        if has("datapath.two-domains") && entry["active"] == true {
            let domains = self.sr.paths(&self.key)["domains"].as_object().cloned();
            domains.unwrap_or_default().values().for_each(end);
            thread::sleep(Duration::from_millis(500));
        }
        let ended = entry["ended"].as_u64().unwrap_or_default();
        let is_first_domain = self.sr.paths(&self.key)["ever"] == 1;
        if has("datapath.deactivate-again")
            && ended > 0
            && is_first_domain
            && entry["active"] == false
        {
            return Err(Error::new("SR_BACKEND_FAILURE_1", "the volume is not active"));
        }
        if entry.is_null() {
            return Ok(Value::Null);
        }
        let result = self.end_mirror();
        end(&entry);
        self.entry()["active"] = json!(false);
        self.entry()["ended"] = json!(ended + 1);
        let volumes = self.sr.record["volumes"].as_object().cloned().unwrap_or_default();
        for (snapshot, _) in
            volumes.iter().filter(|(_, it)| it["origin"] == self.key && it["late"] == true)
        {
            fs::copy(self.sr.file(&self.key), self.sr.file(snapshot))?;
        }
        self.stored()?;
        result
    }

    fn detach(&mut self) -> Result<Value, Error> {
        let entry = self.entry().clone();
        let is_first = self.sr.paths(&self.key)["ever"].as_u64().is_none_or(|it| it < 2);
        if has("datapath.detach-again") && entry.is_null() && is_first {
            return Err(Error::new("SR_BACKEND_FAILURE_1", "the volume is not attached"));
        }
        end(&entry);
        if let Some(socket) = entry["socket"].as_str().filter(|_| has("datapath.ends")) {
            // Until the one that ends has let go of it.
            thread::sleep(Duration::from_millis(500));
            background::start(&["serve", socket, &self.file(), "read"])?;
            wait_for(|| Path::new(socket).exists())?;
        }
        let domains = self.sr.paths(&self.key)["domains"].as_object_mut().expect("an object");
        domains.remove(&self.domain);
        self.stored()
    }

    fn end_mirror(&mut self) -> Result<Value, Error> {
        let Some(operation) = self.entry()["mirror"].as_str().map(str::to_owned) else {
            return Ok(Value::Null);
        };
        self.entry()["mirror"] = Value::Null;
        fs::write(format!("{operation}.stop"), "")?;
        let done = format!("{operation}.done");
        wait_for(|| Path::new(&done).exists())?;
        match fs::read_to_string(done)?.as_str() {
            "failed" => {
                Err(Error::new("SR_BACKEND_FAILURE_46", "the mirror of this disk has failed"))
            }
            _ => Ok(Value::Null),
        }
    }
}

/// The SR and the key that a volume's URI names.
fn place(uri: &str) -> (&str, &str) {
    let path = uri.strip_prefix("double://").unwrap_or_default();
    path.split('?').next().and_then(|path| path.rsplit_once('/')).unwrap_or_default()
}

fn end(entry: &Value) {
    for name in ["socket", "import"] {
        // The process ends when its socket is no longer there.
        let _none = entry[name].as_str().map(fs::remove_file);
    }
}

fn wait_for(is_so: impl Fn() -> bool) -> io::Result<()> {
    let began = Instant::now();
    while !is_so() {
        if began.elapsed() > PATIENCE {
            return Err(io::Error::other("a process in the background does not begin or end"));
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Data.*
pub(crate) fn operation(name: &str, params: &Value) -> Result<Value, Error> {
    match name {
        "stat" => {
            let key = params["operation"][1].as_str().unwrap_or_default();
            match fs::read_to_string(key) {
                Ok(status) => Ok(serde_json::from_str(&status).map_err(io::Error::other)?),
                Err(_) if Path::new(&format!("{key}.begun")).exists() => {
                    Ok(json!({ "failed": false, "complete": false, "progress": 0.5 }))
                }
                Err(_) if has("migrate.unknown") => {
                    Ok(json!({ "failed": false, "complete": true }))
                }
                Err(_) => Ok(json!({ "failed": true, "complete": false })),
            }
        }
        "mirror" => {
            let uri = params["uri"].as_str().unwrap_or_default();
            let (handle, key) = place(uri);
            let mut sr = Sr::open(handle)?;
            let number = sr.record["operations"].as_u64().unwrap_or_default() + 1;
            sr.record["operations"] = json!(number);
            let operation = format!("{handle}/mirror{number}");
            let domain = params["domain"].as_str().unwrap_or_default();
            sr.paths(key)["domains"][domain]["mirror"] = json!(operation);
            sr.store()?;
            fs::write(format!("{operation}.begun"), "")?;
            let remote = params["remote"].as_str().unwrap_or_default();
            let socket = remote.split_once("socket=").map_or("", |(_, socket)| socket);
            let file = sr.file(key).display().to_string();
            background::start(&["mirror", &operation, &file, socket])?;
            Ok(json!(["MirrorV1", operation]))
        }
        other => Err(Error::new("Unimplemented", format!("Data.{other}"))),
    }
}
