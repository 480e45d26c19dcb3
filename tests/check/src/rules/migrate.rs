//! What xapi's storage migrations rely on.

use std::{
    fs::{self, File},
    io::{self, IoSlice},
    os::{
        fd::AsFd,
        unix::{
            fs::FileExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};

use super::{Check::Once, Need, Rule, data, source};
use crate::{
    caller::{Side, Way},
    host::{Host, Volume},
    nbd::{self, Client},
    outcome::{Outcome, Reply, Stop},
};

const MIRROR: &[Need] = &[
    Need::Feature("VDI_MIRROR"),
    Need::Datapath("Data.mirror"),
    Need::Datapath("Data.stat"),
    Need::Datapath("Datapath.activate"),
];

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "migrate.content-id",
        title: "each volume has a content_id of its own from the start",
        reference: "xen-api ocaml/xapi/storage_smapiv1_migrate.ml, Copy.copy_into_sr: the first with the same one is a base",
        consequence: "a copy is made on top of another disk's bytes",
        needs: &[Need::Feature("VDI_MIRROR_IN")],
        check: Once(content_id),
    },
    Rule {
        id: "migrate.size",
        title: "virtual_size is what was asked for, rounded up to 512 bytes and no further",
        reference: "xapi-project/blktap drivers/tapdisk-vbd.c, tapdisk_vbd_add_secondary: sizes must be equal",
        consequence: "a disk whose size is not round cannot be moved into the SR",
        needs: &[Need::Feature("VDI_MIRROR_IN")],
        check: Once(size),
    },
    Rule {
        id: "migrate.uuid",
        title: "a volume's key is its uuid",
        reference: "xen-api ocaml/xapi/xapi_vm_migrate.ml, update_snapshot_info_src: the uuid is passed on as the key",
        consequence: "a VM with snapshots cannot be moved to another SR",
        needs: &[Need::Feature("VDI_MIRROR")],
        check: Once(uuid),
    },
    Rule {
        id: "migrate.unknown",
        title: "Data.stat of an operation that was never begun does not say that it is complete",
        reference: source::MIRROR,
        consequence: "after a crash a disk counts as moved that is not, and its source is destroyed",
        needs: MIRROR,
        check: Once(unknown),
    },
    Rule {
        id: "migrate.mirror",
        title: "a mirror copies all, says so, and goes on with what is written until the domain is deactivated",
        reference: source::MIRROR,
        consequence: "the moved disk lacks what the VM wrote at the end",
        needs: MIRROR,
        check: Once(mirror),
    },
    Rule {
        id: "migrate.connection",
        title: "a mirror connects once to its destination",
        reference: "xen-api ocaml/xapi/storage_smapiv3_migrate.ml, export_nbd_proxy: accepts exactly one",
        consequence: "a storage migration hangs for ever",
        needs: MIRROR,
        check: Once(connection),
    },
    Rule {
        id: "migrate.broken",
        title: "a mirror whose destination has vanished is failed and not complete",
        reference: "xen-api ocaml/xapi/storage_smapiv3_migrate.ml, mirror_wait: complete is looked at first",
        consequence: "a disk counts as moved that is not, and its source is destroyed",
        needs: MIRROR,
        check: Once(broken),
    },
    Rule {
        id: "migrate.import",
        title: "the socket of import_activate takes a connection that is passed to it, with any export name",
        reference: "xen-api ocaml/xapi/storage_migrate.ml, nbd_handler; blktap drivers/tapdisk-nbdserver.c",
        consequence: "no disk of a running VM can be moved from SMAPIv1 into the SR",
        needs: &[
            Need::Feature("VDI_MIRROR_IN"),
            Need::Datapath("Datapath.import_activate"),
            Need::Datapath("Datapath.activate"),
        ],
        check: Once(import),
    },
    Rule {
        id: "migrate.compose",
        title: "Volume.compose puts what the child has written over the parent, zeroes too, and ends the parent",
        reference: "xen-api ocaml/xapi/storage_smapiv1_migrate.ml, receive_finalize",
        consequence: "a moved disk has old bytes where the VM wrote zeroes, or lacks the copied ones",
        needs: &[
            Need::Feature("VDI_COMPOSE"),
            Need::Method("Volume.compose"),
            Need::Method("Volume.snapshot"),
            Need::Datapath("Datapath.activate"),
        ],
        check: Once(compose),
    },
];

