//! Options for access control, and the checks for a server without a key.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http::header::HOST;

use super::error::ApiError;
use super::host::{is_loopback_host, name_of};
use super::proxied;
use crate::keyring::KeyRing;
use crate::net::{Headers, text};
use crate::topic::Pattern;

/// Access control; parsed once, and valid from then on.
#[derive(Clone, Debug)]
pub struct AccessOptions {
    /// The keys that sign tokens; without keys everything is open to every client that can reach the server.
    pub keys: Option<Arc<KeyRing>>,
    /// The patterns that may be subscribed to without a token, where there are keys.
    pub public_subscribe: Arc<[Pattern]>,
    /// The lifetime of an unused ticket.
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

impl AccessOptions {
    /// Without a key the server is open, so it refuses what may come from elsewhere: requests through a proxy.
    pub(crate) fn check_open(&self, headers: Headers<'_>) -> Result<(), ApiError> {
        if self.keys.is_some() || self.allow_anonymous {
            return Ok(());
        }
        if headers.any_name(proxied::is_sign) {
            return Err(ApiError::new(
                StatusCode::FORBIDDEN,
                "proxied",
                "this server has no key, and the request came through a proxy: behind a proxy it would be open to all; \
                 give it a key (`--jwt-secret-file` or `--jwks`), or start it with `--allow-anonymous` if it should be open",
            ));
        }
        Ok(())
    }

    /// Refuses a request for another host name than the server's, where its names are known: where they were given, and on
    /// loopback without a key. Protects from DNS rebinding: a page can point its own name at any address, and then has the
    /// same origin as the server.
    pub(crate) fn check_name(&self, headers: Headers<'_>, loopback_only: bool) -> Result<(), ApiError> {
        let open = loopback_only && self.keys.is_none() && !self.allow_anonymous;
        if self.allowed_hosts.is_empty() && !open {
            return Ok(());
        }
        self.check_known_name(headers)
    }

    /// Refuses a request for another host name than a loopback name and the server's given names.
    pub(crate) fn check_known_name(&self, headers: Headers<'_>) -> Result<(), ApiError> {
        let Some(host) = headers.get(&HOST).map(|value| text(value).unwrap_or_default()) else { return Ok(()) };
        if is_loopback_host(host) || self.allowed_hosts.contains(&name_of(host).to_ascii_lowercase()) {
            return Ok(());
        }
        Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "bad_host",
            "this server does not serve the name in `Host`, only localhost, loopback addresses and the names of `--allow-host`",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::RequestHead;

    #[test]
    fn names_are_compared_wherever_they_were_given() {
        use crate::auth::{Keys, Rules};
        let keys = || Some(crate::keyring::KeyRing::new(Keys::none(), Rules::default()));
        for (keyed, loopback, anonymous, given, refused) in [
            (false, true, false, false, true),
            (false, true, true, false, false),
            (true, true, false, false, false),
            (true, false, false, false, false),
            (false, true, false, true, true),
            (false, false, true, true, true),
            (true, true, false, true, true),
            (true, false, false, true, true),
        ] {
            let options = AccessOptions {
                keys: if keyed { keys() } else { None },
                allow_anonymous: anonymous,
                allowed_hosts: if given { vec!["app.test".into()] } else { Vec::new() },
                ..AccessOptions::default()
            };
            let head = |host: &str| RequestHead::get("/", &[("host", host.as_bytes())]);
            let check = |host: &str| options.check_name(head(host).headers(), loopback).is_ok();
            assert!(check("localhost") && check("127.0.0.1:80"));
            assert_eq!(check("evil.test"), !refused, "{keyed} {loopback} {anonymous} {given}");
            assert_eq!(check("APP.test:8080"), given || !refused);
        }
    }
}
