//! What the sidecar does by itself, with nobody to ask: quotas that act, restarts with their budget, health, the note.
use pitwall_proto::v1::{
    self, CommandState as S, OnExceed, OnUnhealthy, Outcome, Resource, RestartOn, RestartState,
    command_spec::Kind as Spec, connect_response::Body as Down, fact::Kind,
};

use super::world::{OLD, World, process};
use crate::io::{Input, Observation};

fn quota(limit: f64, on_exceed: OnExceed) -> v1::Quota {
    v1::Quota {
        resource: Resource::Cpu as i32,
        limit,
        for_ms: 2_000,
        on_exceed: on_exceed as i32,
        cooldown_ms: 20_000,
        soft: false,
    }
}

fn plan(quotas: Vec<v1::Quota>) -> v1::AgentPlan {
    v1::AgentPlan { agent: "a".into(), generation: 1, quotas, ..Default::default() }
}

/// With this plan, and from then on without the orchestrator.
fn alone(plan: v1::AgentPlan) -> World {
    alone_without(plan, &[])
}

fn alone_without(plan: v1::AgentPlan, rungs: &[&'static str]) -> World {
    let mut world = World::without(rungs);
    world.orchestrator.plan = Some(plan);
    // Nothing is above anything yet.
    let cpu = std::mem::replace(&mut world.cpu, 0.0);
    world.run(2_000);
    world.orchestrator.mute = true;
    world.lose_connection();
    world.cpu = cpu;
    world
}

fn told(world: &mut World) -> Vec<Kind> {
    world.orchestrator.mute = false;
    world.run(130_000);
    assert!(world.connected());
    world.orchestrator.facts.values().cloned().collect()
}

fn acted(world: &mut World) -> Vec<(String, bool, String)> {
    let acted = told(world).into_iter().filter_map(|kind| match kind {
        Kind::QuotaActed(acted) => Some((acted.id, acted.done, acted.detail)),
        _ => None,
    });
    acted.collect()
}

fn restarts(world: &mut World) -> Vec<RestartState> {
    let restarts = told(world).into_iter().filter_map(|kind| match kind {
        Kind::Restart(restart) => Some(restart.state()),
        _ => None,
    });
    restarts.collect()
}

#[test]
fn a_throttle_holds_while_it_is_wanted_and_goes_when_the_use_stays_below() {
    let mut world = alone(plan(vec![quota(0.3, OnExceed::Throttle)]));
    world.run(1_500);
    assert_eq!(world.value, OLD, "not before its time");
    world.run(2_500);
    assert_eq!(world.value, "6000 20000");
    // Far beyond what an own lease lives without being renewed: its use stays at the limit.
    world.run(120_000);
    assert_eq!(world.value, "6000 20000");
    world.cpu = 0.1;
    world.run(8_000);
    assert_eq!(world.value, "6000 20000", "it may come back");
    world.run(4_000);
    assert_eq!(world.value, OLD);
    let acted = acted(&mut world);
    assert_eq!(acted, [("quota-cpu-1".into(), true, String::new())]);
    assert!(world.durable.acts.is_empty() && world.durable.leases.is_empty());
}

#[test]
fn a_sidecar_that_dies_leaves_its_throttle_to_the_next_or_to_its_end() {
    let mut world = alone(plan(vec![quota(0.3, OnExceed::Throttle)]));
    world.run(4_000);
    world.crash(0);
    world.start();
    world.run(5_000);
    assert_eq!(world.value, "6000 20000", "adopted");
    world.run(60_000);
    assert_eq!(world.value, "6000 20000", "and renewed by the new life");
    world.crash(0);
    world.boot_ms += 31_000;
    world.start();
    world.run(500);
    assert_eq!(world.value, OLD, "nobody renewed it meanwhile");
}

#[test]
fn the_largest_that_is_not_protected_is_killed_once_in_its_cooldown() {
    let mut part = plan(vec![quota(0.3, OnExceed::KillProcess)]);
    part.protect = vec!["postgres".into()];
    let mut world = alone(part);
    world.processes.extend([(101, 8), (102, 9), (103, 10)]);
    world.names = [(101, "postgres"), (102, "next-server"), (103, "tsc")].into();
    world.uses = [(100, 0.0), (101, 0.9), (102, 0.5), (103, 0.4)].into();
    world.run(1_500);
    assert!(world.killed.is_empty(), "not before its time");
    world.run(2_500);
    assert_eq!(world.killed, [(102, 9)]);
    world.run(17_000);
    assert_eq!(world.killed.len(), 1, "it is still above, and the cooldown goes on");
    world.run(5_000);
    assert_eq!(world.killed, [(102, 9), (103, 10)]);
    let acted = acted(&mut world);
    assert_eq!(
        acted.iter().map(|a| (a.0.as_str(), a.1)).collect::<Vec<_>>()[..2],
        [("quota-cpu-1", true), ("quota-cpu-2", true)]
    );
}

#[test]
fn what_cannot_be_done_here_is_told_once() {
    let mut world = alone_without(plan(vec![quota(0.3, OnExceed::Freeze)]), &["throttle.freeze.cgroup2"]);
    world.run(120_000);
    let acted = acted(&mut world);
    assert_eq!(acted.len(), 1, "{acted:?}");
    assert!(!acted[0].1 && !acted[0].2.is_empty(), "{acted:?}");
    let mut part = plan(vec![quota(0.3, OnExceed::KillProcess)]);
    part.protect = vec!["agent".into()];
    let mut world = alone(part);
    world.run(120_000);
    assert!(world.killed.is_empty());
    assert!(self::acted(&mut world).iter().all(|a| !a.1 && a.2.contains("protected")));
}

#[test]
fn nothing_is_done_while_it_only_observes_and_all_of_it_afterwards() {
    for on_exceed in [OnExceed::Throttle, OnExceed::KillProcess, OnExceed::Restart] {
        let mut world = World::new();
        world.orchestrator.plan = Some(plan(vec![quota(0.3, on_exceed)]));
        world.orchestrator.only_observe = true;
        world.run(60_000);
        assert_eq!((world.value.as_str(), world.killed.len(), world.ended), (OLD, 0, 0), "{on_exceed:?}");
        world.say(Down::Conduct(v1::Conduct::default()));
        world.run(10_000);
        assert_ne!((world.value.as_str(), world.killed.len(), world.ended), (OLD, 0, 0), "{on_exceed:?}");
    }
}

#[test]
fn a_soft_limit_is_told_and_the_hard_one_acts() {
    let soft = v1::Quota { soft: true, ..quota(0.2, OnExceed::Warn) };
    let mut world = alone(plan(vec![soft, quota(0.5, OnExceed::KillProcess)]));
    world.run(10_000);
    assert!(world.killed.is_empty());
    let exceeded = told(&mut world).into_iter().filter_map(|kind| match kind {
        Kind::Quota(q) => Some((q.soft, q.exceeded)),
        _ => None,
    });
    assert_eq!(exceeded.collect::<Vec<_>>(), [(true, true)]);
}

#[test]
fn a_named_process_has_its_own_quota_and_is_told_when_it_is_back() {
    let mut part = plan(Vec::new());
    part.processes = vec![v1::NamedProcess {
        name: "web".into(),
        process: "next-server".into(),
        quotas: vec![quota(0.3, OnExceed::KillProcess)],
        ..Default::default()
    }];
    let mut world = alone(part);
    world.processes.push((101, 8));
    world.names = [(101, "next-server"), (102, "next-server")].into();
    world.uses = [(100, 5.0), (101, 0.5)].into();
    world.run(4_000);
    assert_eq!(world.killed, [(101, 8)], "the agent's own use is no matter of this quota");
    world.run(2_000);
    world.processes.push((102, world.boot_ms));
    world.run(2_000);
    let returned = told(&mut world).into_iter().find_map(|kind| match kind {
        Kind::ProcessReturned(returned) => Some(returned),
        _ => None,
    });
    let returned = returned.expect("it came back");
    assert_eq!((returned.named.as_str(), returned.process.map(|p| p.pid)), ("web", Some(102)));
    assert!((2_000..6_000).contains(&returned.after_ms), "{}", returned.after_ms);
}

fn restarting(on: RestartOn, max: u32) -> v1::AgentPlan {
    let restart = v1::RestartPolicy { on: on as i32, max, ..Default::default() };
    v1::AgentPlan { restart: Some(restart), ..plan(Vec::new()) }
}

fn dies(world: &mut World, code: i32) {
    let root = world.processes.first().copied().expect("it lives");
    world.processes.clear();
    world.inputs.push_back(Input::ChildExited { root: process(root.0, root.1), code: Some(code), signal: None });
    world.run(1_000);
}

#[test]
fn an_agent_that_cannot_live_is_started_again_ever_later_and_then_given_up() {
    let mut world = alone(restarting(RestartOn::Failure, 3));
    let mut waited = Vec::new();
    for _ in 0..3 {
        let (before, at) = (world.launches, world.boot_ms);
        dies(&mut world, 1);
        while world.launches == before && world.boot_ms < at + 60_000 {
            world.run(100);
        }
        waited.push((world.boot_ms - at) / 1_000);
        // Also a sidecar that dies in between does not begin the count anew.
        world.crash(0);
        world.start();
        world.run(2_000);
    }
    assert_eq!(world.launches, 3);
    assert!(waited.windows(2).all(|w| w[0] < w[1]), "{waited:?}");
    dies(&mut world, 1);
    world.run(400_000);
    assert_eq!(world.launches, 3, "given up");
    let told = restarts(&mut world);
    assert_eq!(told.iter().filter(|s| **s == RestartState::Done).count(), 3, "{told:?}");
    assert_eq!(told.iter().filter(|s| **s == RestartState::GaveUp).count(), 1, "{told:?}");
    // An operator starts it: the count begins anew.
    let incarnation = world.core.as_ref().expect("it runs").presence.incarnation;
    let id = world.issue(Spec::Restart(v1::Restart { incarnation, grace_ms: 0 }), 10_000);
    world.run(5_000);
    assert_eq!(world.result(&id), Some(S::Succeeded));
    assert_eq!(restarts(&mut world).last(), Some(&RestartState::Reset));
    dies(&mut world, 1);
    world.run(5_000);
    assert_eq!(world.launches, 5);
}

#[test]
fn an_agent_that_is_faster_than_its_first_plan_is_started_again_when_that_comes() {
    let mut world = World::new();
    world.orchestrator.mute = true;
    world.orchestrator.plan = Some(restarting(RestartOn::Failure, 3));
    world.run(1_000);
    dies(&mut world, 3);
    world.run(5_000);
    assert_eq!(world.launches, 0, "nobody asks for it yet");
    world.lose_connection();
    world.orchestrator.mute = false;
    world.run(130_000);
    assert_eq!(world.launches, 1);
}

#[test]
fn who_ends_well_is_not_started_again_on_failure_nor_anybody_without_a_policy() {
    for (part, code, launches) in [
        (restarting(RestartOn::Failure, 3), 0, 0),
        (restarting(RestartOn::Always, 3), 0, 1),
        (restarting(RestartOn::Never, 3), 1, 0),
        (plan(Vec::new()), 1, 0),
    ] {
        let mut world = alone(part);
        dies(&mut world, code);
        world.run(5_000);
        assert_eq!(world.launches, launches);
    }
}

#[test]
fn a_restart_leaves_a_note_for_the_next_life() {
    // By an operator,
    let mut world = World::new();
    let deliverable =
        v1::DeliverablePlan { name: "page".into(), checks: vec![v1::Check::default()], ..Default::default() };
    world.orchestrator.plan =
        Some(v1::AgentPlan { deliverables: vec![deliverable], needed_by: vec!["b/x".into()], ..plan(Vec::new()) });
    world.run(3_000);
    let id = world.issue(Spec::Restart(v1::Restart { incarnation: 1, grace_ms: 0 }), 10_000);
    world.run(3_000);
    assert_eq!(world.result(&id), Some(S::Succeeded));
    let note = &world.inbox["RESUME-2.md"];
    assert!(note.contains(&id) && note.contains("- page") && note.contains("- b/x"), "{note}");
    // and by a quota.
    let mut world = alone(plan(vec![quota(0.3, OnExceed::Restart)]));
    world.run(6_000);
    assert_eq!((world.ended, world.launches), (1, 1));
    assert!(world.inbox["RESUME-2.md"].contains("0.40 cores of 0.30 cores"), "{:?}", world.inbox);
}

/// Runs up to so many actions or inputs, with time in between, and then dies.
fn dies_after(world: &mut World, steps: usize) {
    for _ in 0..steps {
        if !world.step() {
            world.boot_ms += 100;
            if world.boot_ms.is_multiple_of(1_000) {
                let sample = world.sample();
                world.inputs.push_back(Input::Sampled(sample));
            }
            world.inputs.push_back(Input::Tick);
        }
    }
    world.crash(0);
    world.start();
}

/// Between any two actions of a restart the sidecar may die: the next one brings it to its end, once.
#[test]
fn a_restart_survives_a_crash_between_any_two_steps() {
    for steps in 0..60 {
        let mut world = alone(plan(vec![quota(0.3, OnExceed::Restart)]));
        // Up to where it is decided.
        world.run(1_500);
        dies_after(&mut world, steps);
        world.run(15_000);
        assert_eq!(world.processes.len(), 1, "after {steps} steps");
        assert!(world.ended == 1 && world.launches == 1, "after {steps}: {} {}", world.ended, world.launches);
        assert!(world.durable.acts.is_empty(), "after {steps}: {:?}", world.durable.acts);
    }
}

#[test]
fn a_kill_survives_a_crash_between_any_two_steps_and_hits_one_only() {
    for steps in 0..40 {
        let mut world = alone(plan(vec![quota(0.3, OnExceed::KillProcess)]));
        world.processes.extend([(101, 8), (102, 9)]);
        world.uses = [(100, 0.0), (101, 0.1), (102, 0.3)].into();
        world.run(1_500);
        dies_after(&mut world, steps);
        world.run(10_000);
        assert_eq!(world.killed, [(102, 9)], "after {steps} steps");
        assert!(world.durable.acts.is_empty(), "after {steps}: {:?}", world.durable.acts);
        let acted = acted(&mut world);
        assert_eq!(acted.iter().filter(|a| a.0 == "quota-cpu-1" && a.1).count(), 1, "after {steps}: {acted:?}");
    }
}

#[test]
fn a_throttle_survives_a_crash_between_any_two_steps_and_is_undone_in_the_end() {
    for steps in 0..60 {
        let mut world = alone(plan(vec![quota(0.3, OnExceed::Throttle)]));
        world.run(1_500);
        dies_after(&mut world, steps);
        world.run(8_000);
        assert_eq!(world.value, "6000 20000", "after {steps} steps");
        world.cpu = 0.0;
        world.run(20_000);
        assert_eq!(world.value, OLD, "after {steps} steps");
        assert!(world.durable.acts.is_empty() && world.durable.leases.is_empty(), "after {steps}");
    }
}

/// A sidecar that cannot write its file does nothing by itself either: nobody would know of it after a crash.
#[test]
fn nothing_is_done_before_it_is_durable() {
    for on_exceed in [OnExceed::Throttle, OnExceed::KillProcess, OnExceed::Restart] {
        let mut world = alone(plan(vec![quota(0.3, on_exceed)]));
        world.write_fails = true;
        world.run(30_000);
        assert_eq!((world.value.as_str(), world.killed.len(), world.ended), (OLD, 0, 0), "{on_exceed:?}");
        world.write_fails = false;
        world.run(40_000);
        assert_ne!((world.value.as_str(), world.killed.len(), world.ended), (OLD, 0, 0), "{on_exceed:?}");
    }
}

fn seen(outcome: Outcome) -> Input {
    Input::Observed(Observation {
        deliverable: String::new(),
        check_id: "web".into(),
        check_digest: String::new(),
        outcome,
        evidence: v1::Evidence::default(),
    })
}

#[test]
fn an_unhealthy_agent_is_started_again_through_the_same_budget() {
    let health = v1::HealthCheck {
        name: "web".into(),
        probe: Some(v1::Check { every_ms: 1_000, ..Default::default() }),
        failures: 3,
        successes: 1,
        on_failure: OnUnhealthy::Restart as i32,
        ..Default::default()
    };
    let mut world = alone(v1::AgentPlan { health: vec![health], ..restarting(RestartOn::Never, 2) });
    assert!(world.probes.contains(&"/web".to_owned()), "{:?}", world.probes);
    world.inputs.push_back(seen(Outcome::Passed));
    world.run(1_500);
    // From then on it never is well: as often as the budget lets.
    for _ in 0..100 {
        world.inputs.push_back(seen(Outcome::Failed));
        world.run(1_500);
    }
    assert_eq!((world.ended, world.launches), (2, 2));
    let health: Vec<bool> = told(&mut world)
        .into_iter()
        .filter_map(|kind| match kind {
            Kind::Health(health) => Some(health.healthy),
            _ => None,
        })
        .collect();
    assert_eq!(health, [true, false]);
    assert!(restarts(&mut world).contains(&RestartState::GaveUp));
}
