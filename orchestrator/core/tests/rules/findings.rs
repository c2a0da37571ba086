//! Findings: each opens once, is updated by news and not by running figures, and closes.
use pitwall_proto::v1;
use pitwall_proto::v1::{LeaseState, Outcome, Resource, command_spec::Kind, fact};

use crate::support::{World, play::process};

const PLAN: &str = r#"
project: p
defaults: { expected_within: 1m, stall_after: 2m, misdirected_after: 3m, quota: { cpu: 2 } }
agents:
  o: { deliverables: { part: { estimate: 10m, checks: [ file: part, tcp: "o:1" ] } } }
  w: { deliverables: { own: { checks: [ file: own ] }, whole: { needs: [o/part], checks: [ file: whole ] } } }
"#;

fn world() -> World {
    let mut world = World::new(PLAN);
    world.start_all();
    world.fails("o/part");
    world
}

fn opened(world: &World, kind: &str) -> usize {
    let all = world.project.findings(true);
    all.iter().filter(|f| f.kind().as_str_name() == format!("FINDING_KIND_{}", kind.to_uppercase())).count()
}

#[test]
fn a_missing_deliverable_needs_a_blocked_waiter_and_nothing_of_it() {
    let table: [(&str, fn(&mut World), bool); 7] = [
        ("nobody is blocked", |_| {}, false),
        ("somebody is", |w| w.passes("w/own"), true),
        (
            "a file of its own changed",
            |w| {
                w.passes("w/own");
                w.changes("o", &[("part", 1)], 0);
            },
            false,
        ),
        (
            "one of its checks passed",
            |w| {
                w.passes("w/own");
                w.verdict("o/part", "tcp", Outcome::Passed, false, "");
            },
            false,
        ),
        (
            "a claim is no evidence",
            |w| {
                w.passes("w/own");
                w.claim("o", 1.0, &[("part", 1.0)], "");
            },
            true,
        ),
        (
            "changes elsewhere are none of it",
            |w| {
                w.passes("w/own");
                w.changes("o", &[], 7);
            },
            true,
        ),
        (
            "what cannot be observed may be there",
            |w| {
                w.passes("w/own");
                w.verdict("o/part", "", Outcome::Unknown, false, "permission denied");
            },
            false,
        ),
    ];
    for (name, steps, open) in table {
        let mut world = world();
        steps(&mut world);
        assert_eq!(world.findings().contains(&"missing_deliverable o/part".to_string()), open, "{name}");
        world.check_replay();
    }
    let mut world = World::new(PLAN);
    world.start("w");
    world.connect("o");
    world.fails("o/part");
    world.passes("w/own");
    world.advance(60_000);
    assert_eq!(world.findings(), ["agent_missing o"], "the owner was never seen: that is the finding");
}

#[test]
fn a_quota_names_the_process_and_opens_once() {
    let mut world = world();
    world.advance(5_000);
    let since = world.now;
    for used in [2.5, 3.0, 3.4] {
        world.quota("o", Resource::Cpu, 2.0, used, process(812, "next-server"));
        world.advance(1_000);
    }
    assert_eq!((world.findings(), opened(&world, "quota_exceeded")), (vec!["quota_exceeded o/cpu".into()], 1));
    let finding = world.project.findings(false).remove(0);
    assert_eq!(finding.process.unwrap().pid, 812);
    assert!(finding.message.contains("2.50 cores of 2.00 cores, mostly next-server (pid 812)"), "{}", finding.message);
    assert!(finding.since_unix_ms >= since);
    world.quota("o", Resource::Cpu, 2.0, 3.0, process(900, "tsc"));
    let finding = world.project.findings(false).remove(0);
    assert_eq!(finding.process.unwrap().pid, 900, "another process is news");
    world.quota("o", Resource::Cpu, 2.0, 0.5, process(900, "tsc"));
    assert!(world.findings().is_empty());
    world.quota("o", Resource::Cpu, 2.0, 3.0, process(901, "tsc"));
    assert_eq!(opened(&world, "quota_exceeded"), 2);
    world.exits("o", None);
    assert_eq!(world.findings(), ["agent_exited o"], "who has ended uses nothing");
    world.check_replay();
}

#[test]
fn happenings_without_an_end_of_their_own_are_shown_for_a_while() {
    let mut world = world();
    world.fact("o", fact::Kind::FactsDropped(v1::FactsDropped { count: 7 }));
    world.fact("o", fact::Kind::FactsDropped(v1::FactsDropped { count: 5 }));
    world.lease("o", "c9-old", LeaseState::Foreign, "cpu.max is 30000, not ours");
    world.lease("o", "c9-old", LeaseState::Lapsed, "ttl of 60s");
    assert_eq!(world.findings(), ["facts_dropped o", "lease_foreign o", "lease_lapsed o"]);
    assert!(world.project.findings(false).iter().any(|f| f.message.starts_with("12 facts")));
    world.advance(15 * 60_000);
    assert!(!world.findings().iter().any(|f| f.ends_with(" o") && !f.starts_with("agent")), "{:?}", world.findings());
}

#[test]
fn workspace_and_lease_findings_close_with_their_cause() {
    let mut world = world();
    let workspace = |present| v1::WorkspaceFact { present, reason: "/workspace does not exist".into() };
    world.fact("o", fact::Kind::Workspace(workspace(false)));
    world.lease("o", "c9-old", LeaseState::Lapsed, "ttl of 60s");
    assert_eq!(world.findings(), ["workspace_absent o", "lease_lapsed o"]);
    world.fact("o", fact::Kind::Workspace(workspace(true)));
    world
        .issue("o", Kind::Throttle(v1::Throttle { cpu_cores: 1.0, for_ms: 1_000, ttl_ms: 0, ..Default::default() }))
        .unwrap();
    assert!(world.findings().is_empty(), "{:?}", world.findings());
}

#[test]
fn stalled_exited_lost_and_missing_agents_are_found_once_and_closed() {
    let mut world = world();
    world.advance(2 * 60_000);
    world.quiet("o", true);
    assert_eq!(world.findings(), ["agent_stalled o"]);
    world.exits("o", Some(1));
    assert_eq!(world.findings(), ["agent_exited o"]);
    world.cut("o");
    world.advance(60_000);
    assert_eq!(world.findings(), ["agent_exited o", "sidecar_lost o"]);
    world.new_life("o");
    world.seen("o", 200, "o");
    assert!(world.findings().is_empty());
    for kind in ["agent_stalled", "agent_exited", "sidecar_lost"] {
        assert_eq!(opened(&world, kind), 1, "{kind}");
    }
    world.check_replay();
}
