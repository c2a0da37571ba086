//! Another sidecar has the same state: this one looks and tells, and does nothing.
use pitwall_proto::v1::{
    self, CommandState as S, Outcome, command_spec::Kind as Spec, connect_response::Body as Down, fact,
};

use super::{
    scripts::{begun, seen},
    world::{OLD, World, kill, tell, throttle},
};
use crate::io::Input;

fn conduct(only_observe: bool) -> Down {
    Down::Conduct(v1::Conduct { only_observe, reason: "two sidecars have one state".into() })
}

fn refuse(world: &mut World, reason: &str) {
    let session = world.session.take().expect("a stream");
    let why = "another one has this state".into();
    world.inputs.push_front(Input::Closed { session, why, refusal: Some(reason.into()) });
    world.orchestrator.mute = true;
    world.drain();
}

#[test]
fn told_to_only_observe_it_begins_nothing_and_goes_on_telling_what_it_sees() {
    let mut world = begun();
    world.say(conduct(true));
    world.run(500);
    let specs = [
        tell("look"),
        kill(100, 7),
        throttle(0.2, 60_000, 60_000),
        Spec::Restart(v1::Restart { incarnation: 1, grace_ms: 0 }),
    ];
    let ids: Vec<String> = specs.into_iter().map(|spec| world.issue(spec, 20_000)).collect();
    world.inputs.push_back(seen(Outcome::Passed, "1"));
    world.run(15_000);
    assert_eq!((world.inbox.len(), world.killed.len(), world.launches, world.ended), (0, 0, 0, 0));
    assert_eq!(world.value, OLD);
    assert!(world.orchestrator.facts.values().any(|f| matches!(f, fact::Kind::Verdict(_))), "it observes");
    world.run(10_000);
    for id in ids {
        assert_eq!(world.result(&id), Some(S::Expired), "{id} was never begun");
    }
}

#[test]
fn adopted_it_acts_again() {
    let mut world = begun();
    world.say(conduct(true));
    world.run(500);
    let id = world.issue(tell("look"), 600_000);
    world.run(5_000);
    assert!(world.inbox.is_empty());
    world.say(conduct(false));
    world.run(1_000);
    assert_eq!((world.inbox.len(), world.result(&id)), (1, Some(S::Succeeded)));
    assert!(world.logs.iter().any(|l| l.contains("acts again")), "{:?}", world.logs);
}

#[test]
fn a_restart_under_way_launches_nothing_once_it_only_observes() {
    let mut world = begun();
    let id = world.issue(Spec::Restart(v1::Restart { incarnation: 1, grace_ms: 0 }), 60_000);
    while world.ended == 0 {
        assert!(world.step(), "it ends the agent");
    }
    let session = world.session.expect("a stream");
    world.seq += 1;
    let frame = v1::ConnectResponse { seq: world.seq, ack: 0, body: Some(conduct(true)) };
    world.inputs.push_front(Input::Received { session, frame });
    world.run(20_000);
    assert_eq!((world.launches, world.result(&id)), (0, Some(S::Unknown)));
}

#[test]
fn a_lease_runs_out_while_it_only_observes() {
    let mut world = begun();
    world.issue(throttle(0.2, 20_000, 20_000), 10_000);
    world.run(5_000);
    world.say(conduct(true));
    world.run(10_000);
    assert_ne!(world.value, OLD);
    world.run(10_000);
    assert_eq!(world.value, OLD, "its end is kept all the same");
}

#[test]
fn refused_because_another_has_its_state_it_only_observes_and_the_next_process_too() {
    for reason in ["LIFE_SUPERSEDED", "STATE_MOVED", "NOT_ADOPTED"] {
        let mut world = begun();
        let id = world.issue(tell("look"), 600_000);
        while !world.durable.commands.contains_key(&id) {
            assert!(world.step(), "it is received");
        }
        refuse(&mut world, reason);
        world.run(30_000);
        assert!(world.durable.life.only_observes, "{reason}");
        world.crash(0);
        world.start();
        assert!(!world.core.as_ref().unwrap().starts_agent_at_once());
        world.run(30_000);
        assert_eq!((world.inbox.len(), world.starts), (0, 0), "{reason}");
        world.orchestrator.mute = false;
        world.run(60_000);
        assert_eq!((world.inbox.len(), world.starts), (1, 1), "{reason}: adopted");
        assert!(!world.durable.life.only_observes);
    }
}

#[test]
fn other_refusals_change_nothing() {
    let mut world = begun();
    refuse(&mut world, "AGENT_UNKNOWN");
    assert!(!world.durable.life.only_observes);
}