fn content_id(host: &Host) -> Outcome {
    let mut seen: Vec<Value> = Vec::new();
    // A clone may have its origin's: it has the same bytes.
    for volume in &[host.volume()?, host.volume()?, host.volume()?] {
        let reply = host.on(volume, "Volume.stat", json!({}))?;
        let id = reply.clone().prepared()?["keys"]["content_id"].clone();
        if id.as_str().is_none_or(str::is_empty) {
            return Err(reply.wrong("it has no content_id among its keys"));
        }
        if seen.contains(&id) {
            return Err(reply.wrong("another volume has the same content_id"));
        }
        seen.push(id);
    }
    Ok(())
}

fn size(host: &Host) -> Outcome {
    let usual = host.options.volume_bytes();
    for asked in [usual, usual + 512, usual + 513, usual + 1024 * 1024 + 1536] {
        let reply = host.create("size", asked)?;
        let is = reply.clone().prepared()?["virtual_size"].as_f64();
        let wanted = asked.next_multiple_of(512);
        if is != Some(wanted as f64) {
            return Err(reply
                .wrong(format!("asked for {asked} bytes, virtual_size is {is:?}, not {wanted}")));
        }
    }
    Ok(())
}

fn uuid(host: &Host) -> Outcome {
    let volume = host.volume()?;
    let reply = host.on(&volume, "Volume.stat", json!({}))?;
    match reply.clone().prepared()?["uuid"] == volume.key.as_str() {
        true => Ok(()),
        false => Err(reply.wrong("uuid is not the key")),
    }
}

/// Data.stat of an operation, or of a made-up one.
fn operation(host: &Host, side: &Side, operation: &Value) -> Result<Reply, Stop> {
    host.call_so(side, "Data.stat", json!({ "operation": operation }), Way::default())
}

fn unknown(host: &Host) -> Outcome {
    let volume = host.volume()?;
    let (side, _) = host.datapath_of(&volume)?;
    let reply =
        operation(host, &side, &json!(["MirrorV1", "0f0e0d0c-0000-4000-8000-00000000dead"]))?;
    match &reply.result {
        Ok(status) if status["complete"] == true => Err(reply.wrong("it says complete")),
        _ => Ok(()),
    }
}

/// A destination: an NBD server of a file that counts its connections.
struct Destination {
    directory: tempfile::TempDir,
    file: File,
    connections: Arc<AtomicUsize>,
    current: Arc<std::sync::Mutex<Option<UnixStream>>>,
}

