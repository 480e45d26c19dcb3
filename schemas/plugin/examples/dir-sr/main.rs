//! A small storage repository, complete, to start one's own from: each disk is a sparse file in a directory,
//! and qemu-nbd serves it. `SMAPIv3.md` of the crate `smapiv3` says why each step is as it is.
//!
//! One program is both plugins: links named SR.*, Volume.* and Plugin.query lead to it from the volume plugin's
//! directory, Datapath.* and Plugin.query from the datapath plugin's. An SR's directory holds `sr.json`, and
//! per disk `<key>.img` (its bytes) and `<key>.json` (what Volume.stat answers). What holds until the host
//! restarts lies in the run directory: a link per attached SR, a directory per active disk.

mod datapath;
mod volumes;

use std::{path::PathBuf, process::ExitCode};

use smapiv3::{Error, datapath as interface, plugin, sr, volume};
use smapiv3_plugin::{Edges, Registry, run};
use smapiv3_syslog::{Facility, SOCKET_DEFAULT, Syslog};
use volumes::{attach, attached, create_sr};

type Result<T> = std::result::Result<T, Error>;
type Context<'a> = smapiv3_plugin::Context<'a, PathBuf>;

fn main() -> ExitCode {
    let log = Syslog::connect(SOCKET_DEFAULT.as_ref(), Facility::Local2, "dir-sr");
    // Configuration is read here and handed to the methods, so that unit tests can call them.
    let run_dir = std::env::var_os("DIR_SR_RUN").map_or("/run/dir-sr".into(), PathBuf::from);
    let about = "SRs in a directory: a plugin to start from";
    // Each method that is listed is a feature in the eyes of xapi: none is here that does not work.
    let registry = Registry::new("dir-sr", "1.0", about, Ok::<_, String>(run_dir))
        .method::<plugin::Query>(|_, _| Ok(query()))
        .method::<sr::Create>(|_, it| create_sr(it))
        .method::<sr::Attach>(|to, it| attach(to, &it.configuration))
        // Twice is no error: a daemon that died after the call repeats it.
        .method::<sr::Detach>(|to, it| attached(to, &it.sr).map_or(Ok(()), |sr| sr.detach()))
        .method::<sr::Destroy>(|to, it| attached(to, &it.sr)?.destroy())
        .method::<sr::Stat>(|to, it| attached(to, &it.sr)?.stat())
        .method::<sr::Ls>(|to, it| attached(to, &it.sr)?.volumes())
        .method::<sr::SetName>(|to, it| attached(to, &it.sr)?.describe(|sr| sr.name = it.new_name))
        .method::<sr::SetDescription>(|to, it| {
            attached(to, &it.sr)?.describe(|sr| sr.description = it.new_description)
        })
        .method::<volume::Create>(|to, it| attached(to, &it.sr)?.create(it))
        .method::<volume::Stat>(|to, it| attached(to, &it.sr)?.volume(&it.key))
        .method::<volume::Snapshot>(|to, it| attached(to, &it.sr)?.copy(&it.key, false))
        .method::<volume::Clone>(|to, it| attached(to, &it.sr)?.copy(&it.key, true))
        .method::<volume::Resize>(|to, it| attached(to, &it.sr)?.resize(&it.key, it.new_size))
        .method::<volume::Destroy>(|to, it| attached(to, &it.sr)?.remove(&it.key))
        .method::<volume::SetName>(|to, it| {
            attached(to, &it.sr)?.change(&it.key, |volume| volume.name = it.new_name)
        })
        .method::<volume::SetDescription>(|to, it| {
            attached(to, &it.sr)?.change(&it.key, |volume| volume.description = it.new_description)
        })
        .method::<volume::Set>(|to, it| {
            attached(to, &it.sr)?.change(&it.key, |volume| drop(volume.keys.insert(it.k, it.v)))
        })
        // A key that is not there is no error: migrations unset one that was never set.
        .method::<volume::Unset>(|to, it| {
            attached(to, &it.sr)?.change(&it.key, |volume| drop(volume.keys.remove(&it.k)))
        })
        .method::<interface::Attach>(|to, it| datapath::attach(to, &it))
        .method::<interface::Activate>(|to, it| datapath::activate(to, &it, false))
        .method::<interface::ActivateReadonly>(|to, it| datapath::activate(to, &it, true))
        .method::<interface::Deactivate>(|to, it| datapath::deactivate(to, &it))
        .method::<interface::Detach>(|to, it| datapath::deactivate(to, &it));
    ExitCode::from(run(Edges::process(log), &registry))
}

fn query() -> plugin::QueryResult {
    plugin::QueryResult {
        plugin: "dir".into(),
        name: "Directory".into(),
        description: "Disks as sparse files in a directory of this host".into(),
        version: "1.0".into(),
        required_api_version: plugin::API_VERSION.into(),
        features: vec!["VDI_ACTIVATE_READONLY".into()],
        configuration: [("path".into(), "full path of a directory".into())].into(),
        ..plugin::QueryResult::default()
    }
}
