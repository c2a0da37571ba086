//! Old events are compacted by the real binary, on a journal that is older than what the plan keeps.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod support;

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use pitwall::store::{Snapshot, SqliteStore, Store, copy, load};
use pitwall_core::{
    plan,
    retention::{Kept, SNAPSHOT_EVERY},
    state::State,
};
use pitwall_proto::{
    journal::{self, Event, event::Body},
    v1::{self, watch_response},
};
use support::{PLAN, SLACK, config, operator, peer::Peer, process::Serving, reason, soon, tell};

const DAY_MS: i64 = 24 * 3_600_000;
/// Longer ago than any plan here keeps.
const AGE_MS: i64 = 30 * DAY_MS;
const INSTANCE: &str = "i1";

fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// A plan, a command, a sidecar, and claims of its agent: so many events, a month ago.
fn history(count: u64) -> impl Iterator<Item = Event> {
    let begin = now() - AGE_MS;
    let plan = plan::parse(PLAN, "plan.yaml").unwrap().plan;
    let applied = journal::PlanApplied {
        generation: 1,
        resolved_json: serde_json::to_string(&plan).unwrap(),
        source_yaml: PLAN.into(),
    };
    let issued = journal::CommandIssued {
        id: "c1-old".into(),
        cursor: 1,
        agent: "backend".into(),
        expires_ms: begin + 60_000,
        idempotency_key: "the key".into(),
        ..Default::default()
    };
    let connected = journal::SidecarConnected {
        agent: "frontend".into(),
        instance: INSTANCE.into(),
        life: 1,
        host_boot_id: "boot".into(),
        hostname: "host".into(),
        version: "test".into(),
        ..Default::default()
    };
    (1..=count).map(move |sequence| {
        let body = match sequence {
            1 => Body::PlanApplied(applied.clone()),
            2 => Body::CommandIssued(issued.clone()),
            3 => Body::SidecarConnected(connected.clone()),
            n if n % 2 == 0 => Body::ClaimMade(journal::ClaimMade {
                agent: "frontend".into(),
                progress: Some(n as f64 / count as f64),
                text: format!("step {n}"),
                made_ms: begin,
                ..Default::default()
            }),
            n => Body::FactsAccepted(journal::FactsAccepted {
                agent: "frontend".into(),
                instance: INSTANCE.into(),
                seq: n,
            }),
        };
        Event { sequence, at_ms: begin + sequence as i64, body: Some(body) }
    })
}

/// A journal of so many old events in a data directory; with a snapshot behind some of them.
fn aged(data: &Path, count: u64, snapshots: &[u64]) {
    fs::create_dir_all(data).unwrap();
    let mut store = SqliteStore::open(&data.join("journal.sqlite3")).unwrap();
    let owner = store.acquire("shell", 1).unwrap();
    let mut state = State::new("shell", &owner.lineage);
    let mut batch = Vec::new();
    for event in history(count) {
        state.apply(&event);
        let due = snapshots.contains(&event.sequence);
        batch.push(event);
        if batch.len() == 5_000 || due || state.sequence == count {
            store.append("shell", owner.epoch, &std::mem::take(&mut batch)).unwrap();
        }
        if due {
            let snapshot = Snapshot { sequence: state.sequence, at: state.at, body: state.to_snapshot() };
            store.snapshot("shell", owner.epoch, &snapshot).unwrap();
        }
    }
    store.close().unwrap();
}

fn kept(data: &Path) -> Kept {
    SqliteStore::open_to_read(&data.join("journal.sqlite3")).unwrap().kept("shell").unwrap()
}

fn first(data: &Path) -> u64 {
    kept(data).first.unwrap().sequence
}

