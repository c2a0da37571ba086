//! Nothing is told before it is durable, and a journal that fails is told, waited for and recovered from.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod support;

use pitwall::serve::Server;
use pitwall::store::MemoryStore;
use pitwall_proto::v1::{self, watch_response::Body};
use support::{
    config, operator,
    peer::Peer,
    reason, soon,
    stores::{Gate, GatedStore},
    tell, until,
};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

async fn gated(dir: &std::path::Path) -> (Server, Gate) {
    let gate = Gate::default();
    let store = GatedStore { inner: MemoryStore::default(), gate: gate.clone() };
    let server = Server::start_on(&config(dir), |_| Ok(Box::new(store))).await.unwrap();
    (server, gate)
}

#[tokio::test]
async fn appended_before_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let (server, gate) = gated(dir.path()).await;
    let mut client = operator(&server.url()).await;
    let (mut peer, _) = Peer::welcomed(&server.url(), "backend", "i1").await;
    let mut watch = client.watch(v1::WatchRequest::default()).await.unwrap().into_inner();
    assert!(matches!(watch.message().await.unwrap().unwrap().body, Some(Body::Snapshot(_))));
    let before = gate.durable();

    gate.hold();
    peer.claim(1, "half").await;
    let ack = tokio::spawn(async move { (peer.hears_fact_ack().await, peer) });
    // One by one, so that each is decided before the next is asked.
    until("the claim on its way to the disk", || async { (gate.begun() > before).then_some(()) }).await;
    let mut asking = client.clone();
    let issued = tokio::spawn(async move { asking.issue_command(tell("frontend", "wait", "k")).await });
    let mut asking = client.clone();
    let read = tokio::spawn(async move { asking.get_situation(v1::GetSituationRequest::default()).await });
    let heard = tokio::spawn(async move { watch.message().await });
    // Another call goes the whole way and back meanwhile, many times.
    for _ in 0..50 {
        client.check_plan(v1::CheckPlanRequest::default()).await.unwrap();
    }
    assert_eq!(gate.durable(), before);
    assert!(!ack.is_finished(), "a fact was acknowledged before it was durable");
    assert!(!issued.is_finished(), "a command was acknowledged before it was durable");
    assert!(!heard.is_finished(), "a change was published before it was durable");
    assert!(!read.is_finished(), "a state was read before it was durable");

    gate.release();
    let (acked, _peer) = soon("the acknowledgement", ack).await.unwrap();
    assert_eq!(acked.unwrap(), 1);
    soon("the command", issued).await.unwrap().unwrap();
    soon("the situation", read).await.unwrap().unwrap();
    assert!(matches!(soon("the change", heard).await.unwrap().unwrap().unwrap().body, Some(Body::Change(_))));
    server.drain("test").await.unwrap();
}

