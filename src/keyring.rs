//! The keys that verify tokens, reloaded when their files change.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Duration;

use crate::auth::{Grant, KeyError, Keys, Rules, TokenError};
use crate::secret_file::{self, Readable, SecretFileError};
use crate::sync::lock;

/// How often the files are checked for changes.
const RELOAD_INTERVAL: Duration = Duration::from_secs(1);

/// Keys, and the rules for the tokens that they sign.
///
/// A ring without keys refuses every token. Without a ring, no token is required.
pub struct KeyRing {
    keys: RwLock<Arc<Keys>>,
    rules: Rules,
    files: Option<Mutex<Files>>,
    watchers: Mutex<Vec<Watcher>>,
}

/// Called when the keys have changed; returns `false` to be removed.
type Watcher = Box<dyn Fn() -> bool + Send + Sync>;

/// Where keys come from.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// A JWK set in a file.
    Set(PathBuf),
    /// One secret for HS256, or two during a rotation.
    Secrets {
        /// The secret of new tokens.
        current: SecretSource,
        /// The secret of older tokens: a file, which is empty where there is no such secret.
        previous: Option<PathBuf>,
        /// How to treat files that other users may read.
        readable: Readable,
    },
}

/// Where a secret comes from.
#[derive(Clone)]
pub enum SecretSource {
    /// A file, which is reloaded when it changes.
    File(PathBuf),
    /// The secret itself.
    Text(Vec<u8>),
}

impl std::fmt::Debug for SecretSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Text(_) => f.write_str("Text(…)"),
        }
    }
}

/// The files of a ring as they were when they were last read.
struct Files {
    source: KeySource,
    /// `None` where the files could not be read, which was logged.
    contents: Option<Contents>,
}

/// The contents of a source's files, in its order.
type Contents = Vec<Vec<u8>>;

/// A key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file cannot be read, or other users may have written it.
    #[error(transparent)]
    File(#[from] SecretFileError),
    /// The file does not hold a valid key.
    #[error("{}: {reason}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with the file, without its content.
        reason: KeyError,
    },
    /// The secret of [`SecretSource::Text`] is invalid.
    #[error(transparent)]
    Text(KeyError),
    /// The files cannot be watched.
    #[error("the key files cannot be watched: {0}")]
    Thread(std::io::Error),
}

impl KeyRing {
    /// A ring of fixed keys.
    #[must_use]
    pub fn new(keys: Keys, rules: Rules) -> Arc<Self> {
        Arc::new(Self::over(keys, rules, None))
    }

    /// A ring of keys from files. The files are reloaded within a second of each change, by a thread that ends with the ring;
    /// where they become invalid, an error is logged and the keys stay unchanged. A set without a key is no error: its
    /// keys were withdrawn, and every token is refused from then on.
    ///
    /// # Errors
    /// [`KeyFileError`] where the files are invalid at the first read.
    pub fn follow(source: KeySource, rules: Rules) -> Result<Arc<Self>, KeyFileError> {
        let contents = source.read(secret_file::read)?;
        let keys = source.keys(&contents)?;
        if keys.is_empty() {
            tracing::error!("the key set has no key: every token is refused until it has one");
        }
        let followed = source.has_files();
        let files = Files { source, contents: Some(contents) };
        let ring = Arc::new(Self::over(keys, rules, Some(Mutex::new(files))));
        if followed {
            let weak = Arc::downgrade(&ring);
            let thread = std::thread::Builder::new().name("keys".into());
            thread.spawn(move || follow(&weak)).map_err(KeyFileError::Thread)?;
        }
        Ok(ring)
    }

    fn over(keys: Keys, rules: Rules, files: Option<Mutex<Files>>) -> Self {
        Self { keys: RwLock::new(Arc::new(keys)), rules, files, watchers: Mutex::default() }
    }

