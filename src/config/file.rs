//! The configuration file: its values replace the flags' defaults.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::ArgAction;

use super::environment::alike;

/// Finds the file's path. The file has to be known before the command line is parsed, since it sets the defaults.
pub(super) fn config_file(arguments: &[OsString]) -> Option<PathBuf> {
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let text = argument.to_string_lossy();
        if text == "--config" {
            return arguments.next().map(PathBuf::from);
        }
        if let Some(path) = text.strip_prefix("--config=") {
            return Some(path.into());
        }
    }
    std::env::var_os("SWITCHBACK_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// Makes the file's values the flags' defaults, so that clap itself gives flags and variables precedence.
pub(super) fn with_file(mut command: clap::Command, path: &Path) -> Result<clap::Command, clap::Error> {
    let wrong = |command: &mut clap::Command, reason: String| {
        command.error(clap::error::ErrorKind::InvalidValue, format!("{}: {reason}", path.display()))
    };
    let text = std::fs::read_to_string(path).map_err(|error| wrong(&mut command, error.to_string()))?;
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| wrong(&mut command, error.to_string()))?;
    for (key, value) in table {
        let known =
            command.get_arguments().find(|argument| argument.get_long() == Some(key.as_str()) && key != "config");
        let Some((id, action)) = known.map(|argument| (argument.get_id().clone(), argument.get_action().clone()))
        else {
            let flags = command.get_arguments().filter_map(clap::Arg::get_long);
            let meant = alike(&key, flags).map(|meant| format!("did you mean {meant}?"));
            let meant = meant.unwrap_or_else(|| "a key has a flag's name, such as max-age".into());
            return Err(wrong(&mut command, format!("{key} is not a flag of the server; {meant}")));
        };
        let Some(values) = texts(&value) else {
            return Err(wrong(&mut command, format!("{key} must be a string, number, boolean or list of strings")));
        };
        // clap takes the first of several defaults, and ignores the others silently.
        if !matches!(action, ArgAction::Append) && values.len() != 1 {
            return Err(wrong(&mut command, format!("{key} takes one value, but the list has {}", values.len())));
        }
        let set = |argument: clap::Arg| argument.default_values(values.clone());
        command = command.mut_arg(id.as_str(), set);
        for server in ["serve", "check-config"] {
            command = command.mut_subcommand(server, |server| server.mut_arg(id.as_str(), set));
        }
    }
    Ok(command)
}

fn texts(value: &toml::Value) -> Option<Vec<String>> {
    match value {
        toml::Value::String(text) => Some(vec![text.clone()]),
        toml::Value::Integer(number) => Some(vec![number.to_string()]),
        toml::Value::Boolean(on) => Some(vec![on.to_string()]),
        toml::Value::Array(values) => values.iter().map(|value| value.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}
