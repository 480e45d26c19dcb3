//! Answers the options of a client (proto.md, Handshake phase): one call, one message.
//!
//! One socket serves one disk, so every export name is right: the empty one, and whatever a
//! client makes up (the tapdisk of blktap sends `tapdisk_client` with its NUL).

use block::Disk;

use super::{
    end::End,
    greeting::{ALLOCATION_ID, transmission_flags},
    session::Phase,
    turn::Turn,
};
use crate::wire::{
    self, BASE_ALLOCATION, BASE_WILDCARD, PAYLOAD_BYTES_MAX, STRING_BYTES_MAX, client_flag, info,
    option, option_reply as reply,
};

/// More data than this is no option, but is dropped and answered.
const OPTION_BYTES_MAX: u32 = 64 << 10;
/// More than this is not even dropped.
const DROPPED_BYTES_MAX: u32 = PAYLOAD_BYTES_MAX;
/// Head of an option.
const HEAD: usize = wire::OptionHead::BYTES;
/// Smallest and preferred unit of a request, in bytes (proto.md, Size constraints).
const BLOCK_BYTES_MIN: u32 = 1;
const BLOCK_BYTES_PREFERRED: u32 = 4096;

/// Takes numbers and strings off the front of option data.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    fn number16(&mut self) -> Option<u16> {
        self.bytes(2)?.try_into().ok().map(u16::from_be_bytes)
    }

    fn number32(&mut self) -> Option<u32> {
        self.bytes(4)?.try_into().ok().map(u32::from_be_bytes)
    }

    /// A length and as many bytes, not longer than a string may be.
    fn string(&mut self) -> Option<&'a [u8]> {
        let length = self.number32()? as usize;
        if length > STRING_BYTES_MAX {
            return None;
        }
        self.bytes(length)
    }
}

/// Data of `INFO` and `GO`.
struct InfoRequest<'a> {
    export: &'a [u8],
    /// Two bytes each.
    wanted: &'a [u8],
}

impl<'a> InfoRequest<'a> {
    fn parse(data: &'a [u8]) -> Option<Self> {
        let mut fields = Fields(data);
        let export = fields.string()?;
        let count = usize::from(fields.number16()?);
        let wanted = fields.bytes(2 * count)?;
        fields.0.is_empty().then_some(Self { export, wanted })
    }

    fn wants(&self, kind: u16) -> bool {
        self.wanted.chunks_exact(2).any(|item| item == kind.to_be_bytes())
    }
}

/// Data of `LIST_META_CONTEXT` and `SET_META_CONTEXT`.
struct MetaQuery<'a> {
    export: &'a [u8],
    /// How many queries there are.
    queries: u32,
    /// One of them is the one context there is.
    exact: bool,
    /// One of them is for everything in its namespace.
    wildcard: bool,
}

impl<'a> MetaQuery<'a> {
    fn parse(data: &'a [u8]) -> Option<Self> {
        let mut fields = Fields(data);
        let export = fields.string()?;
        let queries = fields.number32()?;
        let mut query = Self { export, queries, exact: false, wildcard: false };
        for _ in 0..queries {
            match fields.string()? {
                BASE_ALLOCATION => query.exact = true,
                BASE_WILDCARD => query.wildcard = true,
                // Other namespaces and other leaves are ignored, as the protocol demands.
                _ => {}
            }
        }
        fields.0.is_empty().then_some(query)
    }
}