#[tokio::test]
async fn a_failed_append_is_told_and_the_project_starts_again_from_its_journal() {
    let dir = tempfile::tempdir().unwrap();
    let (server, gate) = gated(dir.path()).await;
    let mut client = operator(&server.url()).await;
    let channel = tonic::transport::Channel::from_shared(server.url()).unwrap().connect().await.unwrap();
    let kept = client.issue_command(tell("backend", "kept", "k1")).await.unwrap().into_inner().command.unwrap();
    let (mut peer, welcome) = Peer::welcomed(&server.url(), "frontend", "i1").await;
    let mut watch = client.watch(v1::WatchRequest::default()).await.unwrap().into_inner();
    assert!(matches!(watch.message().await.unwrap().unwrap().body, Some(Body::Snapshot(_))));

    gate.break_writes(true);
    for key in ["k2", "k3"] {
        let refused = client.issue_command(tell("backend", "lost", key)).await.unwrap_err();
        assert_eq!((refused.code(), reason(&refused)), (tonic::Code::Unavailable, "STORE_FAILED".into()));
        assert!(refused.message().contains("/gated"), "{refused}");
        assert!(refused.message().contains("no space left"), "{refused}");
    }
    assert_eq!(reason(&peer.end().await), "STORE_FAILED");
    let health = || {
        let mut health = HealthClient::new(channel.clone());
        async move { health.check(HealthCheckRequest::default()).await.unwrap().into_inner().status() }
    };
    until("not serving", || async { (health().await == ServingStatus::NotServing).then_some(()) }).await;
    // Reads go on from the last durable state.
    let commands = client.list_commands(v1::ListCommandsRequest::default()).await.unwrap().into_inner().commands;
    assert_eq!(commands.iter().map(|c| &c.id).collect::<Vec<_>>(), [&kept.id]);

    gate.break_writes(false);
    let again = until("the journal taking commands again", || {
        let mut client = client.clone();
        async move { client.issue_command(tell("backend", "again", "k4")).await.ok() }
    })
    .await;
    assert!(again.into_inner().command.is_some());
    until("serving again", || async { (health().await == ServingStatus::Serving).then_some(()) }).await;
    let (_peer, later) = Peer::welcomed(&server.url(), "frontend", "i1").await;
    assert_eq!(later.lineage, welcome.lineage);
    assert!(later.epoch > welcome.epoch);
    // The watcher stays: it is given a new snapshot, then what comes.
    let resumed = loop {
        match soon("the watcher's snapshot", watch.message()).await.unwrap().unwrap().body.unwrap() {
            Body::Snapshot(situation) => break situation.revision.unwrap(),
            Body::Change(_) | Body::Readouts(_) => {}
        }
    };
    assert_eq!(resumed.lineage, welcome.lineage);
    let last = client.issue_command(tell("backend", "last", "k5")).await.unwrap().into_inner().command.unwrap();
    loop {
        match soon("the watcher's news", watch.message()).await.unwrap().unwrap().body.unwrap() {
            Body::Change(change) if change.commands.iter().any(|c| c.id == last.id) => break,
            Body::Snapshot(_) => panic!("a snapshot that nothing asked for"),
            Body::Change(_) | Body::Readouts(_) => {}
        }
    }
    server.drain("test").await.unwrap();
}

/// Its disk fails, another one takes over, and the disk is there again.
#[tokio::test]
async fn an_owner_that_was_superseded_while_its_journal_failed_does_not_take_the_project_back() {
    let dir = tempfile::tempdir().unwrap();
    let (server, gate) = gated(dir.path()).await;
    let mut client = operator(&server.url()).await;
    let mut watch = client.watch(v1::WatchRequest::default()).await.unwrap().into_inner();
    gate.break_writes(true);
    let refused = client.issue_command(tell("backend", "lost", "k")).await.unwrap_err();
    assert_eq!(reason(&refused), "STORE_FAILED");
    gate.take_over();
    gate.break_writes(false);
    let ended = loop {
        match soon("the end of the watch", watch.message()).await {
            Ok(told) => assert!(told.is_some(), "ended without a reason"),
            Err(status) => break status,
        }
    };
    assert_eq!(reason(&ended), "OWNER_SUPERSEDED", "{ended}");
    let refused = client.issue_command(tell("backend", "late", "k2")).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused}");
    let channel = tonic::transport::Channel::from_shared(server.url()).unwrap().connect().await.unwrap();
    until("not serving", || {
        let mut health = HealthClient::new(channel.clone());
        async move {
            let asked = health.check(HealthCheckRequest::default()).await.unwrap().into_inner().status();
            (asked == ServingStatus::NotServing).then_some(())
        }
    })
    .await;
    let _ = server.drain("test").await;
}

#[tokio::test]
async fn a_server_that_cannot_write_its_plan_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let gate = Gate::default();
    gate.break_writes(true);
    let store = GatedStore { inner: MemoryStore::default(), gate };
    let error = Server::start_on(&config(dir.path()), |_| Ok(Box::new(store))).await.err().unwrap();
    assert!(error.message.contains("/gated") && error.message.contains("no space left"), "{error}");
}
