//! The main job, for a reader: an SR is made, a disk in it is plugged, a real file system is copied
//! into it by a foreign program and read back, over everything that xapi would do to it.
//!
//! `make run` builds the programs and starts this with them; `make run KEEP=1` has the disk left for
//! the reader to use, and `make stop` ends that. Otherwise nothing is left, however this ends.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use end_to_end::{Disk, Side, Xapi, tools};
use scratch::Scratch;
use serde_json::{Value, json};

/// The directory that is copied into the file system.
const DOCUMENTS: &str = "/usr/share/doc";
/// Size of the disk and of the file system on it, in bytes.
const DISK_BYTES: u64 = 1 << 30;
/// The domain that the disk is plugged into.
const DOMAIN: &str = "u0_demo";
/// Size of the SR, in the form that device-config takes.
const SR_SIZE: &str = "2GiB";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut story = Story { start: Instant::now(), out: io::stdout() };
    match arguments[..] {
        ["end"] => end(&mut story),
        ["installed", plugins] => {
            story.title(&format!("The plugins in {plugins}"))?;
            let xapi = Xapi::installed(Path::new(plugins));
            show(&mut story, xapi, false)
        }
        [built] => show_built(&mut story, Path::new(built), false),
        [built, "keep"] => show_built(&mut story, Path::new(built), true),
        _ => bail!(
            "usage: demo <directory of the programs> [keep], demo end, or demo installed \
             <directory with volume/ and datapath/>"
        ),
    }
}

fn show_built(story: &mut Story, built: &Path, keep: bool) -> Result<()> {
    story.title("A RAM storage repository, as xapi-storage-script drives it")?;
    let xapi = story.step("tests/install.sh, into a directory of its own", || {
        Ok(Xapi::install(built)) //
    })?;
    show(story, xapi, keep)
}

fn show(story: &mut Story, xapi: Xapi, keep: bool) -> Result<()> {
    let work = Scratch::on_disk();
    story.note(&format!(
        "SRs lie below {}, {}",
        xapi.root().join("sr").display(),
        if rustix::process::geteuid().is_root() {
            "each a tmpfs of its own"
        } else {
            "in directories, since only root can mount"
        }
    ))?;
    let image = story
        .step("mkfs.ext4 -d /usr/share/doc: a real file system", || make_image(work.path()))?;
    let configuration =
        story.step(&format!("SR.create, size={SR_SIZE}"), || Ok(xapi.create_sr_only(SR_SIZE)))?;
    story.note(&format!("device-config from now on: {configuration}"))?;
    let sr = story.step("SR.attach, SR.stat", || Ok(xapi.attach_sr(&configuration)))?;
    let key = story.step("Volume.create, Volume.set", || Ok(xapi.create_vdi(&sr, DISK_BYTES)))?;
    let disk = fill(story, &xapi, &sr, &key, &image)?;
    if keep {
        let (uri, socket) = (disk.nbd(), disk.socket.clone());
        return leave(story, xapi, &uri, &socket, &key);
    }
    story.step("Datapath.deactivate, detach, close", || {
        disk.unplug();
        Ok(())
    })?;
    read_back(story, &xapi, &sr, &key, &configuration, &image)?;
    destroy(story, &xapi, &sr, &key, &configuration)?;
    story.title("Done: every byte was the same, and all memory is free again")?;
    for_guests(story)
}

/// Where there are guests, says how one gets a disk.
fn for_guests(story: &mut Story) -> Result<()> {
    if !Path::new("/dev/xen/gntdev").exists() {
        return Ok(());
    }
    story.title("This is a Xen host: to give a guest such a disk")?;
    story.note("make install; xe-toolstack-restart")?;
    story.note("xe sr-create type=ram name-label=ram device-config:size=2GiB host-uuid=<host>")?;
    story.note("xe vdi-create sr-uuid=<sr> virtual-size=1GiB name-label=disk")?;
    story.note("xe vbd-create vm-uuid=<vm> vdi-uuid=<vdi> device=autodetect")?;
    story.note("xe vbd-plug uuid=<vbd>")
}

/// Plugs the disk and has a foreign program write the file system into it.
fn fill<'a>(
    story: &mut Story,
    xapi: &'a Xapi,
    sr: &str,
    key: &str,
    image: &Path,
) -> Result<Disk<'a>> {
    let disk = story.step("Datapath.open, attach, activate (Volume.stat before each)", || {
        Ok(xapi.plug(sr, key, DOMAIN))
    })?;
    story.note(&format!("the disk can be reached at {}", disk.nbd()))?;
    story.step("nbdcopy writes the file system into the disk", || copy(image, &disk.nbd()))?;
    let used = xapi.used(sr);
    story.note(&format!(
        "{} MiB of memory in use for a disk of {} MiB",
        used >> 20,
        DISK_BYTES >> 20
    ))?;
    story.step("qemu-img compare: the disk against the image", || {
        same(&image.display().to_string(), &disk.nbd())
    })?;
    Ok(disk)
}

