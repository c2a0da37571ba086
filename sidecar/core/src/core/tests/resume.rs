//! A new process of the sidecar: what the earlier one left rests until this state is known to be the newest.
use pitwall_proto::v1::{self, CommandState as S, Outcome, command_spec::Kind as Spec, fact};

use super::{
    scripts::{begun, seen},
    world::{OLD, World, process, tell, throttle},
};

const RESTART: Spec = Spec::Restart(v1::Restart { incarnation: 1, grace_ms: 0 });

/// The agent was ended, and not started again yet.
fn in_the_middle_of_a_restart() -> (World, String) {
    let mut world = begun();
    let id = world.issue(RESTART, 60_000);
    while world.ended == 0 {
        assert!(world.step(), "it ends the agent");
    }
    (world, id)
}

#[test]
fn what_was_begun_rests_until_a_welcome_says_that_the_state_is_the_newest() {
    let (mut world, id) = in_the_middle_of_a_restart();
    world.crash(0);
    world.orchestrator.mute = true;
    world.start();
    world.run(20_000);
    assert_eq!((world.launches, world.result(&id)), (0, None), "nobody has said that it may go on");
    world.orchestrator.mute = false;
    world.run(60_000);
    assert_eq!((world.launches, world.result(&id)), (1, Some(S::Succeeded)));
}

#[test]
fn a_restart_that_an_older_state_takes_for_unfinished_is_never_finished_twice() {
    let (mut world, id) = in_the_middle_of_a_restart();
    let copy = world.file.clone();
    world.run(5_000);
    assert_eq!((world.launches, world.result(&id)), (1, Some(S::Succeeded)));
    // The new one has ended too: nothing speaks against the older state, but the orchestrator.
    world.processes.clear();
    world.crash(0);
    world.file = copy;
    world.orchestrator.outdated = "it told more once".into();
    world.start();
    world.run(60_000);
    assert_eq!(world.launches, 1);
    assert_eq!(world.durable.commands[&id].state, S::Unknown as i32);
    assert!(world.logs.iter().any(|l| l.contains("not the newest")), "{:?}", world.logs);
}

#[test]
fn what_was_received_and_not_begun_rests_too() {
    for outdated in ["", "it told more once"] {
        let mut world = begun();
        let id = world.issue(tell("look"), 600_000);
        while !world.durable.commands.contains_key(&id) {
            assert!(world.step(), "it is received");
        }
        assert!(world.inbox.is_empty());
        world.crash(0);
        world.orchestrator.mute = true;
        world.start();
        world.run(20_000);
        assert!(world.inbox.is_empty());
        world.orchestrator.mute = false;
        world.orchestrator.outdated = outdated.into();
        world.run(60_000);
        let expected = if outdated.is_empty() { (1, Some(S::Succeeded)) } else { (0, Some(S::Unknown)) };
        assert_eq!((world.inbox.len(), world.result(&id)), expected);
    }
}

#[test]
fn what_this_process_began_itself_does_not_rest_at_a_later_welcome() {
    let (mut world, id) = in_the_middle_of_a_restart();
    world.lose_connection();
    world.orchestrator.outdated = "it comes from another history".into();
    world.run(30_000);
    assert_eq!((world.launches, world.result(&id)), (1, Some(S::Succeeded)));
}

#[test]
fn a_lease_of_an_older_state_is_undone_and_one_of_the_newest_goes_on() {
    for (outdated, held) in [("", true), ("it told more once", false)] {
        let mut world = begun();
        world.issue(throttle(0.2, 60_000, 60_000), 10_000);
        world.run(5_000);
        world.crash(0);
        world.orchestrator.outdated = outdated.into();
        world.start();
        world.run(5_000);
        assert_eq!(world.value != OLD, held, "{outdated:?}");
    }
}

#[test]
fn a_state_that_was_set_back_goes_on_above_every_life_that_was_seen() {
    let mut world = begun();
    world.crash(0);
    world.orchestrator.newest_life = 40;
    world.start();
    world.run(3_000);
    assert_eq!(world.durable.life.life, 41);
    world.lose_connection();
    world.run(20_000);
    assert_eq!(world.orchestrator.hellos.iter().map(|h| h.life).collect::<Vec<_>>(), [1, 2, 41]);
}

