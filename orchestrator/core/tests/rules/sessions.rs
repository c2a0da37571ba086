//! Who may speak for an agent, and that no peer can make the project grow, act for another, or fall over.
use pitwall_core::io::{Action, Input, Refusal};
use pitwall_proto::v1::{self, connect_request, connect_response, fact};

use crate::support::World;

const PLAN: &str = r#"
project: p
agents:
  a: { deliverables: { d: { checks: [ file: x ] } } }
  b: { deliverables: { e: { checks: [ file: y ] } } }
"#;

fn hello(world: &mut World, session: u64, change: impl FnOnce(&mut v1::Hello)) -> Result<v1::Welcome, Refusal> {
    world.hello("a", session, change)
}

#[test]
fn a_hello_is_welcomed_or_told_why_not() {
    let table: [(&str, fn(&mut v1::Hello), &str); 7] = [
        ("another project", |h| h.project = "q".into(), "PROJECT_UNKNOWN"),
        ("an unknown agent", |h| h.agent = "zebra".into(), "AGENT_UNKNOWN"),
        ("no instance", |h| h.instance.clear(), "HELLO_INCOMPLETE"),
        ("an instance of a megabyte", |h| h.instance = "x".repeat(1 << 20), "HELLO_INCOMPLETE"),
        ("no life", |h| h.life = 0, "HELLO_INCOMPLETE"),
        ("it has seen a later epoch", |h| h.resume.as_mut().unwrap().epoch = 9, "EPOCH_FENCED"),
        ("well formed", |h| h.project = "p".into(), ""),
    ];
    for (session, (name, change, reason)) in table.into_iter().enumerate() {
        let mut world = World::new(PLAN);
        match hello(&mut world, session as u64, change) {
            Ok(welcome) => {
                assert_eq!(reason, "", "{name}");
                assert_eq!((welcome.heartbeat_every_ms, welcome.plan.unwrap().agent), (10_000, "a".into()));
            }
            Err(refusal) => {
                assert_eq!(refusal.reason, reason, "{name}: {}", refusal.message);
                assert!(!refusal.message.is_empty());
            }
        }
    }
}

#[test]
fn a_sidecar_that_has_seen_a_later_epoch_is_told_whether_this_history_had_it_and_what_to_do() {
    for (same, says) in [(true, "the same history"), (false, "another history")] {
        let mut world = World::new(PLAN);
        let change = |h: &mut v1::Hello| {
            let resume = h.resume.as_mut().unwrap();
            resume.epoch = 9;
            resume.lineage = if same { resume.lineage.clone() } else { "other".into() };
        };
        world.connect("a");
        let message = hello(&mut world, 50, change).unwrap_err().message;
        assert!(message.contains("epoch 9") && message.contains(says) && message.contains("start"), "{message}");
    }
}

#[test]
fn a_newer_session_ends_the_older_and_its_input_is_dropped() {
    let mut world = World::new(PLAN);
    hello(&mut world, 1, |_| {}).unwrap();
    hello(&mut world, 2, |_| {}).unwrap();
    let ended = world
        .out
        .iter()
        .any(|a| matches!(a, Action::Close { session: 1, refusal } if refusal.reason == "SESSION_SUPERSEDED"));
    assert!(ended);
    let events = world.journal.len();
    let seen = v1::Fact { seq: 1, kind: Some(fact::Kind::AgentSeen(v1::AgentSeen::default())), ..Default::default() };
    let body = connect_request::Body::Facts(v1::FactBatch { facts: vec![seen] });
    world.input(Input::FromSidecar { session: 1, body });
    assert_eq!(world.journal.len(), events);
    world.input(Input::SessionClosed { session: 1 });
    assert_eq!(world.project.derived().agents["a"].status, v1::AgentStatus::Expected);
}

#[test]
fn a_second_hello_ends_the_stream() {
    let mut world = World::new(PLAN);
    world.connect("a");
    let again = world.hello_of("a");
    world.say("a", connect_request::Body::Hello(again));
    assert!(matches!(world.out.last(), Some(Action::Close { refusal, .. }) if refusal.reason == "HELLO_AGAIN"));
    assert!(world.sidecars["a"].session.is_none());
}

