//! One story each.
use pitwall_proto::v1::{
    self, CommandState as S, LeaseState as L, Outcome, command_spec::Kind as Spec, connect_response::Body as Down, fact,
};

use super::world::{OLD, World, kill, process, renewal, tell, throttle};
use crate::io::{Input, Observation};

fn plan(generation: u64, digest: &str) -> v1::AgentPlan {
    let check = v1::Check {
        id: "file:x".into(),
        digest: digest.into(),
        every_ms: 1_000,
        rule: Some(v1::check::Rule::File(v1::FileCheck { path: "x".into(), ..Default::default() })),
        ..Default::default()
    };
    let deliverable = v1::DeliverablePlan { name: "d".into(), title: "D".into(), checks: vec![check] };
    let windows = v1::Windows { stall_after_ms: 3_000, activity_every_ms: 1_000, ..Default::default() };
    v1::AgentPlan {
        agent: "a".into(),
        generation,
        deliverables: vec![deliverable],
        windows: Some(windows),
        ..Default::default()
    }
}

pub fn seen(outcome: Outcome, digest: &str) -> Input {
    Input::Observed(Observation {
        deliverable: "d".into(),
        check_id: "file:x".into(),
        check_digest: digest.into(),
        outcome,
        evidence: v1::Evidence::default(),
    })
}

pub fn begun() -> World {
    let mut world = World::new();
    world.orchestrator.plan = Some(plan(1, "1"));
    world.run(3_000);
    assert!(world.connected());
    world
}

fn verdicts(world: &World) -> Vec<Outcome> {
    let all = world.orchestrator.facts.values().filter_map(|f| match f {
        fact::Kind::Verdict(v) => Some(v.outcome()),
        _ => None,
    });
    all.collect()
}

#[test]
fn the_first_minute() {
    let mut world = begun();
    assert_eq!(world.probes.first().map(String::as_str), Some("d/file:x"));
    world.inputs.push_back(seen(Outcome::Failed, "1"));
    world.inputs.push_back(Input::FilesChanged { paths: vec!["x".into(), "y".into()], more: 0 });
    world.run(1_500);
    assert_eq!(verdicts(&world), [Outcome::Failed]);
    let seen = world.orchestrator.facts.values().any(|f| matches!(f, fact::Kind::AgentSeen(s) if s.incarnation == 1));
    let active = world
        .orchestrator
        .facts
        .values()
        .any(|f| matches!(f, fact::Kind::Activity(a) if a.unattributed == 1 && a.deliverables.len() == 1));
    assert!(seen && active, "{:?}", world.orchestrator.facts);
    assert!(world.orchestrator.readings >= 2 && world.orchestrator.beats >= 3);
}

#[test]
fn a_directive_lies_in_the_inbox_once() {
    let mut world = begun();
    let id = world.issue(tell("do it"), 10_000);
    world.run(500);
    assert_eq!(world.result(&id), Some(S::Succeeded));
    assert_eq!(world.orchestrator.states[&id], [S::Received, S::Accepted, S::Succeeded]);
    assert!(world.inbox.contains_key("NOTE-c1.md"));
    // Sent again, as an acknowledgement was lost: the result again, and no second file.
    world.inbox.clear();
    let again = world.orchestrator.commands[&1].clone();
    world.say(Down::Command(again));
    world.run(500);
    assert!(world.inbox.is_empty());
}

#[test]
fn a_throttle_holds_is_measured_and_ends_by_itself() {
    let mut world = begun();
    let id = world.issue(throttle(0.2, 20_000, 60_000), 10_000);
    world.run(5_000);
    assert_eq!(world.value, "4000 20000");
    assert_eq!(world.result(&id), None, "measured for 5 s");
    world.run(3_000);
    assert_eq!(world.result(&id), Some(S::Succeeded));
    assert_eq!(world.orchestrator.details[&id], "asked 0.20, measured 0.20 over 5 s");
    world.run(11_500);
    assert_eq!(world.value, "4000 20000");
    world.run(1_000);
    assert_eq!(world.value, OLD);
    assert_eq!(world.leases(), [L::Active, L::Ended]);
}

