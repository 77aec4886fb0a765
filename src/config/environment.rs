//! The environment variables of the configuration: which are valid, and which are mistakes.

use std::ffi::{OsStr, OsString};

use clap::builder::{BoolishValueParser, Resettable};
use clap::{Arg, ArgAction, Command};

use super::{PASSWORD_VARIABLE, SECRET_VARIABLE};

/// The prefix of all variables of Switchback.
const PREFIX: &str = "SWITCHBACK_";

/// Variables of the tests, and of scripts that have to find the program. The program itself does not read them.
const TEST_PREFIX: &str = "SWITCHBACK_TEST_";
const BINARY: &str = "SWITCHBACK_BIN";

/// The similarity of two names, from 0 to 1, from which one is suggested for the other. clap suggests flags from 0.7 on.
const ALIKE: f64 = 0.8;

/// Makes a command treat an empty variable as unset, since `docker compose` and systemd pass unset variables so, and
/// accept `1`, `yes` and `on` as true.
pub(super) fn lenient(command: Command) -> Command {
    command.mut_args(lenient_argument).mut_subcommands(lenient)
}

fn lenient_argument(argument: Arg) -> Arg {
    let Some(name) = argument.get_env() else { return argument };
    let empty = std::env::var_os(name).is_some_and(|value| value.is_empty());
    let argument = if empty { argument.env(Resettable::Reset) } else { argument };
    if matches!(argument.get_action(), ArgAction::SetTrue) {
        argument.value_parser(BoolishValueParser::new())
    } else {
        argument
    }
}

/// Refuses an unknown variable with the prefix of Switchback, whose value would be ignored silently.
///
/// # Errors
/// A sentence that names the variable, and a known variable with a similar name.
pub(super) fn check(command: &Command, set: impl Iterator<Item = (OsString, OsString)>) -> Result<(), String> {
    let known = known(command);
    for (name, value) in set {
        let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else { continue };
        if known.iter().any(|known| known == name) || is_of_others(name, &value) {
            continue;
        }
        let meant = alike(name, known.iter().map(String::as_str));
        let meant = meant.map_or_else(String::new, |meant| format!("; did you mean {meant}?"));
        return Err(format!("the environment variable {name} is not a setting of switchback{meant}"));
    }
    Ok(())
}

/// The candidate that is most similar to `name`, if any is similar enough.
pub(super) fn alike<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let rated = candidates.map(|candidate| (strsim::jaro(name, candidate), candidate));
    let best = rated.max_by(|one, other| one.0.total_cmp(&other.0));
    best.filter(|(alike, _)| *alike >= ALIKE).map(|(_, candidate)| candidate)
}

fn known(command: &Command) -> Vec<String> {
    let mut names = vec![SECRET_VARIABLE.to_owned(), PASSWORD_VARIABLE.to_owned()];
    for command in std::iter::once(command).chain(command.get_subcommands()) {
        let variables = command.get_arguments().filter_map(Arg::get_env).filter_map(OsStr::to_str);
        names.extend(variables.map(str::to_owned));
    }
    names
}

/// Whether a variable is one that Kubernetes sets in every pod for a Service called `switchback` or `switchback-…`, or one of the
/// tests and scripts.
fn is_of_others(name: &str, value: &OsStr) -> bool {
    let is_url = || ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.to_string_lossy().starts_with(scheme));
    let after_port = name.rsplit("_PORT_").next().unwrap_or_default();
    let is_port_of_service = after_port.split_once('_').is_some_and(|(number, protocol)| {
        let protocol = protocol.split('_').next().unwrap_or_default();
        !number.is_empty()
            && number.bytes().all(|byte| byte.is_ascii_digit())
            && matches!(protocol, "TCP" | "UDP" | "SCTP")
    });
    name.starts_with(TEST_PREFIX)
        || name == BINARY
        || name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.ends_with("_PORT") && is_url()
        || is_port_of_service
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::config::Cli;

    fn check_one(name: &str, value: &str) -> Result<(), String> {
        check(&Cli::command(), std::iter::once((name.into(), value.into())))
    }

    #[test]
    fn a_variable_of_ours_has_a_known_name() {
        for name in ["SWITCHBACK_MAX_AGE", "SWITCHBACK_JWT_SECRET", "SWITCHBACK_NATS_PASSWORD", "SWITCHBACK_TOKEN"] {
            assert_eq!(check_one(name, "x"), Ok(()), "{name}");
        }
        for (name, meant) in [
            ("SWITCHBACK_MAX_AGEE", "did you mean SWITCHBACK_MAX_AGE?"),
            ("SWITCHBACK_JWT_SECRETS", "did you mean SWITCHBACK_JWT_SECRET?"),
            ("SWITCHBACK_LISTEN_PORT", "SWITCHBACK_LISTEN_PORT"),
        ] {
            let error = check_one(name, "8080").unwrap_err();
            assert!(error.contains(meant), "{error}");
        }
        assert!(!check_one("SWITCHBACK_QQQQQQQQQQ", "1").unwrap_err().contains("did you mean"));
    }

    /// Otherwise no pod would start beside a Service of this name.
    #[test]
    fn variables_set_by_kubernetes_are_ignored() {
        for (name, value) in [
            ("SWITCHBACK_SERVICE_HOST", "10.0.0.1"),
            ("SWITCHBACK_SERVICE_PORT", "80"),
            ("SWITCHBACK_SERVICE_PORT_HTTP", "80"),
            ("SWITCHBACK_PORT", "tcp://10.0.0.1:80"),
            ("SWITCHBACK_PORT_80_TCP", "tcp://10.0.0.1:80"),
            ("SWITCHBACK_PORT_80_TCP_ADDR", "10.0.0.1"),
            ("SWITCHBACK_INTERNAL_PORT_80_UDP_PROTO", "udp"),
            ("SWITCHBACK_TEST_STORE", "nats"),
            ("SWITCHBACK_BIN", "target/debug/switchback"),
        ] {
            assert_eq!(check_one(name, value), Ok(()), "{name}");
        }
        assert!(check_one("SWITCHBACK_PORT", "8080").is_err(), "a mistake for the flag --listen");
    }
}
