//! The life of a disk under a guest that uses it.

use std::{fs, thread, time::Duration};

use blkif::{
    Status,
    mock::{Completion, FrontendRequest, GuestDisk, Span},
};
use tapctl::{Open, Resume, Ring};

use crate::host::{DEVID, Host, frontend, until};

const IMAGE_BYTES: usize = 32 << 20;
const SECTORS: u64 = IMAGE_BYTES as u64 / 512;

fn submit(disk: &mut GuestDisk, request: &FrontendRequest) -> u64 {
    let id = disk.frontend.submit(request).unwrap();
    disk.frontend.push().unwrap();
    id
}

/// What is answered within a time in which anything that can be answered is.
fn answered(disk: &mut GuestDisk) -> Vec<Completion> {
    let mut completions = Vec::new();
    thread::sleep(Duration::from_millis(100));
    disk.frontend.complete(&mut completions).unwrap();
    completions
}

/// The answers to so many requests.
fn answers(disk: &mut GuestDisk, count: usize) -> Vec<Completion> {
    let mut completions = Vec::new();
    until("answers come", || {
        disk.frontend.complete(&mut completions).unwrap();
        completions.len() >= count
    });
    completions
}

#[test]
fn guests_and_nbd_clients_see_one_disk() {
    let host = Host::start();
    host.open(0, &host.image("image", IMAGE_BYTES, 1));
    let (first, second) = (host.guest(1), host.guest(2));
    let (mut one, ring) = frontend(&first, 0);
    host.client().connect(0, ring).unwrap();
    let (mut two, ring) = frontend(&second, 2);
    host.client().connect(0, ring).unwrap();
    let mut nbd = host.nbd(0);
    one.write(4096, &[2; 100 << 10]).unwrap();
    nbd.write(8192, &[3; 4096]).unwrap();
    let mut bytes = vec![0; 100 << 10];
    two.read(4096, &mut bytes).unwrap();
    assert!(bytes[..4096] == [2; 4096] && bytes[4096..8192] == [3; 4096]);
    assert!(bytes[8192..].iter().all(|&byte| byte == 2));
    assert_eq!(two.ask(&FrontendRequest::Discard(0, SECTORS)).unwrap(), Status::Okay);
    assert!(nbd.read(0, 1 << 20).unwrap().iter().all(|&byte| byte == 0));
    assert_eq!(host.stats(0)["reqs_outstanding"], 0);
}

#[test]
fn a_ring_that_is_connected_before_anything_is_open_waits_for_it() {
    let host = Host::start();
    host.client().attach(0).unwrap();
    let guest = host.guest(4);
    let (mut disk, ring) = frontend(&guest, 0);
    let page = disk.data_page();
    let sent = submit(&mut disk, &FrontendRequest::Read(0, vec![Span::page(page)]));
    host.client().connect(0, ring.clone()).unwrap();
    assert_eq!(answered(&mut disk), []);
    assert_eq!(host.stats(0)["xenbus"]["domid"], 4);
    let params = host.image("image", IMAGE_BYTES, 1);
    host.client().open(0, Open::new(params)).unwrap();
    let expected = Completion { id: sent, status: Status::Okay };
    assert_eq!(answers(&mut disk, 1), [expected]);
    host.client().disconnect(4, DEVID).unwrap();
    host.client().close(0).unwrap();
    host.client().connect(0, ring).unwrap();
    host.client().disconnect(4, DEVID).unwrap();
    host.client().detach(0).unwrap();
}

/// Requests that come while the disk is paused are answered when it is resumed, whether an event told of
/// them or not.
#[test]
fn a_paused_disk_answers_nothing_until_it_is_resumed() {
    let host = Host::start();
    host.open(0, &host.image("image", IMAGE_BYTES, 1));
    let guest = host.guest(4);
    let (mut disk, ring) = frontend(&guest, 0);
    host.client().connect(0, ring).unwrap();
    disk.write(0, &[2; 512]).unwrap();
    host.client().pause(0).unwrap();
    let page = disk.data_page();
    let sent = submit(&mut disk, &FrontendRequest::Read(0, vec![Span::page(page)]));
    assert_eq!(answered(&mut disk), []);
    // A guest may connect meanwhile, too.
    let other = host.guest(5);
    let (mut late, ring) = frontend(&other, 0);
    host.client().connect(0, ring).unwrap();
    let late_sent = submit(&mut late, &FrontendRequest::Flush);
    assert_eq!(answered(&mut late), []);
    assert_eq!(host.client().disk_info(0).unwrap().sectors, SECTORS);
    host.client().resume(0, Resume::default()).unwrap();
    assert_eq!(answers(&mut disk, 1), [Completion { id: sent, status: Status::Okay }]);
    assert_eq!(answers(&mut late, 1), [Completion { id: late_sent, status: Status::Okay }]);
    let mut byte = [0];
    guest.read(page, 0, &mut byte);
    assert_eq!(byte, [2]);
}

