//! Agent statuses: every rule, and each against its neighbour in the order.
use pitwall_proto::v1::{AgentStatus as S, Outcome, SidecarStatus};

use crate::support::World;

/// `w` has work of its own and something that needs `o`.
const PLAN: &str = r#"
project: p
defaults:
  expected_within: 1m
  stall_after: 2m
  misdirected_after: 3m
  waiting_for: 4m
  checks: { every: 10s, fresh_for: 30s }
agents:
  o:
    deliverables:
      part: { estimate: 10m, checks: [ file: part ] }
      other: { checks: [ file: other ] }
  w:
    deliverables:
      own: { estimate: 1m, checks: [ file: own ] }
      whole: { estimate: 10m, needs: [o/part], checks: [ file: whole ] }
  later:
    deliverables:
      last: { estimate: 10m, needs: [o/part], checks: [ file: last ] }
  nobody-knows:
    deliverables:
      some-day: { needs: [o/other], checks: [ file: some ] }
"#;

struct Row {
    name: &'static str,
    agent: &'static str,
    steps: fn(&mut World),
    status: S,
    reason: &'static str,
}

const MINUTE: i64 = 60_000;

fn rows() -> Vec<Row> {
    let row = |name, agent, steps, status, reason| Row { name, agent, steps, status, reason };
    vec![
        row("never seen, not due", "w", |w| w.advance(MINUTE - 1), S::Expected, "no sidecar ever connected"),
        row("never seen, due", "w", |w| w.advance(MINUTE), S::Missing, "no sidecar ever connected"),
        row(
            "never seen, its sidecar is up",
            "w",
            |w| {
                w.connect("w");
                w.advance(MINUTE);
            },
            S::Missing,
            "sidecar live, agent not started",
        ),
        row(
            "never seen, its sidecar is lost: missing comes first",
            "w",
            |w| {
                w.connect("w");
                w.cut("w");
                w.advance(MINUTE);
            },
            S::Missing,
            "sidecar lost before the agent was seen",
        ),
        row(
            "seen, then the sidecar fell silent: lost",
            "w",
            |w| {
                w.start("w");
                w.cut("w");
                w.advance(40_000);
            },
            S::Lost,
            "its sidecar is lost",
        ),
        row(
            "one moment earlier it is late, which changes nothing",
            "w",
            |w| {
                w.start("w");
                w.cut("w");
                w.advance(39_999);
            },
            S::Active,
            "",
        ),
        row(
            "a closed stream alone changes nothing",
            "w",
            |w| {
                w.start("w");
                w.cut("w");
            },
            S::Active,
            "",
        ),
        row(
            "all verified, and exited: done comes first",
            "o",
            |w| {
                w.start("o");
                w.passes("o/part");
                w.passes("o/other");
                w.exits("o", Some(0));
            },
            S::Done,
            "all deliverables verified",
        ),
        row(
            "all verified, but lost: not green",
            "o",
            |w| {
                w.start("o");
                w.passes("o/part");
                w.passes("o/other");
                w.cut("o");
                w.advance(MINUTE);
            },
            S::Lost,
            "",
        ),
        row(
            "exited while it says that it waits",
            "o",
            |w| {
                w.start("o");
                w.claim("o", 0.5, &[], "a person");
                w.exits("o", Some(3));
            },
            S::Exited,
            "no process of it is left, code 3",
        ),
        row(
            "seen again after its exit",
            "o",
            |w| {
                w.start("o");
                w.exits("o", Some(3));
                w.seen("o", 101, "o");
            },
            S::Active,
            "",
        ),
        row(
            "waits for a person, and is quiet: waiting comes first",
            "o",
            |w| {
                w.start("o");
                w.advance(3 * MINUTE);
                w.quiet("o", true);
                w.claim("o", 0.5, &[], "the owner of the account");
            },
            S::Waiting,
            "says it waits for the owner of the account",
        ),
        row(
            "waits no more after a file changed",
            "o",
            |w| {
                w.start("o");
                w.claim("o", 0.5, &[], "a person");
                w.advance(5_000);
                w.changes("o", &[], 1);
            },
            S::Active,
            "",
        ),
        row(
            "what it wrote before it said so does not end the wait",
            "o",
            |w| {
                w.start("o");
                w.claim("o", 0.5, &[], "a person");
                w.advance(500);
                w.changes("o", &[], 1);
            },
            S::Waiting,
            "",
        ),
        row(
            "waits no more after evidence changed",
            "o",
            |w| {
                w.start("o");
                w.fails("o/part");
                w.claim("o", 0.5, &[], "a person");
                w.advance(1);
                w.passes("o/part");
            },
            S::Active,
            "",
        ),
        row(
            "waits no more when unrenewed",
            "o",
            |w| {
                w.start("o");
                w.claim("o", 0.5, &[], "a person");
                w.advance(4 * MINUTE);
            },
            S::Active,
            "",
        ),
        row(
            "still waits when renewed",
            "o",
            |w| {
                w.start("o");
                w.claim("o", 0.5, &[], "a person");
                w.advance(3 * MINUTE);
                w.claim("o", 0.5, &[], "a person");
                w.advance(3 * MINUTE);
            },
            S::Waiting,
            "",
        ),
        row(
            "quiet with workable work",
            "o",
            |w| {
                w.start("o");
                w.advance(2 * MINUTE);
                w.quiet("o", true);
            },
            S::Stalled,
            "no file, evidence or CPU activity",
        ),
        row(
            "moves again",
            "o",
            |w| {
                w.start("o");
                w.advance(2 * MINUTE);
                w.quiet("o", true);
                w.quiet("o", false);
            },
            S::Active,
            "",
        ),
        row(
            "quiet while it had nothing to do, and its work has just become workable",
            "w",
            |w| {
                w.start("o");
                w.start("w");
                w.passes("w/own");
                w.advance(5 * MINUTE);
                w.quiet("w", true);
                w.passes("o/part");
            },
            S::Active,
            "",
        ),
        row(
            "and did not use its window",
            "w",
            |w| {
                w.start("o");
                w.start("w");
                w.passes("w/own");
                w.advance(5 * MINUTE);
                w.quiet("w", true);
                w.passes("o/part");
                w.advance(2 * MINUTE);
            },
            S::Stalled,
            "",
        ),
        row(
            "quiet without workable work is no stall",
            "w",
            |w| {
                w.start("o");
                w.start("w");
                w.passes("w/own");
                w.advance(5 * MINUTE);
                w.quiet("w", true);
            },
            S::Blocked,
            "waits for o/part",
        ),
        row(
            "looping",
            "o",
            |w| {
                w.start("o");
                w.advance(6 * MINUTE);
                w.looping("o", true);
            },
            S::Stalled,
            "busy, and nothing changes",
        ),
        row(
            "where it is misdirected it is not looping",
            "o",
            |w| {
                w.start("o");
                w.start("w");
                w.fails("o/part");
                w.passes("w/own");
                w.advance(6 * MINUTE);
                w.changes("o", &[], 3);
                w.looping("o", true);
            },
            S::Active,
            "",
        ),
        row(
            "workable work, and moves",
            "w",
            |w| {
                w.start("w");
                w.fails("w/own");
            },
            S::Active,
            "has workable work",
        ),
        row(
            "no workable work, had started: blocked at once",
            "w",
            |w| {
                w.start("o");
                w.start("w");
                w.passes("w/own");
            },
            S::Blocked,
            "waits for o/part",
        ),
        row(
            "no workable work, not started, within plan",
            "later",
            |w| {
                w.start("o");
                w.fails("o/part");
                w.start("later");
                w.advance(10 * MINUTE - 1);
            },
            S::Idle,
            "its turn comes after o/part",
        ),
        row(
            "an open need is overdue",
            "later",
            |w| {
                w.start("o");
                w.fails("o/part");
                w.start("later");
                w.advance(10 * MINUTE);
            },
            S::Blocked,
            "o/part",
        ),
        row(
            "its root cause is one of 1 to 9: the owner is missing",
            "later",
            |w| {
                w.start("later");
                w.advance(MINUTE);
            },
            S::Blocked,
            "waits for o/part",
        ),
        row(
            "no estimate: idle for ever, and says why",
            "nobody-knows",
            |w| {
                w.start("o");
                w.fails("o/other");
                w.start("nobody-knows");
                w.advance(60 * MINUTE);
            },
            S::Idle,
            "(no estimate)",
        ),
        row(
            "a process that is up and files of nobody start nothing",
            "later",
            |w| {
                w.start("o");
                w.fails("o/part");
                w.start("later");
                w.changes("later", &[], 5);
            },
            S::Idle,
            "",
        ),
        row(
            "a claim that names it starts it",
            "later",
            |w| {
                w.start("o");
                w.fails("o/part");
                w.start("later");
                w.claim("later", 0.1, &[("last", 0.1)], "");
            },
            S::Blocked,
            "",
        ),
    ]
}

