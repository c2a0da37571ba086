//! The real sidecar against an orchestrator that a test plays: what it says, what it keeps, what it does after a crash.
use std::process::Stdio;

use pitwall_proto::v1::{self, CommandState, Outcome, connect_request, connect_response};
use tonic::{Code, Status};

mod fake;

use fake::{Orchestrator, Place, Sleeper, plan};

const CHECK: &str = "file:route.ts";
const ROUTE: &str = "app/api/talents/route.ts";
const GOOD: &str = "export async function GET() { return Response.json([]) }\n";

#[tokio::test]
async fn a_created_file_becomes_a_verdict_with_evidence_and_a_placeholder_does_not_count() {
    let mut orchestrator = Orchestrator::start().await;
    let (place, agent) = (Place::new(&orchestrator), Sleeper::start());
    let _sidecar = place.sidecar(&["--pid", &agent.pid()]);
    let (mut session, hello) = orchestrator.session().await;
    assert_eq!((hello.agent.as_str(), hello.life), ("backend", 1));
    assert!(!hello.instance.is_empty() && hello.host.is_some_and(|host| !host.boot_id.is_empty()));
    session.welcome(plan(), 0).await;
    let (_, missing) = session.verdict(CHECK, Outcome::Failed).await;
    assert_eq!(missing.check_digest, "d1");
    place.write(ROUTE, "export async function GET() {} // TODO\n");
    let placeholder = session
        .fact(|fact| match &fact.kind {
            Some(v1::fact::Kind::Verdict(verdict)) => {
                assert_eq!(verdict.outcome(), Outcome::Failed);
                verdict.evidence.clone().filter(|evidence| evidence.summary.contains("TODO"))
            }
            _ => None,
        })
        .await;
    assert!(placeholder.size_bytes.is_some() && !placeholder.digest.is_empty());
    let written = std::time::Instant::now();
    place.write(ROUTE, GOOD);
    let (_, verdict) = session.verdict(CHECK, Outcome::Passed).await;
    println!("file closed to verdict received: {} ms", written.elapsed().as_millis());
    let evidence = verdict.evidence.expect("evidence");
    assert_eq!(evidence.size_bytes, Some(GOOD.len() as u64));
    assert!(evidence.excerpt.starts_with("export async function GET"), "{evidence:?}");
}

