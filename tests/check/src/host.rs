//! The one SR that rules work in, what they have made in it, and its end.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    caller::{Caller, Exchange, Failure, Side, Way},
    disk::Disk,
    options::Options,
    outcome::{Reply, Stop},
};

/// A host with the plugins that are judged.
#[derive(Debug)]
pub struct Host {
    /// Calls the plugins.
    pub caller: Caller,
    /// The command line.
    pub options: Options,
    sr: Mutex<Option<Sr>>,
    /// Why there is no SR, once that was tried.
    no_sr: Mutex<Option<Stop>>,
    queries: Mutex<BTreeMap<String, Value>>,
    volumes: Mutex<BTreeSet<String>>,
    attached: Mutex<BTreeSet<(String, String)>>,
    counter: AtomicU32,
    directory: Option<tempfile::TempDir>,
    destroyed: AtomicBool,
    /// An SR that is half made could not be destroyed.
    is_making_sr: AtomicBool,
}

/// The SR of this run.
#[derive(Clone, Debug)]
pub struct Sr {
    /// The UUID that it was created with.
    pub uuid: String,
    /// What SR.create answered, which xapi keeps as the PBD's device-config.
    pub configuration: Value,
    /// What SR.attach answered.
    pub handle: String,
    /// SR.stat before anything was changed.
    pub stat: Value,
    /// SR.ls of the new SR.
    pub ls: Value,
}

/// The name that the SR is created with.
pub const SR_NAME: &str = "smapiv3-check";
/// And its description.
pub const SR_DESCRIPTION: &str = "made by smapiv3-check, destroyed at its end";

/// A volume that a rule made.
#[derive(Clone, Debug)]
pub struct Volume {
    /// Its key.
    pub key: String,
    /// What the call that made it answered.
    pub value: Value,
}

impl Volume {
    /// Reads the answer of a call that makes a volume.
    ///
    /// # Errors
    /// Where it has no key.
    pub fn of(value: Value) -> Result<Self, Stop> {
        let key = value["key"].as_str().filter(|it| !it.is_empty());
        let key = key.ok_or_else(|| Stop::blocked(format!("a volume has no key: {value}")))?;
        Ok(Self { key: key.to_owned(), value })
    }
}

impl Host {
    /// A host on which nothing was done yet.
    #[must_use]
    pub fn new(caller: Caller, options: Options) -> Self {
        let wants_directory = options.config.iter().any(|(_, value)| value.contains("{dir}"));
        let directory =
            wants_directory.then(|| tempfile::Builder::new().prefix("smapiv3-check-").tempdir());
        Self {
            caller,
            options,
            sr: Mutex::default(),
            no_sr: Mutex::default(),
            queries: Mutex::default(),
            volumes: Mutex::default(),
            attached: Mutex::default(),
            counter: AtomicU32::new(0),
            directory: directory.and_then(Result::ok),
            destroyed: AtomicBool::new(false),
            is_making_sr: AtomicBool::new(false),
        }
    }

    /// A number that no other rule has got.
    pub fn number(&self) -> u32 {
        self.counter.fetch_add(1, Ordering::Relaxed)
    }

    /// Calls a method, in an ordinary or another way.
    ///
    /// # Errors
    /// The rule is skipped where the method has no file.
    pub fn call_so(
        &self,
        side: &Side,
        method: &str,
        params: Value,
        way: Way<'_>,
    ) -> Result<Reply, Stop> {
        if self.caller.directory(side).and_then(|it| it.script(method)).is_none() {
            return Err(Stop::skip(format!("{method} is not there")));
        }
        if self.caller.is_interrupted() && !self.is_making_sr.load(Ordering::Relaxed) {
            return Err(Stop::blocked("interrupted"));
        }
        let exchange = self.caller.call(side, method, params, way);
        let result = exchange.result();
        Ok(Reply { exchange, result })
    }

    /// Calls a method of the volume plugin.
    ///
    /// # Errors
    /// As [`Host::call_so`].
    pub fn call(&self, method: &str, params: Value) -> Result<Reply, Stop> {
        self.call_so(&Side::Volume, method, params, Way::default())
    }

    /// Calls a method of the volume plugin that has to fail.
    ///
    /// # Errors
    /// As [`Host::call_so`].
    pub fn call_wrong(&self, method: &str, params: Value) -> Result<Reply, Stop> {
        let way = Way { must_fail: true, ..Way::default() };
        self.call_so(&Side::Volume, method, params, way)
    }