    /// Verifies a token, and returns what it grants at `now_ms`.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn verify(&self, token: &str, now_ms: u64) -> Result<Grant, TokenError> {
        self.rules.verify(&self.current(), token, now_ms)
    }

    /// Whether the key that signed the token of `grant` is still in the ring. A grant without a key does not depend on one.
    #[must_use]
    pub fn holds_key_of(&self, grant: &Grant) -> bool {
        grant.key.is_none_or(|key| self.current().hold(key))
    }

    /// Calls `watcher` after each change of the keys, until it returns `false`. The new keys are in force by then, so a watcher
    /// that ends the open connections of withdrawn keys misses none.
    pub(crate) fn watch(&self, watcher: impl Fn() -> bool + Send + Sync + 'static) {
        lock(&self.watchers).push(Box::new(watcher));
    }

    /// Reloads the files now, and replaces the keys if they have changed.
    pub(crate) fn refresh(&self) {
        let Some(files) = &self.files else { return };
        let mut files = lock(files);
        let contents = match files.source.read(secret_file::read_again) {
            Ok(contents) => contents,
            // The file may be missing for a moment while an editor replaces it; an error is logged once.
            Err(error) => {
                if files.contents.take().is_some() {
                    tracing::error!(%error, "a key file cannot be read; the keys stay unchanged");
                }
                return;
            }
        };
        // Compares contents, not modification times: those miss a change within their resolution, and a changed symbolic link.
        if files.contents.as_ref() == Some(&contents) {
            return;
        }
        match files.source.keys(&contents) {
            Ok(keys) if *self.current() == keys => {}
            Ok(keys) => self.exchange(keys),
            // The set has keys, if none that can be used; the former keys are not among them, so they were withdrawn.
            Err(error @ KeyFileError::Key { reason: KeyError::NoKey(_), .. }) => {
                tracing::error!(%error, "the key set has no usable key");
                self.exchange(Keys::none());
            }
            Err(error) => tracing::error!(%error, "a key file is invalid; the keys stay unchanged"),
        }
        files.contents = Some(contents);
    }

    fn exchange(&self, keys: Keys) {
        if keys.is_empty() {
            tracing::error!("there is no key any more: every token is refused, and the streams of all tokens end");
        } else {
            tracing::info!(?keys, "the keys have changed");
        }
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
        lock(&self.watchers).retain(|watcher| watcher());
    }

    fn current(&self) -> Arc<Keys> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl std::fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyRing").field("rules", &self.rules).finish_non_exhaustive()
    }
}

fn follow(ring: &Weak<KeyRing>) {
    loop {
        std::thread::sleep(RELOAD_INTERVAL);
        let Some(ring) = ring.upgrade() else { return };
        ring.refresh();
    }
}

/// Reads a file: with or without a log line about its permissions.
type Read = fn(&Path, Readable) -> Result<Vec<u8>, SecretFileError>;

impl KeySource {
    fn has_files(&self) -> bool {
        !matches!(self, Self::Secrets { current: SecretSource::Text(_), previous: None, .. })
    }

    fn read(&self, read: Read) -> Result<Contents, SecretFileError> {
        match self {
            // Public keys may be readable by all users, but not writable: a user who can write them can sign any token.
            Self::Set(path) => Ok(vec![read(path, Readable::Allowed)?]),
            Self::Secrets { current, previous, readable } => {
                let mut contents = vec![match current {
                    SecretSource::File(path) => read(path, *readable)?,
                    SecretSource::Text(text) => text.clone(),
                }];
                if let Some(path) = previous {
                    contents.push(read(path, *readable)?);
                }
                Ok(contents)
            }
        }
    }

    fn keys(&self, contents: &[Vec<u8>]) -> Result<Keys, KeyFileError> {
        match (self, contents) {
            (Self::Set(path), [bytes]) => set(path, bytes),
            (Self::Secrets { current, previous, .. }, [bytes, others @ ..]) => {
                let keys = Keys::secret(bytes).map_err(|reason| match current {
                    SecretSource::File(path) => KeyFileError::Key { path: path.clone(), reason },
                    SecretSource::Text(_) => KeyFileError::Text(reason),
                })?;
                match (previous, others) {
                    (Some(path), [bytes]) if !bytes.trim_ascii().is_empty() => {
                        let wrong = |reason| KeyFileError::Key { path: path.clone(), reason };
                        keys.and_secret(bytes).map_err(wrong)
                    }
                    _ => Ok(keys),
                }
            }
            // Unreachable: a set is exactly one file.
            (Self::Set(_), _) | (Self::Secrets { .. }, []) => Ok(Keys::none()),
        }
    }
}

fn set(path: &Path, bytes: &[u8]) -> Result<Keys, KeyFileError> {
    let (keys, left_out) = Keys::set(bytes).map_err(|reason| KeyFileError::Key { path: path.to_owned(), reason })?;
    for reason in left_out {
        tracing::warn!(file = %path.display(), %reason, "a key of the set is ignored");
    }
    Ok(keys)
}
