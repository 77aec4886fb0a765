//! Authentication and authorization: from a request's credentials to [`Rights`].

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

/// The latest expiry of a grant for which a timer is set; a longer connection is checked again when the client reconnects.
const EXPIRY_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

impl Call {
    /// The rights of the caller, besides subscribing.
    ///
    /// # Errors
    /// 401 where a credential is invalid, 400 where there are several.
    pub(super) async fn rights(&self) -> Result<Rights, ApiError> {
        self.rights_over(None).await
    }

    /// The rights of the caller, over a transport. A ticket is consumed, valid for this transport or not.
    ///
    /// # Errors
    /// As [`Self::rights`]; and where the store cannot look the ticket up.
    pub(super) async fn rights_over(&self, transport: Option<Transport>) -> Result<Rights, ApiError> {
        let rights = self.look_up(transport).await;
        match &rights {
            Ok(rights) => self.pays(rights)?,
            // An invalid credential costs as much as a connection: a limit on guessing.
            Err(_) => self.limits().connect(&self.rate_key())?,
        }
        rights
    }

    /// From here on the subject is charged, too, for what its request makes the connection hold.
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

    /// Whether a cookie counts as a credential. Browsers send it with the requests of any page, so it does not count for a
    /// cross-origin page; and for a request that changes something, the request has to have an origin that is allowed.
    fn may_use_cookie(&self) -> bool {
        match self.source() {
            RequestOrigin::CrossOrigin => false,
            RequestOrigin::SameOrigin | RequestOrigin::Allowed(_) => true,
            RequestOrigin::Absent => matches!(*self.request.method(), Method::GET | Method::HEAD),
        }
    }
}

/// Ends the connections of a key when the key is removed, on every worker. Each worker registers this, so the same
/// connections are ended several times, which costs little, since keys change rarely. A connection that is being opened
/// meanwhile checks by itself ([`check_still_good`]).
pub(super) fn end_with_their_keys(hub: &Hub, access: &AccessOptions) {
    let Some(ring) = &access.keys else { return };
    let (hub, weak) = (hub.downgrade(), Arc::downgrade(ring));
    ring.watch(move || {
        let (Some(hub), Some(ring)) = (hub.upgrade(), weak.upgrade()) else { return false };
        // As if they had expired: a client that can get a new token reconnects with it.
        hub.clients().end_where(ByeReason::Expired, |connection| {
            connection.grant().is_some_and(|grant| !ring.holds_key_of(&grant))
        });
        true
    });
}

