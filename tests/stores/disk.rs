//! The disk store: files, restarts, backups and faults. The contract of every store is in `contract.rs`.
//!
//! Some tests need another process: they start this binary again, with a task in its environment.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use switchback::clock::{LastRun, Moment};
use switchback::cursor::{Cursor, Position};
use switchback::event::Draft;
use switchback::store::{
    BackupError, ClientRecord, DiskStore, Feed, FeedBatch, OpenError, ReadMode, ReadRequest, Retention, SecurityRecord,
    SecurityRecordKind, Store, StoreError, StoreOptions, backup,
};
use switchback::{Data, EventHeaders, NewEvent};
use uuid::Uuid;

use super::common::*;
use super::until;
use crate::support::small::Small;

fn open(directory: &Path) -> DiskStore {
    open_with(directory, StoreOptions::default())
}

fn open_with(directory: &Path, options: StoreOptions) -> DiskStore {
    DiskStore::open(directory, options).unwrap()
}

/// A copy of a data directory, made by another process: closing a file that SQLite has open takes its locks away.
fn copy_of(directory: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    let source = directory.join(".");
    assert!(Command::new("cp").arg("-r").arg(source).arg(copy.path()).status().unwrap().success());
    copy
}

const TASK: &str = "SWITCHBACK_TEST_TASK";
const TASK_DIRECTORY: &str = "SWITCHBACK_TEST_DIRECTORY";

/// Runs a task in another process and returns its output.
fn in_another_process(task: &str, directory: &Path) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "stores::disk::task", "--nocapture"])
        .env(TASK, task)
        .env(TASK_DIRECTORY, directory)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{task}: {said} {}", String::from_utf8_lossy(&output.stderr));
    let answer = said.lines().find_map(|line| line.strip_prefix("answer: "));
    answer.unwrap_or_else(|| panic!("{task} said {said:?}")).to_owned()
}

/// Not a test by itself: the entry point of `in_another_process`.
#[test]
fn task() {
    let (Ok(task), Some(directory)) = (std::env::var(TASK), std::env::var_os(TASK_DIRECTORY)) else { return };
    let directory = PathBuf::from(directory);
    let answer = match task.as_str() {
        "open" => match DiskStore::open(&directory, StoreOptions::default()) {
            Ok(_) => "opened".into(),
            Err(error) => error.to_string(),
        },
        "backup" => match backup(&directory, &directory.join("copy.db")) {
            Ok(report) => format!("{} {}", report.last, report.clients),
            Err(error) => error.to_string(),
        },
        "cost of opening" => {
            let before = bytes_read();
            let store = open(&directory);
            let cost = bytes_read() - before;
            format!("{cost} {}", store.bounds().last)
        }
        other => panic!("what is {other}?"),
    };
    println!("\nanswer: {answer}");
}

/// The number of bytes that this process has read from files so far.
fn bytes_read() -> u64 {
    let io = fs::read_to_string("/proc/self/io").unwrap();
    io.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
}

#[test]
fn the_library_is_free_of_the_old_write_ahead_bug() {
    assert!(rusqlite::version_number() >= 3_051_003, "{}", rusqlite::version());
}

#[tokio::test]
async fn a_restart_keeps_everything() {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("not/there/yet");
    let options = StoreOptions { dedupe_window: Duration::from_secs(60), ..retention(5) };
    let client = ClientRecord {
        client: Uuid::from_u128(7),
        patterns: patterns(&["a.*", "b"]),
        cursor: Cursor::new("e".parse().unwrap(), Position(9)),
        seen_ms: 1,
        mode: ReadMode::default(),
        upto: None,
        owner: Some("li".into()),
        address: None,
    };
    let (epoch, events) = {
        let store = open_with(&directory, options.clone());
        store.append(vec![keyed("gone", "1"), draft("a.1"), keyed("b", "1")]).await.unwrap();
        store.append(vec![draft("a.2"), keyed("b", "2"), draft("c"), draft("a.1")]).await.unwrap();
        store.save_clients(vec![client.clone()]).await.unwrap();
        let page = read(&store, &[">"], 2).await;
        store.close().await;
        (store.bounds().epoch, page.events)
    };
    for _ in 0..3 {
        let store = open_with(&directory, options.clone());
        let bounds = store.bounds();
        assert_eq!((bounds.epoch, bounds.began.0, bounds.floor.0, bounds.last.0), (epoch, 0, 2, 7));
        assert_eq!(read(&store, &[">"], 2).await.events, events);
        // Gaps are as exact as before the restart.
        for (text, after, lost) in [
            ("gone", 0, true),
            ("gone", 1, false),
            ("a.1", 0, true),
            ("a.1", 2, false),
            ("a.2", 0, false),
            ("b", 0, false),
        ] {
            assert_eq!(read(&store, &[text], after).await.trimmed.is_some(), lost, "{text} after {after}");
        }
        // Keys are still remembered, including those of trimmed events.
        let again = store.append(vec![keyed("gone", "1"), keyed("b", "1"), keyed("b", "2")]).await.unwrap();
        assert_eq!(positions(&again), [1, 3, 5]);
        assert_eq!(store.load_client(client.client).await.unwrap().as_ref(), Some(&client));
        // Dropped instead of closed, which is equivalent.
    }
    let store = open_with(&directory, options.clone());
    assert_eq!(publish(&store, &["a.1", "new"]).await, [8, 9]);
    assert_eq!(events_of(&read(&store, &["a.1", "new"], 2).await), [7, 8, 9]);
}

