//! `ControlService`, health and reflection over the wire, and what a start refuses.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod support;

use pitwall::cli::exit::Exit;
use pitwall::serve::Server;
use pitwall_proto::v1::{self, control_service_client::ControlServiceClient, watch_response::Body};
use support::{config, operator, peer::Peer, reason, serve, soon, tell};
use tonic::{Code, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

#[tokio::test]
async fn every_read_answers_and_names_its_project() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(dir.path()).await;
    let mut client = operator(&server.url()).await;
    for project in ["", "shell"] {
        let request = v1::GetSituationRequest { project: project.into() };
        let situation = client.get_situation(request).await.unwrap().into_inner().situation.unwrap();
        assert_eq!((situation.project.as_str(), situation.generation), ("shell", 1));
        assert_eq!(situation.agents.len(), 2);
    }
    let refused = client.get_situation(v1::GetSituationRequest { project: "no".into() }).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused)), (Code::NotFound, "PROJECT_UNKNOWN".into()));
    assert_eq!(client.list_agents(v1::ListAgentsRequest::default()).await.unwrap().into_inner().agents.len(), 2);
    client.list_blockers(v1::ListBlockersRequest::default()).await.unwrap();
    client.list_findings(v1::ListFindingsRequest::default()).await.unwrap();
    client.list_hosts(v1::ListHostsRequest::default()).await.unwrap();
    let explain = |agent: &str| v1::ExplainRequest { agent: agent.into(), ..Default::default() };
    assert!(!client.explain(explain("frontend")).await.unwrap().into_inner().lines.is_empty());
    let refused = client.explain(explain("nobody")).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused)), (Code::NotFound, "AGENT_UNKNOWN".into()));
    server.drain("test").await.unwrap();
}

#[tokio::test]
async fn a_command_is_issued_once_per_key_listed_and_cancelled() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(dir.path()).await;
    let mut client = operator(&server.url()).await;
    let first = client.issue_command(tell("backend", "go", "k")).await.unwrap().into_inner().command.unwrap();
    let again = client.issue_command(tell("backend", "go", "k")).await.unwrap().into_inner().command.unwrap();
    assert_eq!(first.id, again.id);
    let listed = client.list_commands(v1::ListCommandsRequest::default()).await.unwrap().into_inner();
    assert_eq!(listed.commands.len(), 1);
    let cancel = v1::CancelCommandRequest { id: first.id, ..Default::default() };
    let cancelled = client.cancel_command(cancel).await.unwrap().into_inner().command.unwrap();
    assert_eq!(cancelled.state(), v1::CommandState::Cancelled);
    let cancel = v1::CancelCommandRequest { id: "no-such".into(), ..Default::default() };
    assert_eq!(client.cancel_command(cancel).await.unwrap_err().code(), Code::NotFound);
    server.drain("test").await.unwrap();
}

#[tokio::test]
async fn a_plan_is_checked_refused_and_applied() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(dir.path()).await;
    let mut client = operator(&server.url()).await;
    let wrong = support::PLAN.replace("needs", "neeeds").replace("agents:", "agnets:");
    let check = v1::CheckPlanRequest { plan_yaml: wrong.clone(), file_name: "night.yaml".into() };
    let checked = client.check_plan(check).await.unwrap().into_inner();
    assert!(!checked.valid && !checked.mistakes.is_empty());
    assert!(checked.rendered.contains("night.yaml"), "{}", checked.rendered);
    let apply = |plan: &str| v1::ApplyPlanRequest { plan_yaml: plan.into(), ..Default::default() };
    let refused = client.apply_plan(apply(&wrong)).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused)), (Code::InvalidArgument, "PLAN_INVALID".into()));
    let other = support::PLAN.replace("project: shell", "project: other");
    assert_eq!(reason(&client.apply_plan(apply(&other)).await.unwrap_err()), "PROJECT_MISMATCH");

    let same = client.apply_plan(apply(support::PLAN)).await.unwrap().into_inner();
    assert_eq!((same.generation, same.differences.len()), (1, 0));
    let (mut peer, _) = Peer::welcomed(&server.url(), "frontend", "i1").await;
    let changed = support::PLAN.replace("app/page.tsx", "app/home.tsx");
    let applied = client.apply_plan(apply(&changed)).await.unwrap().into_inner();
    assert_eq!(applied.generation, 2);
    assert!(!applied.differences.is_empty());
    let sent = loop {
        if let Some(v1::connect_response::Body::Plan(plan)) = peer.hears().await.unwrap().body {
            break plan;
        }
    };
    assert_eq!(sent.generation, 2);
    server.drain("test").await.unwrap();
}

