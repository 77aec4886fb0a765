//! What things are called in NATS.

use super::error::OptionsError;
use crate::store::NoteKind;

/// Longest prefix, in bytes.
const PREFIX_MAX_BYTES: usize = 32;

/// The names of one installation: its prefix stands in all of them.
#[derive(Clone, Debug)]
pub(super) struct Names {
    prefix: String,
    /// The stream that is the log.
    pub(super) stream: String,
    /// What stands before a topic in a subject.
    subject_root: String,
}

impl Names {
    /// # Errors
    /// Where the prefix cannot stand in the name of a stream, a bucket and a subject alike.
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

    /// The subject of a topic, or of a pattern: the rules of both are NATS's own, and the prefix keeps what begins with
    /// `$` out of the way.
    pub(super) fn subject(&self, topic: &str) -> String {
        [&self.subject_root, topic].concat()
    }

    /// All subjects of the log.
    pub(super) fn every_subject(&self) -> String {
        self.subject(">")
    }

    /// The topic that a subject stands for.
    pub(super) fn topic<'a>(&self, subject: &'a str) -> Option<&'a str> {
        subject.strip_prefix(&self.subject_root)
    }

    /// The bucket that is written to as a proof of a quorum.
    pub(super) fn quorum_bucket(&self) -> String {
        format!("{}-quorum", self.prefix)
    }

    /// The bucket of the marks that say whose share a record takes.
    pub(super) fn shares_bucket(&self) -> String {
        format!("{}-shares", self.prefix)
    }

    /// Where nodes ask each other how far a client was sent everything.
    pub(super) fn sent_subject(&self) -> String {
        format!("{}.sent", self.prefix)
    }

    /// Where nodes tell each other how far their clocks are from NATS's.
    pub(super) fn clock_subject(&self) -> String {
        format!("{}.clock", self.prefix)
    }

    /// The bucket of remembered clients.
    pub(super) fn clients_bucket(&self) -> String {
        format!("{}-clients", self.prefix)
    }

    /// The bucket of a kind of notes.
    pub(super) fn notes_bucket(&self, kind: NoteKind) -> String {
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
