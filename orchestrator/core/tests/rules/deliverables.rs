//! Statuses of deliverables, needs, started, workable, progress and finishes.
use pitwall_proto::v1::{DeliverableStatus as D, NeedState, Outcome};

use crate::support::World;

const PLAN: &str = r#"
project: p
defaults: { expected_within: 1m, checks: { every: 10s, fresh_for: 30s, hysteresis: 5s } }
agents:
  a:
    deliverables:
      d:
        estimate: 10m
        checks: [ { file: one, weight: 3 }, { file: two }, { file: extra, required: false } ]
  b:
    deliverables:
      e: { estimate: 5m, needs: [a/d], checks: [ file: e ] }
      f: { needs: [a/d], checks: [ { file: f, required: false }, { file: g, required: false } ] }
"#;

type Steps = fn(&mut World);

#[test]
fn the_first_status_that_fits() {
    let table: [(&str, Steps, D); 13] = [
        ("never seen, nothing known", |_| {}, D::Pending),
        ("seen, nothing checked yet", |w| w.start("a"), D::Pending),
        (
            "seen, never checked for fresh_for",
            |w| {
                w.start("a");
                w.advance(30_000);
            },
            D::Unknown,
        ),
        (
            "all fail",
            |w| {
                w.start("a");
                w.fails("a/d");
            },
            D::Pending,
        ),
        (
            "some pass",
            |w| {
                w.start("a");
                w.fails("a/d");
                w.verdict("a/d", "one", Outcome::Passed, false, "");
            },
            D::Partial,
        ),
        (
            "only one that is not required passes",
            |w| {
                w.start("a");
                w.fails("a/d");
                w.verdict("a/d", "extra", Outcome::Passed, false, "");
            },
            D::Partial,
        ),
        (
            "every required one passes",
            |w| {
                w.start("a");
                w.passes("a/d");
                w.verdict("a/d", "extra", Outcome::Failed, false, "");
            },
            D::Verified,
        ),
        (
            "one cannot be observed, none fails",
            |w| {
                w.start("a");
                w.passes("a/d");
                w.verdict("a/d", "two", Outcome::Unknown, false, "");
            },
            D::Unknown,
        ),
        (
            "one cannot be observed, another fails, never verified",
            |w| {
                w.start("a");
                w.verdict("a/d", "one", Outcome::Unknown, false, "");
                w.verdict("a/d", "two", Outcome::Failed, false, "");
            },
            D::Pending,
        ),
        (
            "cannot be observed, but the agent was never seen",
            |w| {
                w.connect("a");
                w.verdict("a/d", "", Outcome::Unknown, false, "");
            },
            D::Pending,
        ),
        (
            "was verified, fails inside its hysteresis",
            |w| {
                w.start("a");
                w.passes("a/d");
                w.verdict("a/d", "one", Outcome::Failed, true, "");
                w.advance(4_999);
            },
            D::Verified,
        ),
        (
            "was verified, fails past its hysteresis, though nobody says so again",
            |w| {
                w.start("a");
                w.passes("a/d");
                w.verdict("a/d", "one", Outcome::Failed, true, "");
                w.advance(5_000);
            },
            D::Regressed,
        ),
        (
            "was verified, one fails and another is unknown",
            |w| {
                w.start("a");
                w.passes("a/d");
                w.verdict("a/d", "one", Outcome::Failed, false, "");
                w.verdict("a/d", "two", Outcome::Unknown, false, "");
            },
            D::Regressed,
        ),
    ];
    for (name, steps, status) in table {
        let mut world = World::new(PLAN);
        steps(&mut world);
        assert_eq!(world.deliverable("a/d").status, status, "{name}");
        world.check_replay();
    }
}

#[test]
fn with_no_required_check_all_of_them_are() {
    let mut world = World::new(PLAN);
    world.start("b");
    world.verdict("b/f", "file:f", Outcome::Passed, false, "");
    assert_eq!(world.deliverable("b/f").status, D::Partial);
    world.verdict("b/f", "file:g", Outcome::Passed, false, "");
    assert_eq!(world.deliverable("b/f").status, D::Verified);
}