#[test]
fn a_throttle_that_does_not_hold_has_failed_and_is_undone() {
    let mut world = begun();
    let id = world.issue(throttle(0.2, 20_000, 60_000), 10_000);
    world.run(500);
    for _ in 0..7 {
        let mut sample = world.sample();
        sample.agent.cpu_cores = Some(0.9);
        world.boot_ms += 1_000;
        world.inputs.push_back(Input::Sampled(sample));
        world.drain();
    }
    assert_eq!(world.result(&id), Some(S::Failed));
    assert_eq!(world.value, OLD);
}

#[test]
fn invariant_4_with_the_orchestrator_gone_a_lease_lapses_at_its_time_to_live() {
    let mut world = begun();
    let id = world.issue(throttle(0.2, 600_000, 5_000), 10_000);
    world.run(4_000);
    world.say(renewal(&[&id]));
    world.run(4_500);
    assert_eq!(world.value, "4000 20000");
    world.run(1_000);
    assert_eq!(world.value, OLD);
    assert_eq!(world.leases(), [L::Active, L::Lapsed]);
    // What has lapsed is not brought back by a renewal.
    world.say(renewal(&[&id]));
    world.run(1_000);
    assert_eq!(world.value, OLD);
}

#[test]
fn invariant_4_a_restart_adopts_what_is_due_and_undoes_the_rest() {
    let mut world = begun();
    world.issue(throttle(0.2, 20_000, 60_000), 10_000);
    world.run(5_000);
    world.crash(0);
    world.boot_ms += 2_000;
    world.start();
    world.run(3_000);
    assert_eq!((world.value.as_str(), world.leases().as_slice()), ("4000 20000", &[L::Active, L::Adopted][..]));
    world.crash(0);
    world.boot_ms += 60_000;
    world.start();
    world.run(3_000);
    assert_eq!(world.value, OLD);
    assert_eq!(world.leases().last(), Some(&L::Ended));
}

#[test]
fn a_lease_follows_a_restarted_agent_for_the_time_it_has_left() {
    let mut world = begun();
    world.issue(throttle(0.2, 20_000, 60_000), 10_000);
    world.run(5_000);
    (world.inode, world.value) = (2, OLD.into());
    world.processes = vec![(200, 99)];
    world.run(2_000);
    assert_eq!(world.value, "4000 20000");
    assert_eq!(world.leases(), [L::Active, L::Active]);
    world.run(16_000);
    assert_eq!(world.value, OLD);
}

#[test]
fn a_value_of_somebody_else_is_left_alone() {
    // Also where it is the one that stood there before.
    for value in ["9999 20000", OLD] {
        let mut world = begun();
        world.issue(throttle(0.2, 60_000, 60_000), 10_000);
        world.run(5_000);
        assert_eq!(world.value, "4000 20000");
        world.value = value.into();
        world.run(70_000);
        assert_eq!(world.value, value);
        assert_eq!(world.leases(), [L::Active, L::Foreign]);
    }
}

#[test]
fn a_limit_that_is_undone_already_is_nobody_elses() {
    // Undone, and the life ended before that was recorded: how long the next one waits, and what it makes of it.
    for (away, value, leases) in [(60_000, OLD, [L::Active, L::Ended]), (2_000, "4000 20000", [L::Active, L::Active])] {
        let mut world = begun();
        world.issue(throttle(0.2, 20_000, 60_000), 10_000);
        world.run(5_000);
        world.crash(0);
        world.value = OLD.into();
        world.boot_ms += away;
        world.start();
        world.run(3_000);
        assert_eq!((world.value.as_str(), world.leases().as_slice()), (value, &leases[..]), "{away}");
    }
}

