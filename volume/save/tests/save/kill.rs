//! A save and a restore that are killed before each single system call by which they change anything: the SR is
//! as it was, the generation before too, and both can be repeated. The process that dies is this test binary once
//! more, which runs only [`dying_process`].

use std::{
    env,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Command, ExitStatus},
};

use save::Saves;
use store::{
    Name, Restore, Restored, Sr,
    testing::{SR_UUID, attachment, failpoints, host},
};

use crate::rig::{SR_BYTES, Seen, World, assert_sound};

const TASK: &str = "SAVE_KILL_TASK";
/// How many kills there are, where that is more than one for each step.
const KILLS: &str = "SAVE_KILLS";
/// signal(7).
const SIGKILL: i32 = 9;

/// Has another process do something and die after so many steps.
fn die(world: &World, task: &str, steps: u32) -> ExitStatus {
    let root = world.fixture.root().display();
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", "kill::dying_process", "--ignored", "--test-threads", "1"])
        .env(TASK, format!("{task}\n{steps}\n{root}\n{}", world.save_dir().display()))
        .output()
        .unwrap();
    let status = output.status;
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(status.success() || status.signal() == Some(SIGKILL), "{task}, {steps} steps: {said}");
    status
}

#[test]
#[ignore = "no test by itself: what the child process does that the tests of this module start and kill"]
fn dying_process() {
    let Ok(task) = env::var(TASK) else { return };
    let [task, steps, root, saves] = task.lines().collect::<Vec<_>>()[..] else { panic!("{task}") };
    let host = host(Path::new(root));
    let saves = Saves::new(Path::new(saves), &Name::parse(SR_UUID).unwrap());
    let steps = steps.parse().unwrap();
    match task {
        "save" => {
            let sr = Sr::open(&host, SR_UUID).unwrap();
            failpoints::die_after(steps);
            let lock = sr.lock().unwrap();
            let still = lock.still(false).unwrap();
            saves.write(&still, "test", &()).unwrap();
            drop(still);
            lock.detach_and(|| saves.end_use().unwrap()).unwrap();
        }
        "restore" => {
            let newest = saves.newest_good().unwrap().0.unwrap();
            failpoints::die_after(steps);
            let restore = Restore {
                contents: newest.contents(),
                restored: Restored::default(),
                fill: &mut |filler| newest.fill(filler, &()),
            };
            host.attach_saved(&attachment(&host, SR_BYTES), restore).unwrap();
            saves.begin_use().unwrap();
        }
        _ => panic!("{task}"),
    }
}

/// How often a test has to kill at least.
fn kills() -> u32 {
    env::var(KILLS).map_or(0, |text| text.parse().expect("a number of kills"))
}

#[test]
fn a_save_that_is_killed_anywhere_loses_neither_the_sr_nor_the_generation_before() {
    let mut killed = 0;
    for round in 0.. {
        let world = World::new();
        world.saves().begin_use().unwrap();
        world.save().unwrap();
        let before = Seen::of(&world.fixture.sr);
        world.write(&world.key("origin"), 0, 70, 60 + round);
        world.write(&world.key("child"), 1100, 200, 61 + round);
        let now = Seen::of(&world.fixture.sr);
        let mut is_saved = false;
        for steps in 0.. {
            let status = die(&world, "save", steps);
            let host = &world.fixture.host;
            // xapi has it attached, or attaches it again.
            let sr = host.attach(&attachment(host, SR_BYTES)).unwrap();
            assert_sound(&sr);
            assert_eq!(Seen::of(&sr), now, "after {steps} steps");
            let saves = world.saves();
            let (newest, damaged) = saves.newest_good().unwrap();
            assert_eq!(damaged, [""; 0], "after {steps} steps");
            let newest = newest.unwrap();
            newest.verify(&()).unwrap();
            is_saved |= newest.number() > 1;
            let clean = saves.in_use_since().unwrap().is_none();
            assert!(!clean || is_saved, "after {steps} steps the save passes for the last state");
            if status.success() {
                assert!(steps > 20, "a save has only {steps} steps");
                assert!(clean && is_saved);
                break;
            }
            killed += 1;
            saves.begin_use().unwrap();
            // Each state of the files is one from which a host may start.
            let wanted = if newest.number() > 1 { &now } else { &before };
            assert_eq!(&Seen::of(&world.restore()), wanted, "after {steps} steps");
            if newest.number() == 1 {
                world.write(&world.key("origin"), 0, 70, 60 + round);
                world.write(&world.key("child"), 1100, 200, 61 + round);
                let written = Seen::of(&world.fixture.sr);
                assert_eq!(written.contents, now.contents);
            }
        }
        assert_eq!(Seen::of(&world.restore()).contents, now.contents);
        if killed >= kills() {
            break;
        }
    }
}

#[test]
fn a_restore_that_is_killed_anywhere_is_repeated() {
    let world = World::new();
    let before = Seen::of(&world.fixture.sr);
    world.save().unwrap();
    for steps in 0.. {
        world.wipe();
        let status = die(&world, "restore", steps);
        let host = &world.fixture.host;
        let uuid = Name::parse(SR_UUID).unwrap();
        if !host.has_memory(&uuid).unwrap() {
            assert!(!status.success());
            assert!(Sr::open(host, SR_UUID).is_err(), "half an SR is attached");
            let newest = world.saves().newest_good().unwrap().0.unwrap();
            world.attach(&newest, None).unwrap();
        }
        let sr = host.attach(&attachment(host, SR_BYTES)).unwrap();
        assert_sound(&sr);
        assert_eq!(Seen::of(&sr), before, "after {steps} steps");
        if status.success() {
            assert!(steps > 20, "a restore has only {steps} steps");
            return;
        }
    }
}
