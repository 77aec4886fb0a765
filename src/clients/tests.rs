use futures_util::FutureExt as _;

use super::*;
use crate::log::ReadMode;
use crate::store::scripted::ScriptedStore;
use crate::store::{MemoryStore, StoreOptions};

fn set(text: &str) -> PatternSet {
    PatternSet::new([text.parse().unwrap()]).unwrap()
}

fn request(client: Uuid, known: Option<ClientRecord>, patterns: &PatternSet) -> ConnectRequest<'_> {
    let cursor = Cursor::new(Epoch::mint(), Position(1));
    let (address, rights) = (IpAddr::from([10, 0, 0, 1]), &Rights::Open);
    let mode = ReadMode::default();
    ConnectRequest {
        client,
        known,
        patterns,
        mode,
        cursor,
        upto: None,
        presented: false,
        rights,
        address,
        attempt: None,
        now_ms: 1000,
    }
}

/// The connection of a request that was begun.
fn connecting<'a>(request: &ConnectRequest<'a>) -> Connecting<'a> {
    let ConnectRequest { client, patterns, mode, cursor, rights, address, attempt, now_ms, .. } = *request;
    let (transport, user_agent) = (Transport::Sse, None);
    Connecting { client, transport, patterns, mode, cursor, rights, address, user_agent, attempt, now_ms }
}

#[tokio::test]
async fn a_client_with_a_pending_connection_keeps_its_record() {
    let clients = Clients::new(Arc::new(MemoryStore::new(StoreOptions::default())), Duration::from_secs(3600));
    let (client, before, after) = (Uuid::new_v4(), set("a"), set("b"));
    let Ok(pending) = clients.begin(request(client, None, &before)).await else { panic!("the id is unused") };
    // The periodic flush runs just then.
    clients.flush(1000).await;
    clients.flush(1001).await;
    clients.remember_patterns(client, &after);
    drop(pending);
    clients.flush(1002).await;
    clients.flush(1003).await;
    assert!(clients.table().records.is_empty(), "the record of a disconnected client is in the store alone");
    let remembered = clients.recall(client).await.unwrap().unwrap();
    assert_eq!(remembered.patterns, after);
}

#[tokio::test]
async fn a_client_begins_once_its_record_is_durable() {
    let store = Arc::new(ScriptedStore::with_held_saves());
    let clients = Clients::new(store.clone(), Duration::from_secs(3600));
    let (client, patterns) = (Uuid::new_v4(), set("a"));
    // The first request is aborted before the store has answered.
    assert!(clients.begin(request(client, None, &patterns)).now_or_never().is_none());
    // The second request finds the record in the table, but it is not in the store.
    let known = clients.recall(client).await.unwrap();
    assert!(known.is_some());
    let mut second = Box::pin(clients.begin(request(client, known, &patterns)));
    assert!(second.as_mut().now_or_never().is_none(), "the second request waits for the store, too");
    store.saves.add_permits(1);
    assert!(second.await.is_ok());
    assert!(store.inner.load_client(client).await.unwrap().is_some());
    // The record is durable: the next request does not wait.
    let known = clients.recall(client).await.unwrap();
    assert!(clients.begin(request(client, known, &patterns)).now_or_never().is_some());
}

#[tokio::test]
async fn a_client_begins_once_its_patterns_are_durable() {
    let store = Arc::new(ScriptedStore::with_held_saves());
    let clients = Clients::new(store.clone(), Duration::from_secs(3600));
    let (client, patterns, others) = (Uuid::new_v4(), set("a"), set("b"));
    let unasked = PatternSet::default();
    store.saves.add_permits(1);
    assert!(clients.begin(request(client, None, &unasked)).await.is_ok(), "the client has sent no patterns yet");
    for patterns in [&patterns, &others] {
        let known = clients.recall(client).await.unwrap();
        let mut beginning = Box::pin(clients.begin(request(client, known, patterns)));
        assert!(beginning.as_mut().now_or_never().is_none());
        store.saves.add_permits(1);
        assert!(beginning.await.is_ok());
        assert_eq!(store.inner.load_client(client).await.unwrap().unwrap().patterns, *patterns);
    }
    // A record whose patterns change while it is being saved does not count as saved.
    let known = clients.recall(client).await.unwrap();
    let mut beginning = Box::pin(clients.begin(request(client, known, &patterns)));
    assert!(beginning.as_mut().now_or_never().is_none());
    clients.remember_patterns(client, &others);
    store.saves.add_permits(1);
    assert!(beginning.await.is_ok());
    let known = clients.recall(client).await.unwrap();
    assert!(clients.begin(request(client, known, &others)).now_or_never().is_none());
}

#[tokio::test]
async fn an_acknowledgement_needs_a_known_client_and_a_sent_event() {
    let clients =
        Arc::new(Clients::new(Arc::new(MemoryStore::new(StoreOptions::default())), Duration::from_secs(3600)));
    let (client, patterns) = (Uuid::new_v4(), set("a"));
    let request = request(client, None, &patterns);
    let (cursor, rights, connecting) = (request.cursor, request.rights, connecting(&request));
    let at = |position| Cursor::new(cursor.epoch, Position(position));
    let ack = |position| Ack { client, cursor: at(position), log: cursor.epoch, rights, now_ms: 2000 };
    assert!(matches!(clients.acknowledge_now(ack(1)).await, Err(ClientError::Unknown)));
    assert!(clients.recall(client).await.unwrap().is_none(), "an unknown client gets no record");
    let Ok(Some(pending)) = clients.begin(request).await else { panic!("the id is unused") };
    let registration = clients.connect(connecting);
    drop(pending);
    registration.connection.sent(Position(5));
    assert!(matches!(clients.acknowledge_now(ack(6)).await, Err(ClientError::Ahead)));
    assert_eq!(clients.acknowledge_now(ack(4)).await.unwrap(), at(4));
    // The last acknowledgement may arrive after the client has disconnected.
    drop(registration);
    clients.flush(2000).await;
    clients.flush(2001).await;
    assert!(matches!(clients.acknowledge_now(ack(6)).await, Err(ClientError::Ahead)));
    assert_eq!(clients.acknowledge_now(ack(5)).await.unwrap(), at(5));
    // Where it is not known what was sent, only the log's end limits an acknowledgement.
    clients.flush(100_000).await;
    assert_eq!(clients.acknowledge_now(ack(6)).await.unwrap(), at(6));
}

#[tokio::test]
async fn one_that_was_connected_for_long_is_not_taken_for_long_away() {
    let store = Arc::new(MemoryStore::new(StoreOptions::default()));
    let clients = Arc::new(Clients::new(store.clone(), Duration::from_secs(7 * 24 * 3600)));
    let (client, patterns) = (Uuid::new_v4(), set("a"));
    let request = request(client, None, &patterns);
    let connecting = connecting(&request);
    let Ok(Some(pending)) = clients.begin(request).await else { panic!("the id is unused") };
    let registration = clients.connect(connecting);
    drop(pending);
    let hour_ms = 3_600_000;
    clients.flush(hour_ms).await;
    drop(registration);
    clients.flush(hour_ms + 1000).await;
    assert_eq!(store.load_client(client).await.unwrap().unwrap().seen_ms, hour_ms);
}
