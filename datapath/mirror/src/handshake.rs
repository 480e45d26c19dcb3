//! The client's half of the negotiation, as bytes in and bytes out (proto.md, Handshake phase).
//!
//! Structured replies and `base:allocation` are asked for and done without where the server does not
//! know them; so is `GO`, before which `EXPORT_NAME` is all that there was.

use nbd::{
    client::{info_request, meta_query},
    wire::{
        self, BASE_ALLOCATION, PAYLOAD_BYTES_MAX, client_flag, handshake_flag, info, option,
        option_reply as reply, transmission_flag,
    },
};

use crate::error::{Error, ErrorKind};

/// The longest reply to an option that is believed, in bytes.
const REPLY_BYTES_MAX: u32 = 8192;

/// The flags of an old-style greeting that are believed. Its upper half is reserved.
const OLD_STYLE_FLAGS: u32 = (transmission_flag::HAS_FLAGS | transmission_flag::READ_ONLY) as u32;

/// What a server has said of itself and its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) size: u64,
    /// See [`wire::transmission_flag`].
    pub(crate) flags: u16,
    /// The number of `base:allocation`, if the server has that.
    pub(crate) allocation: Option<u32>,
    /// The smallest unit of a request, in bytes.
    pub(crate) unit: u32,
    /// The longest payload of a request, in bytes.
    pub(crate) payload: u32,
}

/// What a step came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// More bytes are needed.
    Wait,
    /// So many bytes were a message.
    Took(usize),
    /// The same, and requests may follow.
    Done(usize, Server),
}

/// The message that is expected next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Greeting,
    Structured,
    Context,
    Go,
    ExportName,
}

/// A negotiation that is under way.
#[derive(Debug)]
pub(crate) struct Handshake {
    export: Vec<u8>,
    expected: Expected,
    no_zeroes: bool,
    server: Server,
    /// Whether the size and the flags have come.
    is_described: bool,
}

impl Handshake {
    pub(crate) fn new(export: &[u8]) -> Self {
        let server =
            Server { size: 0, flags: 0, allocation: None, unit: 1, payload: PAYLOAD_BYTES_MAX };
        Self {
            export: export.to_owned(),
            expected: Expected::Greeting,
            no_zeroes: false,
            server,
            is_described: false,
        }
    }

    /// Takes the first message of `input`, if all of it is there, and appends the answer to `output`.
    pub(crate) fn step(&mut self, input: &[u8], output: &mut Vec<u8>) -> Result<Step, Error> {
        match self.expected {
            Expected::Greeting => self.greeting(input, output),
            Expected::ExportName => Ok(self.export_name(input)),
            _ => self.option_reply(input, output),
        }
    }

    fn greeting(&mut self, input: &[u8], output: &mut Vec<u8>) -> Result<Step, Error> {
        let Some((magics, _)) = input.split_first_chunk::<16>() else { return Ok(Step::Wait) };
        let style = u64::from_be_bytes(std::array::from_fn(|at| magics[8 + at]));
        if magics[..8] != wire::GREETING_MAGIC.to_be_bytes() {
            return Err(Error::protocol("sends no NBD greeting"));
        }
        if style == wire::OLD_STYLE_MAGIC {
            return Ok(self.old_style(input));
        }
        if style != wire::OPTION_MAGIC {
            return Err(Error::protocol("greets in a style that is not known"));
        }
        let Some((greeting, _)) = input.split_first_chunk() else { return Ok(Step::Wait) };
        let offered = wire::Greeting::from_bytes(greeting).flags;
        let is_fixed = offered & handshake_flag::FIXED_NEWSTYLE != 0;
        self.no_zeroes = offered & handshake_flag::NO_ZEROES != 0;
        let mut flags = if is_fixed { client_flag::FIXED_NEWSTYLE } else { 0 };
        flags |= if self.no_zeroes { client_flag::NO_ZEROES } else { 0 };
        output.extend_from_slice(&flags.to_be_bytes());
        self.ask(if is_fixed { Expected::Structured } else { Expected::ExportName }, output);
        Ok(Step::Took(greeting.len()))
    }

    fn old_style(&mut self, input: &[u8]) -> Step {
        let total = wire::OldGreeting::BYTES + wire::RESERVED_ZEROES;
        let Some((greeting, _)) = input.split_first_chunk().filter(|_| input.len() >= total) else {
            return Step::Wait;
        };
        let greeting = wire::OldGreeting::from_bytes(greeting);
        // Servers that still greet so do no more than read and write, whatever else they offer: nbdkit
        // 1.32 refuses the flush that it has just offered.
        let flags = greeting.flags & OLD_STYLE_FLAGS;
        (self.server.size, self.server.flags) = (greeting.size, flags as u16);
        Step::Done(total, self.server)
    }

