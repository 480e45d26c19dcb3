//! The caller locks nothing: calls come at the same time, also for one volume.

use std::{collections::HashSet, thread};

use end_to_end::Xapi;
use serde_json::json;

use crate::MIB;
use crate::maintenance::assert_sound;

#[test]
fn thirty_two_calls_at_once_lose_nothing() {
    let xapi = Xapi::new();
    let sr = xapi.create_sr("256MiB");
    let shared = xapi.create_vdi(&sr, MIB);
    let keys: Vec<String> = thread::scope(|scope| {
        let calls: Vec<_> = (0..32)
            .map(|number| {
                let (xapi, sr, shared) = (&xapi, &sr, &shared);
                scope.spawn(move || {
                    let key = xapi.create_vdi(sr, MIB);
                    let set = json!({
                        "sr": sr, "key": shared, "k": format!("k{number}"), "v": "v",
                    });
                    xapi.volume("Volume.set", set).unwrap();
                    if number % 2 == 0 {
                        xapi.volume("Volume.destroy", json!({ "sr": sr, "key": key })).unwrap();
                    }
                    key
                })
            })
            .collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    assert_eq!(keys.iter().collect::<HashSet<_>>().len(), 32, "every key is unique");
    let listed = xapi.volume("SR.ls", json!({ "sr": sr })).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 17, "16 are left, and the shared one");
    let volume = xapi.stat(&sr, &shared).unwrap();
    assert_eq!(volume["keys"].as_object().unwrap().len(), 34, "no Volume.set was lost: {volume}");
    assert_sound(&xapi, &sr);
}

#[test]
fn one_disk_may_be_plugged_by_many_at_once() {
    let xapi = Xapi::new();
    let sr = xapi.create_sr("64MiB");
    let key = xapi.create_vdi(&sr, MIB);
    thread::scope(|scope| {
        for number in 0..8 {
            let (xapi, sr, key) = (&xapi, &sr, &key);
            scope.spawn(move || {
                let domain = format!("u0_{number}");
                let disk = xapi.plug(sr, key, &domain);
                assert!(disk.tapdisk().is_same());
                disk.step("Datapath.deactivate").unwrap();
                disk.step("Datapath.detach").unwrap();
            });
        }
    });
    assert_eq!(xapi.control_dir().tapdisks().unwrap(), Vec::<u32>::new(), "no process is left");
    assert_eq!(xapi.control_dir().reserved().unwrap(), [0; 0], "no minor is left");
}
