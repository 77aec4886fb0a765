//! The arrangement of the server's flags in its help: by subject in `--help`; in `-h` only those that most servers need.

use clap::Command;

/// The flags by subject, besides those whose struct names one (limits, TLS, NATS). Any other flag is of the server itself.
const SUBJECTS: [(&str, &[&str]); 4] = [
    (
        "Access",
        &[
            "jwt_secret_file",
            "jwt_previous_secret_file",
            "jwks",
            "jwt_audience",
            "jwt_issuer",
            "max_token_age",
            "strict_permissions",
            "public_subscribe",
            "ticket_ttl",
            "allow_host",
            "allow_anonymous",
            "allow_origin",
        ],
    ),
    (
        "Log",
        &[
            "max_age",
            "max_events",
            "max_bytes",
            "dedupe_window",
            "dedupe_keys",
            "dedupe_keys_per_publisher",
            "tail_events",
            "tail_bytes",
        ],
    ),
    (
        "Clients",
        &[
            "heartbeat",
            "max_stream_age",
            "client_idle",
            "max_clients",
            "max_clients_per_subject",
            "max_clients_per_address",
        ],
    ),
    ("Limits", &["max_event_bytes", "max_batch_bytes"]),
];

const OTHER: &str = "Server";

/// The flags in `-h`.
const SHORT: [&str; 13] = [
    "listen",
    "store",
    "data",
    "config",
    "jwt_secret_file",
    "jwks",
    "public_subscribe",
    "allow_origin",
    "max_age",
    "max_bytes",
    "tls_cert",
    "tls_key",
    "trusted_proxy",
];

/// Arranges the help of the commands that take the server's flags.
pub(super) fn arranged(command: Command) -> Command {
    ["serve", "check-config"]
        .into_iter()
        .fold(of_server(command), |command, name| command.mut_subcommand(name, of_server))
}

fn of_server(command: Command) -> Command {
    let command = command.mut_args(|argument| {
        let id = argument.get_id().as_str();
        let subject = SUBJECTS.iter().find(|(_, flags)| flags.contains(&id)).map(|(subject, _)| *subject);
        let is_short = SHORT.contains(&id);
        let heading = subject.or_else(|| argument.get_help_heading().is_none().then_some(OTHER));
        let argument = argument.hide_short_help(!is_short);
        if let Some(heading) = heading { argument.help_heading(heading) } else { argument }
    });
    command.after_help("All flags: --help").after_long_help(
        "Each flag is also an environment variable, and a key in the file of --config, without its dashes. The flag takes \
         precedence, then the variable, then the file.",
    )
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::config::Cli;

    #[test]
    fn every_flag_that_is_arranged_exists() {
        let command = arranged(Cli::command());
        let known: Vec<&str> = command.get_arguments().map(|argument| argument.get_id().as_str()).collect();
        for flag in SUBJECTS.iter().flat_map(|(_, flags)| *flags).chain(&SHORT) {
            assert!(known.contains(flag), "{flag}");
        }
    }

    #[test]
    fn the_short_help_has_few_flags_and_the_long_one_has_all() {
        for name in ["switchback", "serve", "check-config"] {
            let mut command = arranged(Cli::command());
            command.build();
            let command = if name == "switchback" { &mut command } else { command.find_subcommand_mut(name).unwrap() };
            let flags = |text: String| text.lines().filter(|line| line.trim_start().starts_with("--")).count();
            assert_eq!(flags(command.render_help().to_string()), SHORT.len(), "{name}");
            let long = command.render_long_help().to_string();
            assert!(flags(long.clone()) > 60, "{name}");
            for subject in ["Server", "Access", "Log", "Clients", "Limits", "TLS", "NATS"] {
                assert_eq!(long.matches(&format!("\n{subject}:\n")).count(), 1, "{name}: {subject}");
            }
        }
    }
}
