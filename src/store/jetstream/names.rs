//! The names of the stream, the buckets and the subjects in NATS.

use super::error::OptionsError;
use crate::store::SecurityRecordKind;

/// The longest prefix, in bytes.
const PREFIX_MAX_BYTES: usize = 32;

/// The names of one installation: each begins with its prefix.
#[derive(Clone, Debug)]
pub(super) struct Names {
    prefix: String,
    /// The stream that is the log.
    pub(super) stream: String,
    /// The prefix of a topic in a NATS subject.
    subject_root: String,
}

impl Names {
    /// # Errors
    /// Where the prefix is not valid in the names of a stream, a bucket and a subject alike.
    pub(super) fn new(prefix: &str) -> Result<Self, OptionsError> {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if prefix.is_empty() || prefix.len() > PREFIX_MAX_BYTES || !prefix.bytes().all(legal) {
            return Err(OptionsError::Prefix(prefix.to_owned()));
        }
        Ok(Self {
            prefix: prefix.to_owned(),
            stream: format!("{prefix}-events"),
            subject_root: format!("{prefix}.events."),
        })
    }

    /// The NATS subject of a topic or a pattern. Both follow NATS's own rules, and the prefix avoids subjects that
    /// begin with `$`.
    pub(super) fn subject(&self, topic: &str) -> String {
        [&self.subject_root, topic].concat()
    }

    /// All subjects of the log.
    pub(super) fn every_subject(&self) -> String {
        self.subject(">")
    }

    /// The topic of a NATS subject.
    pub(super) fn topic<'a>(&self, subject: &'a str) -> Option<&'a str> {
        subject.strip_prefix(&self.subject_root)
    }

    /// The bucket for the writes that prove a quorum.
    pub(super) fn quorum_bucket(&self) -> String {
        format!("{}-quorum", self.prefix)
    }

    /// The bucket of the marks of each share's records.
    pub(super) fn shares_bucket(&self) -> String {
        format!("{}-shares", self.prefix)
    }

    /// The subject of requests for how far a client was sent every event.
    pub(super) fn sent_subject(&self) -> String {
        format!("{}.sent", self.prefix)
    }

    /// The subject of the nodes' clock announcements.
    pub(super) fn clock_subject(&self) -> String {
        format!("{}.clock", self.prefix)
    }

    /// The bucket of remembered clients.
    pub(super) fn clients_bucket(&self) -> String {
        format!("{}-clients", self.prefix)
    }

    /// The bucket of a kind of security records.
    pub(super) fn records_bucket(&self, kind: SecurityRecordKind) -> String {
        format!("{}-{}s", self.prefix, kind.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_become_subjects_and_come_back() {
        let names = Names::new("two_b").unwrap();
        for topic in ["a", "$SYS.x", "$JS.API", "ü.\u{1f600}", "a.<]b"] {
            assert_eq!(names.topic(&names.subject(topic)), Some(topic));
        }
        assert_eq!(names.topic("two.events.a"), None);
    }

    #[test]
    fn a_prefix_is_a_word() {
        for prefix in ["", "a.b", "a b", "*", "ü", &"x".repeat(33)] {
            assert!(Names::new(prefix).is_err(), "{prefix:?}");
        }
    }
}
