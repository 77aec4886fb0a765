//! A request in flight: its connection is not idle until the response is complete, and then the request is logged.

use std::rc::Rc;

use super::access_log::{AccessLog, AccessRecord};
use super::activity::{Activity, InFlightGuard};
use super::direct_write::DirectSink;
use super::head::RequestHead;
use super::peer::Peer;

/// A request, from its head to the end of its response.
#[derive(Default)]
pub(super) struct InFlight {
    record: Option<Box<AccessRecord>>,
    guard: Option<InFlightGuard>,
}

impl InFlight {
    /// From here on the connection is not idle; over HTTP/2, which counts its streams itself, there is no `activity`.
    pub(super) fn begin(log: Option<(&AccessLog, &RequestHead)>, peer: &Peer, activity: Option<&Rc<Activity>>) -> Self {
        let record = log.map(|(log, head)| Box::new(log.begin(head, peer)));
        Self { record, guard: activity.map(Activity::begin) }
    }

    /// Records the response's status; the body is still to be sent.
    pub(super) fn answered(&mut self, status: u16, sink: Option<DirectSink>) {
        if let Some(guard) = &self.guard {
            // The events that the request waited for have come; a stream sets the flag when it waits again.
            guard.activity().hold.set(false);
        }
        if let Some(record) = &mut self.record {
            record.answered(status, sink);
        }
    }

    /// Records sent bytes of the body.
    pub(super) fn sent(&mut self, bytes: usize) {
        if let Some(record) = &mut self.record {
            record.sent(bytes);
        }
    }
}
