//! Erasing a topic: what is gone, what stays, what readers are told, and that the bytes are gone from the disk.

use std::path::Path;
use std::time::Duration;

use switchback::clock::Moment;
use switchback::cursor::Position;
use switchback::event::Draft;
use switchback::store::{DiskStore, Page, Store, StoreOptions, backup};
use switchback::topic::Topic;
use switchback::wire::GapReason;

use super::common::*;
use super::contract::{Disk, Engine, Memory, maintained};

fn topic(text: &str) -> Topic {
    text.parse().unwrap()
}

async fn what_a_topic_has_is_erased_and_later_events_stay<E: Engine>() {
    let (store, _home) = E::open(StoreOptions::default());
    let recorder = Recorder::following(&store, 0);
    publish(&store, &["a", "b", "a", "c", "a", "b"]).await;
    let erased = store.erase(topic("a")).await.unwrap();
    assert_eq!((erased.events, erased.upto), (3, Position(6)));
    // No tail may hold what was erased.
    assert_eq!(recorder.batches().last().unwrap().floor, Position(5));
    publish(&store, &["a"]).await;
    let page = read(&store, &["a"], 0).await;
    let gap = page.trimmed.unwrap();
    assert_eq!((events_of(&Page { events: page.events, ..Page::default() }), gap.to), (vec![7], Position(5)));
    assert_eq!((gap.reason, gap.is_whole), (GapReason::Erased, false));
    // Told at its place, to those before it.
    let page = read(&store, &[">"], 0).await;
    assert_eq!((events_of(&page), page.through, page.trimmed.is_some()), (vec![2, 4], Position(4), false));
    let page = read(&store, &[">"], 4).await;
    assert_eq!((events_of(&page), page.trimmed.unwrap().to), (vec![6, 7], Position(5)));
    assert!(read(&store, &["a"], 5).await.trimmed.is_none());
    assert!(read(&store, &["b", "c"], 0).await.trimmed.is_none());
    // Again: only what has come since.
    assert_eq!(store.erase(topic("a")).await.unwrap().events, 1);
    assert_eq!(store.erase(topic("a")).await.unwrap().events, 0);
    assert_eq!(store.erase(topic("never")).await.unwrap().events, 0);
    assert!(read(&store, &["never"], 0).await.trimmed.is_none());
    assert_eq!(read(&store, &["a"], 0).await.trimmed.unwrap().to, Position(7));
    assert_eq!(publish(&store, &["a"]).await, [8]);
}

async fn ids_are_erased_too<E: Engine>() {
    let (store, _home) = E::open(StoreOptions::default());
    store.append(vec![keyed("a", "1"), keyed("b", "1")]).await.unwrap();
    store.erase(topic("a")).await.unwrap();
    let again = store.append(vec![keyed("a", "1"), keyed("b", "1")]).await.unwrap();
    assert_eq!(again.iter().map(|one| (one.position.0, one.duplicate)).collect::<Vec<_>>(), [(3, false), (2, true)]);
}

async fn a_whole_log_may_be_erased_and_goes_on<E: Engine>() {
    let (store, _home) = E::open(retention(10));
    publish(&store, &["a", "a", "a"]).await;
    store.erase(topic("a")).await.unwrap();
    assert_eq!((store.bounds().floor, store.bounds().last), (Position(3), Position(3)));
    assert_eq!(publish(&store, &["a"; 12]).await, (4..=15).collect::<Vec<_>>());
    let page = read(&store, &["a"], 0).await;
    assert_eq!((events_of(&page), page.trimmed.unwrap().reason), ((6..=15).collect(), GapReason::Erased));
}

