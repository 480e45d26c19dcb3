//! Sub-commands and their options, from clap's definition.

use clap::{Arg, ArgAction, Command};

use crate::roff::{bold, escape, italic, text};

/// Each sub-command that `wanted` selects, as a section of a page: how it is called, what it does, its options.
/// Options that `common` names are left out: the page tells of them once.
#[must_use]
pub fn commands(program: &Command, common: &[&str], wanted: impl Fn(&str) -> bool) -> String {
    let selected = program.get_subcommands().filter(|it| wanted(it.get_name()));
    selected.map(|command| section(command, common)).collect()
}

fn section(command: &Command, common: &[&str]) -> String {
    let about = command.get_long_about().or_else(|| command.get_about());
    let about = about.map(ToString::to_string).unwrap_or_default();
    let mut section = format!(".SS {}\n{}.\n", escape(command.get_name()), sentence(&about));
    for arg in options(command) {
        if !common.contains(&arg.get_id().as_str()) {
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            let needed = if arg.is_required_set() { " (required)" } else { "" };
            section.push_str(&format!(".TP\n{}\n{}{needed}.\n", spelled(arg), sentence(&help)));
        }
    }
    section
}

/// How a sub-command is called, on one line.
#[must_use]
pub fn synopsis(program: &str, command: &Command) -> String {
    let mut line = format!("{} {}", bold(program), bold(command.get_name()));
    for arg in options(command) {
        let arg_line = spelled(arg);
        line.push_str(&match arg.is_required_set() {
            true => format!(" {arg_line}"),
            false => format!(" [{arg_line}]"),
        });
    }
    line
}

/// A text of several paragraphs in one, without the full stop that ends it.
fn sentence(about: &str) -> String {
    let paragraph = |it: &str| it.split_whitespace().collect::<Vec<_>>().join(" ");
    let paragraphs: Vec<String> = about.split("\n\n").map(paragraph).collect();
    text(paragraphs.join(". ").trim_end_matches('.'))
}

/// The options of a sub-command, but for those that clap adds to all.
pub(crate) fn options(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|arg| !["help", "version"].contains(&arg.get_id().as_str()))
}

/// The spellings of an option as it is typed, long before short.
pub(crate) fn spellings(arg: &Arg) -> impl Iterator<Item = String> {
    let long = arg.get_long().map(|long| format!("--{long}"));
    long.into_iter().chain(arg.get_short().map(|short| format!("-{short}")))
}

fn spelled(arg: &Arg) -> String {
    let name = spellings(arg).map(|it| bold(&it)).collect::<Vec<_>>().join(", ");
    let takes_value = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
    if !takes_value {
        return name;
    }
    let value = arg.get_value_names().map(|names| names.join(" "));
    let value = value.unwrap_or_else(|| arg.get_id().as_str().to_uppercase());
    match arg.is_require_equals_set() {
        true => format!("{name}[={}]", italic(&value)),
        false => format!("{name} {}", italic(&value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_has_the_options_of_its_command_alone() {
        let sr = || Arg::new("sr").long("sr").help("UUID of the SR").required(true);
        let force = Arg::new("force").short('f').action(ArgAction::SetTrue).help("At once.");
        let one = Command::new("end").about("End it").args([sr(), force]);
        let program = Command::new("p").subcommand(one).subcommand(Command::new("other"));
        let made = commands(&program, &[], |name| name == "end");
        assert_eq!(
            made,
            ".SS end\nEnd it.\n.TP\n\\fB\\-\\-sr\\fR \\fISR\\fR\nUUID of the SR (required).\n\
             .TP\n\\fB\\-f\\fR\nAt once.\n"
        );
        assert!(!commands(&program, &["sr"], |_| true).contains("UUID"));
        let end = program.find_subcommand("end").unwrap();
        assert_eq!(
            synopsis("p", end),
            "\\fBp\\fR \\fBend\\fR \\fB\\-\\-sr\\fR \\fISR\\fR [\\fB\\-f\\fR]"
        );
    }
}
