//! Held requests: requests that are processed but for waiting for events.

use std::cell::Cell;
use std::rc::Rc;

/// A flag that a connection shares with its request in flight.
///
/// A client that closes its sending side (`nc -N`, `socat`) is still owed its response. So the end of the client's bytes ends a
/// request only where the request does nothing but wait: then the client has gone, as a browser that leaves a page has. The two
/// look the same on the wire; the state of the request distinguishes them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hold(Rc<Cell<bool>>);

impl Hold {
    pub(crate) fn set(&self, held: bool) {
        self.0.set(held);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.get()
    }
}
