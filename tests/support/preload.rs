//! `LD_PRELOAD` libraries in C, for fault injection that is impossible from outside of the process.

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};

use super::Server;

/// Builds a library; its file name has the process id, since several test runs may share a target directory.
pub fn build(name: &str, source: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}.so", std::process::id()));
    let code = path.with_extension("c");
    std::fs::write(&code, source).expect("the source is written");
    let headers = concat!("-I", env!("CARGO_MANIFEST_DIR"), "/tests/support/preload");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-O2", headers, "-o"]).arg(&path).arg(&code).output();
    let built = built.expect("cc is installed; tests/run installs it where it is missing");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    path
}

/// Fault injection into a server's disk operations and wall clock.
pub struct Faults {
    control: std::fs::File,
    directory: Arc<tempfile::TempDir>,
}

/// The offsets of the fields in the control file; see `preload/faults.c`.
#[derive(Clone, Copy)]
pub enum Fault {
    WriteErrno = 8,
    SyncErrno = 12,
    SyncMs = 16,
    SyncHangs = 20,
}

impl Faults {
    /// A server with fault injection, on a directory of its own.
    pub fn start(flags: &[&str]) -> (Self, Server) {
        Self::start_ahead(0, flags)
    }

    /// As [`Self::start`], with a wall clock that is ahead of the real one from the beginning, in milliseconds.
    pub fn start_ahead(ahead_ms: i64, flags: &[&str]) -> (Self, Server) {
        static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
        let library = LIBRARY.get_or_init(|| build("faults", include_str!("preload/faults.c")));
        let directory = Arc::new(tempfile::tempdir().expect("a temporary directory"));
        let path = directory.path().join("control");
        let control = std::fs::OpenOptions::new().create(true).truncate(true).read(true).write(true).open(&path);
        let control = control.expect("a control file");
        control.set_len(64).expect("the control file is sized");
        let faults = Self { control, directory: directory.clone() };
        faults.set_clock(ahead_ms);
        let variables = [
            format!("LD_PRELOAD={}", library.display()),
            format!("FAULTS_CONTROL={}", path.display()),
            format!("FAULTS_ROOT={}", directory.path().join("data").display()),
        ];
        let wrapper: Vec<&str> = ["env"].into_iter().chain(variables.iter().map(String::as_str)).collect();
        let server = Server::start_under(&wrapper, directory, flags);
        (faults, server)
    }

    /// Injects a fault from now on; 0 ends it.
    pub fn set(&self, fault: Fault, value: i32) {
        self.control.write_all_at(&value.to_ne_bytes(), fault as u64).expect("the control file is written");
    }

    /// The number of syncs so far.
    pub fn syncs(&self) -> i64 {
        let mut bytes = [0; 8];
        self.control.read_exact_at(&mut bytes, 24).expect("the control file is read");
        i64::from_ne_bytes(bytes)
    }

    /// Sets the wall clock ahead of the real one, in milliseconds.
    pub fn set_clock(&self, ahead_ms: i64) {
        self.control.write_all_at(&ahead_ms.to_ne_bytes(), 0).expect("the control file is written");
    }

    /// The parent of the server's data directory.
    pub fn directory(&self) -> Arc<tempfile::TempDir> {
        self.directory.clone()
    }
}
