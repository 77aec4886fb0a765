//! Dispatches a request to its handler.

use std::borrow::Cow;
use std::rc::Rc;

use futures_util::future::LocalBoxFuture;
use percent_encoding::percent_decode_str;

use super::call::Call;
use super::options::HttpOptions;
use super::route::Route;
use super::state::State;
use crate::hub::Hub;
use crate::net::{FastPath, Request, Response, Service};

/// The site of one thread: served under an `App`, or straight from its connections.
#[derive(Clone)]
pub(crate) struct Site {
    state: Rc<State>,
    surface: Surface,
}

/// What a site serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Surface {
    Routes,
    /// The routes, and beside them the pages.
    Pages,
    /// The metrics and the health checks, on an address of their own.
    Monitoring,
}

impl Site {
    /// The routes alone.
    pub(crate) fn new(hub: &Hub, options: HttpOptions) -> Self {
        super::access::end_with_their_keys(hub, &options.access);
        Self { state: Rc::new(State::new(hub, options)), surface: Surface::Routes }
    }

    /// The routes and, beside them, the pages, unless `options` switch them off.
    pub(crate) fn with_pages(hub: &Hub, options: HttpOptions) -> Self {
        let surface = if options.pages { Surface::Pages } else { Surface::Routes };
        Self { surface, ..Self::new(hub, options) }
    }

    pub(super) fn has_pages(&self) -> bool {
        self.surface == Surface::Pages
    }

    /// The metrics and the health checks alone. No caller of these is refused, so the address must not be a public one.
    pub(crate) fn monitoring(hub: &Hub, options: HttpOptions) -> Self {
        Self { state: Rc::new(State::new(hub, options)), surface: Surface::Monitoring }
    }

    pub(super) fn state(&self) -> &Rc<State> {
        &self.state
    }
}

impl Service for Site {
    fn fast_path(&self, path: &str) -> Option<FastPath> {
        let route = Route::below_v1(path.strip_prefix("/v1/")?)?;
        Some(FastPath { is_websocket: route.is_websocket() })
    }

    fn call(&self, request: Request) -> LocalBoxFuture<'static, Response> {
        let path = routed(request.head.path());
        let route = match self.surface {
            Surface::Monitoring => Route::of_monitoring(&path),
            surface => Route::of(&path, surface == Surface::Pages),
        };
        route.run(Call::new(request, self.state.clone()))
    }
}

/// The path in the form in which it is looked up: a percent-encoded letter is the same as the letter (RFC 3986 §6.2.2.2).
/// Characters with a meaning of their own stay encoded, as in actix's router.
fn routed(path: &str) -> Cow<'_, str> {
    if memchr::memchr(b'%', path.as_bytes()).is_none() {
        return Cow::Borrowed(path);
    }
    let mut parts = path.split('%');
    let mut decoded = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let kept = part.get(..2).is_none_or(|code| ["25", "2B", "2b", "2F", "2f"].contains(&code));
        if kept {
            decoded.push('%');
            decoded.push_str(part);
        } else {
            decoded.push_str(&percent_decode_str(&format!("%{part}")).decode_utf8_lossy());
        }
    }
    Cow::Owned(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_found_however_it_is_encoded() {
        for (path, found) in [
            ("/v1/poll", "/v1/poll"),
            ("/v1/%70oll", "/v1/poll"),
            ("/v1/clients/a%2Fb%2f", "/v1/clients/a%2Fb%2f"),
            ("/%", "/%"),
            ("/%7", "/%7"),
            ("/%zz%41", "/%zzA"),
            ("/v1/topics/%25%2B", "/v1/topics/%25%2B"),
        ] {
            assert_eq!(routed(path), found);
        }
    }
}
