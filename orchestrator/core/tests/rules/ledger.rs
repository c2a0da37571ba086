//! Commands: checked and filled in, delivered, ended once, and their interventions credited.
use pitwall_core::io::RefusalKind;
use pitwall_proto::v1::{self, CommandState as C, InterventionOutcome as O, LeaseState, command_spec::Kind, fact};

use crate::support::{World, play::process};

const PLAN: &str = r#"
project: p
windows: { command_expiry: 2m, result_grace: 30s, effect_within: 5m }
agents:
  a: { deliverables: { d: { checks: [ file: x ] } } }
  b: { deliverables: { e: { checks: [ file: y ] } } }
"#;

fn world() -> World {
    let mut world = World::new(PLAN);
    world.start("a");
    world.fails("a/d");
    world
}

#[test]
fn what_cannot_be_meant_is_refused_at_once() {
    let directive = |text: &str, about: &str, priority| {
        Kind::Directive(v1::Directive { text: text.into(), about: about.into(), priority })
    };
    let throttle =
        |cpu_cores, for_ms, ttl_ms| Kind::Throttle(v1::Throttle { cpu_cores, for_ms, ttl_ms, ..Default::default() });
    let kill = |pid| {
        Kind::Kill(v1::Kill { process: Some(v1::ProcessIdentity { pid, ..Default::default() }), ..Default::default() })
    };
    let table = [
        ("nobody", directive("x", "", 0), "AGENT_UNKNOWN"),
        ("a", directive(" \n", "", 0), "DIRECTIVE_EMPTY"),
        ("a", directive(&"x".repeat(65 * 1024), "", 0), "FIELD_TOO_LONG"),
        ("a", directive("x", "e", 0), "DELIVERABLE_UNKNOWN"),
        ("a", directive("x", "d", 9), "FIELD_OUT_OF_RANGE"),
        ("a", throttle(0.05, 1_000, 0), "FIELD_OUT_OF_RANGE"),
        ("a", throttle(f64::NAN, 1_000, 0), "FIELD_OUT_OF_RANGE"),
        ("a", throttle(1.0, 0, 0), "FIELD_OUT_OF_RANGE"),
        ("a", kill(1), "PROCESS_MISSING"),
        ("a", kill(-5), "PROCESS_MISSING"),
        ("a", Kind::Kill(v1::Kill::default()), "PROCESS_MISSING"),
        ("a", kill(4_711), "PROCESS_UNKNOWN"),
        ("a", Kind::Activate(v1::Activate::default()), "AGENT_SEEN"),
        ("b", Kind::Restart(v1::Restart::default()), "AGENT_NEVER_SEEN"),
    ];
    let mut world = world();
    for (agent, kind, reason) in table {
        let refusal = world.issue(agent, kind.clone()).expect_err(reason);
        assert_eq!(refusal.reason, reason, "{kind:?}: {}", refusal.message);
        assert_ne!(refusal.kind, RefusalKind::Unavailable);
    }
    assert!(world.project.commands("", "", 10).is_empty(), "nothing of it is in the ledger");
}

#[test]
fn identities_are_filled_in_from_what_is_known() {
    let mut world = world();
    world.reads("a", 2.0, &[(812, "next-server", 1.9)]);
    let spec = |command: v1::Command| command.spec.unwrap().kind.unwrap();
    let Kind::Kill(kill) = spec(world.kill("a", 812).unwrap()) else { panic!() };
    assert_eq!(kill.process, Some(process(812, "next-server")), "from the latest reading");
    let Kind::Kill(kill) = spec(world.kill("a", 100).unwrap()) else { panic!() };
    assert_eq!(kill.process.unwrap().start_ticks, 1_100, "the root is known");
    let Kind::Restart(restart) = spec(world.issue("a", Kind::Restart(v1::Restart::default())).unwrap()) else {
        panic!()
    };
    assert_eq!(restart.incarnation, 1);
}