/// The schema before events had headers, with data of a server of that version.
const FIRST_FORMAT: &str = "
    PRAGMA auto_vacuum = INCREMENTAL;
    PRAGMA application_id = 0x53774c67;
    PRAGMA user_version = 1;
    CREATE TABLE meta(
        one INTEGER PRIMARY KEY CHECK (one = 1), epoch TEXT NOT NULL, began INTEGER NOT NULL,
        last INTEGER NOT NULL, floor INTEGER NOT NULL, bytes INTEGER NOT NULL, folded INTEGER NOT NULL);
    CREATE TABLE topics(id INTEGER PRIMARY KEY, topic TEXT NOT NULL UNIQUE, mark INTEGER NOT NULL);
    CREATE TABLE e(
        seq INTEGER PRIMARY KEY, topic_id INTEGER NOT NULL, time INTEGER NOT NULL, cost INTEGER NOT NULL,
        base64 INTEGER NOT NULL, name TEXT, id TEXT, data TEXT NOT NULL);
    CREATE INDEX e_topic ON e(topic_id, seq, time, base64, name, id, CASE WHEN cost <= 960 THEN data END);
    CREATE INDEX e_keyed ON e(time) WHERE id IS NOT NULL;
    CREATE TABLE kept_keys(seq INTEGER PRIMARY KEY, topic TEXT NOT NULL, id TEXT NOT NULL, time INTEGER NOT NULL);
    INSERT INTO topics VALUES (1, 'a', 0), (2, 'b', 0);
    INSERT INTO e VALUES
        (1, 1, 1763750000000, 72, 0, 'n', 'k', '{\"a\":1}'),
        (2, 2, 1763750000000, 71, 1, NULL, NULL, '\"AP8=\"'),
        (3, 1, 1763750000000, 66, 0, NULL, NULL, '7');
    INSERT INTO meta VALUES (1, 'old', 0, 3, 0, 209, 0);";