/// Everything that has come is answered, a discard of all of the disk and what waits for that included.
#[test]
fn a_close_answers_what_has_come_and_disconnects_the_rings() {
    let host = Host::start();
    host.open(0, &host.image("image", IMAGE_BYTES, 1));
    let guest = host.guest(4);
    let (mut disk, ring) = frontend(&guest, 0);
    host.client().connect(0, ring.clone()).unwrap();
    let page = disk.data_page();
    for request in [
        FrontendRequest::Discard(0, SECTORS),
        FrontendRequest::Write(0, vec![Span::page(page)]),
        FrontendRequest::Barrier(0, vec![]),
        FrontendRequest::Read(0, vec![Span::page(page)]),
    ] {
        disk.frontend.submit(&request).unwrap();
    }
    disk.frontend.push().unwrap();
    host.client().close(0).unwrap();
    let completions = answers(&mut disk, 4);
    assert!(completions.iter().all(|it| it.status == Status::Okay), "{completions:?}");
    assert_eq!(host.client().disconnect(4, DEVID).unwrap_err().errno(), 19);
    assert!(host.files(4).iter().all(|path| !path.exists()));
    disk.frontend.reset();
    host.client().connect(0, ring).unwrap();
    host.client().force_shutdown(0).unwrap();
}

/// A guest that never pauses does not keep its disk open.
#[test]
fn a_close_waits_for_a_busy_guest_but_not_for_ever() {
    let host = Host::start();
    host.open(0, &host.image("image", IMAGE_BYTES, 1));
    let guest = host.guest(4);
    let (mut disk, ring) = frontend(&guest, 0);
    host.client().connect(0, ring).unwrap();
    thread::scope(|scope| {
        let closing = scope.spawn(|| host.client().close(0).unwrap());
        let mut completions = Vec::new();
        let request = FrontendRequest::Read(0, vec![Span::page(disk.data_page())]);
        while !closing.is_finished() {
            let _full = disk.frontend.submit(&request);
            disk.frontend.push().unwrap();
            disk.frontend.complete(&mut completions).unwrap();
        }
    });
}

#[test]
fn a_signal_ends_the_process_with_everything_answered_and_nothing_left() {
    let mut host = Host::start();
    host.open(0, &host.image("image", IMAGE_BYTES, 1));
    let guest = host.guest(4);
    let (mut disk, ring) = frontend(&guest, 0);
    host.client().connect(0, ring).unwrap();
    submit(&mut disk, &FrontendRequest::Discard(0, SECTORS));
    host.terminate();
    host.ends();
    assert_eq!(answers(&mut disk, 1)[0].status, Status::Okay);
    assert!(host.files(4).iter().all(|path| !path.exists()));
}

/// blktap's polling: a guest whose requests come within the time that the toolstack asks for need not send
/// events, unless the host's processors have something else to do.
#[test]
fn a_ring_is_polled_for_as_long_as_is_asked_while_the_host_is_idle() {
    let host = Host::start();
    host.open(0, &host.image("image", IMAGE_BYTES, 1));
    let guest = host.guest(4);
    let rounds = 20;
    let events = |idle: Option<f32>, duration: Duration| {
        let (mut disk, ring) = frontend(&guest, 0);
        if let Some(idle) = idle {
            fs::write(
                host.dir.metrics().path().join("cpu_util_monitor"),
                [[0; 4], idle.to_ne_bytes()].concat(),
            )
            .unwrap();
        }
        let poll_duration = duration.as_micros().try_into().unwrap();
        host.client().connect(0, Ring { poll_duration, poll_idle_threshold: 50, ..ring }).unwrap();
        for _ in 0..rounds {
            assert_eq!(disk.ask(&FrontendRequest::Flush).unwrap(), Status::Okay);
            thread::sleep(Duration::from_millis(10));
        }
        let events = host.stats(0)["xenbus"]["kicks"][0].as_u64().unwrap();
        host.client().disconnect(4, DEVID).unwrap();
        events
    };
    let (long, short) = (Duration::from_secs(2), Duration::from_millis(1));
    assert!(events(None, long) >= rounds / 2, "where it is not measured nothing is idle");
    assert!(events(Some(50.0), long) >= rounds / 2, "not more than the threshold");
    assert!(events(Some(51.0), short) >= rounds / 2, "the time is up between two requests");
    assert!(events(Some(51.0), long) <= 2);
}

/// A busy guest is looked after without events; one that pauses and goes on is heard.
#[test]
fn a_polled_ring_needs_no_events_until_the_process_sleeps() {
    let host = Host::start();
    host.open(0, &host.image("image", IMAGE_BYTES, 1));
    let guest = host.guest(4);
    let (mut disk, ring) = frontend(&guest, 0);
    assert!(ring.poll_duration > 0);
    host.client().connect(0, ring).unwrap();
    let rounds = 3000;
    for round in 0..rounds {
        assert_eq!(disk.ask(&FrontendRequest::Flush).unwrap(), Status::Okay, "{round}");
        if round % 1000 == 0 {
            thread::sleep(Duration::from_millis(20));
        }
    }
    let stats = host.stats(0);
    assert_eq!(stats["xenbus"]["reqs"], serde_json::json!([rounds, rounds]));
    // A large change of the drive, which the loop does not sleep beside.
    disk.frontend.submit(&FrontendRequest::Discard(0, SECTORS)).unwrap();
    for _ in 0..20 {
        disk.frontend.submit(&FrontendRequest::Flush).unwrap();
    }
    disk.frontend.push().unwrap();
    assert_eq!(answers(&mut disk, 21).len(), 21);
}