fn facts_in(data: &Path) -> u64 {
    let mut store = SqliteStore::open_to_read(&data.join("journal.sqlite3")).unwrap();
    let owner = store.ownership("shell").unwrap();
    load::state(&mut store, "shell", &owner).unwrap().agents["frontend"].fact_acked(INSTANCE)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_events_go_while_it_serves_and_what_they_add_up_to_stays() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    aged(&config.data, 12_001, &[12_000]);
    let before = copy::verify(&config.data.join("journal.sqlite3")).unwrap();
    let mut serving = Serving::start(&config.plan, &config.data);
    let mut client = operator(&serving.url).await;
    // Appends go on in between: the slowest is told, for people.
    let (mut issued, mut slowest, end) = (0, Duration::ZERO, Instant::now() + SLACK);
    while first(&config.data) < 12_001 {
        assert!(Instant::now() < end, "old events that two snapshots hold are still there: {:?}", kept(&config.data));
        let begun = Instant::now();
        client.issue_command(tell("backend", "meanwhile", &format!("m{issued}"))).await.unwrap();
        slowest = slowest.max(begun.elapsed());
        issued += 1;
        // Whoever looks meanwhile sees one moment, and all of it.
        copy::verify(&config.data.join("journal.sqlite3")).unwrap();
    }
    println!("{issued} commands meanwhile, the slowest was durable after {slowest:?}");
    let kept = kept(&config.data);
    assert!(kept.snapshots.len() == 2 && kept.snapshots[1].sequence == 12_000, "{kept:?}");

    // What is not there any more is said, and not passed over.
    let asked = |newest| v1::ListEventsRequest { newest, limit: 2_000, ..Default::default() };
    for newest in [false, true] {
        let listed = client.list_events(asked(newest)).await.unwrap().into_inner();
        assert_eq!(listed.events[0].sequence, 12_001);
        let begins = listed.kept_from.expect("it says where the kept journal begins");
        assert!(begins.sequence == 12_001 && begins.at_unix_ms < now() - AGE_MS + DAY_MS, "{begins:?}");
    }
    let later = v1::ListEventsRequest { after_sequence: 12_000, ..Default::default() };
    assert_eq!(client.list_events(later).await.unwrap().into_inner().kept_from, None);
    let output = Command::new(env!("CARGO_BIN_EXE_pitwall"))
        .args(["events", "--after", "0", "--limit", "1", "--insecure", "--orchestrator", &serving.url])
        .env("PITWALL_CONFIG", "/nonexistent")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && told.contains("the kept journal begins with event 12001"), "{told}");

    // A watcher that stopped before is given the newest snapshot.
    let lineage = before[0].lineage.clone();
    let from = Some(v1::Revision { lineage: lineage.clone(), sequence: 5 });
    let mut watch = client.watch(v1::WatchRequest { from, ..Default::default() }).await.unwrap().into_inner();
    let begin = soon("the watcher's start", watch.message()).await.unwrap().unwrap().body;
    assert!(matches!(begin, Some(watch_response::Body::Snapshot(_))), "{begin:?}");

    // Nothing is done twice: the key counts, and so do the facts.
    let again = client.issue_command(tell("backend", "x", "the key")).await.unwrap().into_inner().command.unwrap();
    assert_eq!(again.id, "c1-old");
    let (_peer, welcome) = Peer::welcomed(&serving.url, "frontend", INSTANCE).await;
    assert_eq!((welcome.lineage, welcome.fact_acked), (lineage, 12_001));

    // Copies while it serves, verified and brought back.
    let journal = config.data.join("journal.sqlite3");
    let backup = dir.path().join("backup");
    let accounts = copy::backup(&journal, &backup).unwrap();
    assert_eq!((accounts[0].kept_from, accounts[0].snapshots[1]), (12_001, 12_000));
    serving.kill();
    let output =
        Command::new(env!("CARGO_BIN_EXE_pitwall")).args(["journal", "verify"]).arg(&journal).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains("kept from 12001 on") && told.contains("and 12000, lineage"), "{told}");
    let verified = copy::verify(&journal).unwrap();
    let mut serving = Serving::start(&config.plan, &config.data);
    let mut client = operator(&serving.url).await;
    let situation =
        client.get_situation(v1::GetSituationRequest::default()).await.unwrap().into_inner().situation.unwrap();
    assert!(situation.revision.unwrap().sequence >= verified[0].events);
    let frontend = situation.agents.into_iter().find(|a| a.name == "frontend").unwrap();
    assert_eq!(frontend.claim_text, "step 12000");
    serving.terminate();
    serving.ended_within(Duration::from_secs(10));
    let data = pitwall::store::DataDir::take(&config.data).unwrap();
    let restored = copy::restore(&backup, &data, now()).unwrap();
    assert_eq!(restored.projects[0].kept_from, 12_001);
}