#[test]
fn another_instance_is_journaled_once_however_often_it_tries() {
    let mut world = World::new(PLAN);
    world.connect("a");
    let events = world.journal.len();
    for session in 100..150 {
        hello(&mut world, session, |h| h.instance = "other".into()).unwrap_err();
    }
    assert_eq!(world.journal.len() - events, 2, "the refusal and its finding");
    assert_eq!(world.findings(), ["second_instance a"]);
}

#[test]
fn a_removed_agents_stream_is_ended_and_its_commands_too() {
    let mut world = World::new(PLAN);
    world.start_all();
    let sent = world.tell("a", "", "sent").id;
    world.cut("a");
    let queued = world.tell("a", "", "queued").id;
    world.connect("a");
    world.cut("b");
    let waits = world.tell("b", "", "queued").id;
    world.apply_plan("project: p\nagents:\n  c: { deliverables: { d: { checks: [ file: x ] } } }\n").unwrap();
    assert!(world.sidecars["a"].session.is_none(), "told by the end of its stream");
    let state = |id: &str| world.command(id).state();
    assert_eq!(state(&waits), v1::CommandState::Cancelled);
    assert_eq!((state(&sent), state(&queued)), (v1::CommandState::Unknown, v1::CommandState::Unknown));
    world.connect("a");
    assert!(world.sidecars["a"].session.is_none(), "it is no longer in the plan");
    world.check_replay();
}

#[test]
fn facts_count_once_and_are_acknowledged_after_they_are_durable() {
    let mut world = World::new(PLAN);
    world.connect("a");
    let session = world.sidecars["a"].session.unwrap();
    let batch = |seqs: &[u64]| {
        let facts = seqs.iter().map(|seq| v1::Fact {
            seq: *seq,
            kind: Some(fact::Kind::Activity(v1::ActivityFact { unattributed: 1, ..Default::default() })),
            ..Default::default()
        });
        connect_request::Body::Facts(v1::FactBatch { facts: facts.collect() })
    };
    let acks = |w: &World| {
        let sent = w.out.iter().filter_map(|a| match a {
            Action::Send { body: connect_response::Body::FactAck(ack), .. } => Some(ack.seq),
            _ => None,
        });
        sent.collect::<Vec<_>>()
    };
    world.input(Input::FromSidecar { session, body: batch(&[1, 2]) });
    world.hold = true;
    world.input(Input::FromSidecar { session, body: batch(&[2, 3]) });
    world.input(Input::FromSidecar { session, body: batch(&[3]) });
    assert_eq!(acks(&world), [2], "what is not durable is not acknowledged, said again or not");
    world.append_held();
    assert_eq!(acks(&world), [2, 3, 3]);
    assert_eq!(world.project.state().agents["a"].activity.len(), 3, "each fact counts once");
    world.check_replay();
}

#[test]
fn no_peer_makes_the_project_grow_without_limit_or_speaks_for_another() {
    let mut world = World::new(PLAN);
    world.start_all();
    let long = "y".repeat(100_000);
    world.cut("a");
    for n in 0..3_000 {
        world.changes("a", &[("nothing-of-the-plan", 1), ("d", 1)], 0);
        if n % 100 == 0 {
            world.claim("a", f64::NAN, &[("nothing", 0.5), ("d", f64::INFINITY)], &long);
            world.verdict("a/d", "", v1::Outcome::Failed, false, &long);
        }
    }
    for resource in 4..200 {
        let quota = v1::QuotaFact { exceeded: true, resource, ..Default::default() };
        world.fact("a", fact::Kind::Quota(quota));
    }
    world.connect("a");
    let agent = &world.project.state().agents["a"];
    assert!(agent.activity.len() <= 2_000);
    assert_eq!(agent.activity[0].unattributed, 1, "what the plan does not know belongs to nothing");
    assert!(agent.activity[0].deliverables.keys().all(|name| name == "d"));
    assert_eq!(agent.quotas.len(), 2, "the disk and the GPU's memory: no other has a quota");
    let claim = agent.claim.as_ref().unwrap();
    assert_eq!((claim.progress, claim.waiting_for.len(), claim.deliverables.len()), (None, 1_000, 0));
    let throttle = world.throttle("b", 1.0, 60_000).id;
    world.lease("a", &throttle, v1::LeaseState::Active, "not mine");
    world.update("a", &throttle, v1::CommandState::Succeeded, "not mine");
    assert!(world.project.state().commands[&throttle].lease.is_none());
    assert_eq!(world.command(&throttle).state(), v1::CommandState::Sent);
    world.check_replay();
}

