//! Every operation on an SR by name, for tests that kill it at each of its steps.

use std::collections::BTreeMap;

use store::{
    Attachment, ExternalHolder, Host, Live, Name, Result, Serving, Sr,
    testing::{attachment, host},
};

pub(crate) const BLOCK: u64 = 4096;
/// A chunk and a bit: there are chunks with a page, without one, and one in which the disk ends.
pub(crate) const SIZE: i64 = (4 << 20) + 16 * 4096;
pub(crate) const SR_BYTES: u64 = 64 << 20;
/// The UUID of a second SR.
pub(crate) const OTHER_SR: &str = "0f0e0d0c-0000-4000-8000-000000000002";
/// The operations, by name. `origin` is written to, `old` and `new` are snapshots of it, `child` is
/// a clone of `old`; of `past`, a snapshot between the two, only the map is left.
pub(crate) fn operate(operation: &str, sr: &Sr, keys: &Keys, live: &mut dyn Live) -> Result<()> {
    let key = |name: &str| keys.0.get(name).map_or("no-such-key", String::as_str);
    match operation {
        "create" => sr
            .lock()?
            .create_volume(&store::NewVolume {
                name: "fresh",
                description: "",
                size: SIZE,
                sharable: false,
            })
            .map(drop),
        "rename" => sr.lock().unwrap().set_volume_name(key("origin"), "renamed"),
        "resize" => sr.lock().unwrap().resize_volume(key("origin"), SIZE * 3).map(drop),
        "snapshot" => sr.lock().unwrap().snapshot_volume(key("origin"), live).map(drop),
        "snapshot of a snapshot" => sr.lock().unwrap().snapshot_volume(key("old"), live).map(drop),
        "clone" => sr.lock().unwrap().clone_volume(key("origin"), live).map(drop),
        "clone of a snapshot" => sr.lock().unwrap().clone_volume(key("new"), live).map(drop),
        "grow the SR" => sr_host(sr).resize_sr(sr.uuid(), SR_BYTES * 2).map(drop),
        "shrink the SR" => sr_host(sr).resize_sr(sr.uuid(), SR_BYTES / 2).map(drop),
        "revert" => sr.lock().unwrap().revert_volume(key("old"), key("origin"), live),
        "compose" => sr.lock().unwrap().compose_volumes(key("child"), key("origin"), live),
        "data_destroy" => sr.lock().unwrap().destroy_volume_data(key("new"), live),
        "destroy a snapshot" => sr.lock().unwrap().destroy_volume(key("old"), live),
        "destroy the origin" => sr.lock().unwrap().destroy_volume(key("origin"), live),
        "collect" => sr.lock().unwrap().collect(live).map(drop),
        "begin a session" => sr.lock().unwrap().clone_hidden(key("origin"), &hidden(), live),
        "destroy what is in a session" => sr.lock().unwrap().destroy_volume(key("origin"), live),
        "return" => give_back(sr, key("origin")),
        "copy" => {
            let there = other_sr(&sr_host(sr));
            sr.copy_volume(key("origin"), &there, live, &mut store::Inactive).map(drop)
        }
        _ => panic!("no operation {operation:?}"),
    }
}

/// The key of the clone that takes the place of a volume.
pub(crate) fn hidden() -> Name {
    Name::parse("the-clone").unwrap()
}

/// Lends a volume and takes it back with other contents: some blocks written, one let go of.
fn give_back(sr: &Sr, key: &str) -> Result<()> {
    let serving =
        Serving { pid: 1, control_dir: "/nonexistent".into(), minor: 0, read_only: false };
    sr.lock()
        .unwrap()
        .set_external_holder(key, &ExternalHolder::new(serving, "/nonexistent/lock".into()))?;
    let mut returned = sr.lock().unwrap().begin_write_back(key)?;
    returned.disk().write(0, &[9; 4096])?;
    returned.disk().write(200 * BLOCK, &[9; 8192])?;
    returned.disk().write_zeroes(1020 * BLOCK, BLOCK, false)?;
    returned.commit()
}

/// The host of an SR of these tests.
fn sr_host(sr: &Sr) -> Host {
    host(sr.layout().root().parent().unwrap())
}

/// A second SR on the same host, attached.
pub(crate) fn other_sr(host: &Host) -> Sr {
    let uuid = Name::parse(OTHER_SR).unwrap();
    host.attach(&Attachment { uuid, ..attachment(host, SR_BYTES) }).unwrap()
}

/// The keys of volumes by name; of several with one name, whichever.
pub(crate) struct Keys(pub(crate) BTreeMap<String, String>);

impl Keys {
    pub(crate) fn of(sr: &Sr) -> Self {
        let named = |it: store::Volume| (it.name, it.key.to_string());
        Self(sr.volumes().unwrap().into_iter().map(named).collect())
    }
}
