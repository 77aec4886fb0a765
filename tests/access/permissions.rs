//! File permissions: secret files must be writable by their owner only, and the server's own files are private to its user.

use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use serde_json::json;

use super::keyed::SECRET;
use crate::support::Server;
use crate::support::http::Request;
use crate::support::jwt::{Signer, jwks};

const BINARY: &str = env!("CARGO_BIN_EXE_switchback");

/// The server's output before it exits, which it always does: its last flag is invalid.
fn said(flags: &[&str]) -> String {
    let output = Command::new("timeout")
        .args(["--kill-after=1", "20", BINARY, "--store", "memory", "--listen", "127.0.0.1:0"])
        .args(flags)
        .args(["--workers", "0"])
        .stdin(Stdio::null())
        .output()
        .expect("the binary runs");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_secret_that_others_may_write_is_refused() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let path = file.path().to_str().expect("a path");
    let secret = ["--jwt-secret-file", path];
    let set = ["--jwks", path];
    let cases: [(u32, &[&str], &str, Option<&str>); 10] = [
        (0o600, &secret, SECRET, None),
        (0o400, &secret, SECRET, None),
        (0o640, &secret, SECRET, Some("may read this secret")),
        (0o644, &secret, SECRET, Some("may read this secret")),
        (0o644, &[secret[0], secret[1], "--strict-permissions"], SECRET, Some("may read it")),
        (0o620, &secret, SECRET, Some("may write it")),
        (0o666, &secret, SECRET, Some("may write it")),
        // Public keys are not secret, but a user who can write them can forge tokens.
        (0o644, &[set[0], set[1], "--strict-permissions"], "", None),
        (0o664, &set, "", Some("may write it")),
        (0o600, &set, "", None),
    ];
    let keys = jwks(&[&Signer::ed_dsa()]);
    for (mode, flags, text, expected) in cases {
        std::fs::write(&file, if text.is_empty() { keys.as_str() } else { text }).expect("written");
        set_permissions(file.path(), Permissions::from_mode(mode)).expect("the mode is set");
        let said = said(flags);
        match expected {
            Some(expected) => {
                assert!(said.contains(expected) && said.contains("chmod 600"), "{mode:o} {flags:?}: {said}")
            }
            None => assert!(!said.contains("other users"), "{mode:o} {flags:?}: {said}"),
        }
        // After a mere warning the server refuses its last flag.
        let refused = expected.is_some_and(|expected| !expected.contains("this secret"));
        assert_eq!(said.contains("--workers"), !refused, "{mode:o} {flags:?}: {said}");
        assert!(!said.contains(SECRET), "{said}");
    }
}

/// The same for every other file that contains a secret.
#[test]
fn each_file_of_a_secret_is_looked_at() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let other = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(&other, SECRET).expect("written");
    let (path, other) = (file.path().to_str().expect("a path"), other.path().to_str().expect("a path"));
    set_permissions(file.path(), Permissions::from_mode(0o602)).expect("the mode is set");
    let nats = ["--store", "nats://127.0.0.1:1"];
    for flags in [
        &["--jwt-secret-file", other, "--jwt-previous-secret-file", path][..],
        &[&nats[..], &["--nats-user", "li", "--nats-password-file", path]].concat(),
        &[&nats[..], &["--nats-credentials", path]].concat(),
        &[&nats[..], &["--nats-cert", other, "--nats-key", path]].concat(),
    ] {
        let output = Command::new(BINARY)
            .args(["--listen", "127.0.0.1:0"])
            .args(flags)
            .stdin(Stdio::null())
            .output()
            .expect("the binary runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("may write it") && said.contains(path), "{flags:?}: {said}");
    }
}

/// With any umask, in new and existing directories.
#[tokio::test]
async fn the_servers_files_are_private_to_their_owner() {
    let server = Server::start_without_umask(&["--store", "disk"]);
    let event = json!({ "topic": "secret", "data": "x" }).to_string();
    assert_eq!(Request::post("/v1/events", "application/json", event).send(server.address()).await.status, 201);
    let backup = server.directory().join("copy.db");
    let made = Command::new("sh")
        .args(["-c", "umask 000; exec \"$0\" \"$@\"", BINARY, "backup"])
        .arg(&backup)
        .arg("--data")
        .arg(server.data())
        .output()
        .expect("the binary runs");
    assert!(made.status.success(), "{made:?}");
    let mode = |path: &std::path::Path| std::fs::metadata(path).expect("the file exists").permissions().mode() & 0o777;
    assert_eq!(mode(&server.data()), 0o700);
    let mut files: Vec<_> =
        std::fs::read_dir(server.data()).expect("a directory").map(|entry| entry.expect("a file").path()).collect();
    assert!(files.len() >= 6, "the log, clients, revocations, and their companion files: {files:?}");
    files.push(backup);
    for file in files {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
}