#[test]
fn killed_at_any_moment_of_a_compaction_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    const EVENTS: u64 = 20_001;
    aged(&config.data, EVENTS, &[EVENTS - 1]);
    let journal = config.data.join("journal.sqlite3");
    let (mut rounds, mut between) = (0, 0);
    while first(&config.data) < EVENTS {
        let (before, snapshots) = (first(&config.data), kept(&config.data).snapshots);
        let mut serving = Serving::start(&config.plan, &config.data);
        // As soon as something went, or a snapshot came: somewhere in the middle of the next step.
        let end = Instant::now() + SLACK;
        while first(&config.data) == before && kept(&config.data).snapshots == snapshots {
            assert!(Instant::now() < end, "nothing is compacted; it said: {}", serving.stderr());
        }
        serving.kill();
        // It replays, every snapshot is what its events add up to, and the facts that were taken are in it.
        copy::verify(&journal).unwrap();
        assert_eq!(facts_in(&config.data), EVENTS);
        let now = first(&config.data);
        between += u32::from(now > 1 && now < EVENTS);
        rounds += 1;
        assert!(rounds < 100, "it never ends");
    }
    println!("killed {rounds} times, {between} of them with the compaction half done");
    assert!(between > 0);
}

/// Figures for people; what is asserted is only that a start reads a bounded part of the journal.
#[test]
fn a_start_does_not_take_longer_on_an_older_journal() {
    let dir = tempfile::tempdir().unwrap();
    for times in [1, 20] {
        let count = 10_000 * times;
        let own = dir.path().join(times.to_string());
        fs::create_dir(&own).unwrap();
        let config = config(&own);
        aged(&config.data, count, &[count / 2, count - SNAPSHOT_EVERY / 4]);
        let begun = Instant::now();
        let mut serving = Serving::start(&config.plan, &config.data);
        let compacted = begun.elapsed();
        serving.kill();
        let kept = kept(&config.data);
        assert!(kept.last - kept.snapshots[0].sequence <= SNAPSHOT_EVERY, "{kept:?}");

        let without = own.join("without");
        aged(&without, count, &[]);
        let begun = Instant::now();
        let mut serving = Serving::start(&config.plan, &without);
        let whole = begun.elapsed();
        serving.kill();
        println!("{count} events: start in {compacted:?} with snapshots, in {whole:?} without");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_was_superseded_ends_even_with_nothing_to_append() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let mut serving = Serving::start(&config.plan, &config.data);
    let (mut peer, welcome) = Peer::welcomed(&serving.url, "backend", "i1").await;
    let mut client = operator(&serving.url).await;
    let mut watch = client.watch(v1::WatchRequest::default()).await.unwrap().into_inner();
    // Signs of life all the time, of which nothing is journaled.
    let out = peer.out.clone();
    let beating = tokio::spawn(async move {
        for seq in 2.. {
            let body = Some(v1::connect_request::Body::Heartbeat(v1::Heartbeat::default()));
            if out.send(v1::ConnectRequest { seq, ack: 0, body }).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    // As another orchestrator would, if a lock did not keep it from the directory.
    let taken = SqliteStore::open(&config.data.join("journal.sqlite3")).unwrap().acquire("shell", 1).unwrap();
    assert!(taken.epoch > welcome.epoch);
    assert_eq!(reason(&peer.end().await), "OWNER_SUPERSEDED");
    let ended = loop {
        match soon("the end of the watch", watch.message()).await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("ended without a reason"),
            Err(status) => break status,
        }
    };
    assert_eq!(reason(&ended), "OWNER_SUPERSEDED");
    beating.abort();
    let status = serving.ended_within(Duration::from_secs(5 + 10));
    assert_eq!(status.code(), Some(70), "it does not go on");
    let told = serving.stderr();
    assert!(told.contains(&format!("another orchestrator took over (epoch {}", taken.epoch)), "{told}");
}