    /// Plugin.query of a side, asked once.
    ///
    /// # Errors
    /// Where it fails.
    pub fn query(&self, side: &Side) -> Result<Value, Stop> {
        let name = format!("{side:?}");
        if let Some(known) = self.queries.lock().expect("no panic").get(&name) {
            return Ok(known.clone());
        }
        let reply = self.call_so(side, "Plugin.query", json!({}), Way::default())?;
        let value = reply.prepared()?;
        self.queries.lock().expect("no panic").insert(name, value.clone());
        Ok(value)
    }

    /// Whether Plugin.query of a side lists a feature, of whichever version.
    #[must_use]
    pub fn declares(&self, side: &Side, feature: &str) -> bool {
        let features = self.query(side).map(|it| it["features"].clone()).unwrap_or_default();
        let name = |it: &Value| it.as_str().and_then(|it| it.split('/').next()).map(str::to_owned);
        features
            .as_array()
            .is_some_and(|all| all.iter().any(|it| name(it).as_deref() == Some(feature)))
    }

    /// Whether the volume plugin or any datapath plugin lists a feature.
    #[must_use]
    pub fn declares_anywhere(&self, feature: &str) -> bool {
        self.sides().iter().any(|side| self.declares(side, feature))
    }

    /// Both kinds of plugins.
    #[must_use]
    pub fn sides(&self) -> Vec<Side> {
        let datapaths = self.caller.datapaths.iter().map(|it| Side::Datapath(it.name.clone()));
        [Side::Volume].into_iter().chain(datapaths).collect()
    }

    /// The SR, which the first call makes.
    ///
    /// # Errors
    /// Where that fails.
    pub fn sr(&self) -> Result<Sr, Stop> {
        let mut sr = self.sr.lock().expect("no panic");
        if let Some(sr) = &*sr {
            return Ok(sr.clone());
        }
        if let Some(stop) = &*self.no_sr.lock().expect("no panic") {
            return Err(stop.clone());
        }
        self.is_making_sr.store(true, Ordering::Relaxed);
        let made = self.make_sr();
        self.is_making_sr.store(false, Ordering::Relaxed);
        match made {
            Ok(made) => Ok(sr.insert(made).clone()),
            Err(stop) => {
                // Told in full once.
                let again = Stop::blocked("there is no SR: what makes it failed, see above");
                *self.no_sr.lock().expect("no panic") = Some(again);
                Err(stop)
            }
        }
    }

    fn make_sr(&self) -> Result<Sr, Stop> {
        let uuid = self.options.sr_uuid.clone().unwrap_or_else(|| Uuid::new_v4().to_string());
        let params = json!({
            "uuid": uuid, "configuration": self.configuration(),
            "name": SR_NAME, "description": SR_DESCRIPTION,
        });
        let needed = |stop| match stop {
            Stop::Skip(why) => Stop::blocked(why),
            other => other,
        };
        let made = self.call("SR.create", params).map_err(needed)?.prepared();
        let mut configuration = made.map_err(|stop| match stop {
            Stop::Blocked(mut finding) => {
                finding.what.push_str(&self.keys_to_give());
                Stop::Blocked(finding)
            }
            other => other,
        })?;
        // xapi adds it when the SR is attached (Xapi_sr.create, Storage_access.create_sr).
        if configuration.is_object() {
            configuration["sr_uuid"] = json!(uuid);
        }
        let params = json!({ "configuration": configuration });
        let attached = self.call("SR.attach", params).map_err(needed)?.prepared();
        let handle = attached.map_err(|stop| match stop {
            Stop::Blocked(mut finding) => {
                // SR.destroy takes what SR.attach would have given.
                finding.what.push_str(&format!("; the new SR {uuid} stays as SR.create made it"));
                Stop::Blocked(finding)
            }
            other => other,
        })?;
        let handle = handle.as_str().map_or_else(|| handle.to_string(), str::to_owned);
        let now = |method: &str| -> Result<Value, Stop> {
            self.call(method, json!({ "sr": handle })).map_err(needed)?.prepared()
        };
        let (stat, ls) = (now("SR.stat")?, now("SR.ls")?);
        Ok(Sr { uuid, configuration, handle, stat, ls })
    }

    /// The device-config of the command line.
    #[must_use]
    pub fn configuration(&self) -> Value {
        let directory = self.directory.as_ref().map(|it| it.path().display().to_string());
        let value = |text: &str| text.replace("{dir}", directory.as_deref().unwrap_or("{dir}"));
        let pairs = self.options.config.iter();
        Value::Object(pairs.map(|(key, text)| (key.clone(), value(text).into())).collect())
    }

    /// Where no key of the device-config was given: which ones Plugin.query tells of.
    fn keys_to_give(&self) -> String {
        let query = self.query(&Side::Volume).unwrap_or_default();
        let keys: Vec<&String> =
            query["configuration"].as_object().into_iter().flat_map(|it| it.keys()).collect();
        if keys.is_empty() || !self.options.config.is_empty() {
            return String::new();
        }
        format!(
            "; no --config <key>=<value> was given, and Plugin.query tells of the keys {keys:?}"
        )
    }

