//! The command line.

use std::{path::PathBuf, time::Duration};

use clap::Parser;

/// Judges a SMAPIv3 plugin by what xapi-storage-script, xapi and backup programs do with it.
///
/// Calls the method files of a volume plugin, and of the datapath plugins beside it, as
/// xapi-storage-script does, and prints a line for each rule: passed, FAILED with the call and what a
/// user would see, or skipped with the reason. It makes an SR of its own with SR.create, changes nothing
/// outside of it, and destroys it at the end, also when it is interrupted.
///
/// Exit status: 0 if no rule is broken, 1 if one is, 2 if rules could not be judged, because what
/// prepares them failed, or the command line is wrong.
#[derive(Clone, Debug, Parser)]
#[command(name = "smapiv3-check", version)]
pub struct Options {
    /// Directory of the volume plugin's method files, as below xapi-storage-script/volume/
    #[arg(required_unless_present = "list")]
    pub volume: Option<PathBuf>,

    /// Directories of datapath plugins' method files; their names are the schemes of the URIs they serve
    pub datapath: Vec<PathBuf>,

    /// A key of the SR's device-config; {dir} in the value stands for a new directory, removed at the end
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub config: Vec<(String, String)>,

    /// A variable for the plugin, which gets PATH and LANG beside these, as from a systemd service
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub env: Vec<(String, String)>,

    /// UUID of the SR that is made [default: a random one]
    #[arg(long, value_name = "UUID")]
    pub sr_uuid: Option<String>,

    /// Size of the volumes that are made, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 8, value_parser = clap::value_parser!(u64).range(2..))]
    pub volume_mib: u64,

    /// Seconds that a call may take before it counts as hanging
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    pub timeout: u64,

    /// How often each of the rules that kill calls does so
    #[arg(long, value_name = "NUMBER", default_value_t = 20)]
    pub kills: u32,

    /// Seed of the moments at which calls are killed
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub seed: u64,

    /// Judges only this rule, or the rules whose names begin so; may be given several times
    #[arg(long, value_name = "RULE")]
    pub only: Vec<String>,

    /// Leaves out this rule, or the rules whose names begin so; may be given several times
    #[arg(long, value_name = "RULE")]
    pub skip: Vec<String>,

    /// Writes the results to a file as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Writes the results to a file as JUnit's XML
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,

    /// Prints all rules with what they follow from, and calls nothing
    #[arg(long)]
    pub list: bool,

    /// Prints rules that are broken or could not be judged, and no others
    #[arg(long)]
    pub quiet: bool,
}

impl Options {
    /// Whether a rule is to be judged.
    #[must_use]
    pub fn selects(&self, id: &str) -> bool {
        let names = |all: &[String]| all.iter().any(|it| id.starts_with(it.as_str()));
        (self.only.is_empty() || names(&self.only)) && !names(&self.skip)
    }

    /// The size of an ordinary volume, in bytes.
    #[must_use]
    pub fn volume_bytes(&self) -> u64 {
        self.volume_mib << 20
    }

    /// How long a call may take.
    #[must_use]
    pub fn call_timeout(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected <name>=<value>")?;
    match key {
        "" => Err("the name before = is empty".into()),
        _ => Ok((key.to_owned(), value.to_owned())),
    }
}
