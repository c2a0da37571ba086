//! The journal's file: what a kill leaves of it, older and later versions, and what a disk can do to it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
use std::{
    fs,
    path::{Path, PathBuf},
};

use pitwall::store::{Ownership, Problem, Snapshot, SqliteStore, Store, StoreError, copy, load};
use pitwall_core::state::State;
use pitwall_proto::journal::{DeadlinePassed, Event, event::Body};
use prost::Message as _;
use rusqlite::{Connection, params};

fn event(sequence: u64) -> Event {
    let body = Body::DeadlinePassed(DeadlinePassed { why: format!("event {sequence}, and what it says") });
    Event { sequence, at_ms: 1_000 + sequence as i64, body: Some(body) }
}

fn events(range: std::ops::RangeInclusive<u64>) -> Vec<Event> {
    range.map(event).collect()
}

fn open(path: &Path) -> SqliteStore {
    SqliteStore::open(path).unwrap()
}

/// As it lies on the disk now, while it is open: what a kill would leave.
fn as_killed(path: &Path, name: &str) -> PathBuf {
    let copy = path.with_file_name(name);
    for suffix in ["", "-wal", "-mark"] {
        let file = |of: &Path| PathBuf::from(format!("{}{suffix}", of.display()));
        if file(path).exists() {
            fs::copy(file(path), file(&copy)).unwrap();
        }
    }
    copy
}

fn loaded(path: &Path) -> Result<State, StoreError> {
    let mut store = SqliteStore::open(path)?;
    let owner = store.ownership("p")?;
    load::state(&mut store, "p", &owner)
}

/// Events 1 to 9, with real snapshots at 3 and 6.
fn with_snapshots(path: &Path) -> (SqliteStore, Ownership) {
    let mut store = open(path);
    let owner = store.acquire("p", 1).unwrap();
    store.append("p", owner.epoch, &events(1..=9)).unwrap();
    for sequence in [3, 6] {
        let mut state = State::new("p", &owner.lineage);
        events(1..=sequence).iter().for_each(|event| state.apply(event));
        let snapshot = Snapshot { sequence, at: state.at, body: state.to_snapshot() };
        store.snapshot("p", owner.epoch, &snapshot).unwrap();
    }
    (store, owner)
}

fn spoil_snapshot(path: &Path, sequence: u64) {
    let change = "UPDATE snapshot SET body = CAST(body || x'00' AS BLOB) WHERE sequence = ?1";
    assert_eq!(Connection::open(path).unwrap().execute(change, [sequence as i64]).unwrap(), 1);
}

#[test]
fn what_was_appended_is_there_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("j");
    let mut store = open(&path);
    let owner = store.acquire("p", 1).unwrap();
    store.append("p", owner.epoch, &events(1..=4)).unwrap();
    let copy = as_killed(&path, "copy");
    assert_eq!(loaded(&copy).unwrap().sequence, 4);
    assert_eq!(open(&copy).acquire("p", 0).unwrap().lineage, owner.lineage);
}

#[test]
fn a_log_that_ends_too_early_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("j");
    let mut store = open(&path);
    let owner = store.acquire("p", 1).unwrap();
    for sequence in 1..=20 {
        store.append("p", owner.epoch, &[event(sequence)]).unwrap();
    }
    let copy = as_killed(&path, "flipped");
    let log = dir.path().join("flipped-wal");
    let mut bytes = fs::read(&log).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&log, bytes).unwrap();
    let error = loaded(&copy).unwrap_err();
    assert_eq!(error.problem, Problem::Corrupt);
    let told = error.to_string();
    assert!(told.contains("event 20 was written") && told.contains("pitwall journal restore"), "{told}");
    assert_eq!(copy::verify(&copy).unwrap_err().problem, Problem::Corrupt);

    // So is an older copy of the whole file in its place.
    let old = as_killed(&path, "old");
    store.append("p", owner.epoch, &events(21..=21)).unwrap();
    fs::copy(dir.path().join("j-mark"), dir.path().join("old-mark")).unwrap();
    assert_eq!(loaded(&old).unwrap_err().problem, Problem::Corrupt);
    // And without a mark there is no telling, and no refusing.
    fs::remove_file(dir.path().join("old-mark")).unwrap();
    assert_eq!(loaded(&old).unwrap().sequence, 20);
}

