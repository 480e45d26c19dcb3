//! blktap's own `tap-ctl`, unmodified, against this tapdisk, where `XAPI_RAM_TAP_CTL` names it: no
//! package of Debian has it. Its control directory is compiled in.

use std::{
    io::Write as _,
    os::unix::fs::FileExt,
    process::{Command, Output},
};

use end_to_end::{Xapi, programs};
use tapctl::{CONTROL_DIR, ControlDir};

use super::{eventually, texts};

/// Names the tool.
const TAP_CTL: &str = "XAPI_RAM_TAP_CTL";

#[test]
fn an_unmodified_tap_ctl_drives_this_tapdisk() {
    let Some(tool) = std::env::var_os(TAP_CTL) else {
        let text = format!("SKIPPED: blktap's tap-ctl ({TAP_CTL} does not name one)\n");
        let _unseen = std::io::stderr().write_all(text.as_bytes());
        return;
    };
    let xapi = Xapi::with(&[("XAPI_RAM_CONTROL_DIR", CONTROL_DIR)]);
    let dir = ControlDir::new(CONTROL_DIR);
    dir.create().unwrap();
    let file = xapi.root().join("image");
    std::fs::File::create(&file).unwrap().write_all_at(b"image", 65535 - 5).unwrap();
    let image = format!("ram:{}", file.display());
    let run = |arguments: &[&str]| -> Output {
        Command::new(&tool).args(arguments).output().expect("tap-ctl runs")
    };
    let prints = |arguments: &[&str], expected: &str| {
        let output = run(arguments);
        assert_eq!(texts(&output), (expected.to_owned(), String::new()), "{arguments:?}");
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
    };
    let (reserved, _) = texts(&run(&["allocate"]));
    let minor = reserved.trim_end().rsplit_once('-').expect("tapdisk-<minor>").1.to_owned();
    let spawned = xapi.command(&programs::path("tap-ctl-ram")).arg("spawn").output();
    let pid = texts(&spawned.unwrap()).0.trim_end().to_owned();
    let on = ["-p", pid.as_str(), "-m", minor.as_str()];
    let with = |name: &str, more: &[&str]| prints(&[&[name], &on[..], more].concat(), "");
    let lists = |rest: &str| {
        prints(&["list", "-p", &pid], &format!("pid={pid} minor={minor} {rest}\n"));
    };
    with("attach", &[]);
    lists("state=0");
    with("open", &["-a", &image]);
    lists(&format!("state=0 args={image}"));
    let (stats, _) = texts(&run(&[&["stats"], &on[..]].concat()));
    let stats: serde_json::Value = serde_json::from_str(&stats).unwrap();
    assert_eq!(stats["name"], image.as_str());
    with("pause", &[]);
    lists(&format!("state=0x2a args={image}"));
    with("unpause", &[]);
    lists(&format!("state=0 args={image}"));
    let output = run(&["detach", "-p", &pid, "-m", &minor]);
    assert_eq!(output.status.code(), Some(22), "it is open: {output:?}");
    with("close", &[]);
    lists("state=0x2");
    with("detach", &[]);
    let number: u32 = pid.parse().unwrap();
    eventually("gone", || !dir.tapdisks().unwrap().contains(&number));
    prints(&["free", "-m", &minor], "");
}