    /// What a rule found when it attached the SR anew.
    pub fn set_handle(&self, handle: String) {
        if let Some(sr) = &mut *self.sr.lock().expect("no panic") {
            sr.handle = handle;
        }
    }

    /// Parameters with the SR.
    ///
    /// # Errors
    /// Where there is no SR.
    pub fn with_sr(&self, params: Value) -> Result<Value, Stop> {
        let mut params = params;
        params["sr"] = json!(self.sr()?.handle);
        Ok(params)
    }

    /// Calls a method of the volume plugin with the SR.
    ///
    /// # Errors
    /// As [`Host::call`], and where there is no SR.
    pub fn on_sr(&self, method: &str, params: Value) -> Result<Reply, Stop> {
        self.call(method, self.with_sr(params)?)
    }

    /// Calls a method of the volume plugin on a volume.
    ///
    /// # Errors
    /// As [`Host::on_sr`].
    pub fn on(&self, volume: &Volume, method: &str, params: Value) -> Result<Reply, Stop> {
        let mut params = params;
        params["key"] = json!(volume.key);
        self.on_sr(method, params)
    }

    /// Volume.stat.
    ///
    /// # Errors
    /// Where it fails.
    pub fn stat(&self, volume: &Volume) -> Result<Value, Stop> {
        self.on(volume, "Volume.stat", json!({}))?.prepared()
    }

    /// Volume.create alone.
    ///
    /// # Errors
    /// As [`Host::on_sr`].
    pub fn create(&self, name: &str, size: u64) -> Result<Reply, Stop> {
        let params = json!({ "name": name, "description": "", "size": size, "sharable": false });
        let reply = self.on_sr("Volume.create", params)?;
        self.note(&reply);
        Ok(reply)
    }

    /// xapi's VDI.create of an ordinary volume: Volume.create, and Volume.set of its type.
    ///
    /// # Errors
    /// Where one of them fails.
    pub fn volume(&self) -> Result<Volume, Stop> {
        let name = format!("volume {}", self.number());
        let reply = self.create(&name, self.options.volume_bytes())?;
        let volume = Volume::of(reply.prepared()?)?;
        if self.caller.volume.script("Volume.set").is_some() {
            let set = json!({ "k": "vdi-type", "v": "user" });
            self.on(&volume, "Volume.set", set)?.prepared()?;
        }
        Ok(volume)
    }

    /// Volume.snapshot or Volume.clone.
    ///
    /// # Errors
    /// Where it fails.
    pub fn derive(&self, volume: &Volume, method: &str) -> Result<Volume, Stop> {
        let reply = self.on(volume, method, json!({}))?;
        self.note(&reply);
        Volume::of(reply.prepared()?)
    }

    /// Remembers the volume that a call has made, to be destroyed after the rule.
    pub fn note(&self, reply: &Reply) {
        if let Some(key) = reply.result.as_ref().ok().and_then(|it| it["key"].as_str()) {
            self.volumes.lock().expect("no panic").insert(key.to_owned());
        }
    }

    /// The keys that SR.ls lists.
    ///
    /// # Errors
    /// Where it fails.
    pub fn listed(&self) -> Result<Vec<String>, Stop> {
        let ls = self.on_sr("SR.ls", json!({}))?.prepared()?;
        let key = |it: &Value| it["key"].as_str().map(str::to_owned);
        Ok(ls.as_array().into_iter().flatten().filter_map(key).collect())
    }

    /// The URI and the datapath plugin that the daemon takes for a volume (`choose_datapath` of `main.ml`).
    ///
    /// # Errors
    /// The rule is skipped where there is no datapath plugin for it.
    pub fn datapath_of(&self, volume: &Volume) -> Result<(Side, String), Stop> {
        if self.caller.datapaths.is_empty() {
            return Err(Stop::skip("no directory of a datapath plugin was given"));
        }
        let stat = self.stat(volume)?;
        let uris = stat["uri"].as_array().cloned().unwrap_or_default();
        for uri in uris.iter().filter_map(Value::as_str) {
            let scheme = uri.split_once(':').map_or("", |(scheme, _)| scheme);
            if self.caller.datapaths.iter().any(|it| it.name == scheme) {
                return Ok((Side::Datapath(scheme.to_owned()), uri.to_owned()));
            }
        }
        Err(Stop::blocked(format!("no datapath plugin serves any of {uris:?}")))
    }

