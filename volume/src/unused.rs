//! Operations that an active disk keeps from being done: activations that no client uses make way.
//!
//! Which of them do, only the datapath plugin knows, which keeps the record of each volume's domains. It is
//! called as a program, and only where an operation was refused; the lock of the SR is not held then, as
//! the datapath takes it after the volume's.

use std::process::{Command, Stdio};

use smapiv3::Error;
use store::ErrorKind;

use crate::Context;

/// Does something to a volume, or to an SR where `key` is `None`. Where an active disk is in the way, what
/// is left of migrations and failed plugs is ended, and it is done once more. The error says which
/// activations are left and how each is ended.
pub(crate) fn end_and_retry<T>(
    ctx: &Context<'_>,
    sr: &str,
    key: Option<&str>,
    act: impl Fn() -> store::Result<T>,
) -> Result<T, Error> {
    let refusal = match act() {
        Err(error) if matches!(error.kind(), ErrorKind::VolumeInUse | ErrorKind::SrInUse) => error,
        done => return Ok(done?),
    };
    match end_unused(ctx, sr, key) {
        Ok(left) if left.is_empty() => Ok(act()?),
        Ok(left) => {
            let left = left.lines().collect::<Vec<_>>().join("; ");
            Err(store::Error::new(refusal.kind(), format!("{refusal}; {left}")).into())
        }
        Err(problem) => {
            ctx.log.warning(format_args!("activations without a client are not ended: {problem}"));
            Err(refusal.into())
        }
    }
}

/// Has the datapath plugin end the activations that make way; a line for each that is left.
fn end_unused(ctx: &Context<'_>, sr: &str, key: Option<&str>) -> Result<String, String> {
    let program = ctx.config.datapath_plugin();
    let mut command = Command::new(&program);
    command.args(["end-unused", "--sr", sr]).stdin(Stdio::null());
    command.args(key.into_iter().flat_map(|key| ["--key", key]));
    let output =
        command.output().map_err(|error| format!("starting {}: {error}", program.display()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!(
        "{} end-unused: {} ({})",
        program.display(),
        String::from_utf8_lossy(&output.stderr).trim_end(),
        output.status
    ))
}
