//! Starts fresh servers on the servers' core.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::{Fault, floor, http, machine};

const START_MAX: Duration = Duration::from_secs(60);
const STOP_MAX: Duration = Duration::from_secs(5);

/// Retention of the servers in memory, in events: the same for all.
pub(crate) const KEPT_EVENTS: u64 = 1000;

/// The path of the module in Debian's package.
const NCHAN_MODULE: &str = "/usr/lib/nginx/modules/ngx_nchan_module.so";

/// Which build of Switchback a server runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Build {
    This,
    /// The one that [`set_previous`] has set.
    Previous,
}

static PREVIOUS: OnceLock<PathBuf> = OnceLock::new();

/// Sets the program of [`Build::Previous`], once.
pub(crate) fn set_previous(program: PathBuf) {
    PREVIOUS.get_or_init(|| program);
}

/// A running server; terminated when dropped.
pub(crate) struct Running {
    child: Child,
    pub(crate) address: SocketAddr,
    /// From the start of the process to its first output, or the first connection that it accepted.
    pub(crate) start_time: Duration,
    _home: Option<TempDir>,
}

impl Running {
    /// The server's processes.
    pub(crate) fn pids(&self) -> Vec<u32> {
        machine::family(self.child.id())
    }

    /// Sends a request and awaits the complete response; for set-up, not for load.
    pub(crate) fn request(&self, request: &[u8]) -> Result<Vec<u8>, Fault> {
        let all = self.request_with_head(request)?;
        Ok(http::answer(&all).map(|answer| answer.body.to_vec()).unwrap_or_default())
    }

    /// As [`Self::request`], with the head.
    pub(crate) fn request_with_head(&self, request: &[u8]) -> Result<Vec<u8>, Fault> {
        self.connection()?.request_with_head(request)
    }

    /// A connection for sequential requests.
    pub(crate) fn connection(&self) -> Result<Connection, Fault> {
        let stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(START_MAX))?;
        stream.set_nodelay(true)?;
        Ok(Connection(stream))
    }
}

/// A blocking connection, for set-up and for single clients.
pub(crate) struct Connection(TcpStream);

impl Connection {
    /// Sends a request; returns the body of the response.
    pub(crate) fn request(&mut self, request: &[u8]) -> Result<Vec<u8>, Fault> {
        let all = self.request_with_head(request)?;
        Ok(http::answer(&all).map(|answer| answer.body.to_vec()).unwrap_or_default())
    }

