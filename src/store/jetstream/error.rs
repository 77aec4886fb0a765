//! Why options name no store.

/// The options name no store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// The prefix cannot stand in the names.
    #[error("the prefix {0:?} is not 1 to 32 letters, digits, - and _")]
    Prefix(String),
    /// An address is not one. It is not shown: there may be a password in it.
    #[error("a NATS store is nats://host:4222[,host:4222...], or tls:// for encrypted connections")]
    Address,
    /// A user stands in the URL and elsewhere, or the password is missing.
    #[error("give a user and a password, in one place")]
    Login,
}
