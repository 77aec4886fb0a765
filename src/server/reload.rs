//! What a running server reads again.

use std::sync::Arc;

use crate::clock::Clock;
use crate::config::ServeArgs;
use crate::http::AllowedOrigins;
use crate::keyring::KeyRing;
use crate::net::tls::Certificates;

/// Exchanges what can be exchanged while the server runs.
#[derive(Clone, Debug)]
pub struct Reloader {
    pub(super) keys: Option<Arc<KeyRing>>,
    pub(super) certificates: Option<Arc<Certificates>>,
    pub(super) allowed_origins: AllowedOrigins,
    pub(super) clock: Clock,
}

impl Reloader {
    /// Reads keys, secrets and certificates again, and takes those that have changed; what cannot be used is logged, and the
    /// one before stays. They are looked at every second anyway: this is for an operator who has just changed one and wants to
    /// see in the log what came of it. It blocks for as long as the files take. It also says that the wall clock is right, where
    /// that was in doubt.
    pub fn reload(&self) {
        self.clock.confirm();
        if let Some(keys) = &self.keys {
            keys.refresh();
        }
        if let Some(certificates) = &self.certificates {
            certificates.refresh();
        }
        tracing::info!("keys, secrets and certificates were read again");
    }

    /// Takes the new settings that do not need a restart: which origins are allowed.
    pub fn take_settings(&self, settings: ServeArgs) {
        self.allowed_origins.replace(settings.allow_origin);
        tracing::info!("the allowed origins were read again; other settings count from the next start on");
    }
}