#[test]
fn what_no_sidecar_can_do_is_rejected_naming_what_would_enable_it() {
    let mut world = world();
    let rejected = world.issue("b", Kind::Activate(v1::Activate::default())).unwrap();
    assert_eq!((rejected.state(), world.outcome(&rejected.id)), (C::Rejected, O::Rejected));
    assert!(rejected.detail.contains("pitwall-sidecar --agent b"), "{}", rejected.detail);
    world.sidecar("b").lacks.insert("launch".into());
    world.connect("b");
    let rejected = world.issue("b", Kind::Activate(v1::Activate::default())).unwrap();
    assert_eq!(rejected.state(), C::Rejected);
    assert!(rejected.detail.contains("--with-launch"), "{}", rejected.detail);
    // Beside a container it is no launch of the sidecar's.
    world.sidecar("b").beside = true;
    world.connect("b");
    let taken = world.issue("b", Kind::Activate(v1::Activate::default())).unwrap();
    assert_ne!(taken.state(), C::Rejected, "{}", taken.detail);
}

#[test]
fn an_idempotency_key_names_one_command() {
    let mut world = world();
    let tell = || Kind::Directive(v1::Directive { text: "x".into(), ..Default::default() });
    let first = world.issue_with("a", tell(), 0, "k").unwrap();
    assert_eq!(world.issue_with("a", tell(), 0, "k").unwrap().id, first.id);
    assert_eq!(world.issue_with("b", tell(), 0, "k").unwrap_err().reason, "IDEMPOTENCY_KEY_REUSED");
    assert_eq!(world.project.commands("", "", 10).len(), 1);
}

#[test]
fn every_command_ends_by_its_expiry_plus_grace() {
    let mut world = world();
    let sent = world.tell("a", "", "sent").id;
    let waits = world.tell("b", "", "waits").id;
    let short =
        world.issue_with("b", Kind::Directive(v1::Directive { text: "x".into(), ..Default::default() }), 5_000, "");
    let short = short.unwrap().id;
    world.advance(4_999);
    assert_eq!(world.command(&short).state(), C::Queued);
    world.advance(1);
    assert_eq!(world.command(&short).state(), C::Expired);
    world.advance(115_000);
    assert_eq!((world.command(&waits).state(), world.command(&sent).state()), (C::Expired, C::Sent));
    world.advance(39_999);
    assert_eq!(world.command(&sent).state(), C::Sent);
    world.advance(1);
    assert_eq!(world.command(&sent).state(), C::Unknown, "expiry, grace and the command's own limit are over");
    assert_eq!(world.findings().iter().filter(|f| f.starts_with("command_unknown")).count(), 1);
    world.update("a", &sent, C::Succeeded, "late");
    world.update("a", &sent, C::Failed, "later");
    assert_eq!(world.command(&sent).state(), C::Succeeded, "refined once");
    world.check_replay();
}

#[test]
fn redelivered_until_received_with_the_time_that_is_left_and_never_after_expiry() {
    let mut world = world();
    let id = world.tell("a", "", "x").id;
    world.advance(10_000);
    world.cut("a");
    world.connect("a");
    let times: Vec<_> = world.sidecars["a"].received.iter().map(|d| (d.id == id, d.start_within_ms)).collect();
    assert_eq!(times, [(true, 120_000), (true, 110_000)]);
    world.update("a", &id, C::Received, "");
    world.cut("a");
    world.connect("a");
    assert_eq!(world.sidecars["a"].received.len(), 2, "what it has it is not sent again");
    let other = world.tell("a", "", "y").id;
    world.cut("a");
    world.advance(120_000);
    world.connect("a");
    assert_eq!(world.sidecars["a"].received.iter().filter(|d| d.id == other).count(), 1);
}

#[test]
fn a_sidecar_without_its_memory_is_sent_nothing_that_was_sent_before() {
    for (name, forget) in [
        ("another instance", (|w: &mut World| w.sidecar("a").instance = "new".into()) as fn(&mut World)),
        ("an older cursor", |w| w.sidecar("a").cursor = None),
    ] {
        let mut world = world();
        let had = world.tell("a", "", "received").id;
        world.update("a", &had, C::Received, "");
        world.cut("a");
        world.advance(50_000);
        let queued = world.tell("a", "", "queued").id;
        forget(&mut world);
        world.connect("a");
        assert_eq!(world.command(&had).state(), C::Unknown, "{name}");
        assert_eq!(world.command(&queued).state(), C::Sent, "{name}");
        assert_eq!(world.sidecars["a"].received.last().unwrap().id, queued);
        world.check_replay();
    }
}

