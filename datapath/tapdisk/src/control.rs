//! What the process is told through its control socket, and what it answers: the errors are those
//! of blktap's tapdisk (`drivers/tapdisk-control.c`, `drivers/tapdisk-vbd.c`).

use rustix::io::Errno;
use tapctl::{
    Call, Entry, Failure, Flags, Identification, MinorLock, Open, Reply, Request, Resume, Switch,
    reply::{Image as ImageReply, Serving},
    request::ALL,
};

use crate::{
    server::{Farewell, Server},
    stats::{self, ImageStats, VbdStats},
    vbd::{self, Image, Vbd},
};

/// The unit of sizes in answers. Bytes.
const SECTOR_BYTES: u32 = 512;

/// What a RAM disk cannot do, and what a caller who asks for it relies on: a mirror or a parent
/// chain, a log of changes, encryption. blktap's flags for caches change nothing here.
const UNSUPPORTED: Flags = Flags::SECONDARY
    .with(Flags::STANDBY)
    .with(Flags::ADD_LOG)
    .with(Flags::ENCRYPTED)
    .with(Flags::REUSE_PARENT)
    .with(Flags::VHD_INDEX);

impl Server {
    /// Obeys a request.
    pub(crate) fn obey(&mut self, request: &Request) -> Reply {
        let minor = request.minor;
        let done = match &request.call {
            Call::Pid => {
                return Reply::Pid(i32::try_from(std::process::id()).unwrap_or(i32::MAX));
            }
            Call::Identify => {
                return Reply::Identity(Identification::ours(env!("CARGO_PKG_VERSION")));
            }
            Call::List => return Reply::List(self.entries()),
            Call::Stats => return self.stats(minor).unwrap_or_else(Reply::Error),
            Call::Attach => self.attach(minor),
            Call::Detach => self.detach(minor),
            Call::Open(open) => return self.open(minor, open).unwrap_or_else(Reply::Error),
            Call::Close => self.close(minor, Farewell::Polite),
            Call::ForceShutdown => self.close(minor, Farewell::Forced),
            Call::Pause => self.pause(minor),
            Call::Resume(resume) => self.resume(minor, resume),
            Call::DiskInfo => return self.disk_info(minor).unwrap_or_else(Reply::Error),
            Call::Serving => return self.serving(minor).unwrap_or_else(Reply::Error),
            Call::Switch(switch) => self.switch(minor, switch),
            Call::Resize { size_bytes } => self.resize(minor, *size_bytes),
            Call::Sole => self.reload_sole(minor),
            // As blktap's tapdisk, which has no handler for the first two.
            Call::ListMinors | Call::Exit => Err(Errno::INVAL.into()),
            Call::Connect(_) | Call::Disconnect { .. } => Err(Failure::new(
                Errno::OPNOTSUPP,
                "guests' rings are not served here; use the disk's NBD socket",
            )),
        };
        match done {
            Ok(()) => Reply::Done,
            Err(failure) => {
                self.warn(format_args!(
                    "minor {minor}: {} refused: {} ({})",
                    request.call.name(),
                    failure.text,
                    Errno::from_raw_os_error(failure.errno)
                ));
                Reply::Error(failure)
            }
        }
    }

    fn entries(&self) -> Vec<Entry> {
        self.vbds
            .iter()
            .flatten()
            .map(|vbd| Entry {
                minor: vbd.minor().into(),
                state: vbd.state(),
                params: vbd.image.as_ref().map(|it| it.params.clone().into()).unwrap_or_default(),
            })
            .collect()
    }

    fn stats(&self, minor: u16) -> Result<Reply, Failure> {
        let text = if minor == ALL {
            let vbds = self.vbds.iter().enumerate();
            let vbds = vbds.filter_map(|(place, vbd)| Some((place, vbd.as_ref()?)));
            stats::all(vbds.map(|(place, vbd)| self.vbd_stats(place, vbd)))
        } else {
            let place = self.place(minor)?;
            let vbd = self.vbds[place].as_ref().expect("a place that was found");
            self.vbd_stats(place, vbd).to_string()
        };
        Ok(Reply::Stats(text.into_bytes()))
    }

