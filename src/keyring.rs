//! The keys in force, read again where their file changes.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::Duration;

use crate::auth::{Grant, KeyError, Keys, Rules, TokenError};

/// How often the file is looked at.
const RELOAD_INTERVAL: Duration = Duration::from_secs(1);

/// Longest key file, in bytes.
const FILE_MAX_BYTES: u64 = 1 << 20;

/// Keys, and what is asked of the tokens that they sign.
pub struct KeyRing {
    keys: RwLock<Arc<Keys>>,
    rules: Rules,
}

/// A key file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct KeyFileError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

impl KeyRing {
    /// Keys that stay as they are.
    #[must_use]
    pub fn new(keys: Keys, rules: Rules) -> Arc<Self> {
        Arc::new(Self { keys: RwLock::new(Arc::new(keys)), rules })
    }

    /// The keys of a JWK set in a file. It is read again within a second of each change, by a thread that ends with
    /// the ring; where it cannot be used any more, an error is logged and the keys stay as they were.
    ///
    /// # Errors
    /// [`KeyFileError`] where it cannot be used to begin with.
    pub fn follow_set(path: &Path, rules: Rules) -> Result<Arc<Self>, KeyFileError> {
        let text = read(path)?;
        let ring = Self::new(set(path, &text)?, rules);
        let (weak, path) = (Arc::downgrade(&ring), path.to_owned());
        let wrong = KeyFileError { path: path.clone(), reason: "it cannot be watched: no thread is to be had".into() };
        std::thread::Builder::new().name("keys".into()).spawn(move || follow(&weak, &path, text)).map_err(|_| wrong)?;
        Ok(ring)
    }

    /// What a token grants at `now_ms`.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn verify(&self, token: &str, now_ms: u64) -> Result<Grant, TokenError> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner).clone();
        self.rules.verify(&keys, token, now_ms)
    }
}

impl std::fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyRing").field("rules", &self.rules).finish_non_exhaustive()
    }
}

/// Compares contents, not times: a file that is replaced within its time's resolution, or moved to by a link, has changed too.
fn follow(ring: &Weak<KeyRing>, path: &Path, mut last: String) {
    loop {
        std::thread::sleep(RELOAD_INTERVAL);
        let Some(ring) = ring.upgrade() else { return };
        let text = match read(path) {
            Ok(text) => text,
            // An editor may have it away for a moment; what is wrong for longer is told once.
            Err(error) if last.is_empty() => {
                tracing::debug!(%error, "the keys are still those from before");
                continue;
            }
            Err(error) => {
                tracing::error!(%error, "the keys stay as they were");
                last.clear();
                continue;
            }
        };
        if text == last {
            continue;
        }
        match set(path, &text) {
            Ok(keys) => {
                tracing::info!(file = %path.display(), ?keys, "the keys have changed");
                *ring.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
            }
            Err(error) => tracing::error!(%error, "the keys stay as they were"),
        }
        last = text;
    }
}

fn set(path: &Path, text: &str) -> Result<Keys, KeyFileError> {
    let (keys, left_out) = Keys::set(text).map_err(|error| wrong(path, error))?;
    for reason in left_out {
        tracing::warn!(file = %path.display(), %reason, "a key is not used");
    }
    Ok(keys)
}

/// The secret in a file.
///
/// # Errors
/// [`KeyFileError`], which says nothing of what is in it.
pub fn secret(path: &Path) -> Result<Keys, KeyFileError> {
    let bytes = read_bytes(path)?;
    Keys::secret(&bytes).map_err(|error| wrong(path, error))
}

fn wrong(path: &Path, error: KeyError) -> KeyFileError {
    KeyFileError { path: path.to_owned(), reason: error.to_string() }
}

fn read(path: &Path) -> Result<String, KeyFileError> {
    String::from_utf8(read_bytes(path)?)
        .map_err(|_| KeyFileError { path: path.to_owned(), reason: "it is not UTF-8".into() })
}

fn read_bytes(path: &Path) -> Result<Vec<u8>, KeyFileError> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let outcome = std::fs::File::open(path).and_then(|file| file.take(FILE_MAX_BYTES + 1).read_to_end(&mut bytes));
    let reason = match outcome {
        Ok(length) if length as u64 > FILE_MAX_BYTES => "it is longer than 1 MiB".to_owned(),
        Ok(_) => return Ok(bytes),
        Err(error) => error.to_string(),
    };
    Err(KeyFileError { path: path.to_owned(), reason })
}