macro_rules! erasing {
    ($($module:ident: $engine:ident),*) => { $(mod $module {
        use super::*;
        erasing! { @tests $engine:
            what_a_topic_has_is_erased_and_later_events_stay,
            ids_are_erased_too,
            a_whole_log_may_be_erased_and_goes_on,
        }
    })* };
    (@tests $engine:ident: $($test:ident,)*) => { $(#[tokio::test] async fn $test() { super::$test::<$engine>().await; })* };
}

erasing!(memory: Memory, disk: Disk);

const SECRET: &str = "the-number-of-her-passport";

fn secret(topic: &str, size: usize) -> Draft {
    new(topic, &format!("{}{SECRET}", "x".repeat(size))).with_id(SECRET).unwrap().draft(NOW_MS)
}

/// The files of a data directory that contain a text.
fn files_with(directory: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        if memchr::memmem::find(&bytes, text.as_bytes()).is_some() {
            found.push(path.file_name().unwrap().to_str().unwrap().to_owned());
        }
    }
    found
}

fn open(directory: &Path) -> DiskStore {
    DiskStore::open_at(directory, StoreOptions::default(), NOW_MS).unwrap()
}

/// Publishes secrets of every size, among other events; some in the index only, some with pages of their own.
async fn publish_secrets(store: &DiskStore) -> u64 {
    let sizes = (0..300).map(|number| number * 37 % 2000).chain([20_000, 70_000]);
    let mut last = 0;
    for (number, size) in sizes.enumerate() {
        let mut secret = secret("users.42", size);
        if number > 0 {
            secret = new("users.42", &format!("{}{SECRET}", "y".repeat(size))).draft(NOW_MS);
        }
        last = positions(&store.append(vec![secret, draft("other")]).await.unwrap())[1];
    }
    last
}

#[tokio::test]
async fn the_bytes_are_gone_from_every_file_when_it_is_answered() {
    let home = tempfile::tempdir().unwrap();
    let store = open(home.path());
    publish_secrets(&store).await;
    assert!(!files_with(home.path(), SECRET).is_empty());
    assert_eq!(store.erase(topic("users.42")).await.unwrap().events, 302);
    assert_eq!(files_with(home.path(), SECRET), [""; 0]);
    assert_eq!(read(&store, &["other"], 0).await.events.len(), 302);
    drop(store);
    // It stays so, and the gap is told, after a restart.
    let store = open(home.path());
    assert_eq!(files_with(home.path(), SECRET), [""; 0]);
    let page = read(&store, &["users.42"], 0).await;
    assert_eq!((page.events.len(), page.trimmed.unwrap().reason), (0, GapReason::Erased));
}

#[tokio::test]
async fn what_retention_had_removed_leaves_no_id_behind() {
    let home = tempfile::tempdir().unwrap();
    let options = StoreOptions { dedupe_window: Duration::from_secs(3600), ..retention(1) };
    let store = DiskStore::open_at(home.path(), options, NOW_MS).unwrap();
    store.append(vec![secret("users.42", 10), draft("other")]).await.unwrap();
    maintained(&store, Moment::at(NOW_MS)).await;
    assert_eq!(store.erase(topic("users.42")).await.unwrap().events, 0);
    drop(store);
    assert_eq!(files_with(home.path(), SECRET), [""; 0]);
}

#[tokio::test]
async fn a_backup_does_not_bring_erased_events_back() {
    let home = tempfile::tempdir().unwrap();
    let store = open(home.path());
    let last = publish_secrets(&store).await;
    let copy = home.path().join("copy.db");
    backup(home.path(), &copy).unwrap();
    store.erase(topic("users.42")).await.unwrap();
    store.append(vec![new("users.42", "after").draft(NOW_MS)]).await.unwrap();
    // As an operator restores it: into the same directory, over the log.
    store.close().await;
    drop(store);
    std::fs::rename(&copy, home.path().join("events.db")).unwrap();
    let store = open(home.path());
    assert_eq!(store.bounds().last, Position(last));
    assert_eq!(files_with(home.path(), SECRET), [""; 0]);
    let page = read(&store, &["users.42"], 0).await;
    assert_eq!((page.events.len(), page.trimmed.unwrap().reason), (0, GapReason::Erased));
    // What the restored log publishes is its own.
    assert_eq!(publish(&store, &["users.42"]).await, [last + 1]);
    drop(store);
    assert_eq!(read(&open(home.path()), &["users.42"], last).await.events.len(), 1);
}

#[tokio::test]
async fn a_backup_that_is_younger_than_an_erasure_keeps_what_came_after_it() {
    let home = tempfile::tempdir().unwrap();
    let store = open(home.path());
    publish(&store, &["a", "b"]).await;
    store.erase(topic("a")).await.unwrap();
    publish(&store, &["a"]).await;
    let copy = home.path().join("copy.db");
    backup(home.path(), &copy).unwrap();
    store.close().await;
    drop(store);
    // In the same directory, and in a new one, whose own list comes from the backup.
    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::copy(&copy, elsewhere.path().join("events.db")).unwrap();
    std::fs::rename(&copy, home.path().join("events.db")).unwrap();
    for directory in [home.path(), elsewhere.path()] {
        for _ in 0..2 {
            let store = open(directory);
            let page = read(&store, &["a"], 0).await;
            assert_eq!((events_of(&page), page.trimmed.unwrap().reason), (vec![3], GapReason::Erased));
        }
    }
}

#[tokio::test]
async fn an_erasure_that_was_interrupted_is_completed_at_the_next_start() {
    let home = tempfile::tempdir().unwrap();
    let store = open(home.path());
    let last = publish_secrets(&store).await;
    let epoch = store.bounds().epoch.to_string();
    drop(store);
    // As a process leaves it that was killed after the topic was listed.
    let list = rusqlite::Connection::open(home.path().join("erasures.db")).unwrap();
    let entry = rusqlite::params!["users.42", epoch, last as i64, NOW_MS as i64];
    list.execute("INSERT INTO erasures VALUES (?1, ?2, ?3, ?4)", entry).unwrap();
    drop(list);
    let store = open(home.path());
    assert_eq!(read(&store, &["users.42"], 0).await.events.len(), 0);
    assert_eq!(read(&store, &["other"], 0).await.events.len(), 302);
    drop(store);
    assert_eq!(files_with(home.path(), SECRET), [""; 0]);
}