#[tokio::test]
async fn the_agents_process_readings_and_claim_arrive() {
    let mut orchestrator = Orchestrator::start().await;
    let (place, agent) = (Place::new(&orchestrator), Sleeper::start());
    let _sidecar = place.sidecar(&["--pid", &agent.pid()]);
    let (mut session, _) = orchestrator.session().await;
    session.welcome(plan(), 0).await;
    let root = session
        .fact(|fact| match &fact.kind {
            Some(v1::fact::Kind::AgentSeen(seen)) => seen.root.clone(),
            _ => None,
        })
        .await;
    assert_eq!(root.pid.to_string(), agent.pid());
    session
        .until(|body| match body {
            connect_request::Body::Readings(readings) => readings.agent.and_then(|usage| usage.memory_bytes),
            _ => None,
        })
        .await;
    place.write(".pitwall/claim.json", r#"{"progress": "86 %", "text": "nearly"}"#);
    let claim = session
        .fact(|fact| match &fact.kind {
            Some(v1::fact::Kind::Claim(claim)) => Some(claim.clone()),
            _ => None,
        })
        .await;
    assert_eq!((claim.progress, claim.text.as_str()), (Some(0.86), "nearly"));
}

#[tokio::test]
async fn acknowledged_facts_are_not_sent_again_after_the_stream_ended() {
    let mut orchestrator = Orchestrator::start().await;
    let (place, agent) = (Place::new(&orchestrator), Sleeper::start());
    let _sidecar = place.sidecar(&["--pid", &agent.pid()]);
    let (mut session, _) = orchestrator.session().await;
    session.welcome(plan(), 0).await;
    session.verdict(CHECK, Outcome::Failed).await;
    place.write(ROUTE, GOOD);
    let (passed, _) = session.verdict(CHECK, Outcome::Passed).await;
    // The acknowledgement went before the end of the stream.
    session.end(Status::unavailable("a restart")).await;
    let (mut session, hello) = orchestrator.session().await;
    let resume = hello.resume.expect("a resume point");
    let acked = resume.fact_acked;
    assert!(acked >= passed);
    assert_eq!((resume.lineage.as_str(), resume.epoch), ("lineage", 7));
    assert_eq!((hello.life, resume.generation), (1, 1));
    session.welcome(plan(), acked).await;
    std::fs::remove_file(place.workspace().join(ROUTE)).unwrap();
    session
        .fact(|fact| {
            assert!(fact.seq > acked, "fact {} was acknowledged and came again", fact.seq);
            matches!(&fact.kind, Some(v1::fact::Kind::Verdict(verdict)) if verdict.outcome() == Outcome::Failed)
                .then_some(())
        })
        .await;
}

#[tokio::test]
async fn a_killed_sidecar_comes_back_with_a_new_life_and_with_what_was_not_acknowledged() {
    let mut orchestrator = Orchestrator::start().await;
    let (place, agent) = (Place::new(&orchestrator), Sleeper::start());
    let sidecar = place.sidecar(&["--pid", &agent.pid()]);
    let (mut session, first) = orchestrator.session().await;
    session.welcome(plan(), 0).await;
    session.verdict(CHECK, Outcome::Failed).await;
    session.acknowledges = false;
    place.write(ROUTE, GOOD);
    let (passed, _) = session.verdict(CHECK, Outcome::Passed).await;
    sidecar.kill();
    let _sidecar = place.sidecar(&["--pid", &agent.pid()]);
    let (mut session, second) = orchestrator.session().await;
    assert_eq!((second.instance, second.life), (first.instance, first.life + 1));
    let acked = second.resume.expect("a resume point").fact_acked;
    assert!(acked < passed);
    session.welcome(plan(), acked).await;
    let (again, verdict) = session.verdict(CHECK, Outcome::Passed).await;
    assert_eq!((again, verdict.deliverable.as_str()), (passed, "talents-api"));
}

#[tokio::test]
async fn a_directive_is_put_into_the_inbox_once_and_told_until_it_is_acknowledged() {
    let mut orchestrator = Orchestrator::start().await;
    let (place, agent) = (Place::new(&orchestrator), Sleeper::start());
    let _sidecar = place.sidecar(&["--pid", &agent.pid()]);
    let (mut session, _) = orchestrator.session().await;
    session.welcome(plan(), 0).await;
    let delivery = v1::CommandDelivery {
        id: "c3".into(),
        cursor: 3,
        spec: Some(v1::CommandSpec {
            kind: Some(v1::command_spec::Kind::Directive(v1::Directive {
                text: "create app/api/talents/route.ts first".into(),
                about: "talents-api".into(),
                priority: v1::Priority::Urgent.into(),
            })),
        }),
        start_within_ms: 60_000,
    };
    for _ in 0..2 {
        session.send(connect_response::Body::Command(delivery.clone())).await;
        let update = session
            .until(|body| match body {
                connect_request::Body::CommandUpdate(update) if update.state() == CommandState::Succeeded => {
                    Some(update)
                }
                _ => None,
            })
            .await;
        assert_eq!(update.id, "c3");
    }
    let files: Vec<_> = std::fs::read_dir(place.inbox()).unwrap().map(|entry| entry.unwrap().path()).collect();
    let [file] = files.as_slice() else { panic!("{files:?}") };
    assert!(file.file_name().unwrap().to_string_lossy().starts_with("URGENT-"), "{file:?}");
    assert!(std::fs::read_to_string(file).unwrap().contains("create app/api/talents/route.ts first"));
}

#[tokio::test]
async fn what_it_launched_ends_with_it_when_stdin_ends_and_on_sigterm() {
    let mut orchestrator = Orchestrator::start().await;
    for by_stdin in [true, false] {
        let place = Place::new(&orchestrator);
        let more: &[&str] =
            if by_stdin { &["--until-stdin-eof", "--", "sleep", "600"] } else { &["--", "sleep", "600"] };
        let mut sidecar = place.sidecar_with_stdin(more, Stdio::piped());
        let stdin = sidecar.take_stdin();
        let (mut session, _) = orchestrator.session().await;
        session.welcome(plan(), 0).await;
        let root = session
            .fact(|fact| match &fact.kind {
                Some(v1::fact::Kind::AgentSeen(seen)) => seen.root.clone(),
                _ => None,
            })
            .await;
        assert!(fake::is_alive(root.pid));
        if by_stdin {
            drop(stdin);
        } else {
            let pid = rustix::process::Pid::from_raw(sidecar.pid()).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        }
        let (status, said) = sidecar.ended().await;
        assert_eq!(status.code(), Some(0), "{said}");
        assert!(!fake::is_alive(root.pid), "{said}");
    }
}

#[tokio::test]
async fn a_second_sidecar_on_one_state_directory_and_plaintext_beyond_loopback_are_refused() {
    let mut orchestrator = Orchestrator::start().await;
    let (place, agent) = (Place::new(&orchestrator), Sleeper::start());
    let first = place.sidecar(&["--pid", &agent.pid()]);
    let (_session, _) = orchestrator.session().await;
    let (status, said) = place.sidecar(&["--pid", &agent.pid()]).ended().await;
    assert_eq!(status.code(), Some(1));
    assert!(said.contains(&format!("pid {}", first.pid())) && said.contains("--state"), "{said}");
    let mut beyond = Place::new(&orchestrator);
    beyond.url = "http://192.0.2.1:7440".into();
    let (status, said) = beyond.sidecar(&["--pid", &agent.pid()]).ended().await;
    assert_eq!(status.code(), Some(1));
    assert!(said.contains("not on loopback"), "{said}");
}

#[tokio::test]
async fn a_refused_sidecar_says_why() {
    let mut orchestrator = Orchestrator::start().await;
    let (place, agent) = (Place::new(&orchestrator), Sleeper::start());
    let sidecar = place.sidecar(&["--pid", &agent.pid()]);
    let (session, _) = orchestrator.session().await;
    session.end(Status::new(Code::FailedPrecondition, "another sidecar is live for backend")).await;
    // It goes on: the other one may end.
    let _again = orchestrator.session().await;
    let pid = rustix::process::Pid::from_raw(sidecar.pid()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let (status, said) = sidecar.ended().await;
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(said.contains("another sidecar is live for backend"), "{said}");
}

/// A copy of a state directory, perhaps beside its original: it has to be told that it may go on.
#[tokio::test]
async fn a_copied_state_directory_starts_no_agent_before_it_is_welcomed() {
    let mut orchestrator = Orchestrator::start().await;
    let place = Place::new(&orchestrator);
    let counted = "echo started >> starts; exec sleep 600";
    let sidecar = place.sidecar(&["--", "sh", "-c", counted]);
    let (mut session, first) = orchestrator.session().await;
    session.welcome(plan(), 0).await;
    let root = session.fact(seen).await;
    sidecar.kill();
    end(&root);
    place.copy_state();
    drop(session);
    let _copy = place.sidecar(&["--", "sh", "-c", counted]);
    let (mut session, hello) = orchestrator.session().await;
    assert_eq!(hello.instance, first.instance);
    assert_ne!(hello.place, first.place);
    assert_eq!(place.starts(), 1, "before anybody welcomed it");
    session.welcome(plan(), 0).await;
    let again = session.fact(|fact| seen(fact).filter(|again| again.pid != root.pid)).await;
    let starts = place.starts();
    end(&again);
    assert_eq!(starts, 2);
}

fn end(process: &v1::ProcessIdentity) {
    let pid = rustix::process::Pid::from_raw(process.pid).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it runs");
}

fn seen(fact: &v1::Fact) -> Option<v1::ProcessIdentity> {
    match &fact.kind {
        Some(v1::fact::Kind::AgentSeen(seen)) => seen.root.clone(),
        _ => None,
    }
}
