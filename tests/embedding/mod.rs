//! The library embedded in an application: publishing, subscribing and listening in-process, and the routes mounted in the
//! application's own `App`.

use std::sync::Arc;
use std::time::Duration;

use actix_web::{App, test, web};
use futures_util::StreamExt as _;
use switchback::auth::{Keys, Rules, SECRET_MIN_BYTES};
use switchback::cursor::{Cursor, Position};
use switchback::keyring::KeyRing;
use switchback::store::Retention;
use switchback::wire::GapReason;
use switchback::{
    Data, DiskStore, EventHeaders, HttpOptions, Hub, HubOptions, Item, ListenError, MemoryStore, NewEvent, StartFrom,
    StoreOptions, Subscription, routes,
};
use tokio::sync::mpsc;

async fn hub_with(options: StoreOptions, hub_options: HubOptions) -> Hub {
    Hub::open(Arc::new(MemoryStore::new(options)), hub_options).await.unwrap()
}

async fn hub() -> Hub {
    hub_with(StoreOptions::default(), HubOptions::default()).await
}

fn event(topic: &str, number: u64) -> NewEvent {
    NewEvent::json(topic, &number).unwrap()
}

async fn next(subscription: &mut Subscription) -> Item {
    let item = tokio::time::timeout(Duration::from_secs(10), subscription.next()).await;
    item.expect("an item arrives in time").expect("a subscription does not end").expect("the store answers")
}

async fn next_data(subscription: &mut Subscription) -> String {
    match next(subscription).await {
        Item::Event(event) => event.data().to_owned(),
        other => panic!("no event: {other:?}"),
    }
}

#[tokio::test]
async fn a_value_is_deleted_in_process() {
    let hub = hub().await;
    let mut orders = hub.subscribe(["orders.*"], StartFrom::Now).await.unwrap();
    let headers = EventHeaders::new([("reason", "archived")]).unwrap();
    let deletion = NewEvent::deletion("orders.42".parse().unwrap()).with_headers(headers);
    hub.publish_all(vec![event("orders.42", 1), deletion]).await.unwrap();
    assert_eq!(next_data(&mut orders).await, "1");
    let Item::Event(event) = next(&mut orders).await else { panic!("the event was published") };
    assert!(event.is_deletion());
    assert_eq!((event.header("reason").as_deref(), event.header("by")), (Some("archived"), None));
}

#[tokio::test]
async fn a_subscription_joins_history_and_present() {
    let hub = hub().await;
    for number in 0..500 {
        hub.publish(event(if number % 2 == 0 { "a.even" } else { "a.odd" }, number)).await.unwrap();
    }
    let mut even = hub.subscribe(["a.even"], StartFrom::Earliest).await.unwrap();
    let publisher = {
        let hub = hub.clone();
        tokio::spawn(async move {
            for number in 500..1000 {
                hub.publish(event(if number % 2 == 0 { "a.even" } else { "a.odd" }, number)).await.unwrap();
            }
        })
    };
    for number in (0..1000).step_by(2) {
        assert_eq!(next_data(&mut even).await, number.to_string());
    }
    publisher.await.unwrap();
}

#[tokio::test]
async fn where_it_starts() {
    let hub = hub().await;
    let mut cursors = Vec::new();
    for number in 1..=10 {
        cursors.push(hub.publish(event(if number == 5 { "b" } else { "a" }, number)).await.unwrap().cursor);
    }
    for (from, first) in [
        (StartFrom::Earliest, "1"),
        (StartFrom::Cursor(cursors[2]), "4"),
        (StartFrom::Last(3), "8"),
        (StartFrom::Last(100), "1"),
    ] {
        let mut subscription = hub.subscribe(["a"], from).await.unwrap();
        assert_eq!(next_data(&mut subscription).await, first, "{from:?}");
    }
    let mut now = hub.subscribe(["a", "b"], StartFrom::Now).await.unwrap();
    hub.publish(event("b", 11)).await.unwrap();
    assert_eq!(next_data(&mut now).await, "11");
    assert!(hub.subscribe(["a..b"], StartFrom::Now).await.is_err());
}

