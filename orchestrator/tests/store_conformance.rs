//! What every store promises, run over each of them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
use std::path::Path;

use pitwall::store::{MemoryStore, Page, Problem, Snapshot, SqliteStore, Store, journal::Journal};
use pitwall_core::retention::{Kept, Place};
use pitwall_proto::journal::{DeadlinePassed, Event, event::Body};

fn event(sequence: u64) -> Event {
    let body = Body::DeadlinePassed(DeadlinePassed { why: format!("event {sequence}") });
    Event { sequence, at_ms: 1_000 + sequence as i64, body: Some(body) }
}

fn events(range: std::ops::RangeInclusive<u64>) -> Vec<Event> {
    range.map(event).collect()
}

fn replayed(store: &mut dyn Store) -> Vec<Event> {
    replayed_after(store, 0)
}

fn replayed_after(store: &mut dyn Store, after: u64) -> Vec<Event> {
    let mut all = Vec::new();
    store
        .replay("p", after, &mut |event| {
            all.push(event);
            true
        })
        .unwrap();
    all
}

fn page(store: &mut dyn Store, after: u64, before: u64, limit: usize, newest: bool) -> Vec<u64> {
    let page = Page { after, before, limit, newest };
    store.read("p", page).unwrap().iter().map(|e| e.sequence).collect()
}

fn keeps_what_was_appended_in_order(store: &mut dyn Store) {
    let owner = store.acquire("p", 1).unwrap();
    assert_eq!(replayed(store), []);
    store.append("p", owner.epoch, &events(1..=2)).unwrap();
    store.append("p", owner.epoch, &[]).unwrap();
    store.append("p", owner.epoch, &events(3..=5)).unwrap();
    assert_eq!(replayed(store), events(1..=5));
    assert_eq!(store.projects().unwrap(), ["p"]);
}

fn a_history_keeps_its_lineage_and_epochs_grow(store: &mut dyn Store) {
    let first = store.acquire("p", 100).unwrap();
    assert_eq!(first.epoch, 100, "Unix seconds, where that is larger");
    let second = store.acquire("p", 50).unwrap();
    assert_eq!((&second.lineage, second.epoch), (&first.lineage, 101), "stored + 1, where that is larger");
    assert_eq!(store.acquire("p", 500).unwrap().epoch, 500);
    assert_ne!(store.acquire("other", 1).unwrap().lineage, first.lineage);
    assert_eq!(first.lineage.len(), 32);
}

fn an_owner_of_before_cannot_append(store: &mut dyn Store) {
    let old = store.acquire("p", 1).unwrap();
    store.append("p", old.epoch, &events(1..=1)).unwrap();
    let new = store.acquire("p", 1).unwrap();
    let error = store.append("p", old.epoch, &events(2..=2)).unwrap_err();
    assert_eq!(error.problem, Problem::Fenced { held: old.epoch, stored: new.epoch });
    assert!(!error.is_retryable());
    assert_eq!(replayed(store), events(1..=1));
    store.append("p", new.epoch, &events(2..=2)).unwrap();
}

fn a_gap_is_refused_and_nothing_of_it_is_kept(store: &mut dyn Store) {
    let owner = store.acquire("p", 1).unwrap();
    store.append("p", owner.epoch, &events(1..=2)).unwrap();
    for wrong in [vec![event(2)], vec![event(4)], vec![event(3), event(5)]] {
        let error = store.append("p", owner.epoch, &wrong).unwrap_err();
        assert!(matches!(error.problem, Problem::Gap { .. }), "{error}");
        assert_eq!(replayed(store), events(1..=2));
    }
}

fn a_project_that_was_never_acquired_is_not_there(store: &mut dyn Store) {
    let nothing = Page { after: 0, before: u64::MAX, limit: 1, newest: false };
    for error in [
        store.append("p", 1, &events(1..=1)).unwrap_err(),
        store.replay("p", 0, &mut |_| true).unwrap_err(),
        store.read("p", nothing).unwrap_err(),
    ] {
        assert_eq!(error.problem, Problem::NoSuchProject, "{error}");
    }
    assert!(store.projects().unwrap().is_empty());
}

fn pages_are_in_order_from_either_end(store: &mut dyn Store) {
    let owner = store.acquire("p", 1).unwrap();
    store.append("p", owner.epoch, &events(1..=10)).unwrap();
    const END: u64 = u64::MAX;
    assert_eq!(page(store, 0, END, 3, false), [1, 2, 3]);
    assert_eq!(page(store, 7, END, 9, false), [8, 9, 10]);
    assert_eq!(page(store, 0, END, 3, true), [8, 9, 10]);
    assert_eq!(page(store, 0, 8, 3, true), [5, 6, 7]);
    assert_eq!(page(store, 9, END, 3, true), [10]);
    assert_eq!(page(store, 10, END, 3, false), [0u64; 0]);
    assert_eq!(page(store, END, END, 3, false), [0u64; 0]);
}