#[tokio::test]
async fn events_are_read_from_either_end_and_by_agent() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(dir.path()).await;
    let mut client = operator(&server.url()).await;
    let (mut peer, _) = Peer::welcomed(&server.url(), "backend", "i1").await;
    for n in 1..=20 {
        peer.claim(n, "step").await;
        assert_eq!(peer.hears_fact_ack().await.unwrap(), n);
    }
    let all = client.list_events(v1::ListEventsRequest::default()).await.unwrap().into_inner();
    let sequences: Vec<u64> = all.events.iter().map(|e| e.sequence).collect();
    assert_eq!(sequences, (1..=all.revision.unwrap().sequence).collect::<Vec<_>>());
    let request = v1::ListEventsRequest { newest: true, limit: 3, agent: "backend".into(), ..Default::default() };
    let newest = client.list_events(request).await.unwrap().into_inner().events;
    assert_eq!(newest.len(), 3);
    assert!(newest.iter().all(|e| e.subject.starts_with("backend")), "{newest:?}");
    assert!(newest.is_sorted_by_key(|e| e.sequence));
    let request = v1::ListEventsRequest { after_sequence: 5, limit: 2, ..Default::default() };
    let two = client.list_events(request).await.unwrap().into_inner().events;
    assert_eq!(two.iter().map(|e| e.sequence).collect::<Vec<_>>(), [6, 7]);
    server.drain("test").await.unwrap();
}

#[tokio::test]
async fn a_watch_begins_with_a_snapshot_and_resumes_where_it_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(dir.path()).await;
    let mut client = operator(&server.url()).await;
    let mut watch = client.watch(v1::WatchRequest::default()).await.unwrap().into_inner();
    let Some(Body::Snapshot(snapshot)) = watch.message().await.unwrap().unwrap().body else { panic!("no snapshot") };
    drop(watch);
    let from = snapshot.revision.clone();
    let ids: Vec<String> = {
        let mut ids = Vec::new();
        for key in ["a", "b", "c"] {
            ids.push(client.issue_command(tell("backend", "x", key)).await.unwrap().into_inner().command.unwrap().id);
        }
        ids
    };
    let mut watch = client.watch(v1::WatchRequest { from, ..Default::default() }).await.unwrap().into_inner();
    let mut seen = Vec::new();
    let mut last = snapshot.revision.unwrap().sequence;
    while seen.len() < ids.len() {
        match soon("what was missed", watch.message()).await.unwrap().unwrap().body.unwrap() {
            Body::Change(change) => {
                let sequence = change.revision.as_ref().unwrap().sequence;
                assert_eq!(change.events.first().unwrap().sequence, last + 1, "nothing is left out");
                last = sequence;
                seen.extend(change.commands.into_iter().map(|c| c.id));
            }
            Body::Snapshot(_) => panic!("it could have been resumed"),
            Body::Readouts(_) => {}
        }
    }
    assert_eq!(seen, ids);
    // Of another history: from the start.
    let from = Some(v1::Revision { lineage: "another".into(), sequence: 1 });
    let mut watch = client.watch(v1::WatchRequest { from, ..Default::default() }).await.unwrap().into_inner();
    assert!(matches!(watch.message().await.unwrap().unwrap().body, Some(Body::Snapshot(_))));
    server.drain("test").await.unwrap();
}

