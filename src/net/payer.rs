//! The payer: the address or subject to which a connection's memory is charged.
//!
//! The connection counts its bytes, but does not know subjects, and behind a trusted proxy not even addresses; a request's
//! handler knows both. So the two share a payer: the handler sets the charged key, the connection sets the number of bytes.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use crate::limits::{InboundBudget, LimitError, Limits, OutboundBudget, RateKey, Refusal};

/// The memory that one HTTP/1 connection, or one stream of an HTTP/2 connection, holds for its peer. Released when the last clone
/// is dropped.
#[derive(Clone, Debug)]
pub(crate) struct Payer(Rc<RefCell<Charges>>);

#[derive(Debug)]
struct Charges {
    /// Bytes queued until the peer takes them. The budget contains the charged key.
    unsent: OutboundBudget,
    /// The head of the request in flight, where the connection has others beside it.
    head: Option<Box<InboundBudget>>,
}

impl Payer {
    pub(super) fn new(limits: &Arc<Limits>, key: RateKey) -> Self {
        Self(Rc::new(RefCell::new(Charges { unsent: limits.outbound(key), head: None })))
    }

    /// Charges everything held now and later to `key`.
    ///
    /// # Errors
    /// [`LimitError::Memory`], [`LimitError::ServerFull`] where `key` has no room for what is held; the earlier key stays charged
    /// then.
    pub(crate) fn charge_to(&self, key: RateKey) -> Result<(), LimitError> {
        let mut charges = self.0.borrow_mut();
        if *charges.unsent.key() == key {
            return Ok(());
        }
        if let Some(head) = &mut charges.head {
            head.charge_to(key.clone())?;
        }
        charges.unsent.charge_to(key)
    }

    /// Sets the number of bytes queued until the peer takes them.
    ///
    /// # Errors
    /// As [`Self::charge_to`]; the earlier number stays charged then. A decrease never fails.
    pub(super) fn hold_unsent(&self, bytes: usize) -> Result<(), LimitError> {
        self.0.borrow_mut().unsent.set(bytes)
    }

    /// Charges the head of a request, until [`Self::release_head`].
    ///
    /// # Errors
    /// As [`Self::charge_to`].
    pub(super) fn hold_head(&self, bytes: usize) -> Result<(), LimitError> {
        let mut charges = self.0.borrow_mut();
        let mut head = charges.unsent.limits().inbound(charges.unsent.key().clone());
        head.grow(bytes)?;
        charges.head = Some(Box::new(head));
        Ok(())
    }

    pub(super) fn release_head(&self) {
        self.0.borrow_mut().head = None;
    }

    /// Logs that the connection is ended for the memory that it holds.
    pub(super) fn note_cut(&self, error: &LimitError) {
        let charges = self.0.borrow();
        let (key, message) = (charges.unsent.key(), error.to_string());
        let (address, subject) = (key.address(), key.subject());
        let refusal = Refusal { address, subject, reason: "unsent_bytes", message: &message, is_pace: true };
        charges.unsent.limits().refusals().record(Instant::now(), &refusal);
    }
}
