//! What is shipped for services: the unit and the configuration file, and the notifications to the service manager.

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
