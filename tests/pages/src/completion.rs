//! Completion for shells, from clap's definition.

use clap::{ArgAction, Command};
use clap_complete::{Generator, Shell};

use crate::command::{options, spellings};

/// A file for `/usr/share/bash-completion/completions/`. It completes sub-commands and options, and
/// the SRs of this host behind `--sr`.
#[must_use]
pub(crate) fn bash(program: &Command) -> String {
    let name = program.get_name();
    let function = format!("_{}", name.replace('-', "_"));
    let commands: Vec<&str> = program.get_subcommands().map(Command::get_name).collect();
    let own: Vec<String> = options(program)
        .filter(|arg| matches!(arg.get_action(), ArgAction::SetTrue))
        .flat_map(spellings)
        .collect();
    let first = [commands.join(" "), own.join(" "), "--help --version".to_owned()];
    let first = first.iter().filter(|it| !it.is_empty()).cloned().collect::<Vec<_>>().join(" ");
    let cases: String = program.get_subcommands().map(case).collect();
    format!(
        "# Completion of {name} for bash. Made from the program's command line; see tests/pages.\n\
         {function}() {{\n\
         \x20   local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD - 1]}} words=\n\
         \x20   if [[ $before == --sr ]]; then\n\
         \x20       words=$(ls \"${{XAPI_RAM_SR_ROOT:-/run/sr-mount}}\" 2>/dev/null)\n\
         \x20   elif ((COMP_CWORD == 1)); then\n\
         \x20       words='{first}'\n\
         \x20   else\n\
         \x20       case ${{COMP_WORDS[1]}} in\n\
         {cases}\
         \x20       esac\n\
         \x20   fi\n\
         \x20   mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$word\")\n\
         }}\n\
         complete -F {function} {name}\n"
    )
}

/// A file for `/usr/share/fish/vendor_completions.d/`.
pub(crate) fn fish(program: &Command) -> String {
    generated(Shell::Fish, program)
}

/// A file for a directory of zsh's fpath.
pub(crate) fn zsh(program: &Command) -> String {
    generated(Shell::Zsh, program)
}

fn generated(shell: Shell, program: &Command) -> String {
    let name = program.get_name().to_owned();
    let mut program = program.clone();
    program.set_bin_name(name);
    program.build();
    let mut bytes = Vec::new();
    shell.try_generate(&program, &mut bytes).expect("a vector takes everything");
    String::from_utf8(bytes).expect("a script of text")
}

fn case(command: &Command) -> String {
    let words: Vec<String> = options(command).flat_map(spellings).collect();
    if words.is_empty() {
        return String::new();
    }
    format!("        {}) words='{}' ;;\n", command.get_name(), words.join(" "))
}

#[cfg(test)]
mod tests {
    use clap::Arg;

    use super::*;

    /// What bash offers for a line whose last word is to be completed.
    fn offered(file: &str, words: &[&str]) -> String {
        let line = words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
        let last = words.len() - 1;
        let script = format!(
            "{file}\nCOMP_WORDS=({line}) COMP_CWORD={last}\n_my_program\necho \"${{COMPREPLY[*]}}\""
        );
        let output = std::process::Command::new("bash").args(["-euc", &script]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    #[test]
    fn bash_offers_commands_and_their_options() {
        let debug = Arg::new("debug").long("debug").action(ArgAction::SetTrue);
        let end = Command::new("end").args([Arg::new("sr").long("sr"), Arg::new("pid").short('p')]);
        let program = Command::new("my-program")
            .arg(debug)
            .subcommand(end)
            .subcommand(Command::new("SR.create").arg(Arg::new("name").long("name")))
            .subcommand(Command::new("list"));
        let file = bash(&program);
        assert_eq!(
            offered(&file, &["my-program", ""]),
            "end SR.create list --debug --help --version"
        );
        assert_eq!(offered(&file, &["my-program", "SR"]), "SR.create");
        assert_eq!(offered(&file, &["my-program", "end", "-"]), "--sr -p");
        assert_eq!(offered(&file, &["my-program", "SR.create", "--n"]), "--name");
        assert_eq!(offered(&file, &["my-program", "list", ""]), "");
    }
}