    /// Calls a method of the datapath for a domain, as the daemon does: the URI is asked for anew.
    ///
    /// # Errors
    /// As [`Host::call_so`].
    pub fn data(&self, volume: &Volume, step: &str, domain: &str) -> Result<Reply, Stop> {
        let (side, uri) = self.datapath_of(volume)?;
        let place = (volume.key.clone(), domain.to_owned());
        if step == "attach" || step.starts_with("activate") {
            self.attached.lock().expect("no panic").insert(place);
        }
        let params = json!({ "uri": uri, "domain": domain });
        self.call_so(&side, &format!("Datapath.{step}"), params, Way::default())
    }

    /// Attaches and activates a volume for a domain, and opens what that gives.
    ///
    /// # Errors
    /// Where one of them fails, or this program cannot read what it gives.
    pub fn plug(&self, volume: &Volume, domain: &str) -> Result<Disk, Stop> {
        let backend = self.data(volume, "attach", domain)?.prepared()?;
        self.data(volume, "activate", domain)?.prepared()?;
        Disk::open(&backend)
    }

    /// The same for reading alone, in the way in which xapi uses snapshots.
    ///
    /// # Errors
    /// As [`Host::plug`].
    pub fn plug_to_read(&self, volume: &Volume, domain: &str) -> Result<Disk, Stop> {
        let backend = self.data(volume, "attach", domain)?.prepared()?;
        let step = match self.declares_anywhere("VDI_ACTIVATE_READONLY") {
            true => "activate_readonly",
            false => "activate",
        };
        self.data(volume, step, domain)?.prepared()?;
        Disk::open(&backend)
    }

    /// Deactivates and detaches.
    ///
    /// # Errors
    /// Where one of them fails.
    pub fn unplug(&self, volume: &Volume, domain: &str) -> Result<(), Stop> {
        for step in ["deactivate", "detach"] {
            self.data(volume, step, domain)?.prepared()?;
        }
        self.attached.lock().expect("no panic").remove(&(volume.key.clone(), domain.to_owned()));
        Ok(())
    }

    /// The domain string of a disk in dom0 (`domain_of` of `main.ml`), another one for each number.
    #[must_use]
    pub fn domain(&self) -> String {
        format!("u0_vbd_0_check{}", self.number())
    }

    /// Ends what rules have attached and destroys what they have made. Errors are not told: a rule of
    /// its own judges each of these calls.
    pub fn tidy(&self) {
        let attached = std::mem::take(&mut *self.attached.lock().expect("no panic"));
        for (key, domain) in attached {
            let volume = Volume { key, value: Value::Null };
            for step in ["deactivate", "detach"] {
                let _told_elsewhere = self.data(&volume, step, &domain);
            }
        }
        // Clones after snapshots: some plugins want it so.
        let volumes = std::mem::take(&mut *self.volumes.lock().expect("no panic"));
        for key in volumes {
            let _told_elsewhere = self.on_sr("Volume.destroy", json!({ "key": key }));
        }
    }

    /// SR.destroy of the SR, after all volumes that are in it. Done once.
    pub fn end(&self) -> Option<Reply> {
        let is_there = self.sr.lock().expect("no panic").is_some();
        if !is_there || self.destroyed.swap(true, Ordering::Relaxed) {
            return None;
        }
        // As xapi does; a rule may have ended between SR.detach and SR.attach.
        if let Ok(sr) = self.sr()
            && let Ok(reply) = self.call("SR.attach", json!({ "configuration": sr.configuration }))
            && let Ok(Value::String(handle)) = reply.result
        {
            self.set_handle(handle);
        }
        self.tidy();
        for key in self.listed().unwrap_or_default() {
            let _told_below = self.on_sr("Volume.destroy", json!({ "key": key }));
        }
        let destroyed = self.on_sr("SR.destroy", json!({})).ok();
        if destroyed.is_none() {
            let _nothing_else_to_do = self.on_sr("SR.detach", json!({}));
        }
        destroyed
    }

    /// A failed call that says that a volume is in use.
    #[must_use]
    pub fn names_use(failure: &Failure) -> bool {
        failure.code == "SR_BACKEND_FAILURE_24" || failure.to_string().contains("in use")
    }

    /// A failed call that says that a volume is not there.
    #[must_use]
    pub fn names_missing_volume(failure: &Failure) -> bool {
        let text = format!("{failure}").to_lowercase();
        ["volume_does_not_exist", "failure_144", "failure_46", "vdimissing", "vdi_missing"]
            .iter()
            .any(|it| text.contains(it))
    }

    /// The exchanges so far that a check of all calls judges.
    #[must_use]
    pub fn exchanges(&self) -> Vec<std::sync::Arc<Exchange>> {
        self.caller.exchanges()
    }
}