/// The bytes are there after the SR was detached, too.
fn read_back(
    story: &mut Story,
    xapi: &Xapi,
    sr: &str,
    key: &str,
    configuration: &Value,
    image: &Path,
) -> Result<()> {
    story.step("SR.detach: the memory stays", || call(xapi, "SR.detach", json!({ "sr": sr })))?;
    story.step("SR.attach again", || Ok(xapi.attach_sr(configuration)))?;
    let disk =
        story.step("plugged again, read-only", || Ok(Disk::plug(xapi, sr, key, DOMAIN, true)?))?;
    let back = image.with_file_name("read-back.img");
    story.step("nbdcopy reads the disk back", || {
        copy(Path::new(&disk.nbd()), &back.display().to_string())
    })?;
    story.step("the file system is clean, and the bytes are the same", || {
        run_tool("e2fsck", &["-fn", &back.display().to_string()])?;
        equal(image, &back)
    })?;
    story.step("Datapath.deactivate, detach, close", || {
        disk.unplug();
        Ok(())
    })
}

/// Destroys the volume and the SR, and finds nothing left.
fn destroy(
    story: &mut Story,
    xapi: &Xapi,
    sr: &str,
    key: &str,
    configuration: &Value,
) -> Result<()> {
    let volume = json!({ "sr": sr, "key": key });
    story.step("Volume.stat, Volume.destroy", || {
        call(xapi, "Volume.stat", volume.clone())?;
        call(xapi, "Volume.destroy", volume)
    })?;
    let used = xapi.used(sr);
    ensure!(used == 0, "{used} bytes are still in use");
    let what = "SR.attach, SR.stat, SR.destroy (of the attached SR, as xe sr-destroy does)";
    story.step(what, || {
        let sr = xapi.attach_sr(configuration);
        call(xapi, "SR.destroy", json!({ "sr": sr }))
    })?;
    ensure!(!xapi.sr_dir(sr).exists(), "{} is still there", xapi.sr_dir(sr).display());
    Ok(())
}

/// Leaves the disk plugged, and says how it is used and ended.
fn leave(story: &mut Story, xapi: Xapi, uri: &str, socket: &str, key: &str) -> Result<()> {
    story.title("The disk stays, until `make stop` ends it and gives its memory back")?;
    let root = xapi.keep();
    story.note(&format!("qemu-img info '{uri}'"))?;
    story.note(&format!("nbdcopy '{uri}' copy.img"))?;
    story.note("as root, to mount it:")?;
    story.note(&format!("  nbd-client -unix {socket} /dev/nbd0 -name {key}"))?;
    story.note("  mount /dev/nbd0 /mnt")?;
    story.note(&format!("everything of this host lies in {}", root.display()))?;
    for_guests(story)
}

/// Ends the disks that were left.
fn end(story: &mut Story) -> Result<()> {
    let kept = scratch::kept();
    if kept.is_empty() {
        return story.note("no disk was left by make run KEEP=1");
    }
    for root in kept {
        story.step(&format!("{} ends", root.display()), || Ok(scratch::end(&root)?))?;
    }
    Ok(())
}

/// Tells what is done, and how long it took.
struct Story {
    start: Instant,
    out: io::Stdout,
}

impl Story {
    fn title(&mut self, text: &str) -> Result<()> {
        Ok(writeln!(self.out, "\n== {text}")?)
    }

    fn note(&mut self, text: &str) -> Result<()> {
        Ok(writeln!(self.out, "             {text}")?)
    }

    fn step<T>(&mut self, text: &str, act: impl FnOnce() -> Result<T>) -> Result<T> {
        let start = Instant::now();
        let done = act().with_context(|| format!("{text} (after {:?})", self.start.elapsed()));
        let mark = if done.is_ok() { "" } else { "FAILED: " };
        writeln!(self.out, "{:>9.1} ms  {mark}{text}", milliseconds(start.elapsed()))?;
        done
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn call(xapi: &Xapi, method: &str, params: Value) -> Result<()> {
    xapi.call(Side::Volume, method, params)?;
    Ok(())
}

fn make_image(work: &Path) -> Result<PathBuf> {
    let image = work.join("documents.img");
    fs::File::create(&image)?.set_len(DISK_BYTES)?;
    let path = image.display().to_string();
    run_tool("mkfs.ext4", &["-q", "-F", "-d", DOCUMENTS, &path])?;
    Ok(image)
}

fn copy(from: &Path, to: &str) -> Result<()> {
    run_tool("nbdcopy", &[&from.display().to_string(), to])
}

fn same(one: &str, other: &str) -> Result<()> {
    run_tool("qemu-img", &["compare", "-f", "raw", "-F", "raw", one, other])
}

fn run_tool(program: &str, arguments: &[&str]) -> Result<()> {
    let output = tools::attempt(program, arguments);
    if !output.status.success() {
        bail!(
            "{program} {arguments:?}: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

/// Compares two files, piece by piece.
fn equal(one: &Path, other: &Path) -> Result<()> {
    run_tool("cmp", &[&one.display().to_string(), &other.display().to_string()])
}