#[test]
fn a_snapshot_that_is_bad_is_passed_over_and_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("j");
    let (store, _) = with_snapshots(&path);
    drop(store);
    let good = loaded(&path).unwrap();
    assert_eq!((good.sequence, copy::verify(&path).unwrap()[0].snapshots.clone()), (9, vec![6, 3]));

    spoil_snapshot(&path, 6);
    assert_eq!(loaded(&path).unwrap().digest(), good.digest(), "the older one and more events do as well");
    let told = copy::verify(&path).unwrap_err().to_string();
    assert!(told.contains("the snapshot at event 6: its checksum does not fit"), "{told}");
    let mut store = open(&path);
    let owner = store.ownership("p").unwrap();
    let error = store.forget("p", owner.epoch, 3, i64::MAX).unwrap_err();
    assert_eq!(error.problem, Problem::Refused, "no event goes on the word of a bad snapshot");
    drop(store);

    spoil_snapshot(&path, 3);
    assert_eq!(loaded(&path).unwrap().digest(), good.digest(), "all events are there");
}

#[test]
fn without_any_good_snapshot_and_the_first_events_nothing_is_made_up() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("j");
    let (mut store, owner) = with_snapshots(&path);
    assert_eq!(store.forget("p", owner.epoch, 3, i64::MAX).unwrap(), 3);
    drop(store);
    assert_eq!(copy::verify(&path).unwrap()[0].kept_from, 4);
    spoil_snapshot(&path, 6);
    assert_eq!(loaded(&path).unwrap().sequence, 9);
    spoil_snapshot(&path, 3);
    let told = loaded(&path).unwrap_err().to_string();
    for part in [
        "event 1 is missing, 4 is there",
        "the snapshot at event 6",
        "the snapshot at event 3",
        "pitwall journal restore",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
}

#[test]
fn a_snapshot_that_is_not_what_the_events_add_up_to_is_found_by_verify() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("j");
    let (mut store, owner) = with_snapshots(&path);
    let mut wrong = State::new("p", &owner.lineage);
    events(1..=8).iter().for_each(|event| wrong.apply(event));
    wrong.next_cursor = 77;
    let snapshot = Snapshot { sequence: 8, at: wrong.at, body: wrong.to_snapshot() };
    store.snapshot("p", owner.epoch, &snapshot).unwrap();
    let told = copy::verify(&path).unwrap_err().to_string();
    assert!(told.contains("the snapshot at event 8 is not what the events before it add up to"), "{told}");
}

#[test]
fn a_snapshot_of_a_later_program_is_not_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("j");
    let (mut store, owner) = with_snapshots(&path);
    let later = pitwall_proto::journal::Snapshot { version: 99, sequence: 9, ..Default::default() };
    let snapshot = Snapshot { sequence: 9, at: 1_009, body: later.encode_to_vec() };
    store.snapshot("p", owner.epoch, &snapshot).unwrap();
    drop(store);
    let error = loaded(&path).unwrap_err();
    assert!(matches!(error.problem, Problem::Version { found: 99, .. }), "{error}");
}

#[test]
fn journals_of_earlier_versions_are_read_as_they_are_and_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    for version in [1, 2] {
        let path = dir.path().join(format!("v{version}"));
        let (store, _) = with_snapshots(&path);
        drop(store);
        let before = Connection::open(&path).unwrap();
        before.execute_batch("DROP TABLE snapshot; ALTER TABLE project DROP COLUMN crc").unwrap();
        if version == 1 {
            before.execute_batch("ALTER TABLE event DROP COLUMN crc").unwrap();
        }
        before.pragma_update(None, "user_version", version).unwrap();
        drop(before);
        let accounts = copy::verify(&path).unwrap();
        assert_eq!((accounts[0].events, accounts[0].kept_from, accounts[0].snapshots.len()), (9, 1, 0));
        let backup = dir.path().join(format!("b{version}"));
        assert_eq!(copy::backup(&path, &backup).unwrap(), accounts);

        let mut store = open(&path);
        let owner = store.acquire("p", 0).unwrap();
        store.append("p", owner.epoch, &events(10..=10)).unwrap();
        store.close().unwrap();
        assert_eq!(loaded(&path).unwrap().sequence, 10);
        let change = Connection::open(&path).unwrap();
        change.execute("UPDATE event SET body = x'0803' WHERE sequence = 10", []).unwrap();
        let told = loaded(&path).unwrap_err().to_string();
        assert!(told.contains("event 10: its checksum does not fit"), "what is new has a checksum: {told}");
    }
}

