//! `GET /openapi.json`: the API as an OpenAPI document, written by hand. The tests hold its paths and methods equal to the
//! routes', and its transports to the transports'.

use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue};

use super::{Answer, Call};
use crate::net::Response;

const DOCUMENT: &str = include_str!("openapi.json");

/// The document. It discloses nothing that is not in the documentation: no credential is required.
pub(super) async fn document(_: Call) -> Answer {
    let json = HeaderValue::from_static("application/json");
    Ok(Response::new(StatusCode::OK).with(CONTENT_TYPE, json).with_body(DOCUMENT))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;
    use crate::http::route::Route;
    use crate::transport::Transport;

    /// Every resource but the files and the monitor's own metrics.
    const ROUTES: [Route; 21] = [
        Route::Events,
        Route::Topic,
        Route::Poll,
        Route::Longpoll,
        Route::Jsonp,
        Route::Iframe,
        Route::Sse,
        Route::Stream,
        Route::Ws,
        Route::Echo,
        Route::Ack,
        Route::Info,
        Route::History,
        Route::Clients,
        Route::Client,
        Route::Tickets,
        Route::Revocations,
        Route::Healthz,
        Route::Readyz,
        Route::Metrics,
        Route::OpenApi,
    ];

    fn document() -> Value {
        serde_json::from_str(DOCUMENT).unwrap()
    }

    #[test]
    fn it_has_the_routes_and_their_methods() {
        let document = document();
        let mut missing = ROUTES.to_vec();
        for (path, operations) in document["paths"].as_object().unwrap() {
            let sample = path.replace("{topic}", "a.b").replace("{id}", "0190b5a2-7c3e-4f6a-9d1b-2e8f4c6a0b1d");
            let route = Route::of(&sample, false);
            let before = missing.len();
            missing.retain(|known| *known != route);
            assert_eq!(missing.len() + 1, before, "{path} is one of the routes, once");
            let described: BTreeSet<String> =
                operations.as_object().unwrap().keys().map(|name| name.to_uppercase()).collect();
            // Every resource has OPTIONS for CORS, and HEAD beside GET.
            let supported =
                route.methods().unwrap().names().split(", ").filter(|name| !["HEAD", "OPTIONS"].contains(name));
            assert_eq!(described, supported.map(str::to_owned).collect(), "{path}");
        }
        assert_eq!(missing, [], "routes that are not described");
    }

    #[test]
    fn it_has_the_transports() {
        let names: Vec<&str> = Transport::ALL.iter().map(|transport| transport.name()).collect();
        let described: BTreeSet<String> =
            serde_json::from_value(document()["components"]["schemas"]["Transport"]["enum"].clone()).unwrap();
        assert_eq!(described, names.iter().map(|name| (*name).to_owned()).collect());
    }

    /// Every reference leads to a component.
    #[test]
    fn its_references_lead_somewhere() {
        fn check(value: &Value, document: &Value) {
            match value {
                Value::Object(fields) => fields.iter().for_each(|(name, value)| match (name.as_str(), value) {
                    ("$ref", Value::String(to)) => {
                        assert!(document.pointer(to.trim_start_matches('#')).is_some(), "{to}");
                    }
                    _ => check(value, document),
                }),
                Value::Array(values) => values.iter().for_each(|value| check(value, document)),
                _ => {}
            }
        }
        let document = document();
        check(&document, &document);
    }
}
