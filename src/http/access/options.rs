//! The knobs of who may come.

use std::sync::Arc;
use std::time::Duration;

use crate::keyring::KeyRing;
use crate::topic::Pattern;

/// Who may come; parsed once, valid ever after.
#[derive(Clone, Debug)]
pub struct AccessOptions {
    /// What tokens are signed with; without it everything is open to whoever can reach the server.
    pub keys: Option<Arc<KeyRing>>,
    /// What may be subscribed to without a token, where there are keys.
    pub public_subscribe: Arc<[Pattern]>,
    /// How long a ticket may wait to be used.
    pub ticket_ttl: Duration,
    /// Whether requests that came through a proxy, or to a name other than loopback's, are served without a key.
    pub allow_anonymous: bool,
    /// Names that `Host` may have besides loopback's, on loopback and without a key; in lower case.
    pub allowed_hosts: Vec<String>,
}

impl Default for AccessOptions {
    fn default() -> Self {
        Self {
            keys: None,
            public_subscribe: Arc::from([]),
            ticket_ttl: Duration::from_secs(30),
            allow_anonymous: false,
            allowed_hosts: Vec::new(),
        }
    }
}