#[test]
fn a_journal_that_cannot_be_read_is_told_with_its_path_and_never_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("j");
    let corrupt = |what: &str| {
        let error = SqliteStore::open(&path).unwrap_err();
        assert_eq!(error.problem, Problem::Corrupt, "{what}");
        let told = error.to_string();
        assert!(
            told.contains(&path.display().to_string()) && told.contains("pitwall journal restore"),
            "{what}: {told}"
        );
    };
    fs::write(&path, "this is no database, and longer than a header of one ".repeat(100)).unwrap();
    corrupt("something else");
    fs::write(&path, "").unwrap();
    corrupt("truncated to nothing");
    fs::remove_file(&path).unwrap();
    fs::write(dir.path().join("j-wal"), "what a killed server left").unwrap();
    corrupt("the file gone, its log there");
    fs::remove_file(dir.path().join("j-wal")).unwrap();
    // What a start that was killed had begun to make is no journal yet.
    fs::write(dir.path().join("j.new"), "half").unwrap();
    open(&path).acquire("p", 1).unwrap();
    assert!(!dir.path().join("j.new").exists());
}

#[test]
fn an_event_in_anothers_place_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("j");
    drop(with_snapshots(&path));
    let body = event(8).encode_to_vec();
    let change = "UPDATE event SET body = ?1, crc = ?2 WHERE sequence = 9";
    let connection = Connection::open(&path).unwrap();
    connection.execute(change, params![body, crc32fast::hash(&body)]).unwrap();
    let told = loaded(&path).unwrap_err().to_string();
    assert!(told.contains("event 9 says that it is event 8"), "{told}");
}

#[test]
fn a_journal_of_a_later_version_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("j");
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let error = SqliteStore::open(&path).unwrap_err();
    assert_eq!(error.problem, Problem::Version { found: 99, known: 3 });
}

/// Every so many bytes of the file and of its log: a start refuses, or nothing is missing.
#[test]
fn no_flipped_bit_loses_anything_unnoticed() {
    const EVERY: usize = 173;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("j");
    let (mut store, owner) = with_snapshots(&path);
    store.append("p", owner.epoch, &events(10..=120)).unwrap();
    assert_eq!(store.forget("p", owner.epoch, 2, i64::MAX).unwrap(), 2);
    store.checkpoint().unwrap();
    for sequence in 121..=140 {
        store.append("p", owner.epoch, &[event(sequence)]).unwrap();
    }
    let good = loaded(&as_killed(&path, "good")).unwrap();
    let (mut told, mut harmless) = (0, 0);
    for suffix in ["", "-wal"] {
        let length = fs::metadata(format!("{}{suffix}", path.display())).unwrap().len() as usize;
        for at in (7..length).step_by(EVERY) {
            let copy = as_killed(&path, "flipped");
            let spoilt = format!("{}{suffix}", copy.display());
            let mut bytes = fs::read(&spoilt).unwrap();
            bytes[at] ^= 1 << (at % 8);
            fs::write(&spoilt, bytes).unwrap();
            match loaded(&copy) {
                Err(error) => {
                    assert!(error.to_string().contains(&copy.display().to_string()), "{error}");
                    told += 1;
                }
                Ok(state) => {
                    assert_eq!(state.digest(), good.digest(), "byte {at} of j{suffix}");
                    harmless += 1;
                }
            }
            for rest in ["", "-wal", "-shm", "-mark"] {
                let _ = fs::remove_file(format!("{}{rest}", copy.display()));
            }
        }
    }
    println!("{told} told, {harmless} without any effect");
    assert!(told > 20);
}