    fn request_with_head(&mut self, request: &[u8]) -> Result<Vec<u8>, Fault> {
        let stream = &mut self.0;
        stream.write_all(request)?;
        let (mut all, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
        loop {
            if http::answer(&all).is_some() {
                return Ok(all);
            }
            match stream.read(&mut buffer)? {
                0 => return Err("the server closed the connection".into()),
                read => all.extend_from_slice(&buffer[..read]),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // nginx ends its worker on SIGTERM, and would orphan it on SIGKILL.
        let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
        let started = Instant::now();
        while started.elapsed() < STOP_MAX && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a program on the server's core and waits for the output line with its address.
fn start(command: &mut Command, home: Option<TempDir>) -> Result<Running, Fault> {
    machine::pin(machine::SERVER_CORE)?;
    let begun = Instant::now();
    let child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn();
    machine::pin(machine::LOAD_CORE)?;
    let mut running =
        Running { child: child?, address: ([127, 0, 0, 1], 0).into(), start_time: begun.elapsed(), _home: home };
    let mut line = String::new();
    if let Some(stdout) = running.child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line)?;
    }
    running.start_time = begun.elapsed();
    let address = line.split("http://").nth(1).and_then(|rest| rest.split([' ', ',', '\n']).next()?.parse().ok());
    running.address = address.ok_or_else(|| format!("the server did not start: {line:?}"))?;
    Ok(running)
}

/// This program again, as the floor.
pub(crate) fn floor() -> Result<Running, Fault> {
    start(Command::new(std::env::current_exe()?).arg(floor::ARGUMENT), None)
}

/// Switchback in memory.
pub(crate) fn memory(build: Build, flags: &[&str]) -> Result<Running, Fault> {
    start(switchback(build, flags).args(["--store", "memory"]), None)
}

/// Switchback on disk, in a directory of its own.
pub(crate) fn disk(build: Build, flags: &[&str]) -> Result<Running, Fault> {
    let home = scratch()?;
    start(switchback(build, flags).args(["--store", "disk", "--data"]).arg(home.path().join("data")), Some(home))
}

/// Switchback on disk, in a directory that stays.
pub(crate) fn disk_in(data: &Path, flags: &[&str]) -> Result<Running, Fault> {
    start(switchback(Build::This, flags).args(["--store", "disk", "--data"]).arg(data), None)
}

fn switchback(build: Build, flags: &[&str]) -> Command {
    let this =
        || std::env::var_os("SWITCHBACK_BIN").map_or_else(|| env!("CARGO_BIN_EXE_switchback").into(), PathBuf::from);
    let previous = PREVIOUS.get().filter(|_| build == Build::Previous).cloned();
    let mut command = Command::new(previous.unwrap_or_else(this));
    command.args(["--listen", "127.0.0.1:0", "--workers", "1", "--log", "error", "--drain", "1s"]).args(flags);
    command
}

/// A directory on the build's disk: `/tmp` may be in memory, where a sync costs nothing.
pub(crate) fn scratch() -> Result<TempDir, Fault> {
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    std::fs::create_dir_all(&target)?;
    Ok(tempfile::tempdir_in(target)?)
}

/// Nchan in nginx, one worker, in memory. Installs Debian's packages if it is missing.
pub(crate) fn nchan(connections_max: u64) -> Result<Running, Fault> {
    install_nchan()?;
    let home = tempfile::tempdir()?;
    // nginx does not report an ephemeral port, so it gets one that was free a moment ago.
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let file = home.path().join("nginx.conf");
    std::fs::write(&file, nchan_configuration(home.path(), address, connections_max))?;
    machine::pin(machine::SERVER_CORE)?;
    let begun = Instant::now();
    let child = Command::new("nginx").arg("-c").arg(&file).arg("-p").arg(home.path()).stderr(Stdio::null()).spawn();
    machine::pin(machine::LOAD_CORE)?;
    let mut running = Running { child: child?, address, start_time: Duration::ZERO, _home: Some(home) };
    // nginx listens before its worker runs.
    while running.pids().len() < 2 || TcpStream::connect(address).is_err() {
        if begun.elapsed() > START_MAX || !matches!(running.child.try_wait(), Ok(None)) {
            return Err("nginx did not start with Nchan".into());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    running.start_time = begun.elapsed();
    Ok(running)
}

fn nchan_configuration(home: &Path, address: SocketAddr, connections_max: u64) -> String {
    let home = home.display();
    let mut text = format!(
        "load_module {NCHAN_MODULE};\nuser root;\ndaemon off;\nworker_processes 1;\npid {home}/pid;\nerror_log {home}/error.log;\n\
         worker_rlimit_nofile {connections_max};\nevents {{ worker_connections {connections_max}; }}\nhttp {{\n\
         access_log off;\nkeepalive_requests 100000000;\nkeepalive_timeout 300s;\nnchan_shared_memory_size 256M;\n"
    );
    for path in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        let _ = writeln!(text, "{path}_temp_path {home}/{path};");
    }
    let _ = write!(
        text,
        "server {{\nlisten {address} backlog=4096;\nnchan_channel_id bench;\nnchan_message_buffer_length {KEPT_EVENTS};\n"
    );
    let _ = writeln!(text, "location = /pub {{ nchan_publisher; }}");
    // A poll must receive a message once before it can request those that follow.
    let first = |kind: &str| if kind == "intervalpoll" { "oldest" } else { "newest" };
    for kind in ["websocket", "eventsource", "longpoll", "intervalpoll"] {
        let first = first(kind);
        let _ =
            writeln!(text, "location = /{kind} {{ nchan_subscriber {kind}; nchan_subscriber_first_message {first}; }}");
    }
    text.push_str("}\n}\n");
    text
}

fn install_nchan() -> Result<(), Fault> {
    if Path::new(NCHAN_MODULE).exists() {
        return Ok(());
    }
    eprintln!("installing nginx and Nchan (apt-get, as root)");
    for arguments in
        [&["update", "-qq"][..], &["install", "-y", "-qq", "--no-install-recommends", "nginx", "libnginx-mod-nchan"]]
    {
        let done = Command::new("apt-get")
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdout(Stdio::null())
            .status();
        if !done.is_ok_and(|status| status.success()) {
            return Err(
                "Nchan is missing and could not be installed: apt-get install nginx libnginx-mod-nchan, as root".into(),
            );
        }
    }
    Ok(())
}
