//! Puts the commit into the program's version, in optimised builds: there a report names what it is about. A debug build would have to
//! compile the crate again after each commit.

use std::path::Path;
use std::process::Command;

fn main() {
    let version = env!("CARGO_PKG_VERSION");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=SOURCE_COMMIT");
    let optimised = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let commit = optimised.then(commit).flatten();
    let shown = commit.map_or_else(|| version.to_owned(), |commit| format!("{version} ({commit})"));
    println!("cargo::rustc-env=PROGRAM_VERSION={shown}");
}

/// The commit's abbreviated hash: from the variable, for builds without a repository; or from Git.
fn commit() -> Option<String> {
    if let Ok(commit) = std::env::var("SOURCE_COMMIT") {
        return (!commit.is_empty()).then(|| commit.chars().take(12).collect());
    }
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
        String::from_utf8(output.stdout).ok().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    // Not the repository of another project, in which an unpacked package lies: this file is at the root, and is tracked.
    git(&["ls-files", "--error-unmatch", ":/build.rs", "build.rs"]).filter(|files| files == "build.rs")?;
    // Git appends to this file at each commit and check-out. A file that does not exist would have the script run each time.
    if let Some(path) = git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|path| Path::new(path).exists()) {
        println!("cargo::rerun-if-changed={path}");
    }
    git(&["rev-parse", "--short=12", "HEAD"])
}
