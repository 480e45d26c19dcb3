//! One vectored send of private and mapped bytes: how a reply leaves without being copied.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd},
};

use crate::Slice;

/// The most parts that one [`send`] takes: `UIO_MAXIOV` of the kernel (`include/uapi/linux/uio.h`).
pub const PARTS_MAX: usize = 1024;

/// A piece of what is to be sent.
#[derive(Clone, Copy, Debug)]
pub enum Part<'a> {
    /// Bytes of this process.
    Bytes(&'a [u8]),
    /// Bytes of a mapped file, read by the kernel where they lie.
    Shared(&'a Slice),
}

/// Sends the parts in order over a stream socket and returns how many bytes went out; of more
/// than [`PARTS_MAX`] parts only the first are taken. Raises no SIGPIPE and never waits, also where
/// somebody else who has the socket has made it blocking.
///
/// # Errors
/// Those of sendmsg(2): `WouldBlock` where the socket is full, `BrokenPipe` where the peer is gone.
pub fn send<'a>(socket: impl AsFd, parts: impl IntoIterator<Item = Part<'a>>) -> io::Result<usize> {
    let mut vector = [const { MaybeUninit::<libc::iovec>::uninit() }; PARTS_MAX];
    let mut count = 0;
    for (slot, part) in vector.iter_mut().zip(parts) {
        let (base, length) = match part {
            Part::Bytes(bytes) => (bytes.as_ptr().cast_mut(), bytes.len()),
            Part::Shared(slice) => (slice.address().cast_mut(), slice.length()),
        };
        slot.write(libc::iovec { iov_base: base.cast(), iov_len: length });
        count += 1;
    }
    // SAFETY: all zeroes is a valid msghdr: no address, no vector, no control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = vector.as_mut_ptr().cast();
    // The field is size_t in glibc and int in musl.
    message.msg_iovlen = count as _;
    // SAFETY: the first `count` entries were written above; each points to memory that lives for
    // 'a, borrowed bytes or a mapping held by its slice, and the kernel only reads it. A mapped
    // page that is missing makes EFAULT, not a signal.
    let sent = unsafe {
        libc::sendmsg(
            socket.as_fd().as_raw_fd(),
            &raw const message,
            libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT,
        )
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use std::{
        io::{ErrorKind, Read},
        os::unix::net::UnixStream,
    };

    use super::*;
    use crate::WriteMap;

    #[test]
    fn private_and_mapped_parts_arrive_in_order() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        let map = WriteMap::new(&file, 0, 4096).unwrap();
        map.write(10, b"mapped");
        let slice = Slice::new(map.reader(), 10, 6);
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let parts = [Part::Bytes(b"head "), Part::Shared(&slice), Part::Bytes(b" tail")];
        assert_eq!(send(&ours, parts).unwrap(), 16);
        drop(ours);
        let mut got = String::new();
        theirs.read_to_string(&mut got).unwrap();
        assert_eq!(got, "head mapped tail");
    }

    #[test]
    fn a_peer_that_is_gone_is_an_error_and_no_signal() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        let error = send(&ours, [Part::Bytes(b"x")]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    }
}