fn format_of(directory: &Path) -> i32 {
    let db =
        rusqlite::Connection::open_with_flags(directory.join("events.db"), rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY);
    db.unwrap().pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn a_log_of_the_first_format_is_opened_as_it_is_and_stays_one_until_it_cannot() {
    let home = tempfile::tempdir().unwrap();
    rusqlite::Connection::open(home.path().join("events.db")).unwrap().execute_batch(FIRST_FORMAT).unwrap();
    let keyed = |data: &str| {
        let event = NewEvent::new("a".parse().unwrap(), Data::json(data).unwrap());
        event.named("n").unwrap().with_id("k").unwrap().draft(NOW_MS)
    };
    let headers = EventHeaders::new([("a", "b")]).unwrap();
    let events = {
        let store = open(home.path());
        let events = read(&store, &[">"], 0).await.events;
        let seen: Vec<_> = events.iter().map(|event| (event.data(), event.is_base64(), event.is_deletion())).collect();
        assert_eq!(seen, [("{\"a\":1}", false, false), ("\"AP8=\"", true, false), ("7", false, false)]);
        assert!(events.iter().all(|event| event.headers().is_empty()));
        let again = store.append(vec![keyed("{\"a\":1}"), keyed("2")]).await.unwrap();
        assert_eq!(again.iter().map(|one| (one.position.0, one.differs)).collect::<Vec<_>>(), [(1, false), (1, true)]);
        publish(&store, &["a", "b"]).await;
        let events = read(&store, &[">"], 0).await.events;
        store.close().await;
        events
    };
    assert_eq!(format_of(home.path()), 1, "an older server may still open it");
    {
        let store = open(home.path());
        // An event that is not stored changes nothing.
        let repeat = vec![new("a", "x").with_headers(headers.clone()).with_id("k").unwrap().draft(NOW_MS)];
        assert!(store.append(repeat).await.unwrap()[0].differs);
        store.close().await;
    }
    assert_eq!(format_of(home.path()), 1);
    let store = open(home.path());
    let event = new("b", "y").with_headers(headers).with_id("h").unwrap();
    store
        .append(vec![NewEvent::deletion("a".parse().unwrap()).draft(NOW_MS), event.clone().draft(NOW_MS)])
        .await
        .unwrap();
    let all = read(&store, &[">"], 0).await.events;
    assert_eq!(all[..5], events[..]);
    store.close().await;
    drop(store);
    assert_eq!(format_of(home.path()), 2, "an older server would take the form for base64");

    let store = open(home.path());
    assert_eq!(read(&store, &["a"], 0).await.events.len(), 4);
    assert_eq!(read(&store, &[">"], 0).await.events, all);
    let other = new("b", "y").with_id("h").unwrap();
    let again = store.append(vec![event.draft(NOW_MS), other.draft(NOW_MS)]).await.unwrap();
    assert_eq!(again.iter().map(|one| (one.position.0, one.differs)).collect::<Vec<_>>(), [(7, false), (7, true)]);
    // A backup has the format of its log.
    let (copy, restored) = (home.path().join("copy.db"), home.path().join("restored"));
    backup(home.path(), &copy).unwrap();
    fs::create_dir(&restored).unwrap();
    fs::rename(copy, restored.join("events.db")).unwrap();
    let restored_store = open(&restored);
    let shown = |events: &[Arc<switchback::Event>]| {
        events.iter().map(|event| (event.headers().to_owned(), event.data().to_owned())).collect::<Vec<_>>()
    };
    assert_eq!(shown(&read(&restored_store, &[">"], 0).await.events), shown(&all));
    restored_store.close().await;
    assert_eq!(format_of(&restored), 2);
}

#[tokio::test]
async fn after_a_full_trim_and_a_restart_positions_go_on() {
    let home = tempfile::tempdir().unwrap();
    let store = open_with(home.path(), retention(0));
    publish(&store, &["a", "b"]).await;
    assert_eq!(store.bounds().floor, Position(2));
    drop(store);
    let store = open(home.path());
    assert_eq!(publish(&store, &["a"]).await, [3]);
    assert_eq!(read(&store, &["b"], 1).await.trimmed.unwrap().to, Position(2));
}

#[tokio::test]
async fn retained_events_are_found_after_a_restart() {
    let home = tempfile::tempdir().unwrap();
    let cost = draft("a").cost_bytes();
    let retention = Retention { bytes_max: Some(3 * cost), ..Retention::default() };
    let options = StoreOptions { retention, ..StoreOptions::default() };
    for n in 1..10_u64 {
        let store = open_with(home.path(), options.clone());
        publish(&store, &["a"]).await;
        assert_eq!(store.bounds().floor.0, n.saturating_sub(3));
    }
}

#[tokio::test]
async fn keys_of_trimmed_events_are_kept_no_longer_than_they_count() {
    let home = tempfile::tempdir().unwrap();
    let options = StoreOptions { dedupe_window: Duration::from_secs(10), ..retention(1) };
    let kept_keys = || {
        let db = rusqlite::Connection::open(home.path().join("events.db")).unwrap();
        db.query_row("SELECT count(*) FROM kept_keys", [], |row| row.get::<_, i64>(0)).unwrap()
    };
    let store = open_with(home.path(), options.clone());
    for n in 0..3000 {
        store.append(vec![keyed("a", &n.to_string())]).await.unwrap();
    }
    drop(store);
    assert_eq!(kept_keys(), 2999);
    let store = open_with(home.path(), options.clone());
    assert_eq!(positions(&store.append(vec![keyed("a", "0"), keyed("a", "2998")]).await.unwrap()), [1, 2999]);
    store.maintain(Moment::at(NOW_MS + 10_001));
    let again = new("a", "x").with_id("0").unwrap().draft(NOW_MS + 10_001);
    assert_eq!(positions(&store.append(vec![again]).await.unwrap()), [3001]);
    drop(store);
    // Maintenance slices that were left at the close are done after the next open.
    let store = open_with(home.path(), options.clone());
    store.maintain(Moment::at(NOW_MS + 10_002));
    until("the keys are removed", async || kept_keys() == 0).await;
}

#[tokio::test]
async fn keys_are_known_after_a_restart_though_one_is_of_the_future() {
    let home = tempfile::tempdir().unwrap();
    let options = StoreOptions { dedupe_window: Duration::from_secs(10), ..StoreOptions::default() };
    let at = |id: &str, time_ms| new("a", "x").with_id(id).unwrap().draft(time_ms);
    let store = DiskStore::open_at(home.path(), options.clone(), NOW_MS).unwrap();
    store.append(vec![at("ahead", NOW_MS + 3_600_000), at("right", NOW_MS)]).await.unwrap();
    drop(store);
    let store = DiskStore::open_at(home.path(), options, NOW_MS + 3000).unwrap();
    let again = store.append(vec![at("right", NOW_MS + 3000), at("ahead", NOW_MS + 3000)]).await.unwrap();
    assert_eq!(positions(&again), [2, 1]);
}

#[tokio::test]
async fn a_restart_knows_the_last_use_of_the_log_and_the_last_event() {
    let home = tempfile::tempdir().unwrap();
    let retention = Retention { age_max: Some(Duration::from_secs(1)), ..Retention::default() };
    let options = StoreOptions { retention, ..StoreOptions::default() };
    let store = open_with(home.path(), options.clone());
    assert_eq!(store.last_run(), None);
    store.append(vec![new("a", "an hour ahead").draft(NOW_MS + 3_600_000)]).await.unwrap();
    let first = Moment { boot_ms: 7000, boot_id: Some(Uuid::from_u128(5)), ..Moment::at(NOW_MS) };
    store.maintain(first);
    // Completes once the writer has processed everything before it.
    store.append(Vec::new()).await.unwrap();
    store.maintain(Moment { boot_ms: 7100, wall_ms: NOW_MS + 100, believed_ms: NOW_MS + 100, ..first });
    drop(store);
    let store = open_with(home.path(), options.clone());
    let expected = LastRun { believed_ms: NOW_MS + 100, boot_ms: 7100, boot_id: first.boot_id };
    assert_eq!(store.last_run(), Some(expected));
    store.maintain(Moment::at(NOW_MS + 1000));
    store.append(vec![draft("a")]).await.unwrap();
    assert_eq!(store.bounds().floor, Position(0));
    store.maintain(Moment::at(NOW_MS + 1001));
    until("the event of the future is trimmed", async || store.bounds().floor == Position(1)).await;
}

#[tokio::test]
async fn a_second_server_on_the_directory_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let store = open(home.path());
    match DiskStore::open(home.path(), StoreOptions::default()) {
        Err(OpenError::Locked { holder, .. }) => assert_eq!(holder, Some(std::process::id())),
        other => panic!("{other:?}"),
    }
    let said = in_another_process("open", home.path());
    assert!(said.contains(&format!("process {}", std::process::id())), "{said}");
    assert_eq!(publish(&store, &["a"]).await, [1]);
    store.close().await;
    assert_eq!(in_another_process("open", home.path()), "opened");
    assert_eq!(open(home.path()).bounds().last, Position(1));
}

