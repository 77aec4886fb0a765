//! The tables of flags and options are complete, and name nothing that does not exist.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use super::{pages, read};

/// The program's commands, as its help lists them.
fn commands() -> Vec<String> {
    let help = output(&["--help"]);
    let (_, after) = help.split_once("\nCommands:\n").expect("the list of the commands");
    let names = after.lines().take_while(|line| !line.is_empty()).filter_map(|line| line.strip_prefix("  "));
    names.filter(|line| !line.starts_with(' ')).filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

fn help(command: &str) -> String {
    output(&[command, "--help"])
}

fn output(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_switchback")).args(arguments).output();
    String::from_utf8(output.expect("the program runs").stdout).expect("text")
}

/// The long flags at the start of the lines of a help text.
fn flags(help: &str) -> BTreeSet<String> {
    let starts = help.lines().filter_map(|line| {
        let line = line.trim_start();
        line.strip_prefix("--")
            .or_else(|| line.split_once(", --").filter(|(short, _)| short.len() == 2).map(|(_, long)| long))
    });
    starts.filter_map(|flag| flag.split([' ', '=']).next()).map(str::to_owned).collect()
}

#[test]
fn every_limit_is_in_the_table() {
    let help = help("serve");
    let (_, after) = help.split_once("\nLimits:\n").expect("the group of the limits");
    let limits: String = after
        .lines()
        .take_while(|line| line.is_empty() || line.starts_with(' '))
        .map(|line| format!("{line}\n"))
        .collect();
    let page = read(Path::new("docs/limits.md"));
    let missing: Vec<String> = flags(&limits)
        .into_iter()
        .filter(|flag| !["trusted-proxy", "proxy-header"].contains(&flag.as_str()))
        .filter(|flag| !page.contains(&format!("`--{flag}`")))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert!(flags(&limits).len() > 20);
}

#[test]
fn every_flag_that_is_named_exists() {
    let known: BTreeSet<String> = commands().iter().flat_map(|command| flags(&help(command))).collect();
    for page in pages() {
        let text = read(&page);
        let named = text.split('`').filter_map(|code| code.strip_prefix("--"));
        for flag in named.filter_map(|flag| flag.split([' ', '=', '\n']).next()).filter(|flag| !flag.is_empty()) {
            assert!(known.contains(flag) || ["through-app"].contains(&flag), "{}: --{flag}", page.display());
        }
    }
}

#[test]
fn every_option_and_event_of_the_client_is_in_the_table() {
    let types = read(Path::new("static/client.d.ts"));
    let page = read(Path::new("docs/client.md"));
    for (interface, least) in [("Options", 12), ("ControlEvents", 6)] {
        let names = members(&types, interface);
        assert!(names.len() >= least, "{interface}: {names:?}");
        for name in names {
            assert!(page.contains(&format!("| `{name}` |")), "{interface}: {name}");
        }
    }
    for name in members(&types, "Connection") {
        assert!(page.contains(&format!("`{name}`")) || page.contains(&format!("`{name}(")), "{name}");
    }
}

/// The names of an interface's members, in a declaration file.
fn members(types: &str, interface: &str) -> BTreeSet<String> {
    let (_, body) = types.split_once(&format!("export interface {interface} {{")).expect("the interface");
    let lines = body.lines().take_while(|line| *line != "}").filter_map(|line| line.strip_prefix("  "));
    let names = lines.filter(|line| !line.starts_with(['/', ' ', '*'])).filter_map(|line| {
        let line = line.strip_prefix("readonly ").unwrap_or(line);
        let end = line.find(|letter: char| !letter.is_alphanumeric() && letter != '$')?;
        (end > 0).then(|| line[..end].to_owned())
    });
    names.collect()
}
