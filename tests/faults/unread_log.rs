//! A log output that cannot be written: its reader has exited, its disk is full, or its reader is stopped. Service is unaffected.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use nix::sys::signal::Signal;

use crate::support::Server;
use crate::support::http::Connection;
use crate::support::raw::{self, Items};

/// A server whose standard error is `file`, with the access log on.
fn logging_to(file: &Path, flags: &[&str]) -> Server {
    let directory = Arc::new(tempfile::tempdir().expect("a temporary directory"));
    let wrapper = ["sh", "-c", "exec \"$@\" 2>\"$0\"", file.to_str().expect("a path in UTF-8")];
    Server::start_under(&wrapper, directory, &[&["--access-log"], flags].concat())
}

/// A named pipe, and its reading end, which is never read.
fn pipe(directory: &Path) -> (std::path::PathBuf, File) {
    let path = directory.join("log");
    let made = Command::new("mkfifo").arg(&path).status().expect("mkfifo runs");
    assert!(made.success());
    // Non-blocking: without waiting for the other end to be opened.
    let reader = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(&path);
    (path, reader.expect("the pipe is there"))
}

/// Asserts that the server serves, and shuts down gracefully: streams get `$bye`, and the exit code is 0.
async fn check_service(mut server: Server) {
    // More lines than a pipe holds (64 KiB).
    let mut connection = Connection::open(server.address()).await.expect("connected");
    for number in 0..1500 {
        connection.get(&format!("/v1/info?number={number}")).await.expect("sent");
        assert_eq!(super::within("an answer", connection.answer()).await.expect("an answer").status(), 200);
    }
    let mut items = Items::open(server.address(), "sse", "topic=a").await.expect("open");
    items.named("$hello").await;
    server.signal(Signal::SIGTERM);
    items.named("$bye").await;
    drop(items);
    assert_eq!(super::end_of(&mut server).await.code(), Some(0));
}

#[tokio::test]
async fn on_a_full_disk() {
    check_service(logging_to(Path::new("/dev/full"), &["--store", "memory"])).await;
}

#[tokio::test]
async fn without_a_reader() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (path, reader) = pipe(directory.path());
    let server = logging_to(&path, &["--store", "memory"]);
    drop(reader);
    check_service(server).await;
}

#[tokio::test]
async fn with_a_reader_that_is_stopped() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (path, _reader) = pipe(directory.path());
    check_service(logging_to(&path, &["--store", "memory"])).await;
}

/// Out of file descriptors for a moment, with an unreadable log: later connections are accepted.
#[tokio::test]
async fn while_files_run_out() {
    let directory = Arc::new(tempfile::tempdir().expect("a temporary directory"));
    let wrapper = ["sh", "-c", "ulimit -n 96; exec \"$@\" 2>/dev/full", "sh"];
    let server = Server::start_under(&wrapper, directory, &["--store", "memory", "--workers", "1"]);
    let mut crowd = Vec::new();
    for _ in 0..150 {
        let mut connection = Connection::open(server.address()).await.expect("connected");
        connection.get("/v1/longpoll?topic=b&wait=60").await.expect("sent");
        crowd.push(connection);
    }
    super::until("the file limit is reached", async || super::open_files(server.pid()) >= 96).await;
    drop(crowd);
    for _ in 0..3 {
        let answer = super::within("an answer", raw::get(server.address(), "/healthz")).await;
        assert_eq!(answer.expect("an answer").status(), 200);
    }
}

/// The loopback address that a process listens on, from `/proc`.
fn listening_port(pid: u32) -> Option<u16> {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let links = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
    let sockets: Vec<String> =
        links.filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())).collect();
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let listens =
            fields.get(3) == Some(&"0A") && sockets.iter().any(|inode| fields.get(9) == Some(&inode.as_str()));
        listens.then(|| u16::from_str_radix(fields[1].split_once(':')?.1, 16).ok())?
    })
}

/// A greeting that cannot be written does not stop the server.
#[tokio::test]
async fn a_greeting_that_cannot_be_written() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let full = || Stdio::from(OpenOptions::new().write(true).open("/dev/full").expect("/dev/full"));
    let mut server = Command::new(env!("CARGO_BIN_EXE_switchback"))
        .args(["--listen", "127.0.0.1:0", "--store", "memory"])
        .current_dir(directory.path())
        .stdout(full())
        .stderr(full())
        .spawn()
        .expect("the server starts");
    let mut port = None;
    super::until("the server listens", async || {
        assert_eq!(server.try_wait().expect("the exit status can be queried"), None, "the server has ended");
        port = listening_port(server.id());
        port.is_some()
    })
    .await;
    let address = format!("127.0.0.1:{}", port.expect("a port"));
    super::until("the server is ready", async || {
        raw::get(&address, "/readyz").await.is_ok_and(|answer| answer.status() == 200)
    })
    .await;
    server.kill().expect("the server runs");
    server.wait().expect("the server ends");
}

/// A command whose output cannot be written fails, and reports this on standard error.
#[test]
fn an_answer_that_cannot_be_written() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let secret = directory.path().join("secret");
    std::fs::write(&secret, "0123456789abcdef0123456789abcdef").expect("written");
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("a mode");
    let output = Command::new(env!("CARGO_BIN_EXE_switchback"))
        .args(["token", "--jwt-secret-file"])
        .arg(&secret)
        .stdout(OpenOptions::new().write(true).open("/dev/full").expect("/dev/full"))
        .output()
        .expect("the binary runs");
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("standard output") && !message.contains("panicked"), "{message}");
}