fn projects_are_apart(store: &mut dyn Store) {
    let p = store.acquire("p", 1).unwrap();
    let q = store.acquire("q", 7).unwrap();
    store.append("q", q.epoch, &events(1..=3)).unwrap();
    store.append("p", p.epoch, &events(1..=1)).unwrap();
    assert_eq!(replayed(store), events(1..=1));
    assert_eq!(store.projects().unwrap(), ["p", "q"]);
}

fn a_replay_can_be_ended(store: &mut dyn Store) {
    let owner = store.acquire("p", 1).unwrap();
    store.append("p", owner.epoch, &events(1..=5)).unwrap();
    let mut seen = 0;
    store
        .replay("p", 0, &mut |_| {
            seen += 1;
            seen < 2
        })
        .unwrap();
    assert_eq!(seen, 2);
}

fn an_owner_knows_whether_it_still_is_one(store: &mut dyn Store) {
    assert_eq!(store.renew("p", 1).unwrap_err().problem, Problem::NoSuchProject);
    let old = store.acquire("p", 1).unwrap();
    store.renew("p", old.epoch).unwrap();
    assert_eq!(store.ownership("p").unwrap(), old);
    let new = store.acquire("p", 1).unwrap();
    let error = store.renew("p", old.epoch).unwrap_err();
    assert_eq!(error.problem, Problem::Fenced { held: old.epoch, stored: new.epoch });
    store.renew("p", new.epoch).unwrap();
}

fn at(sequence: u64) -> Snapshot {
    Snapshot { sequence, at: 1_000 + sequence as i64, body: format!("state at {sequence}").into_bytes() }
}

fn place(sequence: u64) -> Place {
    Place { sequence, at: 1_000 + sequence as i64 }
}

fn the_two_newest_snapshots_are_kept(store: &mut dyn Store) {
    let owner = store.acquire("p", 1).unwrap();
    assert_eq!(store.kept("p").unwrap(), Kept::default());
    store.append("p", owner.epoch, &events(1..=9)).unwrap();
    for sequence in [2, 5, 9] {
        store.snapshot("p", owner.epoch, &at(sequence)).unwrap();
    }
    assert_eq!(store.snapshots("p").unwrap(), [Ok(at(9)), Ok(at(5))]);
    let kept = Kept { first: Some(place(1)), last: 9, snapshots: vec![place(9), place(5)] };
    assert_eq!(store.kept("p").unwrap(), kept);
    for wrong in [5, 9, 10] {
        let error = store.snapshot("p", owner.epoch, &at(wrong)).unwrap_err();
        assert_eq!(error.problem, Problem::Refused, "{wrong}: not newer, or of what is not there");
    }
    let q = store.acquire("q", 1).unwrap();
    assert!(store.snapshots("q").unwrap().is_empty(), "projects are apart");
    let newer = store.acquire("p", 1).unwrap();
    store.append("p", newer.epoch, &events(10..=10)).unwrap();
    let error = store.snapshot("p", owner.epoch, &at(10)).unwrap_err();
    assert!(matches!(error.problem, Problem::Fenced { .. }), "{error}");
    assert_eq!(store.kept("q").unwrap().last, 0);
    store.renew("q", q.epoch).unwrap();
}