impl Destination {
    fn new(size: u64) -> io::Result<Self> {
        let directory = tempfile::Builder::new().prefix("smapiv3-check-").tempdir()?;
        let path = directory.path().join("disk");
        let file = File::options().read(true).write(true).create(true).truncate(true).open(path)?;
        file.set_len(size)?;
        let listener = UnixListener::bind(directory.path().join("socket"))?;
        let (connections, current) = (Arc::new(AtomicUsize::new(0)), Arc::default());
        let (count, shared, served) =
            (Arc::clone(&connections), Arc::clone(&current), file.try_clone()?);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                // The proxy of a migration takes one connection; others wait for ever.
                if count.fetch_add(1, Ordering::Relaxed) > 0 {
                    std::mem::forget(stream);
                    continue;
                }
                let (copy, served) = (stream.try_clone().ok(), served.try_clone());
                *std::sync::Mutex::lock(&shared).expect("no panic") = copy;
                if let Ok(file) = served {
                    thread::spawn(move || nbd::serve(stream, &file, false));
                }
            }
        });
        Ok(Self { directory, file, connections, current })
    }

    /// As xapi spells it (`Uri` of OCaml: an empty host, the socket as a parameter).
    fn uri(&self) -> String {
        format!("nbd+unix:///check?socket={}", self.directory.path().join("socket").display())
    }

    /// Cuts the connection, and nothing listens any more.
    fn vanish(&self) {
        let _removed = fs::remove_file(self.directory.path().join("socket"));
        if let Some(stream) = self.current.lock().expect("no panic").take() {
            let _cut = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    fn has(&self, host: &Host, seed: u8) -> bool {
        data::places(host).into_iter().all(|at| {
            let mut bytes = vec![0; data::LENGTH];
            self.file.read_exact_at(&mut bytes, at).is_ok()
                && bytes == data::pattern(seed, bytes.len())
        })
    }
}

/// A volume that a guest uses, and its mirror.
struct Mirror {
    volume: Volume,
    domain: String,
    disk: crate::disk::Disk,
    destination: Destination,
    side: Side,
    operation: Value,
}

impl Mirror {
    fn begin(host: &Host, seed: u8) -> Result<Self, Stop> {
        let volume = host.volume()?;
        data::fill(host, &volume, seed)?;
        let domain = host.domain();
        let disk = host.plug(&volume, &domain)?;
        let destination = Destination::new(host.options.volume_bytes())
            .map_err(|it| Stop::blocked(format!("an NBD server to mirror to: {it}")))?;
        let (side, uri) = host.datapath_of(&volume)?;
        let params = json!({ "uri": uri, "domain": domain, "remote": destination.uri() });
        let reply = host.call_so(&side, "Data.mirror", params, Way::default())?;
        let operation = reply.expected("to an NBD server, for an active volume")?;
        Ok(Self { volume, domain, disk, destination, side, operation })
    }

    /// Asks until the mirror is complete or failed.
    fn wait(&self, host: &Host) -> Result<Reply, Stop> {
        let began = Instant::now();
        loop {
            let reply = operation(host, &self.side, &self.operation)?;
            let status = reply.clone().expected("for a mirror that was begun")?;
            if status["complete"] == true || status["failed"] == true {
                return Ok(reply);
            }
            if began.elapsed() > host.options.call_timeout() {
                return Err(reply.wrong("the mirror is neither complete nor failed in time"));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn complete(&self, host: &Host) -> Outcome {
        let reply = self.wait(host)?;
        match reply.clone().prepared()? {
            status if status["complete"] == true && status["failed"] == false => Ok(()),
            _ => Err(reply.wrong("the mirror to a working destination failed")),
        }
    }
}

fn mirror(host: &Host) -> Outcome {
    let mut mirror = Mirror::begin(host, 0xc1)?;
    mirror.complete(host)?;
    if !mirror.destination.has(host, 0xc1) {
        return Err(Stop::fail("the mirror says complete, and the destination has other bytes"));
    }
    for at in data::places(host) {
        mirror.disk.write(at, &data::pattern(0xc2, data::LENGTH))?;
    }
    let Mirror { volume, domain, disk, destination, .. } = mirror;
    drop(disk);
    host.data(&volume, "deactivate", &domain)?.expected("for a mirrored volume")?;
    if !destination.has(host, 0xc2) {
        return Err(Stop::fail("after deactivate the destination lacks what the guest wrote last"));
    }
    host.data(&volume, "detach", &domain)?.expected("for a mirrored volume").map(drop)
}

fn connection(host: &Host) -> Outcome {
    let mirror = Mirror::begin(host, 0xc3)?;
    // A probe before it would hang the mirror: its second connection is served by nothing.
    let ended = mirror.wait(host);
    match mirror.destination.connections.load(Ordering::Relaxed) {
        0 | 1 => ended.map(drop),
        count => Err(Stop::fail(format!("{count} connections were made to the destination"))),
    }
}

fn broken(host: &Host) -> Outcome {
    let mut mirror = Mirror::begin(host, 0xc4)?;
    mirror.complete(host)?;
    mirror.destination.vanish();
    let began = Instant::now();
    loop {
        // What is written now cannot reach it.
        mirror.disk.write(0, &data::pattern(0xc5, data::LENGTH))?;
        let reply = operation(host, &mirror.side, &mirror.operation)?;
        let status = match &reply.result {
            Ok(status) => status,
            // An error fails the migration as well, and keeps the source.
            Err(_) => return Ok(()),
        };
        let is_failed = status["failed"] == true;
        if is_failed && status["complete"] == true {
            return Err(
                reply.wrong("it is failed and complete at once: xapi takes that for complete")
            );
        }
        if is_failed {
            return Ok(());
        }
        if began.elapsed() > host.options.call_timeout().min(Duration::from_secs(20)) {
            return Err(
                reply.wrong("the destination has vanished, and the mirror does not say failed")
            );
        }
        thread::sleep(Duration::from_millis(50));
    }
}

fn import(host: &Host) -> Outcome {
    let (volume, domain) = (host.volume()?, format!("MIR{:06x}", host.number()));
    drop(host.plug(&volume, &domain)?);
    let reply = host.data(&volume, "import_activate", &domain)?;
    let path = reply.clone().expected("for an active volume")?;
    let path = path.as_str().unwrap_or_default().to_owned();
    // Twice, as more than one connection may come.
    for export in ["tapdisk_client", "any name"] {
        let passed = pass(Path::new(&path)).map_err(|it| reply.wrong(format!("{path}: {it}")))?;
        let mut client = Client::on(passed, export)
            .map_err(|it| reply.wrong(format!("no NBD server on the passed connection: {it}")))?;
        if client.size() != host.options.volume_bytes() {
            return Err(reply.wrong(format!("the export has {} bytes", client.size())));
        }
        let written = client.write(0, &data::pattern(0xd1, data::LENGTH));
        written.map_err(|it| reply.wrong(format!("a write on the passed connection: {it}")))?;
    }
    let mut disk = host.plug(&volume, &domain)?;
    let read = disk.read(0, data::LENGTH)?;
    drop(disk);
    host.unplug(&volume, &domain)?;
    match read == data::pattern(0xd1, data::LENGTH) {
        true => Ok(()),
        false => Err(reply.wrong("what was written on the passed connection is not on the volume")),
    }
}

/// Sends one end of a connection, with a text, and closes the control connection.
fn pass(path: &Path) -> io::Result<UnixStream> {
    let control = UnixStream::connect(path)?;
    let (own, passed) = UnixStream::pair()?;
    let fds = [passed.as_fd()];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    let text = b"0f0e0d0c-0000-4000-8000-000000000003";
    sendmsg(&control, &[IoSlice::new(text)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(own)
}

fn compose(host: &Host) -> Outcome {
    let (child, parent) = (host.volume()?, host.volume()?);
    // xapi has a snapshot of the child, below which nothing was written.
    let dummy = host.derive(&child, "Volume.snapshot")?;
    data::fill(host, &parent, 0xe1)?;
    let [written, zeroed, untouched] = data::places(host);
    let domain = host.domain();
    let mut disk = host.plug(&child, &domain)?;
    disk.write(written, &data::pattern(0xe2, data::LENGTH))?;
    disk.write(zeroed, &[0; data::LENGTH])?;
    drop(disk);
    host.unplug(&child, &domain)?;
    let reply = host.on(&child, "Volume.compose", json!({ "key2": parent.key }))?;
    reply.clone().expected("for a written child and a written parent")?;
    let mut disk = host.plug(&child, &domain)?;
    let is = [written, zeroed, untouched].map(|at| disk.read(at, data::LENGTH));
    drop(disk);
    host.unplug(&child, &domain)?;
    let [own, zeroes, below] = is;
    if own? != data::pattern(0xe2, data::LENGTH) {
        return Err(reply.wrong("what the child had written is not there"));
    }
    if zeroes?.iter().any(|it| *it != 0) {
        return Err(reply.wrong("zeroes that the child had written are the parent's bytes again"));
    }
    if below? != data::pattern(0xe1, data::LENGTH) {
        return Err(
            reply.wrong("where the child had written nothing the parent's bytes are not there")
        );
    }
    let key = json!({ "key": parent.key });
    host.call_wrong("Volume.stat", host.with_sr(key)?)?
        .refused("for a parent that was composed")?;
    // It may have vanished with the parent.
    let _either = host.on(&dummy, "Volume.destroy", json!({}))?;
    Ok(())
}
