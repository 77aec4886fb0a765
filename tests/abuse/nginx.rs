//! Starts a real nginx as a reverse proxy: one process, on a free port, with its files in a directory of its own.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The number of ports to try: another process may take a free port before nginx does.
const TRIES: usize = 5;

const START: Duration = Duration::from_secs(20);

/// The protocol between nginx and the server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Upstream {
    /// A bare `proxy_pass`: HTTP/1.0, a connection for each request, no upgrades.
    Plain,
    /// HTTP/1.1 with keep-alive, upgrades are forwarded.
    Upgrading,
    /// As the bare `proxy_pass`, with `X-Forwarded-For`.
    Forwarding,
}

/// A running nginx, stopped on drop.
pub(crate) struct Nginx {
    child: Child,
    address: String,
    _directory: tempfile::TempDir,
}

impl Nginx {
    /// Starts nginx as the proxy of a server.
    pub(crate) fn before(server: &str, upstream: Upstream) -> Self {
        for _ in 0..TRIES {
            if let Some(nginx) = Self::start(server, upstream) {
                return nginx;
            }
        }
        panic!("nginx does not start; its package is `nginx`, and `tests/run tools` installs it");
    }

    fn start(server: &str, upstream: Upstream) -> Option<Self> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        // A loopback address of its own: the tests' connections take their ephemeral ports from other addresses.
        let free = TcpListener::bind((Ipv4Addr::new(127, 0, 0, 3), 0)).expect("a free port");
        let address = free.local_addr().expect("an address").to_string();
        let path = directory.path().join("nginx.conf");
        std::fs::write(&path, configuration(&address, server, upstream)).expect("the configuration is written");
        drop(free);
        let child = Command::new("nginx")
            .arg("-p")
            .arg(directory.path())
            .arg("-c")
            .arg(&path)
            .args(["-e", "errors"])
            .stderr(Stdio::inherit())
            .spawn()
            .expect("nginx is there: Debian's package `nginx`, which `tests/run tools` installs");
        let mut nginx = Self { child, address, _directory: directory };
        let begun = Instant::now();
        while begun.elapsed() < START {
            if TcpStream::connect(&nginx.address).is_ok() {
                return Some(nginx);
            }
            if !matches!(nginx.child.try_wait(), Ok(None)) {
                return None;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        None
    }

    /// The `HOST:PORT` that nginx listens on.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn configuration(address: &str, server: &str, upstream: Upstream) -> String {
    let mut text = String::from("daemon off;\nmaster_process off;\npid pid;\nerror_log errors;\n");
    text.push_str("events { worker_connections 1024; }\nhttp {\n  access_log off;\n");
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        let _ = writeln!(text, "  {kind}_temp_path {kind};");
    }
    text.push_str("  client_header_timeout 2s;\n  client_body_timeout 2s;\n  keepalive_timeout 2s;\n");
    text.push_str("  client_max_body_size 64m;\n");
    text.push_str("  map $http_upgrade $connection_upgrade { default upgrade; '' ''; }\n");
    let _ = writeln!(text, "  upstream switchback {{ server {server}; keepalive 4; }}");
    let _ =
        writeln!(text, "  server {{\n    listen {address};\n    location / {{\n      proxy_pass http://switchback;");
    text.push_str(match upstream {
        Upstream::Plain => "",
        Upstream::Upgrading => {
            "      proxy_http_version 1.1;\n      proxy_set_header Upgrade $http_upgrade;\n      \
             proxy_set_header Connection $connection_upgrade;\n"
        }
        Upstream::Forwarding => "      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n",
    });
    text.push_str("    }\n  }\n}\n");
    text
}