#[tokio::test]
async fn a_slow_watcher_is_moved_to_the_newest_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(dir.path()).await;
    // Little room on the way, so that what is not read stays in the server.
    let channel = Channel::from_shared(server.url())
        .unwrap()
        .initial_stream_window_size(65_535)
        .initial_connection_window_size(65_535)
        .connect()
        .await
        .unwrap();
    let mut slow = ControlServiceClient::new(channel).watch(v1::WatchRequest::default()).await.unwrap().into_inner();
    // Each is a change of some kilobytes: together more than the way there and the server keep for one watcher.
    const CHANGES: usize = 400;
    let (mut peer, _) = Peer::welcomed(&server.url(), "backend", "i1").await;
    for n in 1..=CHANGES as u64 {
        peer.claim(n, &format!("{n} {}", "x".repeat(4_000))).await;
    }
    while peer.hears_fact_ack().await.unwrap() < CHANGES as u64 {}
    let mut client = operator(&server.url()).await;
    let newest = client.get_situation(v1::GetSituationRequest::default()).await.unwrap().into_inner();
    let newest = newest.situation.unwrap().revision.unwrap().sequence;
    let (mut snapshots, mut changes, mut at) = (0, 0, 0);
    while at < newest {
        let revision = match soon("what the slow watcher is sent", slow.message()).await.unwrap().unwrap().body.unwrap()
        {
            Body::Snapshot(situation) => {
                snapshots += 1;
                situation.revision.unwrap()
            }
            Body::Change(change) => {
                changes += 1;
                change.revision.unwrap()
            }
            Body::Readouts(_) => continue,
        };
        assert!(revision.sequence > at, "it never goes back");
        at = revision.sequence;
    }
    assert_eq!(snapshots, 2, "one at the start, one when it fell behind");
    assert!(changes < CHANGES, "what it missed is in the snapshot");
    server.drain("test").await.unwrap();
}

#[tokio::test]
async fn health_tells_of_each_service() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(dir.path()).await;
    let channel = Channel::from_shared(server.url()).unwrap().connect().await.unwrap();
    let mut health = HealthClient::new(channel);
    for service in ["", "pitwall.v1.ControlService", "pitwall.v1.SidecarService"] {
        let request = HealthCheckRequest { service: service.into() };
        assert_eq!(health.check(request).await.unwrap().into_inner().status, 1, "{service}");
    }
    server.drain("test").await.unwrap();
}

#[tokio::test]
async fn a_port_in_use_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = config(dir.path());
    config.listen = taken.local_addr().unwrap();
    let error = Server::start(&config).await.err().unwrap();
    assert_eq!(error.exit, Exit::Failed);
    assert_eq!(error.message, format!("the port {} on 127.0.0.1 is in use", config.listen.port()));
    assert!(error.hint.is_some());
    // And nothing was begun for it.
    assert!(!config.data.exists());
}

#[tokio::test]
async fn two_orchestrators_on_one_data_directory() {
    let dir = tempfile::tempdir().unwrap();
    let first = serve(dir.path()).await;
    let error = Server::start(&config(dir.path())).await.err().unwrap();
    assert_eq!(error.exit, Exit::Failed);
    assert!(error.message.contains(&format!("pid {}", std::process::id())), "{error}");
    // The first goes on, and is not fenced.
    let mut client = operator(&first.url()).await;
    client.issue_command(tell("backend", "go", "k")).await.unwrap();
    first.drain("test").await.unwrap();
    serve(dir.path()).await.drain("test").await.unwrap();
}

#[tokio::test]
async fn another_projects_plan_is_refused_on_a_data_directory() {
    let dir = tempfile::tempdir().unwrap();
    serve(dir.path()).await.drain("test").await.unwrap();
    let config = config(dir.path());
    std::fs::write(&config.plan, support::PLAN.replace("project: shell", "project: renamed")).unwrap();
    let error = Server::start(&config).await.err().unwrap();
    assert_eq!(error.exit, Exit::BadInput);
    assert!(error.message.contains("belongs to project shell"), "{error}");
}

#[tokio::test]
async fn a_plan_with_mistakes_or_an_address_that_is_not_loopback_is_refused_before_anything_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let mut wrong = config(dir.path());
    std::fs::write(&wrong.plan, "project: x\nagnets: {}\n").unwrap();
    let error = Server::start(&wrong).await.err().unwrap();
    assert_eq!(error.exit, Exit::BadInput);
    assert!(error.message.contains("agnets") && error.message.contains("plan.yaml"), "{error}");
    wrong.listen = "0.0.0.0:0".parse().unwrap();
    let error = Server::start(&wrong).await.err().unwrap();
    assert_eq!(error.exit, Exit::Usage);
    assert!(error.hint.as_deref().unwrap().contains("leave --insecure out"), "{error:?}");
    // With certificates any address will do: it comes as far as the plan.
    wrong.insecure = false;
    assert_eq!(Server::start(&wrong).await.err().unwrap().exit, Exit::BadInput);
    assert!(!wrong.data.exists());
}
