//! What somebody may do.

use std::num::NonZeroU32;
use std::sync::Arc;

use super::{Fingerprint, covers};
use crate::topic::{Pattern, PatternSet, Topic};

/// What a token grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// What may be subscribed to: every pattern all of whose topics these match.
    pub subscribe: Vec<Pattern>,
    /// What may be published to: every topic that one of these matches.
    pub publish: Vec<Pattern>,
    /// Whose it is: `sub` (RFC 7519 §4.1.2).
    pub subject: Option<String>,
    /// Its own name: `jti` (RFC 7519 §4.1.7).
    pub id: Option<String>,
    /// When it was issued: `iat` (RFC 7519 §4.1.6), in milliseconds since the Unix epoch.
    pub issued_ms: Option<u64>,
    /// When it ends: `exp` (RFC 7519 §4.1.4), in milliseconds since the Unix epoch.
    pub expires_ms: u64,
    /// Whether it is an administrator's.
    pub admin: bool,
    /// Events a second that may be published with it, in place of what one address may: the claim `rate`.
    pub event_rate: Option<NonZeroU32>,
    /// The key that signed the token; `None` where none did.
    pub key: Option<Fingerprint>,
}

/// What whoever asks may do.
#[derive(Clone, Debug)]
pub enum Rights {
    /// No key is configured, so nobody is asked.
    Open,
    /// Nobody said who it is: what is public may be read.
    Public(Arc<[Pattern]>),
    /// What a token or a ticket grants, and what is public.
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
                // Together, since they may cover what neither does alone.
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

    /// Whether there is any topic to which events may be published.
    #[must_use]
    pub fn may_publish_somewhere(&self) -> bool {
        match self {
            Self::Open => true,
            Self::Public(_) => false,
            Self::Granted(grant, _) => !grant.publish.is_empty(),
        }
    }

    /// The pace of publishing that the token claims.
    #[must_use]
    pub fn event_rate(&self) -> Option<NonZeroU32> {
        self.grant().and_then(|grant| grant.event_rate)
    }

    /// Whether somebody has shown who he is, or nobody is asked.
    #[must_use]
    pub fn is_known(&self) -> bool {
        !matches!(self, Self::Public(_))
    }

    /// Whether there is anything that may be read.
    #[must_use]
    pub fn may_come(&self) -> bool {
        match self {
            Self::Open | Self::Granted(..) => true,
            Self::Public(public) => !public.is_empty(),
        }
    }

    /// Whose rights they are, where the token names one.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        self.grant().and_then(|grant| grant.subject.as_deref())
    }

    /// Whether the token they came from has ended.
    #[must_use]
    pub fn have_expired(&self, now_ms: u64) -> bool {
        self.grant().is_some_and(|grant| now_ms >= grant.expires_ms)
    }

    /// Whether something that belongs to `owner` may be used: what belongs to nobody yet may be by everybody who knows
    /// its name.
    #[must_use]
    pub fn may_use(&self, owner: Option<&str>) -> bool {
        match (self, owner) {
            (Self::Open, _) | (_, None) => true,
            (_, Some(owner)) => self.subject() == Some(owner),
        }
    }

    /// Whether they are an administrator's.
    #[must_use]
    pub fn is_admin(&self) -> bool {
        self.grant().is_some_and(|grant| grant.admin)
    }
}
