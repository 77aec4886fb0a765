//! Notifies the service manager of the server's state: systemd's `Type=notify`, sd_notify(3). Where the process was not started by
//! one (`NOTIFY_SOCKET` is not set), nothing is sent.

use sd_notify::NotifyState;

/// The server accepts requests.
pub(super) fn notify_ready() {
    notify(NotifyState::Ready);
}

/// The server has begun to drain: it no longer accepts new requests.
pub(super) fn notify_stopping() {
    notify(NotifyState::Stopping);
}

/// A service manager that cannot be reached keeps no server from serving; it will stop the service by itself.
fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "the service manager cannot be notified at NOTIFY_SOCKET");
    }
}
