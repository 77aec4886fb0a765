//! Who asks, and what he may do: from a request's credentials to [`Rights`].

mod credential;

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use uuid::Uuid;

use super::Call;
use super::access_options::AccessOptions;
use super::error::ApiError;
use super::origin::RequestOrigin;
use crate::auth::{Rights, Ticket, TokenError};
use crate::clients::ClientError;
use crate::clock::runtime_now;
use crate::excerpt::excerpt;
use crate::hub::Hub;
use crate::topic::{PatternSet, Topic};
use crate::transport::Transport;
use crate::wire::ByeReason;
use credential::Credential;

/// The farthest end of a grant that a timer is set for; who stays longer is asked again by the next connection.
const EXPIRY_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

impl Call {
    /// What whoever asks may do, besides subscribing.
    ///
    /// # Errors
    /// 401 where a credential is no good, 400 where there are several.
    pub(super) async fn rights(&self) -> Result<Rights, ApiError> {
        self.rights_over(None).await
    }

    /// What whoever asks may do, over a transport. A ticket is used up by it, good for this transport or not.
    ///
    /// # Errors
    /// As [`Self::rights`]; and where the store cannot say whether a ticket is one.
    pub(super) async fn rights_over(&self, transport: Option<Transport>) -> Result<Rights, ApiError> {
        let rights = self.look_up(transport).await;
        match &rights {
            Ok(rights) => self.pays(rights)?,
            // Whoever tries one credential after another is counted as if he came each time.
            Err(_) => self.limits().connect(&self.rate_key())?,
        }
        rights
    }

    /// From here on the subject pays, too, for what its request makes the connection hold.
    fn pays(&self, rights: &Rights) -> Result<(), ApiError> {
        match &self.request.payer {
            Some(payer) if rights.subject().is_some() => Ok(payer.charge_to(self.rate_key_of(rights))?),
            _ => Ok(()),
        }
    }

    async fn look_up(&self, transport: Option<Transport>) -> Result<Rights, ApiError> {
        let access = &self.options().access;
        let Some(keys) = &access.keys else { return Ok(Rights::Open) };
        let public = access.public_subscribe.clone();
        let cookies = transport != Some(Transport::Jsonp) && self.may_use_cookie();
        let Some(credential) = Credential::of(self.request.query_string(), self.request.headers(), cookies)? else {
            return Ok(Rights::Public(public));
        };
        let grant = match credential {
            Credential::Token(token) => keys.verify(&token, self.state.hub.clock().wall_ms())?,
            Credential::Ticket(name) => {
                let Some(transport) = transport else { return Err(not_a_ticket()) };
                let ticket = self.state.hub.use_ticket(&name).await?;
                self.limits().ticket_used(&name);
                ticket
                    .filter(|ticket| ticket.transport == transport)
                    .map(|ticket| ticket.grant)
                    .ok_or_else(not_a_ticket)?
            }
        };
        let rights = Rights::Granted(grant.into(), public);
        check_still_good(&self.state.hub, access, &rights)?;
        Ok(rights)
    }

    /// Whether a cookie may speak for its page. Browsers send it along with whatever any page makes them ask, so it does
    /// not count for a foreign page; and where something is changed, the request has to say that its page may.
    fn may_use_cookie(&self) -> bool {
        match self.source() {
            RequestOrigin::CrossOrigin => false,
            RequestOrigin::SameOrigin | RequestOrigin::Allowed(_) => true,
            RequestOrigin::Absent => matches!(*self.request.method(), Method::GET | Method::HEAD),
        }
    }
}

/// Ends what a key has opened when the key is withdrawn, on every worker: whoever calls it once a worker asks for the same
/// several times, which costs little, since keys change rarely. What is being opened meanwhile finds out by itself
/// ([`check_still_good`]).
pub(super) fn end_with_their_keys(hub: &Hub, access: &AccessOptions) {
    let Some(ring) = &access.keys else { return };
    let (hub, weak) = (hub.downgrade(), Arc::downgrade(ring));
    ring.watch(move || {
        let (Some(hub), Some(ring)) = (hub.upgrade(), weak.upgrade()) else { return false };
        // As if they had expired: whoever can get a new token comes back with it.
        hub.clients().end_where(ByeReason::Expired, |connection| {
            connection.grant().is_some_and(|grant| !ring.holds_key_of(&grant))
        });
        true
    });
}

/// Refuses what has expired or was revoked since it was granted, or whose key was withdrawn.
pub(super) fn check_still_good(hub: &Hub, access: &AccessOptions, rights: &Rights) -> Result<(), ApiError> {
    // Only what was granted ends: the others are not worth a look at the clock.
    let Some(grant) = rights.grant() else { return Ok(()) };
    if rights.have_expired(hub.clock().wall_ms()) {
        return Err(TokenError::Expired.into());
    }
    if access.keys.as_ref().is_some_and(|keys| !keys.holds_key_of(grant)) {
        return Err(TokenError::Withdrawn.into());
    }
    if hub.is_revoked(grant) {
        return Err(ApiError::unauthorized("the token has been revoked").with_challenge(INVALID).of(rights));
    }
    Ok(())
}