    fn export_name(&mut self, input: &[u8]) -> Step {
        let zeroes = if self.no_zeroes { 0 } else { wire::RESERVED_ZEROES };
        let total = wire::ExportName::BYTES + zeroes;
        let Some((answer, _)) = input.split_first_chunk().filter(|_| input.len() >= total) else {
            return Step::Wait;
        };
        let answer = wire::ExportName::from_bytes(answer);
        (self.server.size, self.server.flags) = (answer.size, answer.flags);
        Step::Done(total, self.server)
    }

    /// Sends an option, whose replies are expected from now on.
    fn ask(&mut self, expected: Expected, output: &mut Vec<u8>) {
        self.expected = expected;
        let (code, data) = match expected {
            Expected::Structured => (option::STRUCTURED_REPLY, Vec::new()),
            Expected::Context => {
                (option::SET_META_CONTEXT, meta_query(&self.export, &[BASE_ALLOCATION]))
            }
            Expected::Go => (option::GO, info_request(&self.export, &[info::BLOCK_SIZE])),
            Expected::ExportName | Expected::Greeting => (option::EXPORT_NAME, self.export.clone()),
        };
        // A name and a few numbers.
        let length = data.len() as u32;
        let head = wire::OptionHead { magic: wire::OPTION_MAGIC, option: code, length };
        output.extend_from_slice(&head.to_bytes());
        output.extend_from_slice(&data);
    }

    fn option_reply(&mut self, input: &[u8], output: &mut Vec<u8>) -> Result<Step, Error> {
        let Some((head, rest)) = input.split_first_chunk() else { return Ok(Step::Wait) };
        let (total, head) = (head.len(), wire::OptionReply::from_bytes(head));
        let asked = match self.expected {
            Expected::Structured => option::STRUCTURED_REPLY,
            Expected::Context => option::SET_META_CONTEXT,
            _ => option::GO,
        };
        if head.magic != wire::OPTION_REPLY_MAGIC || head.option != asked {
            return Err(Error::protocol("answers another option than it was asked"));
        }
        if head.length > REPLY_BYTES_MAX {
            return Err(Error::protocol("sends an endless reply to an option"));
        }
        let Some(data) = rest.get(..head.length as usize) else { return Ok(Step::Wait) };
        let took = total + data.len();
        match (self.expected, head.kind) {
            (Expected::Go, reply::ACK) if self.is_described => {
                return Ok(Step::Done(took, self.server));
            }
            (Expected::Go, reply::ACK) => {
                return Err(Error::protocol("does not say the size of its disk"));
            }
            (Expected::Go, reply::INFO) => self.describe(data),
            // The option came after this one.
            (Expected::Go, reply::ERR_UNSUP) => self.ask(Expected::ExportName, output),
            (Expected::Go, kind) if kind & reply::ERROR != 0 => return Err(refused(kind, data)),
            (Expected::Structured, reply::ACK) => self.ask(Expected::Context, output),
            (Expected::Context, reply::META_CONTEXT) => {
                let id = data.split_first_chunk().filter(|(_, name)| *name == BASE_ALLOCATION);
                self.server.allocation = id.map(|(id, _)| u32::from_be_bytes(*id));
            }
            (Expected::Context, reply::ACK) => self.ask(Expected::Go, output),
            (Expected::Structured | Expected::Context, kind) if kind & reply::ERROR != 0 => {
                self.ask(Expected::Go, output);
            }
            _ => {}
        }
        Ok(Step::Took(took))
    }

    /// One piece of information about the disk; others than these are of no use here.
    fn describe(&mut self, data: &[u8]) {
        if let Some(export) = data.try_into().ok().map(wire::InfoExport::from_bytes)
            && export.kind == info::EXPORT
        {
            (self.server.size, self.server.flags) = (export.size, export.flags);
            self.is_described = true;
        }
        if let Some(sizes) = data.try_into().ok().map(wire::InfoBlockSize::from_bytes)
            && sizes.kind == info::BLOCK_SIZE
        {
            (self.server.unit, self.server.payload) = (sizes.minimum, sizes.payload);
        }
    }
}

fn refused(kind: u32, data: &[u8]) -> Error {
    let message = String::from_utf8_lossy(data);
    let text = format!("the destination refuses the export (reply {kind:#x}): {message}");
    Error::new(ErrorKind::Unfit, text)
}
