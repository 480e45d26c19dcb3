//! Programs that others wrote. Where one is missing, a test is skipped visibly; in CI that is a
//! failure, since CI installs them.

use std::{
    io::{Read, Write},
    process::{Command, Output, Stdio},
};

/// Whether all of these programs can be run; says so if not.
///
/// # Panics
/// In CI, where they have to be there.
#[must_use]
pub fn present(programs: &[&str]) -> bool {
    let is_there = |program: &&&str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .chain(["/usr/sbin".into(), "/sbin".into()])
            .any(|at| at.join(program).exists())
    };
    let missing: Vec<_> = programs.iter().filter(|program| !is_there(program)).collect();
    if missing.is_empty() {
        return true;
    }
    let text = format!("SKIPPED: {missing:?} not installed (tests/tools.sh test installs them)\n");
    assert!(std::env::var_os("CI").is_none(), "{text}");
    // A skip has to be visible: otherwise it would look like a pass.
    let _unseen = std::io::stderr().write_all(text.as_bytes());
    false
}

/// Runs a program that has to succeed; what it printed.
///
/// # Panics
/// Where it fails, with what it printed.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = attempt(program, arguments);
    let (stdout, stderr) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}\n{stdout}{stderr}",
        output.status
    );
    // qemu-io tells a failed command by words alone.
    assert!(!stdout.contains("failed"), "{program} {arguments:?}:\n{stdout}{stderr}");
    stdout.into_owned()
}

/// Runs a program that may fail.
///
/// # Panics
/// Where it cannot be started.
#[must_use]
pub fn attempt(program: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    // An ordinary user's PATH may lack the directories of administrators' programs.
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command.args(arguments).stdin(Stdio::null()).output().unwrap_or_else(|error| {
        panic!("{program}: {error}");
    })
}

/// Bytes that look random, the same for the same seed.
#[must_use]
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Reads everything that comes.
///
/// # Errors
/// Those of reading.
pub fn read_all(mut from: impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes)?;
    Ok(bytes)
}