/// Refuses whoever may not subscribe to all of `patterns`. Whether anything was ever published there makes no
/// difference.
pub(super) fn check_subscribe(rights: &Rights, patterns: &PatternSet) -> Result<(), ApiError> {
    match rights.refused(patterns) {
        Some(pattern) if rights.is_known() => Err(ApiError::forbidden(format!(
            "this token does not grant subscribing to all of {}: its subscribe claim has to cover it",
            excerpt(pattern.as_str())
        ))
        .of(rights)),
        Some(pattern) => Err(anonymous(format!("{} is not public", excerpt(pattern.as_str())))),
        None if !rights.may_come() => Err(anonymous("nothing here is public")),
        None => Ok(()),
    }
}

/// Refuses whoever may not publish at all, before anything of the body is read.
pub(super) fn check_publisher(rights: &Rights) -> Result<(), ApiError> {
    if !rights.is_known() {
        return Err(anonymous("publishing takes a token"));
    }
    if !rights.may_publish_somewhere() {
        return Err(ApiError::forbidden("this token does not grant publishing: it has no publish claim").of(rights));
    }
    Ok(())
}

/// Refuses whoever may not publish to `topic`.
pub(super) fn check_publish(rights: &Rights, topic: &Topic) -> Result<(), ApiError> {
    if rights.may_publish(topic) {
        Ok(())
    } else {
        check_publisher(rights)?;
        Err(ApiError::forbidden(format!(
            "this token does not grant publishing to {}: its publish claim has to match it",
            excerpt(topic.as_str())
        ))
        .of(rights))
    }
}

/// Refuses whoever has shown nothing and may see nothing.
pub(super) fn check_may_come(rights: &Rights) -> Result<(), ApiError> {
    if rights.may_come() { Ok(()) } else { Err(anonymous("nothing here is public")) }
}

/// Refuses whoever is not an administrator.
pub(super) fn check_admin(rights: &Rights) -> Result<(), ApiError> {
    if rights.is_admin() {
        Ok(())
    } else if rights.is_known() {
        Err(ApiError::forbidden("this is for administrators: their tokens have \"admin\":true").of(rights))
    } else {
        Err(anonymous("this is for administrators"))
    }
}

/// Refuses whoever does not run this server: with a key, whoever is not an administrator. Without one everybody on loopback
/// does; where everybody is served (`--allow-anonymous`), nobody: a client's id is all that it takes to be that client, so
/// the list of them is for nobody then.
pub(super) fn check_operator(rights: &Rights, access: &AccessOptions) -> Result<(), ApiError> {
    if access.keys.is_some() {
        check_admin(rights)
    } else if access.allow_anonymous {
        let message =
            "this server has no key, so nobody is an administrator: give it one with --jwt-secret-file or --jwks";
        Err(ApiError::forbidden(message))
    } else {
        Ok(())
    }
}

/// Refuses a client id that is banned.
pub(super) fn check_client(hub: &Hub, client: Uuid) -> Result<(), ApiError> {
    if hub.barred().is_banned(client, hub.clock().believed_ms()) {
        return Err(ApiError::forbidden("this client was shut out by an administrator"));
    }
    Ok(())
}

/// When a delivery with these rights ends, if they do.
pub(super) fn expiry(hub: &Hub, rights: &Rights) -> Option<Instant> {
    let expires_ms = rights.grant()?.expires_ms;
    let left = Duration::from_millis(expires_ms.saturating_sub(hub.clock().wall_ms()));
    Some(runtime_now() + left.min(EXPIRY_MAX))
}

/// What is presented is no good (RFC 6750 §3.1).
const INVALID: &str = "Bearer realm=\"switchback\", error=\"invalid_token\"";

/// What is presented is good, but not for this.
const INSUFFICIENT: &str = "Bearer realm=\"switchback\", error=\"insufficient_scope\"";

/// Nothing is presented: then there is no error to tell.
const MISSING: &str = "Bearer realm=\"switchback\"";

fn anonymous(why: impl std::fmt::Display) -> ApiError {
    ApiError::unauthorized(format!("{why}: present a token, as Authorization: Bearer TOKEN")).with_challenge(MISSING)
}

fn not_a_ticket() -> ApiError {
    let message = "the ticket was used, is too old, or is for something else: get a new one from POST /v1/tickets";
    ApiError::unauthorized(message).with_challenge(INVALID)
}

impl ApiError {
    /// 401.
    pub(super) fn unauthorized(message: impl Into<std::borrow::Cow<'static, str>>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", message).with_challenge(INVALID)
    }

    /// 403.
    pub(super) fn forbidden(message: impl Into<std::borrow::Cow<'static, str>>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", message).with_challenge(INSUFFICIENT)
    }
}

impl From<TokenError> for ApiError {
    fn from(error: TokenError) -> Self {
        Self::unauthorized(error.to_string())
    }
}

impl From<ClientError> for ApiError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Owned => Self::forbidden("this client id belongs to somebody else: choose another"),
            ClientError::Unknown => Self::unknown_client(),
            ClientError::Ahead => Self::bad("bad_cursor", "the cursor is beyond what this client was sent"),
            ClientError::Store(error) => error.into(),
        }
    }
}

/// A ticket for what `rights` grant.
pub(super) fn ticket(rights: &Rights, transport: Transport) -> Option<Ticket> {
    rights.grant().map(|grant| Ticket { grant: (**grant).clone(), transport })
}
