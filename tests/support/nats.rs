//! Starts, kills, pauses and restarts a real NATS server, or a cluster of servers, on loopback and in a directory of its own.
//!
//! `SWITCHBACK_TEST_NATS` is the path of the binary; the default is `target/tools/nats-server`, where `tests/run` puts it.

mod credentials;
mod links;
pub mod way;

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use links::Links;
use way::State;

/// The deadline for a server's start or an election; on a loaded machine either takes some seconds.
const DEADLINE: Duration = Duration::from_secs(60);

const ASK_AGAIN: Duration = Duration::from_millis(25);

/// The deadline for a server's monitoring response.
const ANSWER: Duration = Duration::from_secs(2);

/// The user of [`Access::Password`].
pub const USER: &str = "switchback";
/// The password of [`Access::Password`]; it needs escaping in a URL.
pub const PASSWORD: &str = "s3cret/with@signs";

/// The authentication of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Any client.
    Open,
    /// [`USER`] with [`PASSWORD`].
    Password,
    /// Clients with [`Nats::credentials_file`].
    Credentials,
    /// Any client over TLS, which has to trust [`Nats::ca_file`].
    Tls,
}

/// How the servers of a cluster connect to each other, and whether clients learn of all servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Routes {
    /// Directly, by their ports.
    Direct,
    /// Through proxies that can cut one server off from the others. Clients learn of all servers, unless `advertised` is false.
    Linked { advertised: bool },
}

/// One server, or a cluster. On drop all servers are ended and their files removed.
pub struct Nats {
    access: Access,
    servers: Vec<Server>,
    links: Option<Links>,
    directory: tempfile::TempDir,
}

struct Server {
    name: String,
    address: SocketAddr,
    monitor: SocketAddr,
    directory: PathBuf,
    process: Option<Child>,
    paused: bool,
}

impl Nats {
    /// A single server, without authentication.
    pub fn single() -> Self {
        Self::start(1, Access::Open, "")
    }

    /// A cluster of three, without authentication.
    pub fn cluster() -> Self {
        Self::start(3, Access::Open, "")
    }

    /// A cluster of three, without authentication, of which one can be [cut](Self::cut) off from the others. The argument is
    /// whether clients of one server learn of the others.
    pub fn linked(advertised: bool) -> Self {
        Self::launch(3, Access::Open, "", Routes::Linked { advertised })
    }

    /// Starts this number of servers; `more` is added to the configuration of each. Returns once JetStream is ready: in a
    /// cluster, once all servers know the leader.
    pub fn start(count: usize, access: Access, more: &str) -> Self {
        Self::launch(count, access, more, Routes::Direct)
    }

