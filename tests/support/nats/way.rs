//! A TCP connection on whose way a test can lose it.

use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What becomes of what is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It arrives.
    Whole,
    /// Connections are closed, and nobody answers.
    Cut,
    /// Connections are open, and nothing passes: a cable that was pulled out.
    Mute,
}

/// A port that passes connections on to another.
pub struct Way {
    address: String,
    state: Arc<watch::Sender<State>>,
}

impl Way {
    /// To a `HOST:PORT`, on the present runtime.
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

    /// `HOST:PORT` of this end.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// From now on, also for the connections that there are.
    pub fn set(&self, state: State) {
        self.state.send_replace(state);
    }
}

async fn pass_on(mut client: TcpStream, upstream: String, mut state: watch::Receiver<State>) -> std::io::Result<()> {
    let now = *state.borrow_and_update();
    if now == State::Cut {
        return Ok(());
    }
    // One that comes while nothing passes is taken, and hears nothing.
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
                    // What is on its way is neither lost nor passed on, until it is whole or cut.
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
