//! The fixture of the limits tests with keys: a server with a secret, and tokens signed with it.

use serde_json::Value;

use crate::support::Server;
use crate::support::jwt::Signer;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A server whose tokens [`token`] signs; the secret lives as long as the file.
pub(crate) fn keyed(flags: &[&str]) -> (Server, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(&file, SECRET).expect("a secret");
    let path = file.path().to_str().expect("a path in UTF-8");
    let flags: Vec<&str> = ["--jwt-secret-file", path].into_iter().chain(flags.iter().copied()).collect();
    (Server::start(&flags), file)
}

/// Seconds since 1970.
pub(crate) fn now_s() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs()
}

/// A token with these claims, which expires in an hour unless `exp` is given.
pub(crate) fn token(claims: &Value) -> String {
    let mut all = claims.clone();
    if all.get("exp").is_none() {
        all["exp"] = (now_s() + 3600).into();
    }
    Signer::secret(SECRET).sign(&all)
}
