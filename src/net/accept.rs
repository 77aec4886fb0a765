//! From an accepted socket to a connection that may send requests: limits, deadlines, TLS.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ipnet::IpNet;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::activity::Timeouts;
use super::backlog::{Backlog, MinReadRate};
use super::io::{Io, Wire};
use super::payer::Payer;
use super::peer::{Peer, is_trusted};
use crate::limits::{Limits, Permit, RateKey};

/// Connections past the limit that are answered, instead of being cut at once.
pub(crate) const REJECT_SLOTS: usize = 256;

/// Options for accepted connections.
#[derive(Clone)]
pub(crate) struct AcceptOptions {
    pub(crate) limits: Arc<Limits>,
    /// Proxies, whose connections are not counted for their address.
    pub(crate) trusted_proxies: Vec<IpNet>,
    pub(crate) tls: Option<Arc<rustls::ServerConfig>>,
    pub(crate) timeouts: Timeouts,
    /// How long a peer may take none of the bytes sent to it.
    pub(crate) stall_timeout: Duration,
    /// The minimum rate at which a peer has to take queued bytes.
    pub(crate) min_read_rate: MinReadRate,
    /// Connections past the limit that are being answered.
    pub(crate) rejecting: Arc<AtomicUsize>,
}

/// A connection that may send requests.
pub(crate) struct Accepted {
    pub(crate) wire: Wire,
    address: SocketAddr,
    peer: Peer,
    counted: Option<Permit>,
    payer: Payer,
    timeouts: Timeouts,
    _reject_slot: Option<RejectSlot>,
}

impl Accepted {
    /// An HTTP/1 connection, and the resources that it holds until it ends.
    pub(crate) fn into_http1(self: Box<Self>) -> (Box<Io>, SocketAddr, impl Sized) {
        let Self { wire, address, peer, counted, payer, timeouts, _reject_slot } = *self;
        (Box::new(Io::new(wire, peer, payer, timeouts, counted)), address, _reject_slot)
    }

    /// As [`Self::into_http1`], for an HTTP/2 connection, which has its own timeouts.
    pub(super) fn into_http2(self: Box<Self>) -> (Wire, Peer, impl Sized) {
        let Self { wire, peer, counted, _reject_slot, .. } = *self;
        (wire, peer, (counted, _reject_slot))
    }
}

/// The slot of a connection that is answered with an error because there are too many.
struct RejectSlot(Arc<AtomicUsize>);

impl RejectSlot {
    fn take(rejecting: &Arc<AtomicUsize>) -> Option<Self> {
        let slot = Self(rejecting.clone());
        (rejecting.fetch_add(1, Ordering::Relaxed) < REJECT_SLOTS).then_some(slot)
    }
}

impl Drop for RejectSlot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Accepts a connection, TLS handshake included; `None` where it is cut, or breaks off. Boxed, since a future reserves the size of a
/// value that it moves twice: where the value is, and where it goes.
pub(crate) async fn accept(stream: TcpStream, options: &AcceptOptions) -> Option<Box<Accepted>> {
    let address = stream.peer_addr().ok()?;
    bound_stalls(&stream, options.stall_timeout);
    let ip = address.ip().to_canonical();
    let key = (!is_trusted(ip, &options.trusted_proxies)).then(|| RateKey::at(ip));
    let (counted, refused, _reject_slot) = match options.limits.connection(key.as_ref()) {
        Ok(counted) => (Some(counted), None, None),
        Err(error) => (None, Some(error), Some(RejectSlot::take(&options.rejecting)?)),
    };
    // Until a request reveals the client behind a proxy.
    let payer = Payer::new(&options.limits, RateKey::at(ip));
    let backlog = Backlog::new(options.min_read_rate, payer.clone());
    let wire = match &options.tls {
        None => Wire::plain(stream, backlog),
        Some(config) => {
            let handshake = TlsAcceptor::from(config.clone()).accept(stream);
            Wire::tls(timeout(options.timeouts.head, handshake).await.ok()?.ok()?, backlog)
        }
    };
    let peer = Peer { address: ip, secure: options.tls.is_some(), refused };
    Some(Box::new(Accepted { wire, address, peer, counted, payer, timeouts: options.timeouts, _reject_slot }))
}

/// Bytes that the kernel buffers for a peer before they can be sent. By default these would be megabytes for each peer that does
/// not read, which do not show as this process's memory; bytes in flight on the network are not limited by this.
#[cfg(target_os = "linux")]
const UNSENT_BYTES: u32 = 128 << 10;

/// A peer that takes none of its bytes holds a buffer in vain: a small one, and not for long. The kernel knows how long that has
/// lasted; actix has no such timeout, and a body that is not polled cannot have one. Nagle's algorithm is turned off, so that
/// events are sent when they come and not when the last one has been acknowledged (RFC 1122 §4.2.3.4 requires that option).
fn bound_stalls(stream: &TcpStream, after: Duration) {
    let _ = stream.set_nodelay(true);
    #[cfg(target_os = "linux")]
    {
        let socket = socket2::SockRef::from(stream);
        let bounded = socket.set_tcp_user_timeout(Some(after)).and(socket.set_tcp_notsent_lowat(UNSENT_BYTES));
        if let Err(error) = bounded {
            tracing::debug!(%error, "the timeout for a stalled peer could not be set on a connection");
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = after;
}
