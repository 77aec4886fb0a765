//! Starts and controls the real server binary, on a free port and in a directory of its own. `SWITCHBACK_BIN` is the path of a
//! binary other than this build's.
//!
//! With `SWITCHBACK_TEST_WAY=app` the server serves all of HTTP/1.1 through the actix-web `App`, which otherwise gets only rare
//! requests.
//!
//! With `SWITCHBACK_TEST_STORE=nats` the log is in JetStream, wherever a test does not depend on the store: one NATS server for
//! all servers of a test process, with separate streams and buckets.

pub(crate) mod client;
pub(crate) mod fixture;
pub(crate) mod follower;
pub(crate) mod http;
pub(crate) mod jwt;
pub mod nats;
pub(crate) mod preload;
pub(crate) mod raw;
pub(crate) mod refusal;
pub(crate) mod small;
pub(crate) mod wait;
pub(crate) mod watched;
pub(crate) mod wire;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

pub(crate) use wait::{DEADLINE, until, within};

/// Connections from a loopback address to itself take their ephemeral ports from the same range as the server's port, so that
/// port could be taken after a restart. On Linux, connections to this address come from a different address.
const LISTEN: &str = if cfg!(target_os = "linux") { "127.0.0.2:0" } else { "127.0.0.1:0" };

/// The maximum size in bytes of each server's log in NATS, which reserves this space.
const NATS_LOG_BYTES: &str = "256MiB";

/// Whether the logs of the servers are in JetStream.
pub fn on_nats() -> bool {
    std::env::var("SWITCHBACK_TEST_STORE").is_ok_and(|store| store == "nats")
}

/// Whether the servers serve all of HTTP/1.1 through the `App`.
pub fn through_app() -> bool {
    std::env::var("SWITCHBACK_TEST_WAY").is_ok_and(|way| way == "app")
}

/// The NATS server of this process; it ends with the last Switchback server that uses it.
fn shared_nats() -> Arc<nats::Nats> {
    static SHARED: Mutex<Weak<nats::Nats>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let nats = Arc::new(nats::Nats::single());
        *shared = Arc::downgrade(&nats);
        nats
    })
}

/// The environment of a server whose log is in this NATS server: the directory's name makes the names unique.
fn nats_variables(nats: &nats::Nats, directory: &Path) -> Vec<(&'static str, String)> {
    vec![
        ("SWITCHBACK_STORE", nats.url()),
        ("SWITCHBACK_NATS_PREFIX", prefix_of(directory)),
        ("SWITCHBACK_MAX_BYTES", NATS_LOG_BYTES.to_owned()),
    ]
}

fn prefix_of(directory: &Path) -> String {
    let name = directory.file_name().unwrap_or_default().to_string_lossy();
    name.chars().filter(char::is_ascii_alphanumeric).collect()
}

fn without_store(arguments: &[String]) -> Vec<String> {
    let mut rest = arguments.iter();
    let mut kept = Vec::new();
    while let Some(argument) = rest.next() {
        if argument == "--store" {
            rest.next();
        } else {
            kept.push(argument.clone());
        }
    }
    kept
}

/// A running server; killed when dropped.
pub struct Server {
    child: Child,
    /// `http://127.0.0.1:PORT`, or `https://`.
    pub base: String,
    arguments: Vec<String>,
    directory: Arc<tempfile::TempDir>,
    nats: Option<Arc<nats::Nats>>,
}

impl Server {
    /// Starts a server with its default store in an empty directory, and these flags.
    pub fn start(flags: &[&str]) -> Self {
        Self::start_at(LISTEN, flags)
    }

    /// As [`Self::start`], on a given address. A server that is restarted on its port should not be on 127.0.0.1, where a
    /// connection of another test may have taken that port meanwhile.
    pub fn start_at(listen: &str, flags: &[&str]) -> Self {
        let directory = Arc::new(tempfile::tempdir().expect("a temporary directory"));
        Self::spawn(&[], directory, texts(flags), listen)
    }

    /// As [`Self::start`], with umask 0: files that are created without an explicit mode are world-readable and world-writable.
    pub fn start_without_umask(flags: &[&str]) -> Self {
        let directory = Arc::new(tempfile::tempdir().expect("a temporary directory"));
        Self::start_under(&["sh", "-c", "umask 000; exec \"$0\" \"$@\""], directory, flags)
    }

    /// Starts a server on the data in `data` of that directory.
    pub fn start_in(directory: Arc<tempfile::TempDir>, flags: &[&str]) -> Self {
        Self::start_under(&[], directory, flags)
    }

    /// Starts a server under a wrapper such as `strace`, which must exec the server (the process id stays the same).
    pub fn start_under(wrapper: &[&str], directory: Arc<tempfile::TempDir>, flags: &[&str]) -> Self {
        Self::spawn(wrapper, directory, texts(flags), LISTEN)
    }