#[test]
fn hysteresis_is_only_for_what_passed() {
    let mut world = World::new(PLAN);
    world.start("a");
    world.verdict("a/d", "", Outcome::Failed, true, "says that it passed before, and never did");
    assert_eq!(world.deliverable("a/d").status, D::Pending);
    assert_eq!(world.deliverable("a/d").verified, 0.0);
}

#[test]
fn progress_is_the_passed_weight_and_below_one_until_verified() {
    let mut world = World::new(PLAN);
    world.start("a");
    world.fails("a/d");
    world.verdict("a/d", "one", Outcome::Passed, false, "");
    assert_eq!(world.deliverable("a/d").verified, 0.6);
    world.verdict("a/d", "extra", Outcome::Passed, false, "");
    assert_eq!(world.deliverable("a/d").verified, 0.8);
    world.verdict("a/d", "two", Outcome::Passed, false, "");
    world.verdict("a/d", "extra", Outcome::Failed, false, "");
    assert_eq!(world.deliverable("a/d").verified, 1.0, "what is not required does not hold it below one");
}

#[test]
fn stale_evidence_is_unknown_never_green() {
    let mut world = World::new(PLAN);
    world.start("a");
    world.passes("a/d");
    world.advance(10 * 60_000);
    assert_eq!(world.deliverable("a/d").status, D::Verified, "heartbeats say that it is still so");
    world.sidecar("a").mute_checks = true;
    world.advance(29_000);
    assert_eq!(world.deliverable("a/d").status, D::Verified);
    world.advance(11_000);
    assert_eq!(world.deliverable("a/d").status, D::Unknown, "a live sidecar that does not check proves nothing");
    assert_eq!((world.deliverable("a/d").verified, world.deliverable("a/d").unknown), (0.0, 1.0));
    world.sidecar("a").mute_checks = false;
    world.advance(10_000);
    assert_eq!(world.deliverable("a/d").status, D::Verified);
    world.check_replay();
}

/// This orchestrator stood still: that the evidence had grown stale is not told yet when it is told to fail.
#[test]
fn what_grew_stale_unnoticed_is_not_inside_its_hysteresis() {
    let mut world = World::new(PLAN);
    world.start("a");
    world.passes("a/d");
    world.advance(10 * 60_000);
    world.now += 31_000;
    world.verdict("a/d", "one", Outcome::Failed, true, "");
    assert_ne!(world.deliverable("a/d").status, D::Verified);
    world.check_replay();
}

#[test]
fn what_grew_stale_while_it_failed_is_not_inside_its_hysteresis_again() {
    let mut world = World::new(&PLAN.replace("hysteresis: 5s", "hysteresis: 2m"));
    world.start("b");
    world.passes("b/e");
    world.advance(10 * 60_000);
    world.verdict("b/e", "", Outcome::Failed, true, "");
    assert_eq!(world.deliverable("b/e").status, D::Verified);
    world.sidecar("b").mute_checks = true;
    world.advance(40_000);
    assert_eq!(world.deliverable("b/e").status, D::Unknown);
    world.verdict("b/e", "", Outcome::Failed, true, "");
    assert_ne!(world.deliverable("b/e").status, D::Verified);
    world.check_replay();
}

#[test]
fn old_news_is_never_green() {
    let mut world = World::new(PLAN);
    world.start("a");
    world.cut("a");
    world.passes("a/d");
    world.advance(31_000);
    world.sidecar("a").mute_checks = true;
    world.connect("a");
    assert_eq!(world.deliverable("a/d").status, D::Unknown, "it passed half a minute ago, and who knows now");
    world.check_replay();
}

#[test]
fn needs_are_met_by_verified_only_and_decide_what_is_workable() {
    let mut world = World::new(PLAN);
    world.start_all();
    world.fails("a/d");
    world.fails("b/e");
    let need = |w: &World| w.deliverable("b/e").needs[0].1;
    assert_eq!((need(&world), world.deliverable("b/e").workable), (NeedState::Open, false));
    assert!(world.deliverable("a/d").workable);
    world.claim("a", 1.0, &[("d", 1.0)], "");
    world.verdict("a/d", "one", Outcome::Passed, false, "");
    assert_eq!(need(&world), NeedState::Open, "neither a claim nor a part of it is enough");
    world.passes("a/d");
    assert_eq!((need(&world), world.deliverable("b/e").workable), (NeedState::Met, true));
    assert!(!world.deliverable("a/d").workable, "what is verified is no work");
    world.verdict("a/d", "one", Outcome::Unknown, false, "");
    assert_eq!(need(&world), NeedState::Open, "what cannot be seen is not met");
}