#[test]
fn the_newer_throttle_takes_the_place_of_the_older_and_unthrottle_ends_it() {
    let mut world = begun();
    let first = world.issue(throttle(0.2, 60_000, 60_000), 10_000);
    world.run(1_000);
    let second = world.issue(throttle(0.3, 60_000, 60_000), 10_000);
    world.run(7_500);
    assert_eq!(world.result(&first), Some(S::Superseded));
    assert_eq!(world.result(&second), Some(S::Succeeded));
    assert_eq!(world.value, "6000 20000");
    let last = world.issue(Spec::Unthrottle(v1::Unthrottle::default()), 10_000);
    world.run(1_000);
    assert_eq!(world.result(&last), Some(S::Succeeded));
    assert_eq!(world.value, OLD, "what stood there first, not the older throttle's value");
    assert_eq!(world.leases(), [L::Active, L::Ended, L::Active, L::Ended]);
}

#[test]
fn a_kill_by_identity() {
    let mut world = begun();
    world.processes.push((101, 8));
    world.run(1_000);
    let id = world.issue(kill(101, 8), 10_000);
    world.run(1_000);
    assert_eq!((world.result(&id), world.killed.as_slice()), (Some(S::Succeeded), &[(101, 8)][..]));
    assert!(world.orchestrator.facts.values().any(|f| matches!(f, fact::Kind::ProcessGone(_))));
}

#[test]
fn restart_and_activation_carry_the_incarnation_they_are_meant_for() {
    let mut world = begun();
    let restart = |incarnation| Spec::Restart(v1::Restart { incarnation, grace_ms: 0 });
    let wrong = world.issue(restart(7), 10_000);
    let right = world.issue(restart(1), 10_000);
    world.run(2_000);
    assert_eq!(world.result(&wrong), Some(S::Rejected));
    assert_eq!(world.result(&right), Some(S::Succeeded));
    assert_eq!((world.launches, world.ended), (1, 1));
    let again = world.issue(Spec::Activate(v1::Activate { incarnation: 2 }), 10_000);
    world.run(1_000);
    assert_eq!(world.result(&again), Some(S::Rejected));
    assert!(world.orchestrator.details[&again].contains("runs already"));
}

#[test]
fn beside_a_container_a_restart_is_the_engines_and_so_is_the_new_life() {
    let mut world = begun();
    world.crash(usize::MAX);
    world.beside = true;
    world.start();
    world.run(3_000);
    let id = world.issue(Spec::Restart(v1::Restart { incarnation: 1, grace_ms: 0 }), 10_000);
    world.run(2_000);
    assert_eq!((world.result(&id), world.ended, world.launches), (Some(S::Succeeded), 1, 1));
    let seen = world.orchestrator.facts.values().rev().find_map(|f| match f {
        fact::Kind::AgentSeen(seen) => Some((seen.incarnation, seen.launched)),
        _ => None,
    });
    assert_eq!(seen, Some((2, false)), "not a child of this sidecar");
}

#[test]
fn nothing_starts_after_its_time() {
    let mut world = begun();
    world.write_fails = true;
    let id = world.issue(tell("late"), 2_000);
    world.run(5_000);
    assert!(world.inbox.is_empty(), "what cannot be recorded is not done");
    assert_eq!(world.logs.iter().filter(|l| l.contains("cannot be written")).count(), 1);
    world.write_fails = false;
    world.run(30_000);
    assert_eq!(world.result(&id), Some(S::Expired));
    assert!(world.inbox.is_empty());
}

#[test]
fn a_cancel_overtakes() {
    let mut world = begun();
    world.say(Down::Cancel(v1::CancelDelivery { id: "c1".into() }));
    let id = world.issue(tell("never"), 10_000);
    world.run(1_000);
    assert_eq!(world.result(&id), Some(S::Cancelled));
    assert!(world.inbox.is_empty());
}

#[test]
fn another_history_at_a_higher_epoch_is_told_everything_anew() {
    let mut world = begun();
    world.inputs.push_back(seen(Outcome::Passed, "1"));
    world.run(1_000);
    world.lose_connection();
    world.orchestrator.lineage = "l2".into();
    world.orchestrator.epoch = 4;
    world.run(20_000);
    assert!(!world.connected() || world.durable.cursor.lineage == "l1", "a lower epoch is refused");
    world.orchestrator.epoch = 9;
    world.orchestrator.facts.clear();
    let acked = world.orchestrator.fact_acked;
    world.run(20_000);
    assert_eq!(world.durable.cursor.lineage, "l2");
    assert_eq!(verdicts(&world), [Outcome::Passed]);
    assert!(world.orchestrator.fact_acked > acked);
}

