//! Trace context of a publish request (W3C Trace Context, level 1): the span that published an event, so that a
//! subscriber's span can link to it.
//!
//! The server opens no span of its own. It forwards the context, and validates only its syntax, since an invalid one would
//! break every subscriber's tracing library instead of the publisher's. As that standard requires, a publish is never
//! refused for it.

use http::header::HeaderName;

use crate::event::{NewEvent, TRACEPARENT, TRACESTATE};
use crate::net::Headers;

/// Longest `traceparent` that is forwarded, in bytes: one of version 00 has 55, later versions may append to that.
const PARENT_MAX_BYTES: usize = 256;

/// Longest `tracestate` that is forwarded, in bytes: the least that the standard requires (§3.3.1.5).
const STATE_MAX_BYTES: usize = 512;

/// Most members of a `tracestate` (§3.3.1.1).
const STATE_MEMBERS_MAX: usize = 32;

static PARENT: HeaderName = HeaderName::from_static(TRACEPARENT);
static STATE: HeaderName = HeaderName::from_static(TRACESTATE);

/// The trace context of one request.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct TraceContext {
    /// `traceparent`; without it the context is ignored.
    parent: Option<String>,
    /// `tracestate`; its members may be spread over several fields.
    state: Option<String>,
}

impl TraceContext {
    /// The context of a request. Invalid parts are left out.
    pub(super) fn of(headers: Headers<'_>) -> Self {
        let Some(parent) = headers.text(&PARENT).map(str::trim).filter(|parent| is_parent(parent)) else {
            return Self::default();
        };
        // Of two parents, neither is known to be the right one.
        if headers.get_all(&PARENT).len() > 1 {
            return Self::default();
        }
        let state = headers.texts(&STATE).map(str::trim).collect::<Vec<_>>().join(",");
        Self { parent: Some(parent.to_owned()), state: is_state(&state).then_some(state) }
    }

    /// Adds this context to the event's headers, unless the publisher set one, or the headers have no room for it.
    pub(super) fn on(&self, event: NewEvent) -> NewEvent {
        let headers = event.headers();
        let Some(parent) = &self.parent else { return event };
        if headers.get(TRACEPARENT).is_some() || headers.get(TRACESTATE).is_some() {
            return event;
        }
        let Ok(mut traced) = headers.with(TRACEPARENT, parent) else { return event };
        if let Some(state) = &self.state {
            // A vendor may drop the state, but not the parent alone.
            traced = traced.with(TRACESTATE, state).unwrap_or(traced);
        }
        event.with_headers(traced)
    }
}