#[tokio::test]
async fn gaps_are_items() {
    let retention = Retention { events_max: Some(3), ..Retention::default() };
    let hub = hub_with(StoreOptions { retention, ..StoreOptions::default() }, HubOptions::default()).await;
    let first = hub.publish(event("a", 1)).await.unwrap().cursor;
    for number in 2..=9 {
        hub.publish(event("a", number)).await.unwrap();
    }
    let mut late = hub.subscribe(["a"], StartFrom::Cursor(first)).await.unwrap();
    let Item::Gap(gap) = next(&mut late).await else { panic!("events 2 to 6 are trimmed") };
    assert_eq!((gap.reason, gap.from, gap.to.position), (GapReason::Expired, first, Position(6)));
    assert_eq!(next_data(&mut late).await, "7");
    let mut all = hub.subscribe([">"], StartFrom::Cursor(first)).await.unwrap();
    let Item::Gap(gap) = next(&mut all).await else { panic!("events 2 to 6 are trimmed") };
    assert_eq!(gap.missed, Some(5), "a subscriber to everything learns the number of missed events");

    let elsewhere = Cursor::new("another".parse().unwrap(), Position(3));
    let mut lost = hub.subscribe(["a"], StartFrom::Cursor(elsewhere)).await.unwrap();
    let Item::Gap(gap) = next(&mut lost).await else { panic!("the cursor is of another log") };
    assert_eq!(gap.reason, GapReason::Epoch);
    let ahead = Cursor::new(first.epoch, Position(100));
    let mut ahead = hub.subscribe(["a"], StartFrom::Cursor(ahead)).await.unwrap();
    let Item::Gap(gap) = next(&mut ahead).await else { panic!("the cursor is ahead of the log") };
    assert_eq!((gap.reason, gap.to.position), (GapReason::Ahead, Position(9)));
}

#[tokio::test]
async fn listeners_are_called_until_they_are_removed() {
    let hub = hub_with(StoreOptions::default(), HubOptions { listeners_max: 3, ..HubOptions::default() }).await;
    let (received, mut calls) = mpsc::unbounded_channel();
    let listen = |name: &'static str| {
        let received = received.clone();
        move |event: Arc<switchback::Event>| received.send((name, event.data().to_owned())).unwrap()
    };
    let on = hub.on("a.*", listen("on")).await.unwrap();
    hub.once("a.1", listen("once")).await.unwrap();
    let panics = hub.on("never", |_| {}).await.unwrap();
    assert!(matches!(hub.on("a", |_| {}).await, Err(ListenError::TooMany(3))));
    assert!(hub.off(panics) && !hub.off(panics));

    hub.publish_all(vec![event("a.1", 1), event("a.1", 2), event("b", 3)]).await.unwrap();
    let mut got = Vec::new();
    for _ in 0..3 {
        got.push(tokio::time::timeout(Duration::from_secs(10), calls.recv()).await.unwrap().unwrap());
    }
    got.sort_unstable();
    assert_eq!(got, [("on", "1".into()), ("on", "2".into()), ("once", "1".into())]);

    // The `once` listener has removed itself, so there is room; a removed listener is not called again.
    hub.off(on);
    let last = hub.on("a.1", listen("last")).await.unwrap();
    hub.publish(event("a.1", 4)).await.unwrap();
    assert_eq!(
        tokio::time::timeout(Duration::from_secs(10), calls.recv()).await.unwrap().unwrap(),
        ("last", "4".into())
    );
    assert_eq!(hub.listeners(), 1);
    hub.off_all();
    assert_eq!(hub.listeners(), 0);
    assert!(!hub.off(last));
}

#[tokio::test]
async fn a_listener_that_panics_disturbs_no_other() {
    let hub = hub().await;
    let (received, mut calls) = mpsc::unbounded_channel();
    hub.on("a", |event| assert_ne!(event.data(), "1", "the listener panics on purpose")).await.unwrap();
    hub.on("a", move |event| received.send(event.data().to_owned()).unwrap()).await.unwrap();
    for number in 1..=2 {
        hub.publish(event("a", number)).await.unwrap();
        let call = tokio::time::timeout(Duration::from_secs(10), calls.recv()).await.unwrap();
        assert_eq!(call, Some(number.to_string()));
    }
}

#[tokio::test]
async fn published_events_survive_the_close_of_the_hub() {
    let directory = tempfile::tempdir().unwrap();
    let open = || async {
        let store = DiskStore::open(directory.path(), StoreOptions::default()).unwrap();
        Hub::open(Arc::new(store), HubOptions::default()).await.unwrap()
    };
    let hub = open().await;
    let cursor = hub.publish(event("a", 1)).await.unwrap().cursor;
    hub.close().await;
    assert!(hub.publish(event("a", 2)).await.is_err());
    drop(hub);
    let hub = open().await;
    assert_eq!(hub.cursor(), cursor);
    let mut again = hub.subscribe(["a"], StartFrom::Earliest).await.unwrap();
    assert_eq!(next_data(&mut again).await, "1");
}

