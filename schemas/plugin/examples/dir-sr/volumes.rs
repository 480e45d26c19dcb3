//! SRs and their disks: everything but serving them.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::{fs, io, path::Path, path::PathBuf, process::Command};

use smapiv3::volume::{CreateParams, Volume};
use smapiv3::{Error, Failure, StringMap, sr, sr::SrStat};

use smapiv3_plugin::files::{file_name, lock, of_file, read, write};
use uuid::Uuid;

use crate::{Context, Result};

/// Stops a server, if there is one, while a command runs: a copy has what the file was at one moment. The server
/// goes on when the command ends, and also when this program is killed.
const FROZEN: &str = r#"pid=$1; shift
if grep -q ^qemu-nbd "/proc/$pid/cmdline" 2>/dev/null; then
    trap 'kill -CONT $pid' EXIT; kill -STOP $pid
    while grep -L '^State:.T' /proc/$pid/task/*/status | grep -q .; do sleep 0.01; done
fi
"$@""#;

/// An SR that is attached.
pub(crate) struct Sr {
    path: PathBuf,
    run_dir: PathBuf,
}

/// The result goes into the PBD's device-config, and comes back in SR.attach.
pub(crate) fn create_sr(it: sr::CreateParams) -> Result<StringMap> {
    let record = directory(&it.configuration)?.join("sr.json");
    if record.exists() {
        let text = format!("{} is there: attach this SR, or remove the file", record.display());
        return Err(Error::new(Failure::SrExists, text));
    }
    let stat = SrStat {
        sr: file_name(&it.uuid)?.into(),
        name: it.name,
        uuid: Some(it.uuid),
        description: it.description,
        ..SrStat::default()
    };
    write(&record, &stat).map(|()| it.configuration)
}

/// Makes the link by which later calls find the SR. Attaching twice is no error.
pub(crate) fn attach(to: &Context<'_>, configuration: &StringMap) -> Result<String> {
    let path = directory(configuration)?;
    let SrStat { sr, .. } = read(&path.join("sr.json"))?;
    let links = to.config.join("attached");
    match fs::create_dir_all(&links).and_then(|()| symlink(&path, links.join(&sr))) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(sr),
        made => of_file(&links, made).map(|()| sr),
    }
}

pub(crate) fn attached(to: &Context<'_>, sr: &str) -> Result<Sr> {
    let path = fs::read_link(to.config.join("attached").join(file_name(sr)?));
    Ok(Sr { path: path.map_err(|_| Error::sr_not_attached(sr))?, run_dir: to.config.clone() })
}

fn directory(configuration: &StringMap) -> Result<PathBuf> {
    let path = configuration.get("path").map(String::as_str).unwrap_or_default();
    let text = || format!("device-config:path={path:?} is no directory; give the full path of one");
    let valid = path.starts_with('/') && Path::new(path).is_dir();
    if valid { Ok(path.into()) } else { Err(Error::new(Failure::InvalidArg, text())) }
}

impl Sr {
    pub(crate) fn stat(&self) -> Result<SrStat> {
        let stat = read(&self.path.join("sr.json"))?;
        let space = of_file(&self.path, rustix::fs::statvfs(&self.path).map_err(Into::into))?;
        let [free_space, total_space] =
            [space.f_bavail, space.f_blocks].map(|it| it * space.f_frsize);
        Ok(SrStat { free_space, total_space, ..stat })
    }

    pub(crate) fn describe(&self, change: impl FnOnce(&mut SrStat)) -> Result<()> {
        let (_lock, mut stat) = (lock(&self.path)?, self.stat()?);
        change(&mut stat);
        write(&self.path.join("sr.json"), &stat)
    }

    pub(crate) fn detach(&self) -> Result<()> {
        self.volumes()?.iter().try_for_each(|it| self.unused(&it.key))?;
        let link = self.run_dir.join("attached").join(self.stat()?.sr);
        of_file(&link, fs::remove_file(&link))
    }

    /// Called on an attached SR; no SR.detach follows.
    pub(crate) fn destroy(&self) -> Result<()> {
        self.volumes()?.iter().try_for_each(|it| self.remove(&it.key))?;
        self.detach()?;
        of_file(&self.path, fs::remove_file(self.path.join("sr.json")))
    }

    pub(crate) fn volumes(&self) -> Result<Vec<Volume>> {
        let entries = of_file(&self.path, fs::read_dir(&self.path))?.flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        // One that is destroyed meanwhile is not listed.
        Ok(names.filter_map(|name| self.volume(name.strip_suffix(".json")?).ok()).collect())
    }

    pub(crate) fn volume(&self, key: &str) -> Result<Volume> {
        let image = fs::metadata(self.file(key, "img")?);
        let image = image.map_err(|_| Error::volume_does_not_exist(self.path.display(), key))?;
        let volume: Volume = read(&self.file(key, "json")?)?;
        Ok(Volume { physical_utilisation: image.blocks() * 512, ..volume })
    }

    fn file(&self, key: &str, end: &str) -> Result<PathBuf> {
        Ok(self.path.join(format!("{}.{end}", file_name(key)?)))
    }

    /// An error if the datapath serves the disk.
    fn unused(&self, key: &str) -> Result<()> {
        let text = format!("disk {key} is in use; unplug it, or shut its VM down, first");
        let is_used = self.run_dir.join("active").join(key).exists();
        if is_used { Err(Error::new(Failure::VdiInUse, text)) } else { Ok(()) }
    }

    pub(crate) fn create(&self, it: CreateParams) -> Result<Volume> {
        let virtual_size = size(it.size)?;
        let volume = Volume {
            name: it.name,
            description: it.description,
            read_write: true,
            sharable: it.sharable,
            virtual_size,
            ..Volume::default()
        };
        self.add(volume, |image| fs::File::create_new(image)?.set_len(virtual_size))
    }

    /// A snapshot, or a clone, which can be written to. Name and description are copied, keys are not.
    pub(crate) fn copy(&self, key: &str, read_write: bool) -> Result<Volume> {
        let (_lock, old, from) = (lock(&self.path)?, self.volume(key)?, self.file(key, "img")?);
        let pid = fs::read_to_string(self.run_dir.join("active").join(key).join("pid"));
        self.add(Volume { read_write, ..old }, |to| {
            let mut cp = Command::new("bash");
            cp.args(["-c", FROZEN, "bash", pid.as_deref().unwrap_or_default().trim(), "cp"]);
            let cp = cp.args(["--reflink=auto", "--sparse=always"]).arg(from).arg(to).output()?;
            let mode = fs::Permissions::from_mode(if read_write { 0o600 } else { 0o400 });
            let made = cp.status.success().then_some(());
            made.ok_or_else(|| io::Error::other(String::from_utf8_lossy(&cp.stderr)))?;
            fs::set_permissions(to, mode)
        })
    }

    /// Gives a volume its key and makes its files.
    fn add(&self, it: Volume, fill: impl FnOnce(&Path) -> io::Result<()>) -> Result<Volume> {
        let [key, content] = [Uuid::new_v4(), Uuid::new_v4()].map(|it| it.to_string());
        let image = self.file(&key, "img")?;
        let uri = vec![format!("dir://{}", image.display())];
        // Of its own from birth: xapi takes volumes with the same one for copies of each other.
        let keys = [("content_id".into(), content)].into();
        let volume = Volume { uuid: Some(key.clone()), key, uri, keys, ..it };
        let made = of_file(&image, fill(&image))
            .and_then(|()| write(&self.file(&volume.key, "json")?, &volume));
        if made.is_err() {
            let _rolled_back = fs::remove_file(&image);
        }
        made.map(|()| volume)
    }

    pub(crate) fn resize(&self, key: &str, new_size: i64) -> Result<()> {
        let (_lock, volume, new) = (lock(&self.path)?, self.volume(key)?, size(new_size)?);
        if new < volume.virtual_size {
            let text = format!("disk {key} has {} bytes: {new} are less", volume.virtual_size);
            return Err(Error::new(Failure::VdiSize, text));
        }
        self.unused(key)?;
        let image = self.file(key, "img")?;
        of_file(
            &image,
            fs::File::options().write(true).open(&image).and_then(|it| it.set_len(new)),
        )?;
        write(&self.file(key, "json")?, &Volume { virtual_size: new, ..volume })
    }

    /// Destroying what is not there is no error: xapi does it twice for some disks.
    pub(crate) fn remove(&self, key: &str) -> Result<()> {
        let _lock = lock(&self.path)?;
        self.unused(key)?;
        for path in [self.file(key, "json")?, self.file(key, "img")?] {
            if path.exists() {
                of_file(&path, fs::remove_file(&path))?;
            }
        }
        Ok(())
    }

    pub(crate) fn change(&self, key: &str, change: impl FnOnce(&mut Volume)) -> Result<()> {
        let (_lock, mut volume) = (lock(&self.path)?, self.volume(key)?);
        change(&mut volume);
        write(&self.file(key, "json")?, &volume)
    }
}

/// Sizes are kept to a sector, and to no larger unit. 0 comes in, and negative numbers do.
fn size(asked: i64) -> Result<u64> {
    let text = || format!("a disk cannot have {asked} bytes: give 512 or more");
    let asked = u64::try_from(asked).map_err(|_| Error::new(Failure::VdiSize, text()))?;
    Ok(asked.max(1).next_multiple_of(512))
}
