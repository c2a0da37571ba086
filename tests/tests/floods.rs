//! Whoever says too much, or never listens: it costs a bounded amount of memory, and a kill gets through beside it.
use std::time::{Duration, Instant};

use pitwall_proto::v1::{
    self, CommandState, ProcessIdentity, command_spec::Kind, connect_request::Body, connect_response,
    control_service_client::ControlServiceClient, watch_response,
};
use pitwall_tests::{
    binaries::{self, Server},
    client,
    fake::Fake,
    honest::{self, Honest},
    identities,
    linked::{self, Linked},
    memory::Bound,
    proxy::Fault,
    wait,
};
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(3);
/// Far more than fits into every window and queue.
const MANY: usize = 200_000;
const MIB: u64 = 1024 * 1024;

fn readings() -> Body {
    let identity = |pid| Some(ProcessIdentity { pid, start_ticks: 7, name: "a-process-of-its".into() });
    let one = |pid| v1::ProcessUsage { identity: identity(pid), cpu_cores: Some(0.5), ..Default::default() };
    Body::Readings(v1::Readings { interval_ms: 1, top: (2..200).map(one).collect(), ..Default::default() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_is_delivered_while_readings_flood() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = Server::start(dir.path(), &honest::plan());
    let honest = Honest::start(dir.path(), &server).await;
    let mut noisy = Fake::of(dir.path(), &server, "noisy").await;
    let bound = Bound::of(server.process.pid(), "a flood of readings", 32 * MIB);
    let (mut mouth, mut answers) = noisy.connect().await.expect("it is let in");
    let flood = tokio::spawn(async move { while mouth.say(Some(readings())).await {} });
    wait::until("it floods", SOON, || {
        let mut client = honest.client.clone();
        async move {
            let now = client::situation(&mut client).await;
            client::agent(&now, "noisy").readout.is_some().then_some(())
        }
    })
    .await;

    honest.is_killed().await;
    // The flooding one is sent its own as well.
    let its_own = ProcessIdentity { pid: 77, start_ticks: 7, name: "x".into() };
    let issued = client::issue(&mut honest.client.clone(), "noisy", honest::kill(its_own)).await.expect("it is taken");
    let delivered = timeout(SOON * wait::SLACK, async {
        loop {
            let answer = answers.message().await.expect("the stream goes on").expect("it does");
            if let Some(connect_response::Body::Command(delivery)) = answer.body {
                return delivery.id;
            }
        }
    });
    assert_eq!(delivered.await.expect("the flood held it up"), issued.id);
    bound.holds();
    flood.abort();
}

/// A link on which a reading takes seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kills_result_is_not_behind_the_readings_that_a_slow_link_holds_up() {
    let measured_often = linked::plan("project: e2e\ndefaults: { sample_every: 100ms }\n");
    let linked = Linked::of(&measured_often, "for n in $(seq 20); do sleep 600 & done; wait").await;
    let seen = client::situation(&mut linked.client.clone()).await;
    let root = client::agent(&seen, "writer").root.clone().expect("it was seen");
    linked.proxy.set(Fault::Trickle(2_000));
    let passed = linked.proxy.passed();
    wait::until("the link is full", Duration::from_secs(20), || async {
        (linked.proxy.passed() > passed + 20_000).then_some(())
    })
    .await;
    let began = Instant::now();
    let issued = client::issue(&mut linked.client.clone(), "writer", honest::kill(root)).await.expect("it is taken");
    // What may be ahead of it takes 16 s.
    client::until_state(&linked.client, &issued.id, Duration::from_secs(20), &[CommandState::Succeeded]).await;
    println!("told after {:?}", began.elapsed());
    assert_eq!(linked.said("no session"), 0, "{:#?}", linked.sidecar.stderr());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_that_never_reads_costs_bounded_memory_and_is_told_so() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = Server::start(dir.path(), &honest::plan());
    let honest = Honest::start(dir.path(), &server).await;
    let mut noisy = Fake::of(dir.path(), &server, "noisy").await;
    let bound = Bound::of(server.process.pid(), "readers that stall", 32 * MIB);
    for _ in 0..3 {
        let (mut mouth, mut answers) = noisy.connect().await.expect("it is let in");
        // Each is owed an answer, which nobody fetches: until the other side takes no more, or has given this stream up and
        // throws away what still comes.
        let mut said = 0;
        while said < MANY && timeout(SOON, mouth.say(None)).await.is_ok_and(|taken| taken) {
            said += 1;
        }
        let told = loop {
            match timeout(SOON * wait::SLACK, answers.message()).await.expect("it says something") {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it ended without a word"),
                Err(told) => break told,
            }
        };
        assert_eq!(identities::reason(&told), "SESSION_TOO_SLOW", "{told:?}");
    }
    honest.is_killed().await;
    bound.holds();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_does_not_read_is_moved_to_the_newest_snapshot_and_nothing_queues_for_it() {
    const CHANGES: usize = 600;
    let dir = tempfile::tempdir().expect("a folder");
    let server = Server::start(dir.path(), &honest::plan());
    let mut client = client::connect(&server.url).await;
    let mut watchers = Vec::new();
    for _ in 0..8 {
        // Each on a connection of its own, whose small windows fill.
        let endpoint = client::endpoint(&server.url, binaries::operator(&server.url).as_deref()).expect("a URL");
        let narrow = endpoint.initial_stream_window_size(64 * 1024).initial_connection_window_size(64 * 1024);
        let channel = narrow.connect().await.expect("it answers");
        let watch = ControlServiceClient::new(channel).watch(v1::WatchRequest::default()).await;
        watchers.push(watch.expect("it is let in").into_inner());
    }
    let bound = Bound::of(server.process.pid(), "watchers that stall", 64 * MIB);
    for n in 0..CHANGES {
        let text = format!("{n} {}", "x".repeat(4_000));
        let kind = Kind::Directive(v1::Directive { text, ..Default::default() });
        client::issue(&mut client, "writer", kind).await.expect("it is taken");
    }
    bound.holds();
    let newest = client::situation(&mut client).await.revision.expect("set").sequence;
    for watcher in &mut watchers {
        let (mut read, mut snapshots, mut at) = (0, 0, 0);
        while at < newest {
            let told = timeout(SOON * wait::SLACK, watcher.message()).await.expect("it goes on");
            read += 1;
            match told.expect("it goes on").expect("it goes on").body {
                Some(watch_response::Body::Snapshot(snapshot)) => {
                    snapshots += 1;
                    at = snapshot.revision.expect("set").sequence;
                }
                Some(watch_response::Body::Change(change)) => at = change.revision.expect("set").sequence,
                _ => {}
            }
        }
        assert!(snapshots > 1 && read < CHANGES, "{read} messages, {snapshots} snapshots");
    }
}
