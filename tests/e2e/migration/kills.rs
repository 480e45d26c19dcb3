//! Everything dies at any moment of a migration: the source is intact or the destination complete, and xapi
//! never destroys a source whose destination is not.

use std::{
    process::Child,
    thread,
    time::{Duration, Instant},
};

use end_to_end::{Side, Xapi, server};
use serde_json::{Value, json};

use super::outgoing::{Guest, MIRROR, Migration, complete, contents, hosts, pids};

/// How many migrations die, unless `MIGRATION_KILLS` says otherwise.
const KILLS: u64 = 12;

/// What is killed.
#[derive(Clone, Copy, Debug)]
enum Victim {
    /// The tapdisk of the source, or of the destination.
    Tapdisk(usize),
    /// The server of one of them, which its keeper replaces.
    Server(usize),
    /// The two proxies.
    Proxy,
    /// The plugin, in one of its calls.
    Plugin,
}

/// The rest of a migration, from Data.mirror on, as xapi does it until a step fails. Whether it succeeded,
/// upon which xapi destroys the source.
fn migrate(
    migration: &Migration<'_>,
    domain: &str,
    guest: Option<Guest>,
    kill: impl Fn(&str),
) -> bool {
    kill("mirror");
    let Ok(operation) = migration.mirror(domain) else { return false };
    kill("stat");
    if migration.wait(&operation) != complete() {
        return false;
    }
    kill("complete");
    if migration.stat(&operation) != complete() {
        return false;
    }
    kill("datapath");
    if migration.source_step("deactivate", migration.datapath).is_err() {
        return false;
    }
    let _errors_are_ignored = migration.source_step("detach", migration.datapath);
    kill("suspend");
    // A guest whose disk is dead writes no more.
    guest.map(Guest::stop_or_die);
    kill("cut-over");
    domain == super::outgoing::HALTED || migration.source_step("deactivate", domain).is_ok()
}

#[test]
fn nothing_is_lost_whatever_is_killed_whenever() {
    let kills =
        std::env::var("MIGRATION_KILLS").ok().and_then(|it| it.parse().ok()).unwrap_or(KILLS);
    let seed: u64 =
        std::env::var("MIGRATION_SEED").ok().and_then(|it| it.parse().ok()).unwrap_or(1);
    let mut random = seed;
    let mut next = |below: u64| {
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    let mut moved = 0;
    for number in 0..kills {
        let domain = ["5", "-1"][next(2) as usize];
        let victim = match next(6) {
            0 => Victim::Tapdisk(0),
            1 => Victim::Tapdisk(1),
            2 => Victim::Server(0),
            3 => Victim::Server(1),
            4 => Victim::Proxy,
            _ => Victim::Plugin,
        };
        let step =
            ["mirror", "stat", "complete", "datapath", "suspend", "cut-over"][next(6) as usize];
        let delay = Duration::from_micros(next(20_000));
        let told = format!("seed {seed}, migration {number}: {victim:?} at {step} after {delay:?}");
        moved += u64::from(one(domain, victim, step, delay, &told));
    }
    assert!(moved < kills, "nothing failed");
}

/// One migration; whether it succeeded.
fn one(domain: &str, victim: Victim, step: &str, delay: Duration, told: &str) -> bool {
    let hosts = hosts();
    let migration = Migration::prepare(&hosts, domain);
    let guest = (domain != super::outgoing::HALTED).then(|| Guest::start(&migration));
    let killer = std::cell::RefCell::new(None);
    let moved = migrate(&migration, domain, guest, |now| {
        if now == step {
            *killer.borrow_mut() = Some(kill_later(&hosts, &migration, victim, delay));
        }
    });
    if let Some(killer) = killer.take() {
        killer.join().unwrap();
    }
    // What is left of the machine's disk at the source; nothing of it owes an error for ever.
    for domain in [domain, migration.datapath] {
        let _owed = migration.source_step("deactivate", domain);
        migration.source.steps(&["deactivate", "detach"], &migration.key, domain);
    }
    let source = contents(&migration.source, &migration.key, "u0_vbd_0_x_xvda");
    if moved {
        let _errors_are_ignored =
            migration.destination.datapath("deactivate", &migration.leaf, MIRROR);
        let destination = contents(&migration.destination, &migration.leaf, "9");
        let differs = source.iter().zip(&destination).position(|(one, other)| one != other);
        let both =
            differs.map(|at| (at, [&source, &destination].map(|it| it[at..at + 16].to_vec())));
        assert_eq!(both, None, "{told} for domain {domain}: the destination differs");
    }
    migration.destroy_source();
    moved
}

/// Kills something in some time, in a thread.
fn kill_later(
    hosts: &[Xapi; 2],
    migration: &Migration<'_>,
    victim: Victim,
    delay: Duration,
) -> thread::JoinHandle<()> {
    match victim {
        Victim::Tapdisk(host) | Victim::Server(host) => {
            let mut tapdisks = pids(&hosts[host]);
            if matches!(victim, Victim::Server(_)) {
                tapdisks = tapdisks.iter().map(server).collect();
            }
            thread::spawn(move || {
                thread::sleep(delay);
                for tapdisk in tapdisks {
                    // One that has ended cannot be killed.
                    let _ended = tapdisk.kill();
                }
            })
        }
        Victim::Proxy => {
            let ends = migration.proxy.ends();
            thread::spawn(move || {
                thread::sleep(delay);
                super::proxy::cut(&ends);
            })
        }
        Victim::Plugin => {
            // A call of xapi's that is killed is one that has failed; another one comes beside it here.
            let uri =
                hosts[0].stat(&migration.source.sr, &migration.key).unwrap()["uri"][0].clone();
            let calls = ["attach", "detach", "deactivate"]
                .map(|method| call(&hosts[0], method, &uri, migration.datapath));
            thread::spawn(move || {
                let begun = Instant::now();
                for mut call in calls {
                    thread::sleep(delay.saturating_sub(begun.elapsed()) / 4);
                    let _ended = call.kill();
                    call.wait().unwrap();
                }
            })
        }
    }
}

/// A call of the datapath plugin that is under way.
fn call(xapi: &Xapi, method: &str, uri: &Value, domain: &str) -> Child {
    let mut child = xapi.method(Side::Datapath, &format!("Datapath.{method}")).spawn().unwrap();
    let params = json!({ "dbg": "killed", "uri": uri, "domain": domain });
    let mut stdin = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, params.to_string().as_bytes()).unwrap();
    child
}
