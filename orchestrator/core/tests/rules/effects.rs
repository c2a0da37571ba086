//! Nothing is acknowledged, answered, delivered or published before the append that it rests on.
use pitwall_core::io::{Action, Input};
use pitwall_proto::v1;

use crate::support::World;

const PLAN: &str = "project: p\nagents:\n  a: { deliverables: { d: { checks: [ file: x ] } } }\n";

#[test]
fn everything_waits_behind_its_append_in_order() {
    let mut world = World::new(PLAN);
    world.start("a");
    world.hold = true;
    let from = world.out.len();
    world.fails("a/d");
    let token = world.token();
    let spec = v1::CommandSpec {
        kind: Some(v1::command_spec::Kind::Directive(v1::Directive { text: "x".into(), ..Default::default() })),
    };
    let request = v1::IssueCommandRequest { agent: "a".into(), spec: Some(spec), ..Default::default() };
    world.input(Input::IssueCommand { token, request: Box::new(request) });
    // Decided on state that is not durable: a refusal too must wait.
    let refused = world.token();
    world.input(Input::CancelCommand { token: refused, id: "c9".into() });
    assert_eq!(world.out.len(), from, "nothing may be seen outside yet");
    assert_eq!(world.held.len(), 2);
    world.append_held();
    let order: Vec<&str> = world.out[from..]
        .iter()
        .map(|action| match action {
            Action::Send { body: v1::connect_response::Body::FactAck(_), .. } => "ack",
            Action::Send { body: v1::connect_response::Body::Command(_), .. } => "deliver",
            Action::Send { .. } => "send",
            Action::Reply { .. } => "reply",
            Action::Publish { .. } => "publish",
            Action::Close { .. } => "close",
            Action::Append { .. } => "append",
        })
        .collect();
    assert_eq!(order, ["ack", "publish", "reply", "deliver", "publish", "reply"]);
    world.check_replay();
}

#[test]
fn a_lost_append_is_as_if_it_never_was() {
    let mut world = World::new(PLAN);
    world.start("a");
    let before = world.project.state_digest();
    world.hold = true;
    world.fails("a/d");
    let token = world.token();
    world.input(Input::CancelCommand { token, id: "c9".into() });
    world.restart_orchestrator();
    world.hold = false;
    assert_eq!(world.project.state_digest(), before);
    assert!(!world.replies.contains_key(&token), "nobody was told anything that rests on it");
    world.connect("a");
    let evidence = &world.project.situation(0).agents[0].deliverables[0].checks[0];
    assert_eq!(evidence.outcome(), v1::Outcome::Failed, "the fact was not acknowledged, so it came again");
    world.check_replay();
}
