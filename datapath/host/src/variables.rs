//! Every environment variable of the product: its name, its default, and its purpose. The
//! list of variables in ram-sr(7) is made from it, and a test compares the two.

use std::fmt;

/// An environment variable that configures the product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variable {
    /// Its name
    pub name: &'static str,
    /// The behaviour where it is not set, for a reader
    pub default: &'static str,
    /// The setting
    pub help: &'static str,
}

impl Variable {
    /// Name, purpose and default, for documents.
    #[must_use]
    pub fn parts(self) -> [&'static str; 3] {
        [self.name, self.help, self.default]
    }
}

impl fmt::Display for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// The directory of all SRs.
pub const SR_ROOT: Variable = Variable {
    name: "XAPI_RAM_SR_ROOT",
    default: "`/run/sr-mount`",
    help: "directory with one directory for each SR; for ordinary users, on an existing tmpfs. \
           The locks of SRs below another one than the default lie in its `.lock`",
};

/// Whether an SR is a mount of its own.
pub const MOUNT: Variable = Variable {
    name: "XAPI_RAM_MOUNT",
    default: "root mounts, others do not",
    help: "`never`: SRs are directories instead of mounts, also for root",
};

/// The directory of control sockets.
pub const CONTROL_DIR: Variable = Variable {
    name: "XAPI_RAM_CONTROL_DIR",
    default: "`/run/blktap-control`",
    help: "directory of the tapdisks' sockets and minors",
};

/// The directory of statistics.
pub const SHM_DIR: Variable = Variable {
    name: "XAPI_RAM_SHM_DIR",
    default: "`/dev/shm`; `shm` below a control directory that is not the default",
    help: "directory of the tapdisks' statistics",
};

/// The program that serves disks.
pub const TAPDISK: Variable = Variable {
    name: "XAPI_RAM_TAPDISK",
    default: "`tapdisk-ram` beside the calling program, else \
              `/usr/libexec/xapi-storage-ram/tapdisk-ram`",
    help: "path of the program that serves disks",
};

/// The host's own tapdisk.
pub const BLKTAP: Variable = Variable {
    name: "XAPI_RAM_BLKTAP",
    default: "`/usr/libexec/tapdisk`, `/usr/sbin/tapdisk`, else `tapdisk` in `PATH`",
    help: "path of the host's own tapdisk, for SRs with `device-config:tapdisk=blktap`",
};

/// Where messages go.
pub const SYSLOG: Variable =
    Variable { name: "XAPI_RAM_SYSLOG", default: "`/dev/log`", help: "socket of syslogd" };

/// How long the loop of a tapdisk polls.
pub const POLL_US: Variable = Variable {
    name: "XAPI_RAM_POLL_US",
    default: "`50`",
    help: "for how many microseconds, at most 1000, a tapdisk polls for the next request of a busy \
           client before it sleeps; `0`: never",
};

/// Guests without Xen.
pub const MOCK_XEN: Variable = Variable {
    name: "XAPI_RAM_MOCK_XEN",
    default: "`/dev/xen`",
    help: "directory of guests that are no guests, for tests and measurements without Xen: tapdisks \
           connect their rings",
};

/// The volume that a tapdisk was started for.
pub const STARTED_FOR: Variable = Variable {
    name: "XAPI_RAM_STARTED_FOR",
    default: "a tapdisk that was started by hand waits for as long as it takes",
    help: "set by the datapath plugin for a tapdisk that it starts, to find it again: the control \
           directory and the volume. Such a tapdisk ends when nothing is attached to it within a \
           minute",
};

/// When an activation without a client may be ended.
pub const UNUSED_S: Variable = Variable {
    name: "XAPI_RAM_UNUSED_S",
    default: "`120`",
    help: "after how many seconds without a client a read-only activation, or one of a migration \
           or a copy (`MIR*`, `CP*`), is ended where it keeps a volume from being destroyed or \
           activated otherwise, or an SR from being detached. dom0's clients reconnect within 90",
};

/// All of them.
pub const ALL: [Variable; 11] = [
    SR_ROOT,
    MOUNT,
    CONTROL_DIR,
    SHM_DIR,
    TAPDISK,
    BLKTAP,
    SYSLOG,
    POLL_US,
    UNUSED_S,
    MOCK_XEN,
    STARTED_FOR,
];