    fn vbd_stats<'a>(&'a self, place: usize, vbd: &'a Vbd) -> VbdStats<'a> {
        let image = vbd.image.as_ref().map(|image| ImageStats {
            params: &image.params,
            hits: image.counts.sectors(),
            fails: image.counts.failed_sectors(),
        });
        let outstanding = self.clients.outstanding(place);
        VbdStats { sectors: vbd.sectors(), image, outstanding }
    }

    fn attach(&mut self, minor: u16) -> Result<(), Failure> {
        if self.is_stopping() {
            return Err(Failure::new(Errno::SHUTDOWN, "this tapdisk is about to end"));
        }
        if self.place(minor).is_ok() {
            return Err(Errno::EXIST.into());
        }
        let lock = MinorLock::take(&self.dir, minor).map_err(|error| {
            let errno = match error.kind() {
                tapctl::ErrorKind::NotFound => Errno::PERM,
                _ => Errno::from_raw_os_error(error.errno()),
            };
            Failure::new(errno, error.to_string())
        })?;
        let vbd = Some(Vbd::new(lock));
        match self.vbds.iter_mut().find(|place| place.is_none()) {
            Some(place) => *place = vbd,
            None => self.vbds.push(vbd),
        }
        Ok(())
    }

    fn detach(&mut self, minor: u16) -> Result<(), Failure> {
        let place = self.place(minor)?;
        if self.vbds[place].as_ref().is_some_and(|vbd| vbd.image.is_some()) {
            return Err(Errno::BUSY.into());
        }
        self.vbds[place] = None;
        if self.vbds.iter().all(Option::is_none) {
            self.stop();
        }
        Ok(())
    }

    fn open(&mut self, minor: u16, open: &Open) -> Result<Reply, Failure> {
        // As blktap, where every other request says ENODEV.
        let place = self.place(minor).map_err(|_| Failure::from(Errno::INVAL))?;
        let params = open.params.to_string_lossy();
        if self.vbds[place].as_ref().is_some_and(|vbd| vbd.image.is_some()) {
            return Err(Errno::ALREADY.into());
        }
        supported(open.flags)?;
        let read_only = open.flags.has(Flags::READ_ONLY);
        let image = Image::open(&self.dir, minor, &params, read_only).inspect_err(|failure| {
            self.warn(format_args!("minor {minor}: opening {params}: {}", failure.text));
        })?;
        self.start_serving(place, image)?;
        self.disk_info(minor)
    }

    fn close(&mut self, minor: u16, farewell: Farewell) -> Result<(), Failure> {
        let place = self.place(minor)?;
        self.stop_serving(place, farewell);
        Ok(())
    }

    fn pause(&mut self, minor: u16) -> Result<(), Failure> {
        let place = self.place(minor)?;
        // With nothing open there is nothing to let go of, which blktap does without complaint.
        let Some(image) = self.image(place) else { return Ok(()) };
        if !image.paused {
            image.pause();
            self.rearm(place);
            self.info(format_args!("minor {minor}: paused"));
        }
        Ok(())
    }

    fn resume(&mut self, minor: u16, resume: &Resume) -> Result<(), Failure> {
        let place = self.place(minor)?;
        let dir = self.dir.clone();
        let not_paused = || Failure::new(Errno::INVAL, "the disk is not paused");
        let image = self.image(place).filter(|image| image.paused).ok_or_else(not_paused)?;
        supported(resume.flags)?;
        let params = match &resume.params {
            Some(params) => params.to_string_lossy().into_owned(),
            None => image.params.clone(),
        };
        if image.disk.is_none() || params != image.params {
            let read_only = image.read_only || resume.flags.has(Flags::READ_ONLY);
            let another = params != image.params;
            let size = image.size();
            let opened = vbd::open_disk(&dir, minor, &params, read_only).and_then(|disk| {
                // Clients have been told a size. The same volume may have grown since.
                if another && disk.size() != size {
                    let text = format!("{params} has {} bytes and not {size}", disk.size());
                    return Err(Failure::new(Errno::MEDIUMTYPE, text));
                }
                Ok(disk)
            });
            match opened {
                Ok(disk) => image.disk = Some(disk),
                Err(failure) => {
                    image.resume_failed = true;
                    return Err(failure);
                }
            }
            image.params = params;
        }
        image.paused = false;
        image.resume_failed = false;
        self.go_on(place);
        self.info(format_args!("minor {minor}: resumed"));
        Ok(())
    }

