//! Why options name no store.

/// The options name no store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// The prefix is not valid in the names of streams and buckets.
    #[error("the prefix {0:?} is not 1 to 32 letters, digits, - and _")]
    Prefix(String),
    /// An address is invalid. The error does not contain it, since it may contain a password.
    #[error("a NATS store is nats://host:4222[,host:4222...], or tls:// for encrypted connections")]
    Address,
    /// A user is given both in the URL and elsewhere, or the password is missing.
    #[error("give a user and a password, in one place")]
    Login,
}
