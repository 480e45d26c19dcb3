//! The command line of `smapiv3-check`.

use std::{
    fs,
    io::{self, Write},
    path::Path,
    process::ExitCode,
    sync::{Arc, atomic::AtomicBool},
};

use clap::Parser;
use smapiv3_check::{
    Interrupt,
    options::Options,
    report::{self, Counts, Line},
    rules, run,
};

/// The exit status where nothing could be judged.
const NOT_JUDGED: u8 = 2;

fn main() -> ExitCode {
    let options = Options::parse();
    match start(options) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            // There is no other place to tell it.
            let _unread = writeln!(io::stderr(), "smapiv3-check: {error}");
            ExitCode::from(NOT_JUDGED)
        }
    }
}

fn start(options: Options) -> io::Result<u8> {
    if options.list {
        let selected = rules::all().filter(|it| options.selects(it.id));
        selected.for_each(|rule| print(&report::list(rule)));
        return Ok(0);
    }
    if !rules::all().any(|it| options.selects(it.id)) {
        return Err(io::Error::other("no rule is called so: smapiv3-check --list shows all"));
    }
    let interrupt: Interrupt = Arc::new(AtomicBool::new(false));
    for signal in
        [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP]
    {
        signal_hook::flag::register(signal, Arc::clone(&interrupt))?;
    }
    let (json, junit, quiet) = (options.json.clone(), options.junit.clone(), options.quiet);
    let lines = run(options, &interrupt, &mut |line: &Line| {
        let status = Counts::of(std::slice::from_ref(line));
        if !quiet || status.failed + status.blocked > 0 {
            print(&report::line(line));
        }
    })?;
    print(&report::summary(&lines));
    if let Some(path) = json {
        write(&path, &format!("{:#}\n", report::json(&lines)))?;
    }
    if let Some(path) = junit {
        write(&path, &report::junit(&lines))?;
    }
    Ok(Counts::of(&lines).exit_status())
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let named = |it: io::Error| io::Error::new(it.kind(), format!("{}: {it}", path.display()));
    fs::write(path, text).map_err(named)
}

/// A reader that has closed its end does not end the run: the SR is to be destroyed.
fn print(text: &str) {
    let mut stdout = io::stdout().lock();
    let _closed = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}
