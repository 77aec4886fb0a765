//! Microbenchmarks of the hot path: encoding, tail reads, pattern matching, commits. `cargo bench --bench micro`.

use std::hint::black_box;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::task::Waker;

use bytes::BytesMut;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use switchback::cursor::Position;
use switchback::event::Draft;
use switchback::log::{Bounds, FeedBatch};
use switchback::store::Store;
use switchback::subscription_index::SubscriptionIndex;
use switchback::tail::{Tail, TailLimits};
use switchback::wire::Framing;
use switchback::{Data, DiskStore, Event, MemoryStore, NewEvent, PatternSet, StoreOptions};

const DATA: &str = r#"{"by":"li","text":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"}"#;

fn new(topic: &str) -> NewEvent {
    NewEvent::new(topic.parse().expect("a topic"), Data::json(DATA).expect("JSON"))
}

fn draft(topic: &str) -> Draft {
    new(topic).draft(1_763_750_000_123)
}

fn event(topic: &str, position: u64) -> Arc<Event> {
    Arc::new(draft(topic).at("k3f9x2".parse().expect("an epoch"), Position(position)))
}

fn patterns(text: &str) -> PatternSet {
    PatternSet::new([text.parse().expect("a pattern")]).expect("one pattern")
}

fn encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode");
    let event = event("orders.42.status", 1042);
    group.throughput(Throughput::Bytes(event.json_bytes() as u64));
    let iframe = Framing::Iframe { nonce: "0123456789abcdef".into(), target: None };
    let sse = Framing::Sse { padding: false, named: true };
    for (name, framing) in
        [("websocket", Framing::WebSocket), ("sse", sse), ("iframe", iframe), ("json", Framing::Json)]
    {
        let mut out = BytesMut::with_capacity(1024);
        group.bench_function(name, |b| {
            b.iter(|| {
                out.clear();
                framing.event(black_box(&event), &mut out);
            });
        });
    }
    group.bench_function("draft, once an event", |b| {
        b.iter_batched(|| new("orders.42.status"), |new| black_box(new.draft(0)), BatchSize::SmallInput);
    });
    group.finish();
}

/// A tail that is full by the default limits, over so many topics.
fn tail(topics: u64) -> Tail {
    let epoch = "k3f9x2".parse().expect("an epoch");
    let bounds = Bounds { epoch, began: Position::ZERO, floor: Position::ZERO, last: Position::ZERO };
    let mut tail = Tail::new(bounds, Position::ZERO, TailLimits::default());
    let count = TailLimits::default().events_max as u64;
    let events = (1..=count).map(|n| event(&format!("t.{}", n % topics), n)).collect();
    tail.push(&FeedBatch { epoch, after: Position::ZERO, events, floor: Position::ZERO });
    tail
}

fn read(c: &mut Criterion) {
    let mut group = c.benchmark_group("tail read");
    for (name, topics, pattern, behind) in [
        ("the newest event", 1, "t.0", 1),
        ("one event among 10,000 of others", 10_000, "t.7", 16_000),
        ("64 events behind, everything", 100, ">", 64),
        ("16,000 events behind, a wildcard over 1,000 topics", 1000, "t.*", 16_000),
    ] {
        let (tail, patterns) = (tail(topics), patterns(pattern));
        let after = Position(tail.end().0 - behind);
        group.bench_function(name, |b| {
            b.iter(|| {
                tail.read(&patterns, after, &mut |event| {
                    black_box(event);
                    ControlFlow::Continue(())
                })
            });
        });
    }
    group.finish();
}

fn matching(c: &mut Criterion) {
    let mut group = c.benchmark_group("match");
    for count in [100, 10_000] {
        let mut subscription_index = SubscriptionIndex::default();
        for n in 0..count {
            subscription_index.register(&patterns(&format!("orders.{n}.*")));
        }
        let mine = subscription_index.register(&patterns("orders.*.status"));
        let topic = "orders.x.status".parse().expect("a topic");
        group.bench_function(format!("one of {count} wildcard patterns matches"), |b| {
            b.iter(|| {
                subscription_index.wait(mine, Waker::noop());
                subscription_index.mark_caught_up(mine);
                subscription_index.record_match(black_box(&topic), Position(1));
            });
        });
    }
    group.finish();
}

fn commit(c: &mut Criterion) {
    let mut group = c.benchmark_group("commit");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let stores: [(&str, Arc<dyn Store>); 2] = [
        ("memory", Arc::new(MemoryStore::new(StoreOptions::default()))),
        ("disk", Arc::new(DiskStore::open(home.path(), StoreOptions::default()).expect("the store opens"))),
    ];
    for (name, store) in stores {
        for count in [1_usize, 64] {
            group.throughput(Throughput::Elements(count as u64));
            group.bench_function(format!("{count} on {name}"), |b| {
                b.iter_batched(
                    || vec![draft("figures"); count],
                    |drafts| runtime.block_on(store.append(drafts)).expect("it is stored"),
                    BatchSize::SmallInput,
                );
            });
        }
    }
    group.finish();
}

criterion_group!(all, encode, read, matching, commit);
criterion_main!(all);
