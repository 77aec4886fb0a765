//! Reloading while the server runs.

use std::sync::Arc;

use crate::clock::Clock;
use crate::config::ServeArgs;
use crate::http::AllowedOrigins;
use crate::keyring::KeyRing;
use crate::net::tls::Certificates;

/// Reloads what can be exchanged while the server runs.
#[derive(Clone, Debug)]
pub struct Reloader {
    pub(super) keys: Option<Arc<KeyRing>>,
    pub(super) certificates: Option<Arc<Certificates>>,
    pub(super) allowed_origins: AllowedOrigins,
    pub(super) clock: Clock,
}

impl Reloader {
    /// Reads keys, secrets and certificates again, and adopts those that have changed; an unusable one is logged, and the
    /// previous one stays. The files are checked every second anyway: this call is for an operator who has just changed a file
    /// and wants to see the outcome in the log. Blocks for as long as reading the files takes. It also confirms the wall clock,
    /// where that was in doubt.
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

    /// Adopts the new settings that do not need a restart: the allowed origins.
    pub fn take_settings(&self, settings: ServeArgs) {
        self.allowed_origins.replace(settings.allow_origin);
        tracing::info!("the allowed origins were read again; other settings take effect at the next start");
    }
}
