//! The keys in force, read again where their files change.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Duration;

use crate::auth::{Grant, KeyError, Keys, Rules, TokenError};
use crate::secret_file::{self, Readable, SecretFileError};
use crate::sync::lock;

/// How often the files are looked at.
const RELOAD_INTERVAL: Duration = Duration::from_secs(1);

/// Keys, and what is asked of the tokens that they sign.
///
/// A ring without keys refuses every token. It is not the same as no ring, which asks nobody for a token.
pub struct KeyRing {
    keys: RwLock<Arc<Keys>>,
    rules: Rules,
    files: Option<Mutex<Files>>,
    watchers: Mutex<Vec<Watcher>>,
}

/// Called when the keys have changed; `false` where nobody is interested any more.
type Watcher = Box<dyn Fn() -> bool + Send + Sync>;

/// Where keys come from.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// A JWK set in a file.
    Set(PathBuf),
    /// One secret of HS256, or two while it is exchanged.
    Secrets {
        /// What new tokens are signed with.
        current: SecretSource,
        /// What older tokens were signed with: a file, empty where there is no such secret.
        previous: Option<PathBuf>,
        /// What is done about files that others may read.
        readable: Readable,
    },
}

/// Where a secret is.
#[derive(Clone)]
pub enum SecretSource {
    /// In a file, which is read again when it changes.
    File(PathBuf),
    /// Given as it is.
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
    /// `None` where they could not be read, which was logged.
    contents: Option<Contents>,
}

/// What lies in the files of a source, in its order.
type Contents = Vec<Vec<u8>>;

/// A key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It cannot be read, or others may have written it.
    #[error(transparent)]
    File(#[from] SecretFileError),
    /// What is in it is no key.
    #[error("{}: {reason}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it; nothing of what is in it.
        reason: KeyError,
    },
    /// The secret that was given as it is, is none.
    #[error(transparent)]
    Text(KeyError),
    /// The files cannot be watched.
    #[error("the key files cannot be watched: {0}")]
    Thread(std::io::Error),
}

impl KeyRing {
    /// Keys that stay as they are.
    #[must_use]
    pub fn new(keys: Keys, rules: Rules) -> Arc<Self> {
        Arc::new(Self::over(keys, rules, None))
    }

    /// Keys of files. They are read again within a second of each change, by a thread that ends with the ring; where they
    /// cannot be used any more, an error is logged and the keys stay as they were. A set without a key is no error: its
    /// keys were withdrawn, and every token is refused from then on.
    ///
    /// # Errors
    /// [`KeyFileError`] where they cannot be used to begin with.
    pub fn follow(source: KeySource, rules: Rules) -> Result<Arc<Self>, KeyFileError> {
        let contents = source.read(secret_file::read)?;
        let keys = source.keys(&contents)?;
        if keys.is_empty() {
            tracing::error!("there is no key in the set: every token is refused until there is one");
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

    /// What a token grants at `now_ms`.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn verify(&self, token: &str, now_ms: u64) -> Result<Grant, TokenError> {
        self.rules.verify(&self.current(), token, now_ms)
    }

    /// Whether the key that signed the token of `grant` is still in force. What was granted without a key is not ended by
    /// the loss of one.
    #[must_use]
    pub fn holds_key_of(&self, grant: &Grant) -> bool {
        grant.key.is_none_or(|key| self.current().hold(key))
    }

    /// Calls `watcher` after each change of the keys, until it returns `false`. Whoever verifies a token after the change
    /// does so by the new keys, so that nothing that the old ones granted is left out if the watcher ends what is there.
    pub(crate) fn watch(&self, watcher: impl Fn() -> bool + Send + Sync + 'static) {
        lock(&self.watchers).push(Box::new(watcher));
    }

    /// Reads the files again now, and takes the keys in them where they have changed.
    pub(crate) fn refresh(&self) {
        let Some(files) = &self.files else { return };
        let mut files = lock(files);
        let contents = match files.source.read(secret_file::read_again) {
            Ok(contents) => contents,
            // An editor may have it away for a moment; what is wrong for longer is told once.
            Err(error) => {
                if files.contents.take().is_some() {
                    tracing::error!(%error, "the keys stay as they were");
                }
                return;
            }
        };
        // Contents, not times: a file that is replaced within its time's resolution, or moved to by a link, has changed too.
        if files.contents.as_ref() == Some(&contents) {
            return;
        }
        match files.source.keys(&contents) {
            Ok(keys) if *self.current() == keys => {}
            Ok(keys) => self.exchange(keys),
            // Whatever is in the set, the keys from before are not.
            Err(error @ KeyFileError::Key { reason: KeyError::NoKey(_), .. }) => {
                tracing::error!(%error, "no key can be used");
                self.exchange(Keys::none());
            }
            Err(error) => tracing::error!(%error, "the keys stay as they were"),
        }
        files.contents = Some(contents);
    }

    fn exchange(&self, keys: Keys) {
        if keys.is_empty() {
            tracing::error!("there is no key any more: every token is refused, and what tokens have opened ends");
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

/// How a file is read: with or without a line in the log.
type Read = fn(&Path, Readable) -> Result<Vec<u8>, SecretFileError>;

impl KeySource {
    fn has_files(&self) -> bool {
        !matches!(self, Self::Secrets { current: SecretSource::Text(_), previous: None, .. })
    }

    fn read(&self, read: Read) -> Result<Contents, SecretFileError> {
        match self {
            // Public keys may be read by everybody. Whoever writes them signs what he likes.
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
            // A set is one file.
            (Self::Set(_), _) | (Self::Secrets { .. }, []) => Ok(Keys::none()),
        }
    }
}

fn set(path: &Path, bytes: &[u8]) -> Result<Keys, KeyFileError> {
    let (keys, left_out) = Keys::set(bytes).map_err(|reason| KeyFileError::Key { path: path.to_owned(), reason })?;
    for reason in left_out {
        tracing::warn!(file = %path.display(), %reason, "a key is not used");
    }
    Ok(keys)
}