#[test]
fn absurd_values_of_a_peer_do_no_harm() {
    let mut world = World::new(PLAN);
    world.start_all();
    let session = world.sidecars["a"].session.unwrap();
    let kinds = [
        fact::Kind::Verdict(v1::VerdictFact { outcome: 77, ..Default::default() }),
        fact::Kind::Lease(v1::LeaseFact { state: -1, ..Default::default() }),
        fact::Kind::ProcessGone(v1::ProcessGone { process: None }),
        fact::Kind::AgentSeen(v1::AgentSeen { incarnation: u64::MAX, root: None, launched: true }),
        fact::Kind::AgentExited(v1::AgentExited { incarnation: 0, exit_code: Some(-1), signal: Some(900) }),
        fact::Kind::EffectMeasured(v1::EffectMeasured { measured: Some(f64::NAN), held: true, ..Default::default() }),
        fact::Kind::Quota(v1::QuotaFact {
            exceeded: true,
            resource: 1,
            limit: f64::NAN,
            used: f64::INFINITY,
            above_for_ms: u32::MAX,
            ..Default::default()
        }),
        fact::Kind::Activity(v1::ActivityFact { window_ms: u32::MAX, unattributed: u32::MAX, ..Default::default() }),
        fact::Kind::FactsDropped(v1::FactsDropped { count: u64::MAX }),
        fact::Kind::FactsDropped(v1::FactsDropped { count: u64::MAX }),
    ];
    for (n, kind) in kinds.into_iter().enumerate() {
        let fact = v1::Fact { seq: 1_000 + n as u64, age_ms: u64::MAX, age_estimated: true, kind: Some(kind) };
        let body = connect_request::Body::Facts(v1::FactBatch { facts: vec![fact] });
        world.input(Input::FromSidecar { session, body });
    }
    let none = v1::Fact { seq: u64::MAX, ..Default::default() };
    world
        .input(Input::FromSidecar { session, body: connect_request::Body::Facts(v1::FactBatch { facts: vec![none] }) });
    let check = v1::CheckAge { deliverable: "d".into(), check_id: "file:x".into(), age_ms: u32::MAX };
    let beat = v1::Heartbeat { verdict_revision: 0, checks: vec![check, v1::CheckAge::default()] };
    world.input(Input::FromSidecar { session, body: connect_request::Body::Heartbeat(beat) });
    let update = v1::CommandUpdate { id: "c1".into(), state: 99, detail: String::new(), age_ms: u64::MAX };
    world.input(Input::FromSidecar { session, body: connect_request::Body::CommandUpdate(update) });
    world.input(Input::FromSidecar { session: 4_711, body: connect_request::Body::Readings(v1::Readings::default()) });
    world.advance(3_600_000);
    world.project.situation(world.now);
    assert!(world.project.explain(world.now, "a", "").is_ok());
    assert!(world.project.explain(world.now, "a", "nothing").is_err());
    assert!(world.project.explain(world.now, "nobody", "").is_err());
    world.check_replay();
}

#[test]
fn a_drain_says_goodbye_with_the_reason_and_a_spread_that_grows_with_the_number() {
    for (sidecars, spread) in [(2, 5_000), (60, 6_000)] {
        let mut plan = String::from("project: p\nagents:\n");
        (0..sidecars)
            .for_each(|i| plan.push_str(&format!("  a{i}: {{ deliverables: {{ d: {{ checks: [ file: x ] }} }} }}\n")));
        let mut world = World::new(&plan);
        world.start_all();
        let (from, events) = (world.out.len(), world.journal.len());
        world.input(Input::Drain { reason: "terminated".into() });
        let said: Vec<_> = world.out[from..].iter().collect();
        let goodbye = |a: &&&Action| {
            matches!(a, Action::Send { body: connect_response::Body::GoAway(go), .. }
            if go.reason == "terminated" && go.reconnect_within_ms == spread)
        };
        let closed = |a: &&&Action| matches!(a, Action::Close { refusal, .. } if refusal.reason == "SHUTTING_DOWN");
        assert_eq!((said.iter().filter(goodbye).count(), said.iter().filter(closed).count()), (sidecars, sidecars));
        assert_eq!(world.journal.len(), events, "an end is no event");
    }
}
