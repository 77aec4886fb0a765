//! `switchback completions` and `switchback man`: the command line, described for shells and for the manual.

use crate::config::{CompletionsArgs, ManArgs, described};

/// The name under which the program is installed.
const PROGRAM: &str = "switchback";

/// A script that completes the program's commands and flags.
pub(super) fn completions(arguments: &CompletionsArgs) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut described(), PROGRAM, &mut script);
    script
}

/// A page of the manual, in roff.
///
/// # Errors
/// A message where there is no such command.
pub(super) fn man(arguments: &ManArgs) -> Result<Vec<u8>, String> {
    let mut program = described();
    // Gives the commands' pages their names and usage lines.
    program.build();
    let command = match &arguments.command {
        None => program,
        Some(name) => {
            let found = program.get_subcommands().find(|command| command.get_name() == name);
            found.cloned().ok_or_else(|| {
                let names: Vec<&str> = program.get_subcommands().map(clap::Command::get_name).collect();
                format!("there is no command {name}; the commands are {}", names.join(", "))
            })?
        }
    };
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page).map_err(|error| error.to_string())?;
    Ok(page)
}