/// Refuses a grant that has expired or was revoked since it was checked, or whose key was removed.
pub(super) fn check_still_good(hub: &Hub, access: &AccessOptions, rights: &Rights) -> Result<(), ApiError> {
    // Only a grant expires: for other rights the clock is not read.
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

/// Refuses a caller that may not subscribe to all of `patterns`. The response does not depend on whether an event was ever
/// published there.
pub(super) fn check_subscribe(rights: &Rights, patterns: &PatternSet) -> Result<(), ApiError> {
    match rights.refused(patterns) {
        Some(pattern) if rights.is_known() => Err(ApiError::forbidden(format!(
            "this token does not grant subscribing to all of {}: its `subscribe` claim has to cover it",
            excerpt(pattern.as_str())
        ))
        .of(rights)),
        Some(pattern) => Err(anonymous(format!("{} is not public", excerpt(pattern.as_str())))),
        None if !rights.may_come() => Err(anonymous("nothing here is public")),
        None => Ok(()),
    }
}

/// Refuses a caller that may not publish at all, before any of the body is read.
pub(super) fn check_publisher(rights: &Rights) -> Result<(), ApiError> {
    if !rights.is_known() {
        return Err(anonymous("publishing requires a token"));
    }
    if !rights.may_publish_somewhere() {
        return Err(ApiError::forbidden("this token does not grant publishing: it has no `publish` claim").of(rights));
    }
    Ok(())
}

/// Refuses a caller that may not publish to `topic`.
pub(super) fn check_publish(rights: &Rights, topic: &Topic) -> Result<(), ApiError> {
    if rights.may_publish(topic) {
        Ok(())
    } else {
        check_publisher(rights)?;
        Err(ApiError::forbidden(format!(
            "this token does not grant publishing to {}: its `publish` claim has to match it",
            excerpt(topic.as_str())
        ))
        .of(rights))
    }
}

/// Refuses a caller that has no credential and no public pattern to subscribe to.
pub(super) fn check_may_come(rights: &Rights) -> Result<(), ApiError> {
    if rights.may_come() { Ok(()) } else { Err(anonymous("nothing here is public")) }
}

/// Refuses a caller that is not an administrator.
pub(super) fn check_admin(rights: &Rights) -> Result<(), ApiError> {
    if rights.is_admin() {
        Ok(())
    } else if rights.is_known() {
        Err(ApiError::forbidden("this requires an administrator's token, with \"admin\":true").of(rights))
    } else {
        Err(anonymous("this requires an administrator"))
    }
}

/// Refuses a caller that does not operate this server. With a key, that is a caller that is not an administrator. Without a
/// key every caller on loopback is an operator; but with `--allow-anonymous` none is: a client's id is all that it takes to
/// impersonate the client, so the list of ids must be for no caller.
pub(super) fn check_operator(rights: &Rights, access: &AccessOptions) -> Result<(), ApiError> {
    if access.keys.is_some() {
        check_admin(rights)
    } else if access.allow_anonymous {
        let message =
            "without a key no caller is an administrator: start the server with `--jwt-secret-file` or `--jwks`";
        Err(ApiError::forbidden(message))
    } else {
        Ok(())
    }
}

/// Refuses a caller that may not erase `topic`: neither an administrator, nor with a claim `erase` that matches. Without a key,
/// as [`check_operator`].
pub(super) fn check_erase(rights: &Rights, access: &AccessOptions, topic: &Topic) -> Result<(), ApiError> {
    if rights.may_erase(topic) {
        return Ok(());
    }
    match check_operator(rights, access) {
        Err(_) if rights.grant().is_some() => {
            let message = "erasing requires an administrator's token, or one whose `erase` claim matches the topic";
            Err(ApiError::forbidden(message).of(rights))
        }
        checked => checked,
    }
}

/// Refuses a client id that is banned.
pub(super) fn check_client(hub: &Hub, client: Uuid) -> Result<(), ApiError> {
    if hub.denylist().is_banned(client, hub.clock().believed_ms()) {
        return Err(ApiError::forbidden("this client was banned by an administrator"));
    }
    Ok(())
}

/// When a delivery with these rights ends, if the rights expire.
pub(super) fn expiry(hub: &Hub, rights: &Rights) -> Option<Instant> {
    let expires_ms = rights.grant()?.expires_ms;
    let left = Duration::from_millis(expires_ms.saturating_sub(hub.clock().wall_ms()));
    Some(runtime_now() + left.min(EXPIRY_MAX))
}

/// The challenge for an invalid credential (RFC 6750 §3.1).
const INVALID: &str = "Bearer realm=\"switchback\", error=\"invalid_token\"";

/// The challenge for a valid credential without the necessary rights.
const INSUFFICIENT: &str = "Bearer realm=\"switchback\", error=\"insufficient_scope\"";

/// The challenge for a missing credential, which has no error.
const MISSING: &str = "Bearer realm=\"switchback\"";

fn anonymous(why: impl std::fmt::Display) -> ApiError {
    ApiError::unauthorized(format!("{why}: present a token, as `Authorization: Bearer TOKEN`")).with_challenge(MISSING)
}

fn not_a_ticket() -> ApiError {
    let message = "the ticket was used, has expired, or is not for this request: get a new one from POST /v1/tickets";
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
            ClientError::Owned => Self::forbidden("this client id belongs to another subject: choose another id"),
            ClientError::Unknown => Self::unknown_client(),
            ClientError::Ahead => Self::bad("bad_cursor", "the cursor is ahead of what this client was sent"),
            ClientError::Store(error) => error.into(),
        }
    }
}

/// A ticket for what `rights` grant.
pub(super) fn ticket(rights: &Rights, transport: Transport) -> Option<Ticket> {
    rights.grant().map(|grant| Ticket { grant: (**grant).clone(), transport })
}