impl<D: Disk> Turn<'_, D> {
    /// Takes the client's flags, if they are here. `false`: they are not.
    pub(super) fn client_flags(&mut self) -> Result<bool, End> {
        let Some(bytes) = self.input.array() else { return Ok(false) };
        let flags = u32::from_be_bytes(bytes);
        if flags & !(client_flag::FIXED_NEWSTYLE | client_flag::NO_ZEROES) != 0 {
            return Err(End::Violation("client flags that were not offered"));
        }
        self.input.consume(bytes.len());
        self.session.no_zeroes = flags & client_flag::NO_ZEROES != 0;
        self.session.phase = Phase::Options;
        Ok(true)
    }

    /// Answers the next option, if all of it is here. `false`: it is not.
    pub(super) fn option(&mut self) -> Result<bool, End> {
        let Some(head) = self.input.array::<HEAD>() else { return Ok(false) };
        let head = wire::OptionHead::from_bytes(&head);
        if head.magic != wire::OPTION_MAGIC {
            return Err(End::Violation("an option without its magic"));
        }
        if head.length > OPTION_BYTES_MAX {
            return self.too_long(head).map(|()| true);
        }
        let total = HEAD + head.length as usize;
        if !self.input.has(total) {
            return Ok(false);
        }
        let bytes = self.input.bytes(total)[HEAD..].to_vec();
        self.input.consume(total);
        self.answer(head.option, &bytes)?;
        Ok(true)
    }

    fn too_long(&mut self, head: wire::OptionHead) -> Result<(), End> {
        if head.option == option::EXPORT_NAME || head.length > DROPPED_BYTES_MAX {
            return Err(End::Violation("an option far beyond the limit"));
        }
        self.input.consume(HEAD);
        self.input.skip(head.length as usize);
        self.error(head.option, reply::ERR_TOO_BIG, "option too long");
        Ok(())
    }

    fn answer(&mut self, code: u32, data: &[u8]) -> Result<(), End> {
        if self.session.stopping && code != option::ABORT {
            if code == option::EXPORT_NAME {
                return Err(End::Stopped);
            }
            self.error(code, reply::ERR_SHUTDOWN, "the disk is being closed");
            return Ok(());
        }
        match code {
            option::EXPORT_NAME => return self.export_name(data),
            option::ABORT => {
                self.reply(code, reply::ACK, &[]);
                return Err(End::Aborted);
            }
            option::LIST | option::STRUCTURED_REPLY | option::STARTTLS if !data.is_empty() => {
                self.error(code, reply::ERR_INVALID, "this option has no data");
            }
            option::LIST => self.list(),
            option::STRUCTURED_REPLY => {
                self.session.structured = true;
                self.reply(code, reply::ACK, &[]);
            }
            option::STARTTLS => {
                self.error(code, reply::ERR_POLICY, "a local socket needs no TLS");
            }
            option::INFO | option::GO => match InfoRequest::parse(data) {
                Some(request) => self.info(code, &request),
                None => self.error(code, reply::ERR_INVALID, "malformed option"),
            },
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => self.meta_context(code, data),
            _ => self.error(code, reply::ERR_UNSUP, "unknown option"),
        }
        Ok(())
    }

    /// The old way to choose an export. It has no error reply: an error ends the session.
    fn export_name(&mut self, name: &[u8]) -> Result<(), End> {
        if name.len() > STRING_BYTES_MAX {
            return Err(End::Violation("an export name that is too long"));
        }
        self.start(name);
        let flags = transmission_flags(self.drive.read_only(), self.session.structured);
        let answer = wire::ExportName { size: self.drive.size(), flags };
        self.output().push(&answer.to_bytes());
        if !self.session.no_zeroes {
            self.output().push(&[0; wire::RESERVED_ZEROES]);
        }
        Ok(())
    }

    /// Enters the transmission phase.
    fn start(&mut self, name: &[u8]) {
        // A context holds only for the name that it was negotiated with (proto.md,
        // NBD_OPT_SET_META_CONTEXT).
        let same = self.session.allocation_of.take().is_some_and(|of| of == name);
        self.session.allocation = same;
        self.session.phase = Phase::Transmission;
    }

    fn list(&mut self) {
        let export = self.export;
        let name = export.name.as_bytes();
        // A name is not longer than a string may be, so its length fits.
        let length = (name.len() as u32).to_be_bytes();
        let data = [&length, name, export.description.as_bytes()].concat();
        self.reply(option::LIST, reply::SERVER, &data);
        self.reply(option::LIST, reply::ACK, &[]);
    }

    fn info(&mut self, code: u32, request: &InfoRequest<'_>) {
        let flags = transmission_flags(self.drive.read_only(), self.session.structured);
        let export = wire::InfoExport { kind: info::EXPORT, size: self.drive.size(), flags };
        self.reply(code, reply::INFO, &export.to_bytes());
        let names = self.export;
        for (kind, text) in [(info::NAME, &names.name), (info::DESCRIPTION, &names.description)] {
            if request.wants(kind) {
                self.reply(code, reply::INFO, &[&kind.to_be_bytes(), text.as_bytes()].concat());
            }
        }
        if request.wants(info::BLOCK_SIZE) {
            let sizes = wire::InfoBlockSize {
                kind: info::BLOCK_SIZE,
                minimum: BLOCK_BYTES_MIN,
                preferred: BLOCK_BYTES_PREFERRED,
                payload: PAYLOAD_BYTES_MAX,
            };
            self.reply(code, reply::INFO, &sizes.to_bytes());
        }
        self.reply(code, reply::ACK, &[]);
        if code == option::GO {
            self.start(request.export);
        }
    }

    fn meta_context(&mut self, code: u32, data: &[u8]) {
        let set = code == option::SET_META_CONTEXT;
        if set {
            // The former choice does not hold any more, whether this one succeeds or not.
            self.session.allocation_of = None;
        }
        if !self.session.structured {
            self.error(code, reply::ERR_INVALID, "structured replies come first");
            return;
        }
        let Some(query) = MetaQuery::parse(data) else {
            self.error(code, reply::ERR_INVALID, "malformed option");
            return;
        };
        let chosen = query.exact || (!set && (query.wildcard || query.queries == 0));
        if chosen {
            let id: u32 = if set { ALLOCATION_ID } else { 0 };
            self.reply(code, reply::META_CONTEXT, &[&id.to_be_bytes(), BASE_ALLOCATION].concat());
            if set {
                self.session.allocation_of = Some(query.export.to_vec());
            }
        }
        self.reply(code, reply::ACK, &[]);
    }

    fn error(&mut self, code: u32, kind: u32, message: &str) {
        self.reply(code, kind, message.as_bytes());
    }

    fn reply(&mut self, option: u32, kind: u32, data: &[u8]) {
        let magic = wire::OPTION_REPLY_MAGIC;
        // Bounded by the strings in it, so it fits.
        let head = wire::OptionReply { magic, option, kind, length: data.len() as u32 };
        self.output().push(&head.to_bytes());
        self.output().push(data);
    }
}