#[test]
fn evidence_of_another_generation_is_dropped() {
    let mut world = begun();
    world.inputs.push_back(seen(Outcome::Passed, "1"));
    world.run(500);
    world.say(Down::Plan(plan(2, "2")));
    world.run(500);
    world.inputs.push_back(seen(Outcome::Failed, "1"));
    world.run(500);
    assert_eq!(verdicts(&world), [Outcome::Passed]);
    assert_eq!(world.adopted, 2);
    world.inputs.push_back(seen(Outcome::Failed, "2"));
    world.run(500);
    assert_eq!(verdicts(&world), [Outcome::Passed, Outcome::Failed]);
    // It is on disk: a new life works from it while nobody answers.
    world.crash(0);
    world.start();
    world.drain();
    assert_eq!(world.adopted, 3);
}

#[test]
fn stop_undoes_ends_tells_and_exits() {
    let mut world = begun();
    let id = world.issue(throttle(0.2, 60_000, 60_000), 10_000);
    world.run(5_000);
    world.inputs.push_back(Input::Stop);
    world.run(1_000);
    assert_eq!((world.exited, world.value.as_str()), (Some(0), OLD));
    assert_eq!((world.ended, world.result(&id)), (1, Some(S::Succeeded)));
    assert_eq!(world.leases(), [L::Active, L::Ended]);
    assert!(world.orchestrator.facts.values().any(|f| matches!(f, fact::Kind::AgentExited(_))));
}

#[test]
fn a_stop_before_the_first_sample_ends_the_agent_all_the_same() {
    let mut world = World::new();
    world.inputs.push_back(Input::Stop);
    world.drain();
    assert_eq!((world.exited, world.ended), (None, 0));
    world.run(1_000);
    assert_eq!((world.exited, world.ended), (Some(0), 1));
}

#[test]
fn a_file_of_another_agent_or_a_newer_version_is_left_alone() {
    use pitwall_proto::state::{Format, Life, Record, record::Body};
    let life = Life { agent: "other".into(), instance: "i".into(), ..Default::default() };
    for body in [Body::Life(life), Body::Format(Format { version: 99 })] {
        let mut kept = crate::kept::Kept::default();
        kept.apply(&Record { body: Some(body) });
        let mut world = World::new();
        world.crash(0);
        world.file = if kept.version > crate::kept::VERSION {
            let mut bytes = Vec::new();
            let record = Record { body: Some(Body::Format(Format { version: 99 })) };
            let batch = pitwall_proto::state::Batch { records: vec![record] };
            crate::frame::encode_1(&prost::Message::encode_to_vec(&batch), &mut bytes);
            bytes
        } else {
            kept.snapshot_bytes()
        };
        let before = world.file.clone();
        world.start();
        world.drain();
        assert_eq!((world.exited, world.file), (Some(1), before));
    }
}

#[test]
fn a_sidecar_restart_keeps_the_incarnation_of_an_agent_still_alive() {
    let mut world = begun();
    world.crash(0);
    world.start();
    world.run(3_000);
    let seen = world.orchestrator.facts.values().filter(|f| matches!(f, fact::Kind::AgentSeen(_))).count();
    assert_eq!(seen, 1);
    assert_eq!(world.orchestrator.hellos.iter().map(|h| h.life).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(world.orchestrator.hellos[1].incarnation, 1);
    world.crash(0);
    world.processes = vec![(300, 5)];
    world.start();
    world.run(3_000);
    let root = process(300, 5);
    let reborn =
        |f: &fact::Kind| matches!(f, fact::Kind::AgentSeen(s) if s.incarnation == 2 && s.root == Some(root.clone()));
    assert!(world.orchestrator.facts.values().any(reborn));
}