    fn disk_info(&mut self, minor: u16) -> Result<Reply, Failure> {
        let place = self.place(minor)?;
        // blktap has zeroes where nothing is open, and no error.
        let image = self.image(place).map(|image| ImageReply {
            sectors: image.size() / u64::from(SECTOR_BYTES),
            sector_size: SECTOR_BYTES,
            info: 0,
        });
        Ok(Reply::Image(image.unwrap_or_default()))
    }

    fn serving(&mut self, minor: u16) -> Result<Reply, Failure> {
        let place = self.place(minor)?;
        let image = self.vbds[place].as_ref().and_then(|vbd| vbd.image.as_ref());
        Ok(Reply::Serving(match image {
            None => Serving { path: None, read_only: false, size_bytes: 0 },
            Some(image) => Serving {
                path: Some(vbd::path_of(&image.params)?.to_owned()),
                read_only: image.read_only,
                size_bytes: image.size(),
            },
        }))
    }

    fn switch(&mut self, minor: u16, switch: &Switch) -> Result<(), Failure> {
        let switch = store::Switch { top: switch.new_top, index: switch.index.clone() };
        self.change_disk(minor, |disk| disk.switch(&switch))
    }

    fn resize(&mut self, minor: u16, size_bytes: u64) -> Result<(), Failure> {
        let place = self.place(minor)?;
        if self.image(place).is_some_and(|image| image.is_loaded()) {
            return Err(Failure::new(Errno::OPNOTSUPP, "a loaded file has no other size"));
        }
        if size_bytes > store::VOLUME_BYTES_MAX {
            return Err(Failure::new(Errno::FBIG, "no volume is as large as that"));
        }
        self.change_disk(minor, |disk| disk.resize(size_bytes))
    }

    fn reload_sole(&mut self, minor: u16) -> Result<(), Failure> {
        self.change_disk(minor, store::Disk::reload_sole)
    }

    /// Changes a disk between two requests of its clients; replies that wait keep their content.
    fn change_disk(
        &mut self,
        minor: u16,
        change: impl FnOnce(&mut store::Disk) -> store::Result<()>,
    ) -> Result<(), Failure> {
        let place = self.place(minor)?;
        let nothing = || Failure::new(Errno::BADF, "nothing is open under this minor");
        let image = self.image(place).ok_or_else(nothing)?;
        let Some(disk) = &mut image.disk else {
            return Err(Failure::new(Errno::AGAIN, "the disk is paused"));
        };
        change(disk).map_err(|error| vbd::failure(&error))
    }

    /// Where the VBD of a minor is.
    fn place(&self, minor: u16) -> Result<usize, Failure> {
        let is_it = |vbd: &Option<Vbd>| vbd.as_ref().is_some_and(|vbd| vbd.minor() == minor);
        self.vbds.iter().position(is_it).ok_or_else(|| Errno::NODEV.into())
    }

    /// What is open.
    fn image(&mut self, place: usize) -> Option<&mut Image> {
        self.vbds[place].as_mut().and_then(|vbd| vbd.image.as_mut())
    }
}

fn supported(flags: Flags) -> Result<(), Failure> {
    if flags.has(UNSUPPORTED) {
        let text = format!("flags {:#x}: not for a disk in memory", flags.0 & UNSUPPORTED.0);
        return Err(Failure::new(Errno::OPNOTSUPP, text));
    }
    Ok(())
}
