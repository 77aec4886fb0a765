//! Whether a request is held: all is done for it but to wait for events.

use std::cell::Cell;
use std::rc::Rc;

/// A flag that a connection shares with the request under way on it.
///
/// A client that closes its sending side (`nc -N`, `socat`) is still owed the answer to what it asked for, so the end of
/// its bytes ends a request only where the answer is nothing but waiting: then the client has gone, as a browser that leaves
/// a page has. The two look the same on the wire; what the request does tells them apart.
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
