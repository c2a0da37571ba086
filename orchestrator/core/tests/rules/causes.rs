//! The twelve root causes: each holds, and comes before the next in the order.
use pitwall_proto::v1::{AgentStatus, Cause as C, Outcome};

use crate::support::{World, id_of, play::process};

/// `w` has started and waits for `o/part`.
const PLAN: &str = r#"
project: p
defaults: { expected_within: 1m, stall_after: 2m, misdirected_after: 3m, checks: { every: 10s, fresh_for: 30s } }
agents:
  o:
    deliverables:
      part: { estimate: 10m, checks: [ file: part, file: piece ] }
      side: { checks: [ file: side ] }
      held: { checks: [ file: held ] }
  w:
    deliverables:
      own: { checks: [ file: own ] }
      whole: { needs: [o/part], checks: [ file: whole ] }
  v:
    deliverables:
      view: { needs: [o/held], checks: [ file: view ] }
"#;

const MINUTE: i64 = 60_000;

fn waiting() -> World {
    let mut world = World::new(PLAN);
    world.start("w");
    world.passes("w/own");
    world.fails("w/whole");
    world
}

fn owner_up() -> World {
    let mut world = waiting();
    world.start("o");
    world.fails("o/part");
    world
}

/// Everything from 3 on holds at once; each row takes away what came first.
#[test]
fn the_first_cause_that_holds() {
    let table: [(&str, fn() -> World, C); 17] = [
        (
            "1 owner missing",
            || {
                let mut w = waiting();
                w.advance(MINUTE);
                w
            },
            C::OwnerMissing,
        ),
        ("not due yet is not missing", waiting, C::NotStarted),
        (
            "1 before 2: never seen, its sidecar lost",
            || {
                let mut w = waiting();
                w.connect("o");
                w.cut("o");
                w.advance(2 * MINUTE);
                w
            },
            C::OwnerMissing,
        ),
        (
            "2 before 3: lost, and had exited",
            || {
                let mut w = owner_up();
                w.exits("o", Some(1));
                w.cut("o");
                w.advance(MINUTE);
                w
            },
            C::OwnerLost,
        ),
        (
            "3 before 4: exited, and regressed",
            || {
                let mut w = owner_up();
                w.passes("o/part");
                w.fails("o/part");
                w.exits("o", Some(1));
                w
            },
            C::OwnerExited,
        ),
        (
            "4 before 5: regressed, and a check unknown",
            || {
                let mut w = owner_up();
                w.passes("o/part");
                w.verdict("o/part", "piece", Outcome::Unknown, false, "");
                w.verdict("o/part", "file:part", Outcome::Failed, false, "");
                w
            },
            C::Regressed,
        ),
        (
            "5 before 6: unknown, and waits for a person",
            || {
                let mut w = owner_up();
                w.passes("o/part");
                w.verdict("o/part", "piece", Outcome::Unknown, false, "denied");
                w.claim("o", 0.5, &[], "a person");
                w
            },
            C::EvidenceUnknown,
        ),
        (
            "6 before 7: waits for a person, under pressure",
            || {
                let mut w = owner_up();
                w.claim("o", 0.5, &[], "a person");
                w.pressure("o", true, "throttled 62 % of 10 s", None);
                w
            },
            C::OwnerWaiting,
        ),
        (
            "7 before 8: under pressure, and quiet",
            || {
                let mut w = owner_up();
                w.advance(2 * MINUTE);
                w.pressure("o", true, "throttled 62 % of 10 s", Some(process(812, "next-server")));
                w.quiet("o", true);
                w
            },
            C::ResourcePressure,
        ),
        (
            "8 before 9: quiet now, changed other things before",
            || {
                let mut w = owner_up();
                w.advance(2 * MINUTE);
                w.changes("o", &[], 3);
                w.advance(2 * MINUTE);
                w.quiet("o", true);
                w
            },
            C::OwnerStalled,
        ),
        (
            "8 looping, on nothing at all",
            || {
                let mut w = owner_up();
                w.advance(6 * MINUTE);
                w.looping("o", true);
                w
            },
            C::OwnerStalled,
        ),
        (
            "9 before 10: misdirected, and overdue",
            || {
                let mut w = owner_up();
                w.advance(10 * MINUTE);
                w.changes("o", &[], 3);
                w
            },
            C::Misdirected,
        ),
        (
            "9 not looping where it is misdirected",
            || {
                let mut w = owner_up();
                w.advance(6 * MINUTE);
                w.changes("o", &[("side", 2)], 0);
                w.looping("o", true);
                w
            },
            C::Misdirected,
        ),
        (
            "10 before 11: overdue, not started",
            || {
                let mut w = owner_up();
                w.advance(10 * MINUTE);
                w
            },
            C::Overdue,
        ),
        (
            "10 before 12: overdue, in progress",
            || {
                let mut w = owner_up();
                w.changes("o", &[("part", 1)], 0);
                w.advance(10 * MINUTE);
                w
            },
            C::Overdue,
        ),
        ("11 not started", owner_up, C::NotStarted),
        (
            "12 in progress",
            || {
                let mut w = owner_up();
                w.changes("o", &[("part", 1)], 0);
                w
            },
            C::InProgress,
        ),
    ];
    for (name, made, cause) in table {
        let world = made();
        assert_eq!(world.cause("o/part"), Some(cause), "{name}");
        assert_eq!(world.status("w"), AgentStatus::Blocked, "{name}");
        let blocker = world.project.situation(0).blockers.into_iter().find(|b| b.cause() == cause);
        assert!(blocker.is_some_and(|b| b.root.unwrap().deliverable == "part"), "{name}: a blocker tells it");
        world.check_replay();
    }
}