#[tokio::test]
async fn a_torn_write_at_the_end_takes_the_last_group_only() {
    let home = tempfile::tempdir().unwrap();
    let store = open(home.path());
    let mut ends = Vec::new();
    for size in [1, 3, 2, 5] {
        ends.push(store.append(vec![draft("a"); size]).await.unwrap().last().unwrap().position.0);
    }
    let epoch = store.bounds().epoch;
    let wal_bytes = fs::metadata(home.path().join("events.db-wal")).unwrap().len();
    type Tear = fn(&mut Vec<u8>);
    let tears: [(&str, Tear, u64); 5] = [
        ("nothing", |_| {}, 11),
        ("its last byte is missing", |wal| wal.truncate(wal.len() - 1), 6),
        ("its last page is missing", |wal| wal.truncate(wal.len() - 4096 - 24), 6),
        ("a bit of its last page is wrong", |wal| *wal.last_mut().unwrap() ^= 1, 6),
        ("there is rubbish behind it", |wal| wal.extend([0x5a; 10_000]), 11),
    ];
    for (what, tear, last) in tears {
        let copy = copy_of(home.path());
        let path = copy.path().join("events.db-wal");
        let mut wal = fs::read(&path).unwrap();
        tear(&mut wal);
        fs::write(&path, wal).unwrap();
        let store = open(copy.path());
        let bounds = store.bounds();
        assert_eq!((bounds.epoch, bounds.last.0), (epoch, last), "{what}");
        assert_eq!(events_of(&read(&store, &[">"], 0).await), (1..=last).collect::<Vec<_>>());
        assert_eq!(publish(&store, &["a", "new"]).await, [last + 1, last + 2]);
    }
    // For any cut, the rest is a log that ends with a commit group.
    for cut in (0..wal_bytes).step_by(1999) {
        let copy = copy_of(home.path());
        fs::File::options().write(true).open(copy.path().join("events.db-wal")).unwrap().set_len(cut).unwrap();
        let store = open(copy.path());
        let last = store.bounds().last.0;
        assert!(last == 0 || ends.contains(&last), "{last} of {ends:?}");
        assert_eq!(events_of(&read(&store, &["a"], 0).await), (1..=last).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_plain_copy_is_the_same_log() {
    let home = tempfile::tempdir().unwrap();
    let store = open(home.path());
    publish(&store, &["a", "b"]).await;
    store.close().await;
    let copy = copy_of(home.path());
    assert_eq!(open(copy.path()).bounds(), store.bounds());
}

fn record(kind: SecurityRecordKind, key: &str, value: &[u8]) -> SecurityRecord {
    SecurityRecord { kind, key: key.into(), value: value.into(), until_ms: NOW_MS + 1 }
}

#[tokio::test]
async fn records_survive_a_crash_and_a_ticket_that_was_taken_stays_taken() {
    let home = tempfile::tempdir().unwrap();
    let store = open(home.path());
    for (kind, key) in
        [(SecurityRecordKind::Ticket, "used"), (SecurityRecordKind::Ticket, "left"), (SecurityRecordKind::Ban, "b")]
    {
        store.save_record(record(kind, key, b"v")).await.unwrap();
    }
    assert!(store.consume_record(SecurityRecordKind::Ticket, "used".into(), NOW_MS).await.unwrap().is_some());
    // As after a kill: no file is closed.
    let copy = copy_of(home.path());
    let store = open(copy.path());
    let watcher = Arc::new(Watcher::default());
    store.watch_records(watcher.clone()).await.expect("the stored records");
    assert_eq!(watcher.records(), [record(SecurityRecordKind::Ban, "b", b"v")], "notified when it returns");
    assert_eq!(store.consume_record(SecurityRecordKind::Ticket, "used".into(), NOW_MS).await.unwrap(), None);
    assert!(store.consume_record(SecurityRecordKind::Ticket, "left".into(), NOW_MS).await.unwrap().is_some());
}

#[tokio::test]
async fn clients_of_a_file_without_owners_are_read() {
    let home = tempfile::tempdir().unwrap();
    let cursor = {
        let store = open(home.path());
        let cursor = Cursor::new(store.bounds().epoch, Position(1));
        store.save_clients(vec![client(1, cursor)]).await.unwrap();
        store.close().await;
        cursor
    };
    for older in [2, 1] {
        let db = rusqlite::Connection::open(home.path().join("clients.db")).unwrap();
        db.execute_batch(
            "DROP INDEX clients_order; DROP INDEX clients_owner; DROP INDEX clients_address;
             ALTER TABLE clients DROP COLUMN latest; ALTER TABLE clients DROP COLUMN pace; ALTER TABLE clients DROP COLUMN upto;
             ALTER TABLE clients DROP COLUMN address; ALTER TABLE clients DROP COLUMN weight;
             CREATE INDEX clients_seen ON clients(seen)",
        )
        .unwrap();
        if older == 1 {
            db.execute_batch("ALTER TABLE clients DROP COLUMN owner").unwrap();
        }
        db.pragma_update(None, "user_version", older).unwrap();
        drop(db);
        let store = open(home.path());
        assert_eq!(store.load_client(Uuid::from_u128(1)).await.unwrap(), Some(client(1, cursor)));
    }
    let store = open(home.path());
    let owned = ClientRecord { owner: Some("li".into()), ..client(2, cursor) };
    store.save_clients(vec![owned.clone()]).await.unwrap();
    assert_eq!(store.load_client(Uuid::from_u128(2)).await.unwrap(), Some(owned));
}

fn client(n: u128, cursor: Cursor) -> ClientRecord {
    ClientRecord {
        client: Uuid::from_u128(n),
        patterns: patterns(&["a"]),
        cursor,
        seen_ms: NOW_MS,
        mode: ReadMode::default(),
        upto: None,
        owner: None,
        address: None,
    }
}

#[tokio::test]
async fn a_restored_backup_is_a_new_log_that_begins_where_it_ended() {
    let home = tempfile::tempdir().unwrap();
    let store = open_with(home.path(), retention(3));
    store.append(vec![keyed("a", "k"), draft("a"), draft("b"), draft("a")]).await.unwrap();
    let old = store.bounds();
    let cursor = Cursor::new(old.epoch, Position(3));
    store.save_clients(vec![client(1, cursor), client(2, cursor)]).await.unwrap();
    let records = [SecurityRecordKind::Ban, SecurityRecordKind::Revocation, SecurityRecordKind::Ticket]
        .map(|kind| record(kind, "k", b"then"));
    for record in &records {
        store.save_record(record.clone()).await.unwrap();
    }
    let file = home.path().join("copy.db");
    let report = backup(home.path(), &file).unwrap();
    assert_eq!((report.epoch, report.floor.0, report.last.0, report.clients), (old.epoch, 1, 4, 2));
    assert_eq!(report.bytes, fs::metadata(&file).unwrap().len());
    assert!(matches!(backup(home.path(), &file), Err(BackupError::Exists(_))));
    // Events after the backup are lost with the machine.
    publish(&store, &["a", "a"]).await;
    drop(store);

    let fresh = tempfile::tempdir().unwrap();
    fs::copy(&file, fresh.path().join("events.db")).unwrap();
    // Restored into the original directory, where the old log's write-ahead log and newer clients are left.
    let used = tempfile::tempdir().unwrap();
    let other = open(used.path());
    publish(&other, &["z"; 20]).await;
    other.save_clients(vec![client(2, Cursor::new(old.epoch, Position(4)))]).await.unwrap();
    other.save_record(record(SecurityRecordKind::Ban, "k", b"now")).await.unwrap();
    let left = copy_of(used.path());
    assert!(fs::metadata(left.path().join("events.db-wal")).unwrap().len() > 0);
    fs::copy(&file, left.path().join("events.db")).unwrap();

    for (directory, second, ban) in [(fresh.path(), 3, b"then".as_slice()), (left.path(), 4, b"now")] {
        let mut epoch = None;
        for restart in 0..3 {
            let store = open(directory);
            let bounds = store.bounds();
            assert_ne!(bounds.epoch, old.epoch);
            assert_eq!(*epoch.get_or_insert(bounds.epoch), bounds.epoch, "minted once");
            assert_eq!((bounds.began.0, bounds.floor.0, bounds.last.0), (4, 1, 4 + restart));
            assert_eq!(events_of(&read(&store, &[">"], 1).await)[..3], [2, 3, 4]);
            assert!(store.append(vec![keyed("a", "k")]).await.unwrap()[0].duplicate);
            for (n, position) in [(1, 3), (2, second)] {
                let record = store.load_client(Uuid::from_u128(n)).await.unwrap().unwrap();
                assert_eq!(record.cursor, Cursor::new(old.epoch, Position(position)));
            }
            assert_eq!(publish(&store, &["a"]).await, [5 + restart]);
            // Bans are kept.
            let watcher = Arc::new(Watcher::default());
            store.watch_records(watcher.clone()).await.expect("the stored records");
            assert_eq!(watcher.records().len(), 2);
            assert!(watcher.records().contains(&record(SecurityRecordKind::Ban, "k", ban)));
            assert_eq!(store.consume_record(SecurityRecordKind::Ticket, "k".into(), NOW_MS).await.unwrap(), None);
        }
    }
    // A copy is self-contained, and so is a copy of a copy that was never opened.
    let shelf = tempfile::tempdir().unwrap();
    fs::copy(&file, shelf.path().join("events.db")).unwrap();
    let again = backup(shelf.path(), &shelf.path().join("again.db")).unwrap();
    assert_eq!((again.last.0, again.clients), (4, 2));
}

#[test]
fn a_backup_that_cannot_be_made_leaves_nothing() {
    let home = tempfile::tempdir().unwrap();
    assert!(matches!(backup(home.path(), &home.path().join("x")), Err(BackupError::NoLog(_))));
    fs::write(home.path().join("events.db"), "not a log at all").unwrap();
    assert!(matches!(backup(home.path(), &home.path().join("x")), Err(BackupError::Copy { .. })));
    drop(open(&home.path().join("log")));
    let nowhere = home.path().join("no/such/directory/x");
    assert!(backup(&home.path().join("log"), &nowhere).is_err());
    let names: Vec<_> = fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

#[tokio::test]
async fn a_backup_during_writes_is_one_moment_of_the_log() {
    let home = tempfile::tempdir().unwrap();
    let store = Arc::new(open_with(home.path(), retention(500)));
    let stop = Arc::new(AtomicBool::new(false));
    let publisher = {
        let (store, stop) = (store.clone(), stop.clone());
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                publish(&*store, &["a", "b", "a.b"]).await;
            }
        })
    };
    for from in [100, 1000] {
        until("some events", async || store.bounds().last.0 > from).await;
        let before = store.bounds().last.0;
        let directory = home.path().to_owned();
        let said = tokio::task::spawn_blocking(move || in_another_process("backup", &directory)).await.unwrap();
        let (last, clients) = said.split_once(' ').unwrap();
        let last: u64 = last.parse().unwrap_or_else(|_| panic!("{said}"));
        assert!(last >= before && clients == "0");
        let restored = tempfile::tempdir().unwrap();
        fs::rename(home.path().join("copy.db"), restored.path().join("events.db")).unwrap();
        let copy = open(restored.path());
        assert_eq!(copy.bounds().last.0, last);
        assert_eq!(last % 3, 0, "part of a batch");
        let floor = copy.bounds().floor.0;
        assert_eq!(events_of(&read(&copy, &[">"], 0).await), (floor + 1..=last).collect::<Vec<_>>());
    }
    stop.store(true, Ordering::Relaxed);
    publisher.await.unwrap();
}

#[test]
fn a_file_that_is_no_log_is_not_touched() {
    let home = tempfile::tempdir().unwrap();
    let refused = |directory: &Path| match DiskStore::open(directory, StoreOptions::default()) {
        Err(OpenError::Path { reason, .. }) => reason,
        other => panic!("{other:?}"),
    };
    let text = home.path().join("text");
    fs::create_dir(&text).unwrap();
    fs::write(text.join("events.db"), "something else, and long enough to have a header".repeat(100)).unwrap();
    refused(&text);
    assert!(fs::read_to_string(text.join("events.db")).unwrap().starts_with("something else"));

    let other = home.path().join("other");
    fs::create_dir(&other).unwrap();
    let db = rusqlite::Connection::open(other.join("events.db")).unwrap();
    db.execute_batch("CREATE TABLE mine(x)").unwrap();
    drop(db);
    assert!(refused(&other).contains("not a Switchback log"));

    for file in ["events.db", "clients.db", "notes.db"] {
        let newer = home.path().join(format!("newer {file}"));
        drop(open(&newer));
        let db = rusqlite::Connection::open(newer.join(file)).unwrap();
        db.pragma_update(None, "user_version", 99).unwrap();
        drop(db);
        let reason = refused(&newer);
        assert!(reason.contains("newer switchback (format 99)"), "{file}: {reason}");
    }

    let file = home.path().join("file");
    fs::write(&file, "").unwrap();
    refused(&file);
    refused(&file.join("below"));
}

/// 200,000 events of 100 bytes, written directly into the database to save time.
fn a_long_log(directory: &Path) {
    drop(open(directory));
    let db = rusqlite::Connection::open(directory.join("events.db")).unwrap();
    db.execute_batch(
        "PRAGMA synchronous=OFF; BEGIN;
         INSERT INTO topics
            WITH RECURSIVE n(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n WHERE n < 1000) SELECT n, 't.' || n, 0 FROM n;
         INSERT INTO e
            WITH RECURSIVE n(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n WHERE n < 200000)
            SELECT n, 1 + n % 1000, n, 200, 0, NULL, NULL, '\"' || printf('%0100d', n) || '\"' FROM n;
         UPDATE meta SET last = 200000, bytes = 40000000; COMMIT",
    )
    .unwrap();
}

#[test]
fn a_long_log_is_not_read_to_be_opened() {
    let home = tempfile::tempdir().unwrap();
    a_long_log(home.path());
    let log_bytes = fs::metadata(home.path().join("events.db")).unwrap().len();
    assert!(log_bytes > 20_000_000);
    let said = in_another_process("cost of opening", home.path());
    let (cost, last) = said.split_once(' ').unwrap();
    assert_eq!(last, "200000");
    assert!(cost.parse::<u64>().unwrap() < 1_000_000, "{cost} bytes read of {log_bytes}");
}

/// After a start, a snapshot of all topics reads as many rows as there are topics, while other events come.
#[tokio::test]
async fn a_snapshot_of_a_long_log_reads_its_topics() {
    let home = tempfile::tempdir().unwrap();
    a_long_log(home.path());
    let store = open(home.path());
    let (mut after, upto, mut found, mut rows) = (Position::ZERO, Position(200_001), Vec::new(), 0);
    assert_eq!(publish(&store, &["t.500"]).await, [upto.0]);
    while after < upto {
        let round =
            ReadRequest { after, events_max: 256, rows_max: 8192, latest_upto: Some(upto), ..request(&["t.*"], 0) };
        let page = store.read(round).await.unwrap();
        assert!(page.through > after);
        after = page.through;
        rows += page.rows;
        found.extend(events_of(&page));
        // Of a topic that is read already, of one that is not, and of a new one.
        publish(&store, &["t.1", "t.999", "new"]).await;
    }
    // Of topic n, one more than the remainder of a position: the last thousand, one of which is superseded.
    let mut expected: Vec<u64> = (199_001..=200_001).collect();
    expected.retain(|position| position % 1000 != 499);
    assert_eq!(found, expected);
    assert!(rows <= 1010, "{rows} rows");
}

#[tokio::test]
async fn the_write_ahead_log_stays_short_and_space_comes_back() {
    let home = tempfile::tempdir().unwrap();
    let retention = Retention { age_max: Some(Duration::from_secs(1)), ..Retention::default() };
    let store = open_with(home.path(), StoreOptions { retention, ..StoreOptions::default() });
    let size = |name: &str| fs::metadata(home.path().join(name)).unwrap().len();
    let megabyte = || -> Vec<Draft> { (0..16).map(|_| new("a", &"x".repeat(64 * 1024)).draft(NOW_MS)).collect() };
    for _ in 0..60 {
        store.append(megabyte()).await.unwrap();
        assert!(size("events.db-wal") < 20 << 20, "{} bytes", size("events.db-wal"));
        // Readers open and close meanwhile.
        assert_eq!(read(&store, &["a"], store.bounds().last.0 - 1).await.events.len(), 1);
    }
    assert!(size("events.db") > 40 << 20);
    until("space is returned to the file system", async || {
        store.maintain(Moment::at(NOW_MS + 2000));
        size("events.db") < 25 << 20
    })
    .await;
    assert_eq!(store.bounds().floor, store.bounds().last);
}

#[tokio::test]
async fn a_lower_limit_is_reached_without_a_publisher() {
    let home = tempfile::tempdir().unwrap();
    let store = open(home.path());
    for _ in 0..8 {
        store.append(vec![draft("a"); 1000]).await.unwrap();
    }
    drop(store);
    let store = open_with(home.path(), retention(10));
    until("the log has shrunk", async || store.bounds().floor == Position(7990)).await;
    assert_eq!(read(&store, &["a"], 0).await.events.len(), 10);
}

/// A feed that blocks until it is released.
#[derive(Default)]
struct Stuck {
    free: Mutex<bool>,
    moved: Condvar,
}

impl Feed for Stuck {
    fn push(&self, _: FeedBatch) {
        drop(self.moved.wait_while(self.free.lock().unwrap(), |free| !*free).unwrap());
    }
}

#[tokio::test]
async fn the_queue_of_appends_is_bounded_and_readers_do_not_wait_for_it() {
    let home = tempfile::tempdir().unwrap();
    let store = open(home.path());
    let stuck = Arc::new(Stuck::default());
    store.follow(Position::ZERO, stuck.clone());
    let mut waiting = vec![store.append(vec![draft("a")])];
    until("the first is durable", async || store.bounds().last == Position(1)).await;
    let mut refused = 0;
    for _ in 0..200 {
        let mut answer = store.append(vec![draft("b"); 1000]);
        match futures_util::FutureExt::now_or_never(&mut answer) {
            Some(outcome) => {
                assert!(is_busy(&outcome));
                refused += 1;
            }
            None => waiting.push(answer),
        }
    }
    assert!(refused > 100, "{refused} of 200 refused");
    assert_eq!(events_of(&read(&store, &[">"], 0).await), [1]);
    *stuck.free.lock().unwrap() = true;
    stuck.moved.notify_all();
    let mut stored = 0;
    for answer in waiting {
        stored += answer.await.unwrap().len() as u64;
    }
    assert_eq!(store.bounds().last, Position(stored));
}

#[tokio::test]
async fn a_full_disk_refuses_and_recovers_by_itself() {
    let Some(disk) = Small::mount(24) else { return };
    let ballast = disk.path().join("ballast");
    fs::write(&ballast, vec![1; 8 << 20]).unwrap();
    let store = open(&disk.path().join("data"));
    let recorder = Recorder::following(&store, 0);
    let big = |id: usize| new("a", &"x".repeat(20_000)).with_id(&id.to_string()).unwrap().draft(NOW_MS);
    let (mut acknowledged, mut id) = (0, 0);
    let mut fill = async |refusals| {
        let mut refused = 0;
        while refused < refusals {
            // An event that fits by itself is not stored without the others of its append.
            id += 3;
            match store.append(vec![big(id), big(id + 1), draft("b"), big(id + 2)]).await {
                Ok(appended) => {
                    assert_eq!(positions(&appended)[0], acknowledged + 1);
                    acknowledged += 4;
                }
                Err(StoreError::Full) => refused += 1,
                Err(other) => panic!("{other}"),
            }
            // No event of a refused append is stored, and stored events can be read.
            assert_eq!(store.bounds().last.0, acknowledged);
            assert_eq!(read(&store, &["b"], 0).await.events.len() as u64, acknowledged / 4);
            assert_eq!(
                read(&store, &[">"], acknowledged.saturating_sub(4)).await.events.len() as u64,
                4.min(acknowledged)
            );
        }
        (acknowledged, id)
    };
    let (first, refused_id) = fill(5).await;
    assert!(first > 0);
    let cursor = Cursor::new(store.bounds().epoch, Position(1));
    let saved = store.save_clients((1..2000).map(|n| client(n, cursor)).collect()).await;
    assert!(matches!(saved, Ok(()) | Err(StoreError::Full)), "{saved:?}");
    fs::remove_file(&ballast).unwrap();
    // The key of a refused append is not remembered.
    let again = store.append(vec![big(refused_id)]).await.unwrap();
    assert_eq!((again[0].position.0, again[0].duplicate), (first + 1, false));
    store.save_clients(vec![client(1, cursor)]).await.unwrap();
    assert_eq!(recorder.events().len() as u64, first + 1);
    drop(recorder);
    store.close().await;
    let store = open(&disk.path().join("data"));
    assert_eq!(events_of(&read(&store, &[">"], 0).await), (1..=first + 1).collect::<Vec<_>>());
}