#[test]
fn a_cancellation_overtakes_and_is_not_followed_by_the_command() {
    let mut world = world();
    let id = world.tell("a", "", "x").id;
    world.cut("a");
    world.cancel(&id).unwrap();
    world.connect("a");
    assert_eq!(world.sidecars["a"].cancelled, [id.as_str()]);
    assert_eq!(world.sidecars["a"].received.len(), 1, "not delivered again");
    world.update("a", &id, C::Cancelled, "never began");
    assert_eq!(world.command(&id).state(), C::Cancelled);
    assert_eq!(world.cancel(&id).unwrap_err().reason, "COMMAND_ENDED");
    assert_eq!(world.cancel("c99").unwrap_err().reason, "COMMAND_UNKNOWN");
}

#[test]
fn only_leases_replace_each_other() {
    let mut world = world();
    world.cut("a");
    let first = world.tell("a", "", "1").id;
    let second = world.tell("a", "", "2").id;
    let slow = world.throttle("a", 1.0, 60_000).id;
    let slower = world.throttle("a", 0.5, 60_000).id;
    let states = [&first, &second, &slow, &slower].map(|id| world.command(id).state());
    assert_eq!(states, [C::Queued, C::Queued, C::Superseded, C::Queued]);
}

#[test]
fn a_lease_is_renewed_while_it_is_wanted_and_not_longer() {
    let mut world = world();
    let id = world.throttle("a", 0.5, 90_000).id;
    world.update("a", &id, C::Succeeded, "");
    world.advance(30_000);
    assert!(world.sidecars["a"].renewed.is_empty(), "nothing to renew before it is in effect");
    world.lease("a", &id, LeaseState::Active, "cpu.max");
    world.advance(89_999);
    let renewed = world.sidecars["a"].renewed.len();
    assert!((4..=6).contains(&renewed), "{renewed} times in 90 s, every 20 s");
    world.advance(60_000);
    assert_eq!(world.sidecars["a"].renewed.len(), renewed, "its time is over");
    assert!(world.project.state().leased.contains(&id), "until the sidecar says that it ended");
    world.lease("a", &id, LeaseState::Ended, "");
    assert!(world.project.state().leased.is_empty());
    world.check_replay();
}

#[test]
fn a_lease_that_is_applied_again_ends_where_it_would_have_ended() {
    let mut world = world();
    let id = world.throttle("a", 0.5, 90_000).id;
    world.update("a", &id, C::Succeeded, "");
    world.lease("a", &id, LeaseState::Active, "cpu.max");
    let until = |w: &World| w.project.situation(0).agents[0].leases[0].until_unix_ms;
    let before = until(&world);
    world.advance(20_000);
    world.lease("a", &id, LeaseState::Active, "cpu.max of a new cgroup");
    world.lease("a", &id, LeaseState::Adopted, "");
    assert_eq!(until(&world), before);
    let newer = world.throttle("a", 0.2, 90_000).id;
    world.update("a", &newer, C::Succeeded, "");
    world.lease("a", &newer, LeaseState::Active, "cpu.max");
    assert_eq!(world.project.situation(0).agents[0].leases.len(), 1, "the newer took its place");
}