#[test]
fn the_process_that_causes_pressure_is_named_whoever_owns_it() {
    let mut world = owner_up();
    world.pressure("o", true, "run queue wait 55 %", Some(process(812, "next-server")));
    let blocker = &world.project.situation(0).blockers[0];
    assert_eq!(blocker.cause_detail, "run queue wait 55 %, caused by next-server (812)");
    world.pressure("o", false, "", None);
    assert_eq!(world.cause("o/part"), Some(C::NotStarted));
}

#[test]
fn misdirection_in_detail() {
    let table: [(&str, fn(&mut World), bool); 11] = [
        (
            "other files, the whole window through",
            |w| {
                w.advance(2 * MINUTE);
                w.changes("o", &[], 2);
                w.advance(MINUTE);
            },
            true,
        ),
        (
            "the window is not over",
            |w| {
                w.advance(2 * MINUTE);
                w.changes("o", &[], 2);
                w.advance(MINUTE - 1);
            },
            false,
        ),
        ("no changes at all", |w| w.advance(5 * MINUTE), false),
        (
            "a deliverable that holds nobody up",
            |w| {
                w.advance(3 * MINUTE);
                w.changes("o", &[("side", 1)], 0);
            },
            true,
        ),
        (
            "a deliverable that holds somebody up",
            |w| {
                w.advance(3 * MINUTE);
                w.changes("o", &[("held", 4)], 0);
            },
            false,
        ),
        (
            "a file of this inside the window",
            |w| {
                w.advance(3 * MINUTE);
                w.changes("o", &[], 9);
                w.changes("o", &[("part", 1)], 0);
            },
            false,
        ),
        (
            "a file of this in the same breath",
            |w| {
                w.advance(3 * MINUTE);
                w.changes("o", &[("part", 1)], 9);
            },
            false,
        ),
        (
            "the last file of this left the window",
            |w| {
                w.advance(MINUTE);
                w.changes("o", &[("part", 1)], 0);
                w.advance(2 * MINUTE);
                w.changes("o", &[], 9);
                w.advance(MINUTE);
            },
            true,
        ),
        (
            "the other files left the window",
            |w| {
                w.advance(MINUTE);
                w.changes("o", &[], 9);
                w.advance(3 * MINUTE);
            },
            false,
        ),
        (
            "nobody who has started waits for it any more",
            |w| {
                w.advance(3 * MINUTE);
                w.changes("o", &[], 9);
                w.fails("w/own");
            },
            false,
        ),
        (
            "a waiter that is lost waits all the same, whatever its status",
            |w| {
                w.advance(3 * MINUTE);
                w.changes("o", &[], 9);
                w.exits("w", Some(1));
            },
            true,
        ),
    ];
    for (name, steps, misdirected) in table {
        let mut world = owner_up();
        steps(&mut world);
        assert_eq!(world.cause("o/part") == Some(C::Misdirected), misdirected, "{name}");
        assert_eq!(world.findings().contains(&"misdirected o/part".to_string()), misdirected, "{name}");
        world.check_replay();
    }
}

#[test]
fn who_has_not_started_makes_nobody_misdirected() {
    let mut world = World::new(PLAN);
    world.start("o");
    world.start("v");
    world.fails("o/held");
    world.advance(5 * MINUTE);
    world.changes("o", &[], 9);
    assert_eq!(world.cause("o/held"), Some(C::NotStarted));
    assert_eq!(world.status("v"), AgentStatus::Idle);
}

const CHAIN: &str = r#"
project: p
defaults: { expected_within: 1m }
agents:
  a: { deliverables: { a1: { estimate: 10m, checks: [ file: a1 ] }, a2: { checks: [ file: a2 ] } } }
  b: { deliverables: { b1: { estimate: 20m, checks: [ file: b1 ] } } }
  c: { deliverables: { c0: { checks: [ file: c0 ] }, c1: { estimate: 5m, needs: [a/a1], checks: [ file: c1 ] } } }
  d: { deliverables: { d0: { checks: [ file: d0 ] }, d1: { estimate: 5m, needs: [c/c1, b/b1], checks: [ file: d1 ] }, d2: { needs: [a/a2, b/b1], checks: [ file: d2 ] } } }
"#;

fn chain_of(world: &World, id: &str) -> Vec<String> {
    world.project.derived().roots[&id_of(id)].chain.iter().map(ToString::to_string).collect()
}

#[test]
fn the_binding_need_is_the_latest() {
    let mut world = World::new(CHAIN);
    world.start_all();
    world.passes("d/d0");
    assert_eq!(chain_of(&world, "d/d1"), ["b/b1"], "20 minutes are later than 10 and 5");
    assert_eq!(chain_of(&world, "d/d2"), ["a/a2"], "no estimate is later than any");
    let all: Vec<_> = world.project.derived().roots[&id_of("d/d1")].all.iter().map(ToString::to_string).collect();
    assert_eq!(all, ["a/a1", "b/b1"], "all are listed");
    world.pressure("a", true, "out of memory", None);
    assert_eq!(chain_of(&world, "d/d1"), ["c/c1", "a/a1"], "trouble is latest of all, and the chain goes down to it");
    world.pressure("b", true, "out of memory", None);
    assert_eq!(chain_of(&world, "d/d1"), ["b/b1"], "of two in trouble the smaller id binds");
    assert_eq!(chain_of(&world, "d/d2"), ["a/a2"]);
    world.check_replay();
}
