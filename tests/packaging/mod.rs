//! What is shipped for services: the unit and the configuration file, and the notifications to the service manager.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use nix::sys::signal::Signal;

use crate::support::{DEADLINE, Server};

fn shipped(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging").join(file);
    std::fs::read_to_string(&path).expect("a file that is shipped")
}

#[test]
fn the_service_manager_is_notified_of_readiness_and_stop() {
    let directory = Arc::new(tempfile::tempdir().expect("a directory"));
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let next = || {
        let mut message = [0; 256];
        let length = socket.recv(&mut message).expect("a notification in time");
        String::from_utf8_lossy(&message[..length]).trim().to_owned()
    };
    let variable = format!("NOTIFY_SOCKET={}", path.display());
    let mut server = Server::start_under(&["env", &variable], directory, &["--store", "memory"]);
    assert_eq!(next(), "READY=1");
    server.signal(Signal::SIGTERM);
    assert_eq!(next(), "STOPPING=1");
    assert!(server.wait().success());
}

#[test]
fn a_service_manager_that_is_gone_keeps_no_server_from_serving() {
    let directory = Arc::new(tempfile::tempdir().expect("a directory"));
    let variable = format!("NOTIFY_SOCKET={}", directory.path().join("nothing").display());
    let mut server = Server::start_under(&["env", &variable], directory, &["--store", "memory"]);
    server.signal(Signal::SIGTERM);
    assert!(server.wait().success());
}

#[test]
fn the_unit_is_valid() {
    let directory = tempfile::tempdir().expect("a directory");
    // The package is not installed here.
    let unit = shipped("systemd/switchback.service").replace("/usr/bin/switchback", env!("CARGO_BIN_EXE_switchback"));
    let unit = unit.replace("User=switchback\nGroup=switchback\n", "User=root\nGroup=root\n");
    let path = directory.path().join("switchback.service");
    std::fs::write(&path, unit).expect("a unit");
    let output = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&path).output();
    let output = output.expect("systemd-analyze: Debian's package systemd");
    let findings = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !findings.contains("switchback.service"), "{findings}");
}

#[test]
fn the_configuration_file_is_valid_and_each_line_in_it_is_a_flag() {
    let directory = Arc::new(tempfile::tempdir().expect("a directory"));
    let file = directory.path().join("switchback.toml");
    let shown = shipped("switchback.toml");
    std::fs::write(&file, &shown).expect("a file");
    // The harness's flags for the address and the data win over the file.
    let server = Server::start_under(&[], directory, &["--config", file.to_str().expect("a path")]);
    assert!(server.address().starts_with("127.0.0."));
    let help = Command::new(env!("CARGO_BIN_EXE_switchback")).arg("--help").output().expect("the program");
    let help = String::from_utf8_lossy(&help.stdout);
    for line in shown.lines().map(|line| line.trim_start_matches('#')) {
        if let Some((key, _)) = line.split_once(" = ").filter(|(key, _)| !key.starts_with(' ')) {
            assert!(help.contains(&format!("--{key} ")), "{key}");
        }
    }
}

/// What the manifests set exists: a misspelt variable would keep the server from starting.
#[test]
fn the_variables_of_the_manifests_are_known() {
    let help = Command::new(env!("CARGO_BIN_EXE_switchback")).args(["serve", "--help"]).output().expect("the program");
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    for file in ["docker/Dockerfile", "docker/compose.yml", "kubernetes/switchback.yml"] {
        let text = shipped(file);
        let mut count = 0;
        for (at, _) in text.match_indices("SWITCHBACK_") {
            let name: String =
                text[at..].chars().take_while(|letter| letter.is_ascii_uppercase() || *letter == '_').collect();
            count += 1;
            assert!(
                help.contains(&format!("[env: {name}=")) || help.contains(&format!("variable {name} ")),
                "{file}: {name}"
            );
        }
        assert!(count > 2, "{file}: {count}");
    }
}

/// The archive is whole, the same each time, and what is in it runs.
#[test]
fn the_archive_has_a_program_that_runs_and_a_checksum() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let directory = tempfile::tempdir().expect("a directory");
    // In place of the program, which takes half a minute to compress where it is not stripped.
    let program = directory.path().join("program");
    std::fs::write(&program, format!("#!/bin/sh\nexec '{}' \"$@\"\n", env!("CARGO_BIN_EXE_switchback")))
        .expect("written");
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).expect("executable");
    let pack = || {
        let packed = Command::new(root.join("packaging/tarball")).arg(&program).output().expect("a shell");
        assert!(packed.status.success(), "{}", String::from_utf8_lossy(&packed.stderr));
        root.join(String::from_utf8_lossy(&packed.stdout).trim())
    };
    let archive = pack();
    let first = std::fs::read(&archive).expect("an archive");
    assert!(std::fs::read(pack()).expect("an archive") == first, "not the same a second time");
    let run = |command: &mut Command| {
        let output = command.output().expect("the program");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    run(Command::new("sha256sum")
        .arg("--check")
        .arg(format!("{}.sha256", archive.display()))
        .current_dir(archive.parent().expect("a folder")));
    run(Command::new("tar")
        .args(["--extract", "--strip-components=1", "--file"])
        .arg(&archive)
        .current_dir(&directory));
    let version = run(Command::new(directory.path().join("switchback")).arg("--version"));
    assert!(version.starts_with("switchback "), "{version}");
    for file in [
        "README.md",
        "SECURITY.md",
        "docs/limits.md",
        "share/man/switchback.1.gz",
        "share/_switchback",
        "packaging/systemd/switchback.service",
    ] {
        assert!(directory.path().join(file).metadata().is_ok_and(|file| file.len() > 0), "{file}");
    }
}