    fn launch(count: usize, access: Access, more: &str, routes: Routes) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let host = host_of_its_own();
        let reserved: Vec<[TcpListener; 3]> = (0..count).map(|_| [(); 3].map(|()| reserve(host))).collect();
        let ports = |index: usize| reserved[index].each_ref().map(|one| one.local_addr().expect("an address"));
        let door = door(access, directory.path(), host);
        let servers: Vec<Server> = (0..count)
            .map(|index| {
                let [address, monitor, _] = ports(index);
                let name = format!("n{}", index + 1);
                let directory = directory.path().join(&name);
                Server { name, address, monitor, directory, process: None, paused: false }
            })
            .collect();
        let route_ports: Vec<SocketAddr> = (0..count).map(|index| ports(index)[2]).collect();
        let links = (routes != Routes::Direct).then(|| Links::to(&route_ports));
        for (index, server) in servers.iter().enumerate() {
            std::fs::create_dir(&server.directory).expect("a directory for the server");
            let own = route_ports[index];
            let others = match &links {
                Some(links) => links.of(index),
                None => route_ports.iter().filter(|port| **port != own).map(SocketAddr::to_string).collect(),
            };
            let cluster = (count > 1).then(|| cluster(own, &others, routes));
            let text = configuration(server, &door, cluster, more);
            std::fs::write(server.configuration_file(), text).expect("the configuration is written");
        }
        drop(reserved);
        let mut nats = Self { access, servers, links, directory };
        nats.servers.iter_mut().for_each(Server::run);
        nats.wait_until_ready();
        nats
    }

    /// The number of servers, running or not.
    pub fn len(&self) -> usize {
        self.servers.len()
    }

    /// The value for `--store`: the URLs of all servers, with user and password where these are required.
    pub fn url(&self) -> String {
        let addresses: Vec<String> = self.servers.iter().map(|server| server.address.to_string()).collect();
        let scheme = if self.access == Access::Tls { "tls" } else { "nats" };
        let user =
            if self.access == Access::Password { format!("{USER}:{}@", escaped(PASSWORD)) } else { String::new() };
        format!("{scheme}://{user}{}", addresses.join(","))
    }

    /// `HOST:PORT` of each server.
    pub fn addresses(&self) -> Vec<String> {
        self.servers.iter().map(|server| server.address.to_string()).collect()
    }

    /// The ids of the running processes.
    pub fn pids(&self) -> Vec<u32> {
        self.servers.iter().filter_map(|server| Some(server.process.as_ref()?.id())).collect()
    }

    /// The CA certificate that a client has to trust with [`Access::Tls`], in PEM.
    pub fn ca_file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// The credentials file that a client needs with [`Access::Credentials`].
    pub fn credentials_file(&self) -> PathBuf {
        self.directory.path().join("user.creds")
    }

    /// Ends a server with SIGKILL.
    pub fn kill(&mut self, index: usize) {
        self.servers[index].kill();
    }

    /// Pauses a server (SIGSTOP): its connections stay open and silent.
    pub fn pause(&mut self, index: usize) {
        self.servers[index].signal(Signal::SIGSTOP);
        self.servers[index].paused = true;
    }

    /// Resumes a paused server.
    pub fn resume(&mut self, index: usize) {
        self.servers[index].signal(Signal::SIGCONT);
        self.servers[index].paused = false;
    }

    /// Restarts a killed server, on its ports and its files. Returns at once; see [`Self::wait_until_ready`].
    pub fn restart(&mut self, index: usize) {
        self.servers[index].run();
    }

    /// Partitions one server of [`Self::linked`] from the others: no bytes pass, and the connections stay open.
    pub fn cut(&self, index: usize) {
        self.links.as_ref().expect("the cluster was started with links").set(index, State::Mute);
    }

    /// Heals the partition of one server; bytes that were sent meanwhile are forwarded.
    pub fn heal(&self, index: usize) {
        self.links.as_ref().expect("the cluster was started with links").set(index, State::Whole);
    }

    /// Waits until every running server has caught up and, in a cluster, knows the leader.
    pub fn wait_until_ready(&self) {
        let clustered = self.servers.len() > 1;
        let running = self.servers.iter().filter(|server| server.runs());
        for server in running {
            server.wait_for("it is healthy", || {
                let healthy = server.monitoring("/healthz").is_some_and(|health| health["status"] == "ok");
                healthy && (!clustered || !server.meta_leader().unwrap_or_default().is_empty())
            });
        }
    }

    /// The JetStream meta leader, as reported by a running server.
    pub fn meta_leader(&self) -> Option<usize> {
        self.running().find_map(|server| self.index_of(&server.meta_leader()?))
    }

    /// The leader of a stream; `None` where there is no such stream, or no leader at present.
    pub fn leader_of(&self, stream: &str) -> Option<usize> {
        self.running().find_map(|server| match server.stream(stream)?["cluster"]["leader"].as_str() {
            Some(leader) => self.index_of(leader),
            None if self.servers.len() == 1 => Some(0),
            None => None,
        })
    }

    /// The names of the streams that a running server knows of, including those of key-value buckets.
    pub fn streams(&self) -> Vec<String> {
        let streams = self.running().flat_map(Server::streams);
        let mut names: Vec<String> = streams.filter_map(|stream| Some(stream["name"].as_str()?.to_owned())).collect();
        names.sort();
        names.dedup();
        names
    }

    /// Deletes a stream and its messages, as an operator might.
    pub fn delete_stream(&self, name: &str) {
        let (addresses, name) = (self.addresses(), name.to_owned());
        let deleting = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let client = async_nats::connect(addresses).await.expect("NATS answers");
                async_nats::jetstream::new(client).delete_stream(name).await.expect("the stream is deleted");
            });
        };
        // A thread of its own: the caller may be in a runtime already.
        std::thread::spawn(deleting).join().expect("the stream is deleted");
    }

    fn running(&self) -> impl Iterator<Item = &Server> {
        self.servers.iter().filter(|server| server.runs())
    }

    fn index_of(&self, name: &str) -> Option<usize> {
        self.servers.iter().position(|server| server.name == name)
    }
}

