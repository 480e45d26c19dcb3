//! What the process is told through its control socket, and what it answers: the errors are those
//! of blktap's tapdisk (`drivers/tapdisk-control.c`, `drivers/tapdisk-vbd.c`).

use rustix::io::Errno;
use tapctl::{
    Call, Entry, ErrorKind, Failure, Flags, Identification, MinorLock, Open, Reply, Request,
    Resume, Switch,
    reply::{Image as ImageReply, Serving},
    request::ALL,
};

use crate::{
    server::Server,
    stats,
    vbd::{self, Image, Vbd},
};

/// The unit of sizes in answers. Bytes.
const SECTOR_BYTES: u32 = 512;

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
            Call::Close | Call::ForceShutdown => self.close(minor),
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

    fn stats(&mut self, minor: u16) -> Result<Reply, Failure> {
        let one = if minor == ALL { None } else { Some(self.place(minor)?) };
        let mut of = |place: usize| {
            let outstanding = self
                .clients
                .of(place)
                .into_iter()
                .filter_map(|client| Some(self.clients.get(client)?.connection.outstanding()))
                .sum();
            let vbd = self.vbds[place].as_ref().expect("a place that was found");
            let params = vbd.image.as_ref().map(|image| image.params.as_str());
            stats::vbd(params, &vbd.stats, outstanding)
        };
        let text = if let Some(place) = one {
            of(place).to_string()
        } else {
            let places = (0..self.vbds.len()).filter(|&place| self.vbds[place].is_some());
            serde_json::Value::Array(places.map(of).collect()).to_string()
        };
        Ok(Reply::Stats(text.into_bytes()))
    }

    fn attach(&mut self, minor: u16) -> Result<(), Failure> {
        if self.place(minor).is_ok() {
            return Err(Errno::EXIST.into());
        }
        let lock = MinorLock::take(&self.dir, minor).map_err(|error| {
            let errno = match error.kind() {
                ErrorKind::NotFound => Errno::PERM,
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
        self.stopping |= self.vbds.iter().all(Option::is_none);
        Ok(())
    }

    fn open(&mut self, minor: u16, open: &Open) -> Result<Reply, Failure> {
        let place = self.place(minor)?;
        let params = open.params.to_string_lossy();
        if self.vbds[place].as_ref().is_some_and(|vbd| vbd.image.is_some()) {
            return Err(Errno::ALREADY.into());
        }
        let read_only = open.flags.has(Flags::READ_ONLY);
        let image = Image::open(&self.dir, minor, &params, read_only).inspect_err(|failure| {
            self.warn(format_args!("minor {minor}: opening {params}: {}", failure.text));
        })?;
        self.listen(place, &image)?;
        self.info(format_args!(
            "minor {minor}: serving {params}{}",
            if image.read_only { " read-only" } else { "" }
        ));
        self.vbds[place].as_mut().expect("found").image = Some(image);
        self.disk_info(minor)
    }

    fn close(&mut self, minor: u16) -> Result<(), Failure> {
        let place = self.place(minor)?;
        if let Some(image) = self.vbds[place].as_mut().and_then(|vbd| vbd.image.take()) {
            image.loans.recall_all();
            self.dismiss(place);
            self.info(format_args!("minor {minor}: closed {}", image.params));
        }
        Ok(())
    }

    fn pause(&mut self, minor: u16) -> Result<(), Failure> {
        let place = self.place(minor)?;
        let image = self.image(place)?;
        if image.paused {
            return Ok(());
        }
        image.loans.recall_all();
        image.paused = true;
        if !image.is_loaded() {
            image.disk = None;
        }
        self.rearm(place);
        self.info(format_args!("minor {minor}: paused"));
        Ok(())
    }

    fn resume(&mut self, minor: u16, resume: &Resume) -> Result<(), Failure> {
        let place = self.place(minor)?;
        let dir = self.dir.clone();
        let image = self.image(place)?;
        if !image.paused {
            return Err(Errno::INVAL.into());
        }
        let params = match &resume.params {
            Some(params) => params.to_string_lossy().into_owned(),
            None => image.params.clone(),
        };
        if image.disk.is_none() || params != image.params {
            let read_only = image.read_only || resume.flags.has(Flags::READ_ONLY);
            match vbd::open_disk(&dir, minor, &params, read_only) {
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
        // What they have received meanwhile, no socket tells of again.
        self.unfinished.extend(self.clients.of(place));
        self.info(format_args!("minor {minor}: resumed"));
        Ok(())
    }

    fn disk_info(&mut self, minor: u16) -> Result<Reply, Failure> {
        let place = self.place(minor)?;
        let image = self.image(place)?;
        let size = image.disk.as_ref().map_or(0, store::Disk::size);
        Ok(Reply::Image(ImageReply {
            sectors: size / u64::from(SECTOR_BYTES),
            sector_size: SECTOR_BYTES,
            info: 0,
        }))
    }

    fn serving(&mut self, minor: u16) -> Result<Reply, Failure> {
        let place = self.place(minor)?;
        let image = self.vbds[place].as_ref().and_then(|vbd| vbd.image.as_ref());
        Ok(Reply::Serving(match image {
            None => Serving { path: None, read_only: false, size_bytes: 0 },
            Some(image) => Serving {
                path: Some(vbd::path_of(&image.params)?.to_owned()),
                read_only: image.read_only,
                size_bytes: image.disk.as_ref().map_or(0, store::Disk::size),
            },
        }))
    }

    fn switch(&mut self, minor: u16, switch: &Switch) -> Result<(), Failure> {
        let switch = store::Switch { top: switch.new_top, index: switch.index.clone() };
        self.change_disk(minor, |disk| disk.switch(&switch))
    }

    fn resize(&mut self, minor: u16, size_bytes: u64) -> Result<(), Failure> {
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
        let image = self.image(place)?;
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

    fn image(&mut self, place: usize) -> Result<&mut Image, Failure> {
        let image = self.vbds[place].as_mut().and_then(|vbd| vbd.image.as_mut());
        image.ok_or_else(|| Failure::new(Errno::BADF, "nothing is open under this minor"))
    }
}
