//! Migrations under load, from before they begin to the moment at which the machine is suspended: fio, which
//! verifies what it has written, on the disk's NBD socket, and a guest's ring.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    rc::Rc,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use blkif::{
    Abi,
    mock::{Frontend, FrontendRequest, Guest, GuestDisk},
};
use end_to_end::{Xapi, tools};

use super::outgoing::{GUEST, Migration, SIZE, complete, contents, hosts, pids};

const DEVID: u32 = 51712;

/// fio on a disk, which reads again what it has written, and ends with an error where that is something else.
struct Fio(Child);

impl Fio {
    fn start(uri: &str, time: Duration) -> Self {
        let child = Command::new("fio")
            .args(["--name=guest", "--thread=1", "--ioengine=nbd", "--rw=randrw", "--rwmixread=30"])
            .args(["--bssplit=4k/60:16k/20:64k/15:256k/5", "--iodepth=16", "--time_based=1"])
            .args(["--verify=crc32c", "--verify_backlog=64", "--verify_fatal=1"])
            .args([format!("--runtime={}ms", time.as_millis()), format!("--uri={uri}")])
            .args(["--size=16m", "--do_verify=1", "--verify_state_save=0"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        Self(child.unwrap())
    }

    fn goes_on(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    /// Its end, at which everything that it has verified was right.
    fn end(self) {
        let output = self.0.wait_with_output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success() && !stdout.contains("verify:"), "{stdout}\n{stderr}");
        assert!(stdout.contains("READ:") && stdout.contains("WRITE:"), "{stdout}");
    }
}

fn uri(migration: &Migration<'_>) -> String {
    let attached = migration.source_step("attach", GUEST).unwrap();
    let socket = migration.source.socket(&attached);
    format!("nbd+unix:///{}?socket={socket}", migration.key)
}

/// The calls of a migration while `goes_on` says that the load does.
fn migrate_beside(migration: &Migration<'_>, mut goes_on: impl FnMut() -> bool) {
    thread::sleep(Duration::from_millis(300));
    let operation = migration.until_complete(GUEST);
    migration.source.steps(&["deactivate", "detach"], &migration.key, migration.datapath);
    // The machine's memory moves now.
    assert!(goes_on(), "the load has ended before the mirror was complete");
    while goes_on() {
        assert_eq!(migration.stat(&operation), complete());
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn fio_verifies_through_a_migration() {
    if !tools::present(&["fio"]) {
        return;
    }
    let hosts = hosts();
    let migration = Migration::prepare(&hosts, GUEST);
    let mut fio = Fio::start(&uri(&migration), Duration::from_secs(5));
    migrate_beside(&migration, || fio.goes_on());
    fio.end();
    migration.source.steps(&["deactivate"], &migration.key, GUEST);
    let moved = migration.receive();
    migration.source.steps(&["detach"], &migration.key, GUEST);
    assert!(moved == contents(&migration.source, &migration.key, "u0_vbd_0_x_xvda"));
    migration.destroy_source();
    // The machine goes on at the destination.
    let attached = migration.destination.datapath("attach", &migration.leaf, "9").unwrap();
    migration.destination.steps(&["activate"], &migration.leaf, "9");
    let socket = migration.destination.socket(&attached);
    let uri = format!("nbd+unix:///{}?socket={socket}", migration.leaf);
    Fio::start(&uri, Duration::from_secs(1)).end();
    migration.destination.steps(&["deactivate", "detach"], &migration.leaf, "9");
}

/// Through the ring of a machine that is suspended in the end: tapback disconnects it, then xapi deactivates the
/// disk. The destination has what the machine knows that it has written.
#[test]
fn what_a_machine_writes_through_its_ring_moves() {
    let guests = tempfile::tempdir_in("/dev/shm").unwrap();
    let variable = ("XAPI_RAM_MOCK_XEN", guests.path().to_str().unwrap());
    let hosts = [Xapi::with(&[variable]), Xapi::new()];
    let migration = Migration::prepare(&hosts, GUEST);
    let before = contents_of_active(&migration);
    let client = tapctl::Client::new(&hosts[0].control_dir(), pids(&hosts[0])[0].pid);
    let minor = u16::try_from(client.list().unwrap()[0].minor).unwrap();
    let suspend = AtomicBool::new(false);
    let written = thread::scope(|scope| {
        let machine = scope.spawn(|| {
            let mut disk = connect(guests.path(), &client, minor);
            write_until(&suspend, &mut disk, before)
        });
        let begun = Instant::now();
        migrate_beside(&migration, || begun.elapsed() < Duration::from_secs(3));
        suspend.store(true, Ordering::Relaxed);
        machine.join().unwrap()
    });
    client.disconnect(GUEST.parse().unwrap(), DEVID).unwrap();
    migration.source.steps(&["deactivate"], &migration.key, GUEST);
    let moved = migration.receive();
    let differs = moved.iter().zip(&written).position(|(one, other)| one != other);
    assert_eq!(differs, None, "the destination differs from what the machine has written");
    migration.source.steps(&["detach"], &migration.key, GUEST);
    assert!(contents(&migration.source, &migration.key, "u0_vbd_0_x_xvda") == written);
    migration.destroy_source();
}

fn contents_of_active(migration: &Migration<'_>) -> Vec<u8> {
    let attached = migration.source_step("attach", GUEST).unwrap();
    let socket = migration.source.socket(&attached);
    let mut client = nbd::client::Client::connect(socket, &nbd::client::Wish::default()).unwrap();
    client.read(0, u32::try_from(SIZE).unwrap()).unwrap()
}

/// What tapback does for a machine's disk.
fn connect(guests: &Path, client: &tapctl::Client, minor: u16) -> GuestDisk {
    let guest = Rc::new(Guest::create(guests, GUEST.parse().unwrap(), 512).unwrap());
    let frontend = Frontend::create(&guest, Abi::X86_64, 0).unwrap();
    let location = frontend.location();
    let mut grefs = [0; 8];
    grefs[0] = location.grefs[0];
    let ring = tapctl::Ring {
        domid: guest.domid(),
        devid: DEVID,
        grefs,
        order: 0,
        protocol: 1,
        pool: Some("".into()),
        port: location.port,
        poll_duration: 1000,
        poll_idle_threshold: 50,
    };
    client.connect(minor, ring).unwrap();
    GuestDisk::new(frontend)
}

/// Writes, discards and reads what was written, until the machine is suspended; the disk as it has to be.
fn write_until(suspend: &AtomicBool, disk: &mut GuestDisk, mut model: Vec<u8>) -> Vec<u8> {
    let mut number = 0_usize;
    let mut found = vec![0; 4096];
    while !suspend.load(Ordering::Relaxed) {
        number += 1;
        let at = number.wrapping_mul(7919) % (SIZE as usize / 4096 - 11) * 4096;
        match number % 8 {
            0 => {
                disk.ask(&FrontendRequest::Discard(at as u64 / 512, 8)).unwrap();
                model[at..at + 4096].fill(0);
            }
            1 => {
                disk.read(at as u64, &mut found).unwrap();
                assert!(found == model[at..at + 4096], "block {} of the disk", at / 4096);
            }
            _ => {
                let bytes = vec![number as u8; 4096 * (1 + number % 8)];
                disk.write(at as u64, &bytes).unwrap();
                model[at..at + bytes.len()].copy_from_slice(&bytes);
            }
        }
    }
    assert!(number > 100, "{number} requests");
    model
}