impl Server {
    fn run(&mut self) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log_file()).expect("a log");
        let child = Command::new(binary())
            .arg("--config")
            .arg(self.configuration_file())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.process = Some(child.unwrap_or_else(|error| panic!("{}: {error}", binary().display())));
        self.wait_for("it listens", || TcpStream::connect(self.address).is_ok());
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            // Fails where the server ended by itself.
            let _ = process.kill();
            let _ = process.wait();
        }
        self.paused = false;
    }

    fn runs(&self) -> bool {
        self.process.is_some() && !self.paused
    }

    fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().expect("the server runs");
        kill(Pid::from_raw(process.id() as i32), signal).expect("the server can be signalled");
    }

    fn configuration_file(&self) -> PathBuf {
        self.directory.join("nats.conf")
    }

    fn log_file(&self) -> PathBuf {
        self.directory.join("log")
    }

    fn meta_leader(&self) -> Option<String> {
        Some(self.monitoring("/jsz")?["meta_cluster"]["leader"].as_str()?.to_owned())
    }

    fn stream(&self, name: &str) -> Option<Value> {
        self.streams().into_iter().find(|stream| stream["name"] == name)
    }

    fn streams(&self) -> Vec<Value> {
        let Some(all) = self.monitoring("/jsz?accounts=true&streams=true") else { return Vec::new() };
        let accounts = all["account_details"].as_array().cloned().unwrap_or_default();
        accounts.iter().filter_map(|account| account["stream_detail"].as_array()).flatten().cloned().collect()
    }

    /// The server's monitoring data; `None` where it does not answer.
    fn monitoring(&self, path: &str) -> Option<Value> {
        let mut stream = TcpStream::connect_timeout(&self.monitor, ANSWER).ok()?;
        stream.set_read_timeout(Some(ANSWER)).ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
    }

    fn wait_for(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let end = Instant::now() + DEADLINE;
        while !holds() {
            if Instant::now() > end {
                let log = std::fs::read_to_string(self.log_file()).unwrap_or_default();
                panic!("waited in vain for {} of NATS until {what}: {log}", self.name);
            }
            std::thread::sleep(ASK_AGAIN);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The path of the NATS server's binary.
pub fn binary() -> PathBuf {
    let given = std::env::var_os("SWITCHBACK_TEST_NATS").map(PathBuf::from);
    let path = given.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/nats-server"));
    assert!(
        path.is_file(),
        "{} is not there: these tests run a real NATS server. `tests/run tools` fetches it to target/tools/nats-server; \
         or let SWITCHBACK_TEST_NATS name a nats-server of 2.12 or later",
        path.display()
    );
    path
}

/// A loopback address that no other process listens on or connects from, so that a free port stays free while a server is
/// down. On systems other than Linux there is only one such address.
pub fn host_of_its_own() -> IpAddr {
    let part = || rand::random_range(16..=250);
    if cfg!(target_os = "linux") {
        Ipv4Addr::new(127, part(), part(), part()).into()
    } else {
        Ipv4Addr::LOCALHOST.into()
    }
}

fn reserve(host: IpAddr) -> TcpListener {
    TcpListener::bind((host, 0)).expect("a free port")
}

fn configuration(server: &Server, door: &str, cluster: Option<String>, more: &str) -> String {
    let Server { name, address, monitor, directory, .. } = server;
    let store = directory.join("jetstream");
    // The maximum size of a stream is reserved at its creation.
    let mut text = format!(
        "server_name: {name}\nlisten: \"{address}\"\nhttp: \"{monitor}\"\n{door}\n{more}\n\
         jetstream {{ store_dir: {store:?}, max_memory_store: 256MB, max_file_store: 1TB }}\n"
    );
    text.extend(cluster);
    text
}

/// The cluster section of the configuration: the routes to the other servers.
fn cluster(own: SocketAddr, others: &[String], routes: Routes) -> String {
    let urls: Vec<String> = others.iter().map(|other| format!("\"nats://{other}\"")).collect();
    let urls = urls.join(", ");
    // The advertised address is one without a listener: otherwise the servers would connect to each other around the links.
    let linked = match routes {
        Routes::Direct => String::new(),
        Routes::Linked { advertised } => format!(", advertise: \"{}:1\", no_advertise: {}", own.ip(), !advertised),
    };
    format!("cluster {{ name: test, listen: \"{own}\", routes: [{urls}]{linked} }}\n")
}

/// The authentication section of the configuration; writes the files that it refers to.
fn door(access: Access, directory: &Path, host: IpAddr) -> String {
    match access {
        Access::Open => String::new(),
        Access::Password => format!("authorization {{ user: {USER:?}, password: {PASSWORD:?} }}"),
        Access::Credentials => credentials::write(directory),
        Access::Tls => {
            write_certificate(directory, host);
            let (certificate, key) = (directory.join("server.pem"), directory.join("server.key"));
            format!("tls {{ cert_file: {certificate:?}, key_file: {key:?} }}")
        }
    }
}

/// A certificate for the host, and the CA that signed it.
fn write_certificate(directory: &Path, host: IpAddr) {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
    let key = || KeyPair::generate().expect("a key");
    let mut authority = CertificateParams::new([]).expect("an authority");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let authority_key = key();
    let authority_file = authority.self_signed(&authority_key).expect("a certificate").pem();
    let issuer = Issuer::new(authority, authority_key);
    let names = [host.to_string(), "localhost".to_owned()];
    let server_key = key();
    let server = CertificateParams::new(names).expect("a server").signed_by(&server_key, &issuer);
    let write = |name: &str, text: String| std::fs::write(directory.join(name), text).expect("a file is written");
    write("ca.pem", authority_file);
    write("server.pem", server.expect("a certificate").pem());
    write("server.key", server_key.serialize_pem());
}

fn escaped(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}