#[actix_web::test]
async fn the_routes_mount_under_any_prefix() {
    let hub = hub().await;
    let other = self::hub().await;
    let app = App::new()
        .service(web::scope("/deep/events").configure(routes(&hub, HttpOptions::default())))
        .service(web::scope("/other").configure(routes(&other, HttpOptions::default())));
    let app = test::init_service(app).await;
    let publish = test::TestRequest::post().uri("/deep/events/v1/topics/a%2Fb.c").set_payload("1");
    assert_eq!(test::call_service(&app, publish.to_request()).await.status(), 201);
    let get = |uri: &'static str| test::TestRequest::get().uri(uri).to_request();
    let batch: serde_json::Value =
        test::call_and_read_body_json(&app, get("/deep/events/v1/poll?topic=*.c&cursor=earliest")).await;
    assert_eq!((&batch["events"][0]["topic"], &batch["events"][0]["data"]), (&"a/b.c".into(), &1.into()));
    let batch: serde_json::Value =
        test::call_and_read_body_json(&app, get("/other/v1/poll?topic=*.c&cursor=earliest")).await;
    assert_eq!(batch["events"], serde_json::json!([]), "each mount has its own hub");
    assert_eq!(test::call_service(&app, get("/other/healthz")).await.status(), 200);
    assert_eq!(test::call_service(&app, get("/other/v1/nothing")).await.status(), 404);

    // An event published in-process is delivered over HTTP.
    hub.publish(NewEvent::new("x".parse().unwrap(), Data::text("hi"))).await.unwrap();
    let batch: serde_json::Value =
        test::call_and_read_body_json(&app, get("/deep/events/v1/longpoll?topic=x&last=1")).await;
    assert_eq!(batch["events"][0]["data"], "hi");
}

#[actix_web::test]
async fn a_topic_named_like_a_probe_is_no_way_past_the_door() {
    let hub = hub().await;
    let app = test::init_service(App::new().configure(routes(&hub, HttpOptions::default()))).await;
    let proxied = |request: test::TestRequest| request.insert_header(("x-forwarded-for", "192.0.2.1")).to_request();
    for uri in ["/v1/topics/a/healthz", "/v1/topics/a/readyz", "/v1/events"] {
        let publish = test::TestRequest::post().uri(uri).set_payload("1");
        assert_eq!(test::call_service(&app, proxied(publish)).await.status(), 403, "{uri}");
    }
    for uri in ["/healthz", "/readyz"] {
        assert_eq!(test::call_service(&app, proxied(test::TestRequest::get().uri(uri))).await.status(), 200, "{uri}");
    }
    hub.drain(Duration::from_secs(1));
    let late = test::TestRequest::post().uri("/v1/topics/a/healthz").set_payload("1").to_request();
    assert_eq!(test::call_service(&app, late).await.status(), 503);
    let alive = test::TestRequest::get().uri("/healthz").to_request();
    assert_eq!(test::call_service(&app, alive).await.status(), 200);
}

#[path = "../../examples/embedding/main.rs"]
#[allow(dead_code)] // Its `main`.
mod example;

/// `examples/embedding`: the application publishes without a token, its events are for those who have one.
#[actix_web::test]
async fn the_example_serves_its_events_to_tokens_only() {
    let hub = hub().await;
    let keys = Keys::secret(&[b'k'; SECRET_MIN_BYTES]).expect("a secret");
    let options = example::options(KeyRing::new(keys, Rules::default()));
    let app = App::new().configure(|config| example::configure(config, &hub, options));
    let app = test::init_service(app).await;
    let call = async |request: test::TestRequest| {
        let request = request.peer_addr(([127, 0, 0, 1], 1).into());
        test::call_service(&app, request.to_request()).await.status().as_u16()
    };
    let mut orders = hub.subscribe(["orders.>"], StartFrom::Earliest).await.unwrap();
    assert_eq!(call(test::TestRequest::post().uri("/orders/7")).await, 201);
    assert_eq!(next_data(&mut orders).await, "\"created\"");
    for (pattern, status) in [("orders.%3E", 401), ("news.%3E", 200)] {
        let uri = format!("/events/v1/poll?topic={pattern}&cursor=earliest");
        assert_eq!(call(test::TestRequest::get().uri(&uri)).await, status, "{pattern}");
    }
}