    fn spawn(wrapper: &[&str], directory: Arc<tempfile::TempDir>, arguments: Vec<String>, listen: &str) -> Self {
        // A test whose log has to be on disk passes `--store`.
        let nats = (on_nats() && !arguments.iter().any(|argument| argument == "disk")).then(shared_nats);
        let given = if nats.is_some() { without_store(&arguments) } else { arguments.clone() };
        // A test that passes `--log` reads the log file, too.
        let logged = arguments.iter().any(|argument| argument == "--log");
        let program = std::env::var("SWITCHBACK_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_switchback").to_owned());
        let mut words = wrapper.iter().copied().chain([program.as_str()]);
        let mut child = Command::new(words.next().expect("the command has at least the binary"))
            .args(words)
            .args(["--listen", listen, "--data"])
            .arg(directory.path().join("data"))
            .args(if logged { &[][..] } else { &["--log", "warn"] })
            .args(&given)
            .envs(through_app().then_some(("SWITCHBACK_THROUGH_APP", "true")))
            .envs(nats.iter().flat_map(|nats| nats_variables(nats, directory.path())))
            .stdout(Stdio::piped())
            .stderr(if logged { log_file(&directory).into() } else { Stdio::inherit() })
            .spawn()
            .expect("the binary starts");
        let mut greeting = String::new();
        let stdout = child.stdout.take().expect("stdout is a pipe");
        BufReader::new(stdout).read_line(&mut greeting).expect("the server prints its greeting");
        let url = greeting.split_whitespace().find(|word| word.starts_with("http"));
        let base = url.unwrap_or_else(|| panic!("no address in {greeting:?}")).trim_end_matches(',').to_owned();
        Self { child, base, arguments, directory, nats }
    }

    /// `HOST:PORT`.
    pub fn address(&self) -> &str {
        self.base.split_once("://").expect("a base without a path").1
    }

    /// The log file of a server that was started with `--log`.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).expect("the server was started with --log")
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// The parent of the data directory, removed with the last server that uses it.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The same directory, kept for the lifetime of this handle.
    pub fn home(&self) -> Arc<tempfile::TempDir> {
        self.directory.clone()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid() as i32), signal).expect("the server runs and can be signalled");
    }

    /// Waits for the exit of the server.
    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().expect("the server ends")
    }

    /// The exit status, if the server has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the server can be waited for")
    }

    /// Starts the server again on the same directory and port, once it has ended or is about to.
    pub fn start_again(self) -> Self {
        self.restarted()
    }

    /// Ends the server with SIGKILL and starts it again on the same directory and port.
    pub fn kill_and_restart(self) -> Self {
        self.signal(Signal::SIGKILL);
        self.restarted()
    }

    /// As [`Self::kill_and_restart`], with other flags.
    pub fn kill_and_restart_with(mut self, flags: &[&str]) -> Self {
        self.arguments = texts(flags);
        self.kill_and_restart()
    }

    /// As [`Self::kill_and_restart`]; `change` is called while no server runs.
    pub fn kill_and_restart_after(mut self, change: impl FnOnce()) -> Self {
        self.signal(Signal::SIGKILL);
        self.wait();
        change();
        self.restarted()
    }

    /// Ends the server with SIGTERM and starts it again on the same directory and port.
    pub fn stop_and_restart(self) -> Self {
        self.signal(Signal::SIGTERM);
        self.restarted()
    }

    /// Restarts a server that has ended, on the same directory and port.
    pub fn stopped_and_restarted(self) -> Self {
        self.restarted()
    }

    /// Ends the server with SIGKILL and starts it again on the same port, with an empty log. The log has to be in memory or in
    /// NATS.
    pub fn kill_and_lose_log(self) -> Self {
        self.signal(Signal::SIGKILL);
        if let Some(nats) = &self.nats {
            nats.delete_stream(&format!("{}-events", prefix_of(self.directory.path())));
        }
        self.restarted()
    }

    fn restarted(mut self) -> Self {
        self.wait();
        let listen = self.address().to_owned();
        Self::spawn(&[], self.directory.clone(), self.arguments.clone(), &listen)
    }

    /// Publishes events in one request; returns the response, which must be 201.
    pub async fn publish(&self, events: &Value) -> Value {
        let request = http::Request::post("/v1/events", "application/json", events.to_string());
        request.send(self.address()).await.created().await
    }
}

fn log_file(directory: &tempfile::TempDir) -> std::fs::File {
    let file = std::fs::OpenOptions::new().append(true).create(true).open(directory.path().join("log"));
    file.expect("a file for the log")
}

fn texts(flags: &[&str]) -> Vec<String> {
    flags.iter().map(|flag| (*flag).to_owned()).collect()
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails where the test has ended the server already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
