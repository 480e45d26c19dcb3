//! Reading keys, for a thread that may wait for xenstored.

use std::{io, path::Path, time::Duration};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use super::{connection::Connection, wire::Kind};

/// How long xenstored may take for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// The values of keys, in their order. Paths that do not begin with a slash are this domain's.
pub(crate) fn read(device: &Path, keys: &[&str]) -> io::Result<Vec<String>> {
    read_over(Connection::open(device)?, keys)
}

fn read_over(mut connection: Connection, keys: &[&str]) -> io::Result<Vec<String>> {
    for key in keys {
        connection.request(Kind::Read, 0, &[key.as_bytes(), b"\0"]);
    }
    let timeout = Timespec::try_from(ANSWER_TIMEOUT).map_err(|_| Errno::INVAL)?;
    let mut values = Vec::new();
    while values.len() < keys.len() {
        connection.send()?;
        if let Some(answer) = connection.answer()? {
            let text = String::from_utf8(answer?);
            values.push(text.map_err(|it| io::Error::new(io::ErrorKind::InvalidData, it))?);
            continue;
        }
        let mut flags = PollFlags::IN;
        flags.set(PollFlags::OUT, connection.interest().writable);
        match poll(&mut [PollFd::new(&connection, flags)], Some(&timeout)) {
            Ok(0) => return Err(Errno::TIMEDOUT.into()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use std::{fs::File, thread};

    use super::{
        super::write::tests::{pair, serve},
        *,
    };

    #[test]
    fn values_come_in_the_order_of_the_keys_and_a_missing_one_is_an_error() {
        let read_of = |keys: &[&str]| {
            let (ours, theirs) = pair();
            let own = [("/local/domain/3/vm", "/vm/u"), ("backend/vbd3/3/51712/dev", "xvda")];
            let own = own.map(|(key, value)| (key.to_owned(), (value.to_owned(), String::new())));
            let server = thread::spawn(move || serve(theirs, own.into(), 0));
            let values = read_over(Connection::over(File::from(ours)), keys);
            server.join().unwrap();
            values
        };
        let both = ["backend/vbd3/3/51712/dev", "/local/domain/3/vm"];
        assert_eq!(read_of(&both).unwrap(), ["xvda", "/vm/u"]);
        assert_eq!(read_of(&["other"]).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
