//! A TCP proxy whose connections a test can cut or stall.

use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// How the proxy treats the bytes that are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Bytes are forwarded.
    Whole,
    /// Connections are closed, and new ones are refused.
    Cut,
    /// Connections stay open, and no bytes pass: as with an unplugged cable.
    Mute,
}

/// A port that forwards connections to another.
pub struct Way {
    address: String,
    state: Arc<watch::Sender<State>>,
}

impl Way {
    /// A proxy to a `HOST:PORT`, on the current runtime.
    pub async fn to(upstream: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address").to_string();
        let state = Arc::new(watch::Sender::new(State::Whole));
        let way = state.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass_on(client, upstream.clone(), way.subscribe()));
            }
        });
        Self { address, state }
    }

    /// The `HOST:PORT` that the proxy listens on.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Sets the state, also for the existing connections.
    pub fn set(&self, state: State) {
        self.state.send_replace(state);
    }
}

async fn pass_on(mut client: TcpStream, upstream: String, mut state: watch::Receiver<State>) -> std::io::Result<()> {
    let now = *state.borrow_and_update();
    if now == State::Cut {
        return Ok(());
    }
    // A new connection in the stalled state is accepted and stays silent.
    let lost = state.wait_for(|state| *state == State::Whole).await.is_err();
    if lost {
        return Ok(());
    }
    let mut server = TcpStream::connect(upstream).await?;
    let mut buffers = (vec![0; 16 << 10], vec![0; 16 << 10]);
    loop {
        tokio::select! {
            changed = state.changed() => {
                let now = *state.borrow_and_update();
                if changed.is_err() || now == State::Cut {
                    return Ok(());
                }
                if now == State::Mute {
                    // Bytes in flight are neither lost nor forwarded until the link is whole or cut.
                    let _ = state.wait_for(|state| *state != State::Mute).await;
                    if *state.borrow() == State::Cut {
                        return Ok(());
                    }
                }
            }
            read = client.read(&mut buffers.0) => match read? {
                0 => return Ok(()),
                read => server.write_all(&buffers.0[..read]).await?,
            },
            read = server.read(&mut buffers.1) => match read? {
                0 => return Ok(()),
                read => client.write_all(&buffers.1[..read]).await?,
            },
        }
    }
}
