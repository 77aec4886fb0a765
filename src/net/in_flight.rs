//! A request that is under way: its connection is not idle until the answer is over, and then it is logged.

use std::rc::Rc;

use super::access_log::{AccessLog, AccessRecord};
use super::direct_write::DirectSink;
use super::head::RequestHead;
use super::io::{Activity, InFlightGuard};
use super::peer::Peer;

/// A request, from its head to the end of its answer.
#[derive(Default)]
pub(super) struct InFlight {
    record: Option<Box<AccessRecord>>,
    guard: Option<InFlightGuard>,
}

impl InFlight {
    /// From here on its connection is not idle; over HTTP/2, which counts its streams itself, there is no `activity`.
    pub(super) fn begin(log: Option<(&AccessLog, &RequestHead)>, peer: &Peer, activity: Option<&Rc<Activity>>) -> Self {
        let record = log.map(|(log, head)| Box::new(log.begin(head, peer)));
        Self { record, guard: activity.map(Activity::begin) }
    }

    /// Its answer has a status; the body is still to be sent.
    pub(super) fn answered(&mut self, status: u16, sink: Option<DirectSink>) {
        if let Some(guard) = &self.guard {
            // What it waited for has come; a stream says so when it waits again.
            guard.activity().hold.set(false);
        }
        if let Some(record) = &mut self.record {
            record.answered(status, sink);
        }
    }

    /// So much of the body was sent.
    pub(super) fn sent(&mut self, bytes: usize) {
        if let Some(record) = &mut self.record {
            record.sent(bytes);
        }
    }
}