#[test]
fn what_starts_a_deliverable() {
    let table: [(&str, Steps, bool); 8] = [
        ("a process that is up", |w| w.start("a"), false),
        ("files that belong to nothing", |w| w.changes("a", &[], 9), false),
        ("a claim of the agent that does not name it", |w| w.claim("a", 0.9, &[], ""), false),
        ("a claim of nothing for it", |w| w.claim("a", 0.9, &[("d", 0.0)], ""), false),
        ("a claim that names it", |w| w.claim("a", 0.9, &[("d", 0.1)], ""), true),
        ("a file of its own", |w| w.changes("a", &[("d", 1)], 0), true),
        ("a check that passed", |w| w.verdict("a/d", "extra", Outcome::Passed, false, ""), true),
        (
            "a check that passed once",
            |w| {
                w.verdict("a/d", "one", Outcome::Passed, false, "");
                w.fails("a/d");
            },
            true,
        ),
    ];
    for (name, steps, started) in table {
        let mut world = World::new(PLAN);
        world.connect("a");
        steps(&mut world);
        assert_eq!(world.deliverable("a/d").started, started, "{name}");
    }
}

#[test]
fn finishes_follow_the_needs_and_their_estimates() {
    let mut world = World::new(PLAN);
    world.start_all();
    let start = world.now;
    let planned = |w: &World, id: &str| w.deliverable(id).planned_finish.map(|at| at - start);
    let expected = |w: &World, id: &str| w.deliverable(id).expected_finish.map(|at| at - w.project.state().at);
    assert_eq!(planned(&world, "a/d"), Some(600_000));
    assert_eq!(planned(&world, "b/e"), Some(900_000));
    assert_eq!(planned(&world, "b/f"), None, "no estimate, never overdue");
    world.verdict("a/d", "one", Outcome::Passed, false, "");
    assert_eq!(expected(&world, "a/d"), Some(240_000), "two fifths are left");
    assert_eq!(expected(&world, "b/e"), Some(540_000));
    world.passes("a/d");
    assert_eq!((expected(&world, "a/d"), expected(&world, "b/e")), (None, Some(300_000)));
    assert_eq!(planned(&world, "b/e"), Some(900_000), "the plan stays");
}

#[test]
fn a_claim_of_everything_moves_nothing() {
    let mut world = World::new(PLAN);
    world.start_all();
    world.fails("a/d");
    let before = world.project.situation(0);
    world.claim("a", 1.0, &[], "");
    let after = world.project.situation(0);
    assert_eq!((after.verified, after.claimed), (before.verified, Some(1.0 / 3.0)));
    assert_eq!(after.agents[0].verified, before.agents[0].verified);
}

#[test]
fn a_new_rule_that_fails_is_no_regression() {
    let mut world = World::new(PLAN);
    world.start_all();
    world.passes("a/d");
    world.apply_plan(&PLAN.replace("{ file: two }", "{ file: { path: two, contains: x } }")).unwrap();
    assert_eq!(world.deliverable("a/d").status, D::Unknown, "changed checks lose their evidence");
    assert_eq!(world.deliverable("a/d").verified, 0.8, "unchanged ones keep it");
    world.verdict("a/d", "two", Outcome::Failed, false, "no x");
    assert_eq!(world.deliverable("a/d").status, D::Partial, "it was never verified against this rule");
    world.verdict("a/d", "one", Outcome::Failed, false, "gone");
    assert_eq!(world.deliverable("a/d").status, D::Regressed, "but this one was");
    world.check_replay();
}

#[test]
fn verdicts_for_rules_of_another_generation_are_dropped_and_counted() {
    let mut world = World::new(PLAN);
    world.start_all();
    world.cut("a");
    world.passes("a/d");
    world.apply_plan(&PLAN.replace("{ file: two }", "{ file: { path: two, contains: x } }")).unwrap();
    world.connect("a");
    assert_eq!(world.project.foreign_verdicts(), 1);
    assert_eq!(world.deliverable("a/d").status, D::Unknown);
}
