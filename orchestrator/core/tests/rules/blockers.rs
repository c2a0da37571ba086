//! Which waits are told as blockers, what a root holds up, and what to clear first.
use pitwall_proto::v1::{AgentStatus, Blocker};

use crate::support::World;

/// `hub/x` holds two agents directly and one behind them; `side/y` holds one.
const PLAN: &str = r#"
project: p
defaults: { expected_within: 1m }
agents:
  hub: { deliverables: { x: { estimate: 10m, checks: [ file: x ] } } }
  side: { deliverables: { y: { estimate: 60m, checks: [ file: y ] } } }
  one: { deliverables: { own: { checks: [ file: own ] }, a: { estimate: 1m, needs: [hub/x], checks: [ file: a ] } } }
  two: { deliverables: { own: { checks: [ file: own ] }, b: { estimate: 1m, needs: [hub/x], checks: [ file: b ] } } }
  three: { deliverables: { own: { checks: [ file: own ] }, c: { estimate: 1m, needs: [side/y], checks: [ file: c ] } } }
  last: { deliverables: { d: { needs: [one/a, side/y], checks: [ file: d ] } } }
"#;

fn world() -> World {
    let mut world = World::new(PLAN);
    world.start_all();
    for id in ["hub/x", "side/y", "one/a", "two/b", "three/c", "last/d"] {
        world.fails(id);
    }
    world
}

fn told(world: &World) -> Vec<(u32, String, String)> {
    let name = |r: &Option<pitwall_proto::v1::DeliverableRef>| {
        r.as_ref().map(|r| format!("{}/{}", r.agent, r.deliverable)).unwrap()
    };
    let blockers = world.project.situation(0).blockers;
    blockers.iter().map(|b: &Blocker| (b.rank, name(&b.waiting), name(&b.root))).collect()
}

fn line(rank: u32, waiting: &str, root: &str) -> (u32, String, String) {
    (rank, waiting.into(), root.into())
}

#[test]
fn an_active_agents_wait_is_told_only_on_the_critical_path() {
    let mut world = world();
    assert_eq!(told(&world), [line(1, "three/c", "side/y")], "side/y -> three/c is the longest");
    world.passes("one/own");
    assert_eq!(told(&world), [line(1, "one/a", "hub/x"), line(2, "three/c", "side/y")]);
    assert_eq!(world.status("three"), AgentStatus::Active);
    assert_eq!(world.status("last"), AgentStatus::Idle);
}

#[test]
fn what_frees_most_agents_now_comes_first_and_a_root_has_one_rank() {
    let mut world = world();
    for agent in ["one", "two", "three"] {
        world.passes(&format!("{agent}/own"));
    }
    assert_eq!(
        told(&world),
        [line(1, "one/a", "hub/x"), line(1, "two/b", "hub/x"), line(2, "three/c", "side/y")],
        "hub/x frees two agents at once, side/y one, though the critical path goes through it"
    );
    let first = &world.project.situation(0).blockers[0];
    assert_eq!(first.holds_agents, ["last", "one", "two"], "an idle agent's wait counts in the impact");
    assert_eq!(first.holds_deliverables, 3);
    assert!(!first.critical);
    let side = &world.project.situation(0).blockers[2];
    assert!(side.critical);
    assert_eq!(side.holds_agents, ["last", "three"]);
    world.check_replay();
}

#[test]
fn a_blocker_says_since_when_when_it_clears_and_what_is_being_done() {
    let mut world = world();
    world.advance(5_000);
    world.passes("one/own");
    let since = world.now;
    world.advance(60_000);
    let blocker = world.project.situation(0).blockers.remove(0);
    assert_eq!(blocker.since_unix_ms, since);
    assert!(blocker.expected_clear_unix_ms.is_some_and(|at| at > since + 500_000));
    assert!(blocker.next.contains("pitwall tell hub --about x"), "{}", blocker.next);
    let told = world.tell("hub", "x", "please");
    assert_eq!(world.project.situation(0).blockers[0].interventions, [told.id]);
}

#[test]
fn a_met_need_clears_it() {
    let mut world = world();
    world.passes("one/own");
    world.passes("hub/x");
    assert_eq!(world.status("one"), AgentStatus::Active);
    assert_eq!(told(&world), [line(1, "three/c", "side/y")]);
}