#[test]
fn a_hello_says_how_far_everything_has_come() {
    let mut world = begun();
    let id = world.issue(throttle(0.2, 60_000, 60_000), 10_000);
    world.run(1_500);
    let last = world.durable.spool.last_seq;
    world.crash(0);
    world.start();
    world.run(500);
    let resume = world.orchestrator.hellos[1].resume.clone().unwrap();
    assert_eq!(resume.held, [v1::HeldCommand { id, state: S::Running as i32 }]);
    assert!(resume.last_fact >= last && last > 0);
    assert_eq!(world.orchestrator.hellos[1].place, "m/1");
}

#[test]
fn a_directory_that_was_moved_or_copied_goes_on_with_nothing_and_starts_no_agent_before_a_welcome() {
    let (mut world, id) = in_the_middle_of_a_restart();
    world.crash(0);
    world.place = "m/2".into();
    world.orchestrator.mute = true;
    world.start();
    assert!(!world.core.as_ref().unwrap().starts_agent_at_once());
    world.run(20_000);
    assert_eq!((world.launches, world.starts), (0, 0));
    world.orchestrator.mute = false;
    world.run(60_000);
    assert_eq!((world.launches, world.starts, world.result(&id)), (0, 1, Some(S::Unknown)));
    // From now on it lies here.
    world.crash(0);
    world.start();
    assert!(world.core.as_ref().unwrap().starts_agent_at_once());
}

#[test]
fn a_moved_or_copied_directory_starts_no_agent_after_any_number_of_restarts_without_a_welcome() {
    let mut world = begun();
    world.place = "m/2".into();
    world.orchestrator.mute = true;
    for restart in 0..3 {
        world.crash(0);
        world.start();
        assert!(!world.core.as_ref().unwrap().starts_agent_at_once(), "restart {restart}");
        world.run(5_000);
        assert_eq!((world.durable.life.life, world.starts), (restart + 2, 0), "its life is durable");
    }
    // Welcomed to observe only: that is no leave to start it.
    (world.orchestrator.mute, world.orchestrator.only_observe) = (false, true);
    world.run(60_000);
    world.crash(0);
    world.start();
    assert!(!world.core.as_ref().unwrap().starts_agent_at_once());
    world.orchestrator.only_observe = false;
    world.run(60_000);
    assert_eq!(world.starts, 1);
    world.crash(0);
    world.start();
    assert!(world.core.as_ref().unwrap().starts_agent_at_once(), "it lies here now");
}

#[test]
fn a_fresh_directory_starts_its_agent_at_once_though_nobody_ever_welcomed_it() {
    let mut world = World::new();
    world.orchestrator.mute = true;
    for _ in 0..3 {
        assert!(world.core.as_ref().unwrap().starts_agent_at_once());
        world.run(5_000);
        world.crash(0);
        world.start();
    }
}

#[test]
fn a_directory_at_its_place_starts_its_agent_at_once() {
    let mut world = begun();
    world.crash(0);
    world.boot_id = "another".into();
    world.processes = vec![(300, 5)];
    world.start();
    assert!(world.core.as_ref().unwrap().starts_agent_at_once(), "a reboot moves nothing");
    world.run(3_000);
    assert_eq!((world.starts, world.sample().root), (0, Some(process(300, 5))));
}

#[test]
fn after_another_one_all_that_holds_is_told_anew() {
    let told = |w: &World| w.orchestrator.facts.values().filter(|f| matches!(f, fact::Kind::Verdict(_))).count();
    for (outdated, times) in [("", 1), ("another instance was here before", 2)] {
        let mut world = begun();
        world.inputs.push_back(seen(Outcome::Passed, "1"));
        world.run(2_000);
        world.crash(0);
        world.orchestrator.outdated = outdated.into();
        world.start();
        world.run(10_000);
        // What the other one told last may be the contrary, and a heartbeat would confirm that.
        assert_eq!(told(&world), times, "{outdated:?}");
    }
}
