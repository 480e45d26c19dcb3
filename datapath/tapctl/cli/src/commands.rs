//! The implementation of each sub-command.

use std::{
    io::{self, IsTerminal, Write},
    os::unix::ffi::OsStrExt,
    time::Duration,
};

use host::Config;
use tapctl::{Client, ControlDir, Minor, Resume, Spawn, Spawned, TIMEOUT, minors};

use crate::{
    arguments::{Command, On, OpenArgs, fitting},
    error::{Result, refusal_is_invalid},
    format::{self, Output},
    list::{self, Filter},
};

/// Executes one command.
pub(crate) fn execute(command: Command, config: &Config) -> Result<()> {
    let dir = &config.control;
    let client = |on: On| Client::new(dir, on.pid);
    let patient = |on: On, seconds: Option<u32>| {
        client(on).timeout(seconds.map_or(TIMEOUT, |it| Duration::from_secs(it.into())))
    };
    match command {
        Command::List { pid, minor, r#type, file } => {
            let filter =
                Filter { pid, minor: minor.map(i32::from), image_type: r#type, path: file };
            list(dir, &filter)
        }
        Command::Allocate => print_minor(dir, minors::allocate(dir, TIMEOUT)?),
        Command::Free { minor } => Ok(minors::free(dir, minor, TIMEOUT)?),
        Command::Create { image, device: _ } => create(config, image),
        Command::Destroy { on, timeout } => {
            patient(on, timeout).close(on.minor)?;
            refusal_is_invalid(client(on).detach(on.minor))?;
            Ok(minors::free(dir, on.minor, TIMEOUT)?)
        }
        Command::Spawn => {
            let spawned = spawn(config)?;
            print(format::spawn_line(spawned.pid, output()).as_bytes())
        }
        Command::Attach(on) => refusal_is_invalid(client(on).attach(on.minor)),
        Command::Detach(on) => refusal_is_invalid(client(on).detach(on.minor)),
        Command::Open { on, image } => {
            client(on).open(on.minor, image.open()?)?;
            Ok(())
        }
        Command::Close { on, force: true, timeout } => {
            Ok(patient(on, timeout).force_shutdown(on.minor)?)
        }
        Command::Close { on, force: false, timeout } => Ok(patient(on, timeout).close(on.minor)?),
        Command::Pause { on, timeout } => Ok(patient(on, timeout).pause(on.minor)?),
        Command::Unpause { on, args } => {
            let params = args.map(fitting).transpose()?;
            Ok(client(on).resume(on.minor, Resume { params, ..Resume::default() })?)
        }
        Command::Stats(on) => print(format::stats(&client(on).stats(on.minor)?).as_bytes()),
        Command::Upgrade { pid } => {
            let tapdisk = Client::new(dir, pid);
            tapdisk.upgrade()?;
            // The successor answers.
            let version = tapdisk.identify()?.map(|it| format!("{} {}\n", it.name, it.version));
            print(version.unwrap_or_default().as_bytes())
        }
    }
}

fn list(dir: &ControlDir, filter: &Filter) -> Result<()> {
    let rows = match filter.pid {
        Some(pid) => list::list_one(dir, pid, TIMEOUT),
        None => list::list(dir, TIMEOUT)?,
    };
    let output = output();
    let wanted = rows.iter().filter(|row| filter.wants(row));
    print(&wanted.flat_map(|row| format::list_line(row, output)).collect::<Vec<u8>>())
}

fn create(config: &Config, image: OpenArgs) -> Result<()> {
    let dir = &config.control;
    let open = image.open()?;
    let minor = minors::allocate(dir, TIMEOUT)?;
    let done = spawn(config).and_then(|spawned| {
        let client = Client::new(dir, spawned.pid);
        if let Err(error) = client.attach(minor) {
            // No other program knows of this tapdisk, so nothing else would end it.
            let _first_error_counts = spawned.identity.kill();
            return refusal_is_invalid(Err(error));
        }
        client.open(minor, open).map(drop).map_err(|error| {
            // The tapdisk has let go of the minor when it answers, so the minor can be freed then.
            let _first_error_counts = client.detach(minor);
            error.into()
        })
    });
    match done {
        Ok(()) => print_minor(dir, minor),
        Err(error) => {
            let _first_error_counts = minors::free(dir, minor, TIMEOUT);
            Err(error)
        }
    }
}

/// Starts the tapdisk of this product.
fn spawn(config: &Config) -> Result<Spawned> {
    let spawn = Spawn::new(&config.control, config.tapdisk()).variables(config.for_tapdisk());
    Ok(spawn.start()?)
}

fn print_minor(dir: &ControlDir, minor: Minor) -> Result<()> {
    print(&[dir.minor(minor).as_os_str().as_bytes(), b"\n"].concat())
}

fn output() -> Output {
    if io::stdout().is_terminal() { Output::Terminal } else { Output::Pipe }
}

fn print(bytes: &[u8]) -> Result<()> {
    let mut stdout = io::stdout().lock();
    Ok(stdout.write_all(bytes).and_then(|()| stdout.flush())?)
}
