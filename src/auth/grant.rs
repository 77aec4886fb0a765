//! The rights of a request: a token's grant, and what is public.

use std::num::NonZeroU32;
use std::sync::Arc;

use super::{Fingerprint, covers};
use crate::topic::{Pattern, PatternSet, Topic};

/// What a token grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The topics that may be subscribed to: a pattern is allowed if these cover all its topics.
    pub subscribe: Vec<Pattern>,
    /// The topics that may be published to.
    pub publish: Vec<Pattern>,
    /// The topics that may be erased, beside all for an administrator.
    pub erase: Vec<Pattern>,
    /// The token's subject: `sub` (RFC 7519 §4.1.2).
    pub subject: Option<String>,
    /// The token's id: `jti` (RFC 7519 §4.1.7).
    pub id: Option<String>,
    /// When the token was issued: `iat` (RFC 7519 §4.1.6), in milliseconds since the Unix epoch.
    pub issued_ms: Option<u64>,
    /// When the token expires: `exp` (RFC 7519 §4.1.4), in milliseconds since the Unix epoch.
    pub expires_ms: u64,
    /// Whether the token is an administrator's.
    pub admin: bool,
    /// The claim `rate`: events a second that may be published with the token, instead of the address's limit.
    pub event_rate: Option<NonZeroU32>,
    /// The key that signed the token; `None` for a grant without a signed token.
    pub key: Option<Fingerprint>,
}

/// What a request may do.
#[derive(Clone, Debug)]
pub enum Rights {
    /// Everything: no key is configured, so no token is required.
    Open,
    /// Without a token: only public topics may be read.
    Public(Arc<[Pattern]>),
    /// With a token or a ticket: its grant, and the public topics.
    Granted(Arc<Grant>, Arc<[Pattern]>),
}

impl Rights {
    /// The token's grant, where there is one.
    #[must_use]
    pub fn grant(&self) -> Option<&Arc<Grant>> {
        match self {
            Self::Granted(grant, _) => Some(grant),
            Self::Open | Self::Public(_) => None,
        }
    }

    /// The first of `patterns` that may not be subscribed to.
    #[must_use]
    pub fn refused<'a>(&self, patterns: &'a PatternSet) -> Option<&'a Pattern> {
        patterns.iter().find(|pattern| !self.may_read(pattern))
    }

    /// Whether `pattern` may be subscribed to.
    #[must_use]
    pub fn may_read(&self, pattern: &Pattern) -> bool {
        match self {
            Self::Open => true,
            Self::Public(public) => covers(public, pattern),
            Self::Granted(grant, public) if public.is_empty() => covers(&grant.subscribe, pattern),
            Self::Granted(grant, public) => {
                // Both together, since they may cover a pattern that neither covers alone.
                let all: Vec<Pattern> = grant.subscribe.iter().chain(public.iter()).cloned().collect();
                covers(&all, pattern)
            }
        }
    }

    /// Whether events may be published to `topic`.
    #[must_use]
    pub fn may_publish(&self, topic: &Topic) -> bool {
        match self {
            Self::Open => true,
            Self::Public(_) => false,
            Self::Granted(grant, _) => grant.publish.iter().any(|pattern| pattern.matches(topic.as_str())),
        }
    }

    /// Whether a token grants erasing `topic`.
    #[must_use]
    pub fn may_erase(&self, topic: &Topic) -> bool {
        self.grant()
            .is_some_and(|grant| grant.admin || grant.erase.iter().any(|pattern| pattern.matches(topic.as_str())))
    }

    /// Whether there is any topic to which events may be published.
    #[must_use]
    pub fn may_publish_somewhere(&self) -> bool {
        match self {
            Self::Open => true,
            Self::Public(_) => false,
            Self::Granted(grant, _) => !grant.publish.is_empty(),
        }
    }

    /// The token's claim `rate`.
    #[must_use]
    pub fn event_rate(&self) -> Option<NonZeroU32> {
        self.grant().and_then(|grant| grant.event_rate)
    }

    /// Whether the client is authenticated, or needs not be.
    #[must_use]
    pub fn is_known(&self) -> bool {
        !matches!(self, Self::Public(_))
    }

    /// Whether the client may subscribe at all.
    #[must_use]
    pub fn may_come(&self) -> bool {
        match self {
            Self::Open | Self::Granted(..) => true,
            Self::Public(public) => !public.is_empty(),
        }
    }

    /// The token's subject, if it names one.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        self.grant().and_then(|grant| grant.subject.as_deref())
    }

    /// Whether the token has expired.
    #[must_use]
    pub fn have_expired(&self, now_ms: u64) -> bool {
        self.grant().is_some_and(|grant| now_ms >= grant.expires_ms)
    }

    /// Whether a client id that belongs to `owner` may be used. An id without an owner may be used by every client that knows
    /// it.
    #[must_use]
    pub fn may_use(&self, owner: Option<&str>) -> bool {
        match (self, owner) {
            (Self::Open, _) | (_, None) => true,
            (_, Some(owner)) => self.subject() == Some(owner),
        }
    }

    /// Whether these are an administrator's rights.
    #[must_use]
    pub fn is_admin(&self) -> bool {
        self.grant().is_some_and(|grant| grant.admin)
    }
}