#[test]
fn an_effect_is_credited_only_after_delivery_and_inside_its_window() {
    let table: [(&str, fn(&mut World) -> String, O); 12] = [
        (
            "verified after the directive was delivered",
            |w| {
                let id = w.tell("a", "d", "x").id;
                w.update("a", &id, C::Succeeded, "");
                w.advance(1_000);
                w.passes("a/d");
                id
            },
            O::Effective,
        ),
        (
            "verified before it was delivered",
            |w| {
                let id = w.tell("a", "d", "x").id;
                w.update("a", &id, C::Received, "");
                w.passes("a/d");
                w.advance(1_000);
                w.update("a", &id, C::Succeeded, "");
                id
            },
            O::SelfResolved,
        ),
        (
            "verified while it waited in the queue",
            |w| {
                let id = w.tell("b", "e", "x").id;
                w.passes("b/e");
                w.start("b");
                w.advance(1);
                w.update("b", &id, C::Succeeded, "");
                id
            },
            O::SelfResolved,
        ),
        (
            "was verified when it was issued",
            |w| {
                w.passes("a/d");
                w.advance(1);
                let id = w.tell("a", "d", "x").id;
                w.advance(1);
                w.update("a", &id, C::Succeeded, "");
                id
            },
            O::SelfResolved,
        ),
        (
            "not verified inside the window",
            |w| {
                let id = w.tell("a", "d", "x").id;
                w.update("a", &id, C::Succeeded, "");
                w.advance(300_000);
                w.passes("a/d");
                id
            },
            O::Ineffective,
        ),
        (
            "the window is still open",
            |w| {
                let id = w.tell("a", "d", "x").id;
                w.update("a", &id, C::Succeeded, "");
                w.advance(299_999);
                id
            },
            O::Undecided,
        ),
        (
            "about nothing: no promise",
            |w| {
                let id = w.issue("a", Kind::Unthrottle(v1::Unthrottle::default())).unwrap().id;
                w.update("a", &id, C::Succeeded, "");
                w.advance(600_000);
                id
            },
            O::Undecided,
        ),
        (
            "it failed",
            |w| {
                let id = w.tell("a", "d", "x").id;
                w.update("a", &id, C::Failed, "the inbox is full");
                id
            },
            O::Ineffective,
        ),
        (
            "it expired unsent, and nothing happened",
            |w| {
                let id = w.tell("b", "e", "x").id;
                w.advance(600_000);
                id
            },
            O::Undecided,
        ),
        (
            "a kill whose effect is told in the same breath as its delivery",
            |w| {
                let mut process = process(812, "next-server");
                process.name.clear();
                let id = w
                    .issue("a", Kind::Kill(v1::Kill { process: Some(process.clone()), ..Default::default() }))
                    .unwrap()
                    .id;
                w.advance(30);
                w.fact("a", fact::Kind::ProcessGone(v1::ProcessGone { process: Some(process) }));
                w.advance(5);
                w.update("a", &id, C::Succeeded, "ended on TERM");
                id
            },
            O::Effective,
        ),
        (
            "a process that was gone long before the sidecar had the kill",
            |w| {
                let process = process(812, "next-server");
                w.cut("a");
                let id = w
                    .issue("a", Kind::Kill(v1::Kill { process: Some(process.clone()), ..Default::default() }))
                    .unwrap()
                    .id;
                w.fact("a", fact::Kind::ProcessGone(v1::ProcessGone { process: Some(process) }));
                w.advance(30_000);
                w.connect("a");
                w.update("a", &id, C::Succeeded, "was gone already");
                id
            },
            O::SelfResolved,
        ),
        (
            "another process of the same pid is gone",
            |w| {
                let wanted = process(812, "next-server");
                let id = w
                    .issue("a", Kind::Kill(v1::Kill { process: Some(wanted.clone()), ..Default::default() }))
                    .unwrap()
                    .id;
                w.update("a", &id, C::Succeeded, "");
                let other = v1::ProcessIdentity { start_ticks: 7, ..wanted };
                w.fact("a", fact::Kind::ProcessGone(v1::ProcessGone { process: Some(other) }));
                w.advance(300_000);
                id
            },
            O::Ineffective,
        ),
    ];
    for (name, steps, outcome) in table {
        let mut world = world();
        let id = steps(&mut world);
        assert_eq!(world.outcome(&id), outcome, "{name}: {:?}", world.command(&id).history);
        world.check_replay();
    }
}

#[test]
fn a_result_that_was_kept_while_the_link_was_down_is_credited_by_its_age() {
    let mut world = World::new(PLAN);
    world.connect("a");
    let id = world.issue("a", Kind::Activate(v1::Activate::default())).unwrap().id;
    world.cut("a");
    world.advance(10_000);
    world.seen("a", 300, "agent");
    world.advance(20_000);
    world.connect("a");
    let update =
        v1::CommandUpdate { id: id.clone(), state: C::Succeeded as i32, detail: String::new(), age_ms: 20_500 };
    world.say("a", v1::connect_request::Body::CommandUpdate(update));
    assert_eq!(world.outcome(&id), O::Effective, "{:?}", world.command(&id).history);
}

#[test]
fn a_message_about_nothing_is_no_intervention() {
    let mut world = world();
    world.tell("a", "", "good work");
    assert!(world.project.interventions().is_empty());
}
