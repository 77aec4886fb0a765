//! `GET /metrics`: what the server counts of itself, for Prometheus.

use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue};

use super::access::check_operator;
use super::{Answer, Call};
use crate::hub::Hub;
use crate::limits::Limits;
use crate::metrics::{self, LAGS, Snapshot};
use crate::net::Response;

/// The metrics, for an administrator: they disclose how much is published and how many clients there are.
pub(super) async fn administrators(call: Call) -> Answer {
    let rights = call.rights().await?;
    check_operator(&rights, &call.options().access)?;
    all(call).await
}

/// The metrics on their own address, for any caller that reaches it. On loopback, no page does whose own
/// name was pointed at the address (DNS rebinding).
pub(super) async fn monitoring(call: Call) -> Answer {
    if let Some(error) = call.request.peer.refused {
        return Err(error.into());
    }
    if call.options().loopback_only {
        call.options().access.check_known_name(call.request.headers())?;
    }
    all(call).await
}

async fn all(call: Call) -> Answer {
    let hub = &call.state.hub;
    let text = hub.metrics().text(&snapshot(hub, call.limits()));
    let kind = HeaderValue::from_static(metrics::CONTENT_TYPE);
    Ok(Response::new(StatusCode::OK).with(CONTENT_TYPE, kind).with_body(text))
}

fn snapshot(hub: &Hub, limits: &Limits) -> Snapshot {
    let (bounds, store, usage) = (hub.bounds(), hub.store_status(), limits.usage());
    Snapshot {
        last: bounds.last.0,
        floor: bounds.floor.0,
        log_bytes: store.bytes,
        connections: usage.connections,
        connections_max: usage.connections_max,
        charged_bytes: usage.charged_bytes,
        behind: hub.clients().behind(bounds.last, LAGS),
        draining: hub.draining().is_some(),
        nats: store.nats.map(|nats| (nats.connected, nats.reconnects)),
        skew_ms: hub.clock_skew().map(|skew| (skew.nats_ms, skew.nodes_ms)),
    }
}
