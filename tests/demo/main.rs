//! The main job, for a reader: an SR is made, a disk in it is plugged, a real file system is copied
//! into it by a foreign program and read back, over everything that xapi would do to it.
//!
//! `make run` installs the plugins into a directory of their own and starts this with it.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use end_to_end::{Disk, Side, Xapi, tools};
use serde_json::{Value, json};

/// Whose documents the file system holds.
const DOCUMENTS: &str = "/usr/share/doc";
/// The disk, and the file system on it. Bytes.
const DISK_BYTES: u64 = 1 << 30;
/// The SR, as an administrator writes it.
const SR_SIZE: &str = "2GiB";

fn main() -> Result<()> {
    let plugins = std::env::args_os().nth(1).map(PathBuf::from);
    let plugins = plugins.context("usage: demo <directory with volume/ and datapath/>")?;
    let work = tempfile::TempDir::new().context("a directory for the file system image")?;
    let xapi = Xapi::installed(&plugins);
    let mut story = Story { start: Instant::now(), out: io::stdout() };
    story.title("A RAM storage repository, as xapi-storage-script drives it")?;
    story.note(&format!(
        "plugins: {}; SRs below {}, {}",
        plugins.display(),
        xapi.root().join("sr").display(),
        if rustix::process::geteuid().is_root() {
            "each a tmpfs of its own"
        } else {
            "in directories, since only root can mount"
        }
    ))?;
    let image = story
        .step("mkfs.ext4 -d /usr/share/doc: a real file system", || make_image(work.path()))?;
    run(&mut story, &xapi, &image, work.path())?;
    story.title("Done: every byte was the same, and all memory is free again")
}

fn run(story: &mut Story, xapi: &Xapi, image: &Path, work: &Path) -> Result<()> {
    let configuration =
        story.step(&format!("SR.create, size={SR_SIZE}"), || Ok(xapi.create_sr_only(SR_SIZE)))?;
    story.note(&format!("device-config from now on: {configuration}"))?;
    let sr = story.step("SR.attach, SR.stat", || Ok(xapi.attach_sr(&configuration)))?;
    let key = story.step("Volume.create, Volume.set", || Ok(xapi.create_vdi(&sr, DISK_BYTES)))?;
    let disk = story.step("Datapath.open, attach, activate (Volume.stat before each)", || {
        Ok(xapi.plug(&sr, &key, "u0_demo"))
    })?;
    story.note(&format!("the disk can be reached at {}", disk.nbd()))?;
    story.note(&format!("  qemu-img info '{}'", disk.nbd()))?;
    story.note(&format!("  nbd-client -unix {} /dev/nbd0 -name {key}", disk.socket))?;
    story.step("nbdcopy writes the file system into the disk", || copy(image, &disk.nbd()))?;
    let used = xapi.used(&sr);
    story.note(&format!(
        "{} MiB of memory in use for a disk of {} MiB",
        used >> 20,
        DISK_BYTES >> 20
    ))?;
    story.step("qemu-img compare: the disk against the image", || {
        same(&image.display().to_string(), &disk.nbd())
    })?;
    story.step("Datapath.deactivate, detach, close", || {
        disk.unplug();
        Ok(())
    })?;
    story.step("SR.detach: the memory stays", || call(xapi, "SR.detach", json!({ "sr": sr })))?;
    story.step("SR.attach again", || Ok(xapi.attach_sr(&configuration)))?;
    let disk = story
        .step("plugged again, read-only", || Ok(Disk::plug(xapi, &sr, &key, "u0_demo", true)?))?;
    let back = work.join("read-back.img");
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
    })?;
    let volume = json!({ "sr": sr, "key": key });
    story.step("Volume.stat, Volume.destroy", || {
        call(xapi, "Volume.stat", volume.clone())?;
        call(xapi, "Volume.destroy", volume)
    })?;
    ensure!(xapi.used(&sr) == 0, "{} bytes are still in use", xapi.used(&sr));
    story.step(
        "SR.attach, SR.stat, SR.destroy (of the attached SR, as xe sr-destroy does)",
        || {
            let sr = xapi.attach_sr(&configuration);
            call(xapi, "SR.destroy", json!({ "sr": sr }))
        },
    )?;
    ensure!(!xapi.sr_dir(&sr).exists(), "{} is still there", xapi.sr_dir(&sr).display());
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