/// `version-trace-parent-flags`, in lower-case hexadecimal (§3.2.2). A later version may append fields (§3.2.4).
fn is_parent(text: &str) -> bool {
    let is_hex = |part: &str, digits: usize| {
        part.len() == digits && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_id = |part: &str, digits: usize| is_hex(part, digits) && part.bytes().any(|b| b != b'0');
    let mut parts = text.split('-');
    let (Some(version), Some(trace), Some(parent), Some(flags)) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    text.len() <= PARENT_MAX_BYTES
        && is_hex(version, 2)
        && version != "ff"
        && is_id(trace, 32)
        && is_id(parent, 16)
        && is_hex(flags, 2)
        && (version != "00" || parts.next().is_none())
}

/// A list of `key=value`, each key once (§3.3.1). Empty members are allowed, an empty list is none.
fn is_state(text: &str) -> bool {
    let members: Vec<&str> =
        text.split(',').map(|part| part.trim_matches([' ', '\t'])).filter(|part| !part.is_empty()).collect();
    let keys = || members.iter().map(|member| member.split('=').next());
    !members.is_empty()
        && text.len() <= STATE_MAX_BYTES
        && members.len() <= STATE_MEMBERS_MAX
        && members
            .iter()
            .all(|member| member.split_once('=').is_some_and(|(key, value)| is_key(key) && is_value(value)))
        && keys().enumerate().all(|(at, key)| keys().take(at).all(|earlier| earlier != key))
}

/// `tenant@system`, or a simple key: it begins with a letter, a tenant possibly with a digit.
fn is_key(key: &str) -> bool {
    let is_name = |name: &str, digit: bool, length: usize| {
        let first = name.bytes().next();
        first.is_some_and(|b| b.is_ascii_lowercase() || digit && b.is_ascii_digit())
            && name.len() <= length
            && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/'))
    };
    match key.split_once('@') {
        Some((tenant, system)) => is_name(tenant, true, 241) && is_name(system, false, 14),
        None => is_name(key, false, 256),
    }
}

/// Printable ASCII without `,` and `=`, not ending in a space.
fn is_value(value: &str) -> bool {
    (1..=256).contains(&value.len())
        && !value.ends_with(' ')
        && value.bytes().all(|b| matches!(b, b' '..=b'~') && !matches!(b, b',' | b'='))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::EventHeaders;
    use crate::net::RequestHead;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn context(fields: &[(&str, &str)]) -> TraceContext {
        let fields: Vec<(&str, &[u8])> = fields.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        TraceContext::of(RequestHead::get("/", &fields).headers())
    }

    /// The headers of an event that has no others.
    fn headers(context: &TraceContext) -> EventHeaders {
        context.on(NewEvent::deletion("a".parse().unwrap())).headers().clone()
    }

    #[test]
    fn a_valid_trace_context_is_passed_on_unchanged() {
        let later = "cc-12345678901234567890123456789012-1234567890123456-00-what-else";
        for parent in [GOOD, later] {
            let context =
                context(&[("traceparent", parent), ("TraceState", "rojo=00f067,"), ("tracestate", "t1@a=1 x")]);
            assert_eq!(
                headers(&context).as_json(),
                format!(r#"{{"traceparent":"{parent}","tracestate":"rojo=00f067,,t1@a=1 x"}}"#)
            );
        }
        assert_eq!(headers(&context(&[("traceparent", GOOD)])).get("tracestate"), None);
    }

    #[test]
    fn an_invalid_trace_context_is_dropped() {
        for bad in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "0-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0g",
            &format!("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-{}", "x".repeat(256)),
        ] {
            assert_eq!(context(&[("traceparent", bad), ("tracestate", "a=1")]), TraceContext::default(), "{bad}");
        }
        assert_eq!(context(&[("tracestate", "a=1")]), TraceContext::default(), "a state without a parent");
        assert_eq!(context(&[("traceparent", GOOD), ("traceparent", GOOD)]), TraceContext::default(), "two parents");
        let many: Vec<String> = (0..33).map(|n| format!("k{n}=v")).collect();
        for state in
            ["", ",", "a", "a=", "=1", "A=1", "1a=1", "a=1,a=2", "a@1b=1", "a=b=c", &format!("a={}", "x".repeat(257))]
        {
            assert_eq!(context(&[("traceparent", GOOD), ("tracestate", state)]).state, None, "{state}");
        }
        assert_eq!(context(&[("traceparent", GOOD), ("tracestate", &many.join(","))]).state, None);
        assert!(context(&[("traceparent", GOOD), ("tracestate", &many[1..].join(","))]).state.is_some());
    }

    #[test]
    fn the_publishers_own_headers_stand_before_it() {
        let context = context(&[("traceparent", GOOD), ("tracestate", "a=1")]);
        let with = |json: &str| {
            let event = NewEvent::deletion("a".parse().unwrap()).with_headers(EventHeaders::json(json).unwrap());
            context.on(event).headers().as_json().to_owned()
        };
        for own in [r#"{"traceparent":"x"}"#, r#"{"tracestate":"b=2"}"#] {
            assert_eq!(with(own), own);
        }
        assert_eq!(with(r#"{"a":"b"}"#), format!(r#"{{"a":"b","traceparent":"{GOOD}","tracestate":"a=1"}}"#));
        let members = |count: usize| (0..count).map(|n| format!("\"{n}\":\"\"")).collect::<Vec<_>>().join(",");
        let (full, nearly) = (format!("{{{}}}", members(16)), format!("{{{}", members(15)));
        assert_eq!(with(&full), full, "no room");
        assert_eq!(with(&format!("{nearly}}}")), format!("{nearly},\"traceparent\":\"{GOOD}\"}}"), "room for one");
    }

    proptest! {
        #[test]
        fn a_trace_context_is_passed_on_unchanged_or_not_at_all(parent in "[0-9a-f-]{0,60}|\\PC{0,20}", state in "[a-z@=, 0-9]{0,40}") {
            let fields = [("traceparent", parent.as_str()), ("tracestate", state.as_str())];
            let headers = headers(&context(&fields));
            if let Some(taken) = headers.get(TRACEPARENT) {
                prop_assert_eq!(taken, parent.trim());
            }
            if let Some(taken) = headers.get(TRACESTATE) {
                prop_assert_eq!(taken, state.trim());
            }
        }
    }
}
