//! The commands of the documentation, run as they are written: each page's in order, in one shell, in an empty directory.
//!
//! Only addresses are replaced: a page has a loopback address of its own, on which the documented ports are free. What the shell
//! does with servers and endless streams is in `shell.sh`.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use super::{Block, blocks, pages, read, root};
use crate::support::nats;

/// Pages with commands, and whether they expect a server at the default address.
const PAGES: [(&str, bool); 7] = [
    ("README.md", false),
    ("docs/access.md", false),
    ("docs/clustering.md", false),
    ("docs/deployment.md", false),
    ("docs/operations.md", false),
    ("docs/publishing.md", true),
    ("docs/transports.md", true),
];

/// Commands that take minutes, or are the tests themselves; that they exist is checked.
const NOT_RUN: [&str; 2] = ["tests/run", "cargo bench"];

macro_rules! pages {
    ($($test:ident: $page:literal),+ $(,)?) => { $( #[test] fn $test() { run($page); } )+ };
}

pages! {
    readme: "README.md",
    access: "docs/access.md",
    clustering: "docs/clustering.md",
    deployment: "docs/deployment.md",
    operations: "docs/operations.md",
    publishing: "docs/publishing.md",
    transports: "docs/transports.md",
}

#[test]
fn all_pages_with_commands_are_run() {
    for page in pages() {
        let runs = blocks(&read(&page)).iter().any(|block| command(block).is_some());
        let listed = PAGES.iter().any(|(listed, _)| Path::new(listed) == page);
        assert_eq!(runs, listed, "{}", page.display());
    }
}

#[test]
fn commands_that_are_not_run_exist() {
    let manifest = read(Path::new("Cargo.toml"));
    for page in pages() {
        for block in blocks(&read(&page)) {
            for bench in block.text.lines().filter_map(|line| line.strip_prefix("cargo bench --bench ")) {
                assert!(manifest.contains(&format!("name = \"{bench}\"")), "{}: {bench}", page.display());
            }
        }
    }
    assert!(root().join("tests/run").is_file());
}

fn run(page: &str) {
    let (_, expects_server) = PAGES.iter().find(|(listed, _)| *listed == page).expect("a listed page");
    let mut script = format!("source '{}'\n", root().join("tests/documentation/shell.sh").display());
    if *expects_server {
        script.push_str("switchback\nswitchback publish orders.1.status '\"before\"'\n");
    }
    for text in blocks(&read(Path::new(page))).iter().filter_map(command) {
        script.push_str(&text);
    }
    if *expects_server {
        // For a stream that began at the log's end.
        script.push_str("switchback publish orders.1.status '\"after\"'\n");
    }
    script.push_str("check_streams\n");
    let directory = tempfile::tempdir().expect("a directory");
    let programs = directory.path().join("programs");
    std::fs::create_dir(&programs).expect("a directory");
    let program = std::env::var("SWITCHBACK_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_switchback").to_owned());
    symlink(program, programs.join("switchback")).expect("a link");
    if page == "docs/clustering.md" {
        symlink(nats::binary(), programs.join("nats-server")).expect("a link");
    }
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").expect("a path of programs"));
    let host = nats::host_of_its_own();
    let script = with_address(&script, host);
    let output = Command::new("timeout")
        .args(["--kill-after=5", "180", "bash", "-c", &script])
        .env("PATH", path)
        // The default address, for a server that is started, and for commands that use it.
        .env("SWITCHBACK_LISTEN", format!("{host}:8080"))
        .env("SWITCHBACK_SERVER", format!("http://{host}:8080"))
        .current_dir(directory.path())
        .output()
        .expect("bash runs");
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{page}: {}\n{script}\n--- output\n{out}\n--- errors\n{error}", output.status);
}

fn with_address(script: &str, host: IpAddr) -> String {
    script.replace("127.0.0.1", &host.to_string()).replace(" 0.0.0.0:", &format!(" {host}:"))
}

/// What a block is for the shell; `None` if it is none of a shell's, or is not run.
fn command(block: &Block) -> Option<String> {
    let interpreter = match block.language.as_str() {
        "sh" if NOT_RUN.iter().any(|start| block.text.starts_with(start)) => return None,
        "sh" => return Some(block.text.clone()),
        "python" => "python3 -",
        // Other scripts are for pages.
        "js" if block.text.starts_with("// Node") => "node -",
        _ => return None,
    };
    let mut text = String::new();
    writeln!(text, "{interpreter} <<'END_OF_BLOCK'\n{}END_OF_BLOCK", block.text).expect("a string takes all");
    Some(text)
}