fn only_what_two_snapshots_hold_is_forgotten(store: &mut dyn Store) {
    const ANY_AGE: i64 = i64::MAX;
    let owner = store.acquire("p", 1).unwrap();
    store.append("p", owner.epoch, &events(1..=9)).unwrap();
    store.snapshot("p", owner.epoch, &at(4)).unwrap();
    let refused = |store: &mut dyn Store, up_to| store.forget("p", owner.epoch, up_to, ANY_AGE).unwrap_err().problem;
    assert_eq!(refused(store, 1), Problem::Refused, "one snapshot is none to lose");
    store.snapshot("p", owner.epoch, &at(7)).unwrap();
    assert_eq!(refused(store, 5), Problem::Refused, "only one of the two holds it");
    assert_eq!(replayed(store), events(1..=9), "nothing of it went");
    assert_eq!(store.forget("p", owner.epoch, 2, ANY_AGE).unwrap(), 2);
    assert_eq!(store.forget("p", owner.epoch, 4, 1_004).unwrap(), 1, "what is young stays");
    let kept = Kept { first: Some(place(4)), last: 9, snapshots: vec![place(7), place(4)] };
    assert_eq!(store.kept("p").unwrap(), kept);
    assert_eq!(store.forget("p", owner.epoch, 4, ANY_AGE).unwrap(), 1);
    assert_eq!(store.forget("p", owner.epoch, 4, ANY_AGE).unwrap(), 0);
    assert_eq!(page(store, 0, u64::MAX, 3, false), [5, 6, 7]);
    assert_eq!(replayed_after(store, 4), events(5..=9));
    assert_eq!(replayed_after(store, 9), []);
    let error = store.replay("p", 3, &mut |_| true).unwrap_err();
    assert_eq!(error.problem, Problem::Corrupt, "a replay that would leave a gap: {error}");
    store.append("p", owner.epoch, &events(10..=11)).unwrap();
    assert_eq!(replayed_after(store, 7), events(8..=11));
    let newer = store.acquire("p", 1).unwrap();
    let error = store.forget("p", owner.epoch, 4, ANY_AGE).unwrap_err();
    assert!(matches!(error.problem, Problem::Fenced { .. }), "{error}");
    assert_eq!(newer.lineage, owner.lineage);
}

fn a_closed_store_says_so(store: &mut dyn Store) {
    let owner = store.acquire("p", 1).unwrap();
    store.close().unwrap();
    store.close().unwrap();
    let error = store.append("p", owner.epoch, &events(1..=1)).unwrap_err();
    assert_eq!(error.problem, Problem::Closed);
}

type Promise = (&'static str, fn(&mut dyn Store));

const PROMISES: [Promise; 12] = [
    ("keeps_what_was_appended_in_order", keeps_what_was_appended_in_order),
    ("a_history_keeps_its_lineage_and_epochs_grow", a_history_keeps_its_lineage_and_epochs_grow),
    ("an_owner_of_before_cannot_append", an_owner_of_before_cannot_append),
    ("a_gap_is_refused_and_nothing_of_it_is_kept", a_gap_is_refused_and_nothing_of_it_is_kept),
    ("a_project_that_was_never_acquired_is_not_there", a_project_that_was_never_acquired_is_not_there),
    ("pages_are_in_order_from_either_end", pages_are_in_order_from_either_end),
    ("projects_are_apart", projects_are_apart),
    ("a_replay_can_be_ended", a_replay_can_be_ended),
    ("an_owner_knows_whether_it_still_is_one", an_owner_knows_whether_it_still_is_one),
    ("the_two_newest_snapshots_are_kept", the_two_newest_snapshots_are_kept),
    ("only_what_two_snapshots_hold_is_forgotten", only_what_two_snapshots_hold_is_forgotten),
    ("a_closed_store_says_so", a_closed_store_says_so),
];

fn conforms(mut make: impl FnMut(&str) -> Box<dyn Store>) {
    for (name, promise) in PROMISES {
        println!("{name}");
        promise(make(name).as_mut());
    }
}

fn open(path: &Path) -> SqliteStore {
    SqliteStore::open(path).unwrap()
}

#[test]
fn the_memory_store_conforms() {
    conforms(|_| Box::new(MemoryStore::default()));
}

#[test]
fn the_sqlite_store_conforms() {
    let dir = tempfile::tempdir().unwrap();
    conforms(|name| Box::new(open(&dir.path().join(name))));
}

#[tokio::test]
async fn batches_are_acknowledged_in_order_and_those_behind_a_failed_one_fail() {
    let journal = Journal::start(Box::new(MemoryStore::default()), "(memory)".into()).unwrap();
    let owner = journal.acquire("p", 1).await.unwrap();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    for (n, batch) in [events(1..=1), events(2..=3), events(5..=5), events(6..=6)].into_iter().enumerate() {
        let tell = tell.clone();
        let done = Box::new(move |result: pitwall::store::Result<()>| tell.send((n, result.is_ok())).unwrap());
        journal.append("p", owner.epoch, batch, done).await;
        // So that the wrong batch is not in one commit with the right ones.
        if n == 1 {
            journal.projects().await.unwrap();
        }
    }
    let mut answers = Vec::new();
    for _ in 0..4 {
        answers.push(told.recv().await.unwrap());
    }
    assert_eq!(answers, [(0, true), (1, true), (2, false), (3, false)]);
    let all = Page { after: 0, before: u64::MAX, limit: 10, newest: false };
    assert_eq!(journal.read("p", all).await.unwrap(), events(1..=3));
    assert_eq!(journal.state("p", &owner).await.unwrap().sequence, 3);
    journal.close().await.unwrap();
    assert_eq!(journal.projects().await.unwrap_err().problem, Problem::Closed);
}