#[test]
fn the_first_rule_that_fits() {
    for row in rows() {
        let mut world = World::new(PLAN);
        (row.steps)(&mut world);
        assert_eq!(world.status(row.agent), row.status, "{}: {}", row.name, world.reason(row.agent));
        let reason = world.reason(row.agent);
        assert!(reason.contains(row.reason), "{}: {reason:?} has no {:?}", row.name, row.reason);
        world.check_replay();
    }
}

#[test]
fn an_agent_is_due_from_the_generation_that_added_it_across_restarts() {
    let mut world = World::new(PLAN);
    world.advance(30_000);
    world.restart_orchestrator();
    world.advance(29_999);
    assert_eq!(world.status("w"), S::Expected);
    world.advance(1);
    assert_eq!(world.status("w"), S::Missing, "a restart does not begin its time anew");
    let more = format!("{PLAN}  late:\n    deliverables:\n      d: {{ checks: [ file: x ] }}\n");
    world.apply_plan(&more).unwrap();
    world.advance(MINUTE - 1);
    assert_eq!(world.status("late"), S::Expected);
    world.advance(1);
    assert_eq!(world.status("late"), S::Missing);
}

#[test]
fn evidence_that_cannot_be_seen_does_not_make_done() {
    let mut world = World::new(PLAN);
    world.start("o");
    world.passes("o/part");
    world.passes("o/other");
    assert_eq!(world.status("o"), S::Done);
    world.verdict("o/other", "", Outcome::Unknown, false, "permission denied");
    assert_eq!(world.status("o"), S::Active);
}

#[test]
fn any_message_is_a_sign_of_life() {
    let mut world = World::new(PLAN);
    world.start("w");
    world.cut("w");
    world.advance(39_000);
    world.connect("w");
    world.reads("w", 0.1, &[]);
    assert_eq!(world.project.state().agents["w"].sidecar_status(), SidecarStatus::Live);
    world.advance(MINUTE);
    assert_eq!(world.status("w"), S::Active);
}
