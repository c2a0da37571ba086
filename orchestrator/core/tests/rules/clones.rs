//! Two sidecars with one state: recognised, made to observe only, and told apart by an operator.
use pitwall_core::io::{Action, Input, Refusal};
use pitwall_proto::v1::{self, CommandState, connect_request::Body, connect_response::Body as Said};

use crate::support::World;

const PLAN: &str = "project: p\nagents:\n  a: { deliverables: { d: { checks: [ file: x ] } } }\n";

/// A sidecar with the state of instance-of-a.
#[derive(Clone, Copy)]
struct Twin {
    process: &'static str,
    place: &'static str,
    life: u64,
}

const FIRST: Twin = Twin { process: "aaaa1111", place: "machine-1/7", life: 4 };
const COPY: Twin = Twin { process: "bbbb2222", place: "machine-2/9", life: 5 };

fn hello(world: &mut World, session: u64, twin: Twin) -> Result<v1::Welcome, Refusal> {
    world.hello("a", session, |h| {
        (h.process, h.place, h.life) = (twin.process.into(), twin.place.into(), twin.life);
    })
}

fn says(world: &mut World, session: u64) {
    world.input(Input::FromSidecar { session, body: Body::Heartbeat(v1::Heartbeat::default()) });
}

fn delivered(world: &World) -> usize {
    world.out.iter().filter(|a| matches!(a, Action::Send { body: Said::Command(_), .. })).count()
}

fn told_to_observe(world: &World, session: u64) -> Option<bool> {
    world.out.iter().rev().find_map(|a| match a {
        Action::Send { session: to, body: Said::Conduct(conduct) } if *to == session => Some(conduct.only_observe),
        _ => None,
    })
}

/// The first, connected, and a copy of it somewhere else that has knocked; both alive.
fn cloned() -> World {
    let mut world = World::new(PLAN);
    assert!(hello(&mut world, 1, FIRST).unwrap().conduct.is_none());
    assert_eq!(hello(&mut world, 2, COPY).unwrap_err().reason, "STATE_MOVED");
    assert!(world.findings().is_empty(), "it may have been moved");
    says(&mut world, 1);
    world
}

#[test]
fn a_state_that_speaks_from_two_places_is_a_clone_and_both_only_observe() {
    let mut world = cloned();
    assert_eq!(world.findings(), ["sidecar_cloned a"]);
    let finding = world.project.findings(false).remove(0);
    for part in ["aaaa1111 (life 4 on name-of-host-1)", "bbbb2222 (life 5 on name-of-host-1)", "instance-of-a"] {
        assert!(finding.message.contains(part), "{}", finding.message);
    }
    assert!(finding.next.contains("pitwall adopt a aaaa1111  or  pitwall adopt a bbbb2222"), "{}", finding.next);
    assert_eq!(told_to_observe(&world, 1), Some(true));
    let refusal = hello(&mut world, 3, COPY).unwrap_err();
    assert_eq!((refusal.reason, refusal.message.contains("only observe")), ("LIFE_SUPERSEDED", true));
    // Also in another stream, and after a restart of the orchestrator.
    assert!(hello(&mut world, 4, FIRST).unwrap().conduct.unwrap().only_observe);
    world.check_replay();
    world.restart_orchestrator();
    assert!(hello(&mut world, 5, FIRST).unwrap().conduct.unwrap().only_observe);
    assert_eq!(hello(&mut world, 6, Twin { life: 6, ..COPY }).unwrap_err().reason, "LIFE_SUPERSEDED");
}

#[test]
fn nothing_is_delivered_or_renewed_to_clones_and_a_cancel_still_goes() {
    let mut world = World::new(PLAN);
    hello(&mut world, 1, FIRST).unwrap();
    let sent = world.tell("a", "", "sent before").id;
    hello(&mut world, 2, COPY).unwrap_err();
    says(&mut world, 1);
    let before = delivered(&world);
    let waits = world.tell("a", "", "waits").id;
    says(&mut world, 1);
    hello(&mut world, 3, FIRST).unwrap();
    assert_eq!(delivered(&world), before);
    assert_eq!(world.command(&waits).state(), CommandState::Queued);
    world.cancel(&sent).unwrap();
    assert!(world.out.iter().any(|a| matches!(a, Action::Send { body: Said::Cancel(c), .. } if c.id == sent)));
    world.adopt("a", "aaaa").unwrap();
    assert_eq!(world.command(&waits).state(), CommandState::Sent, "adopted, it is delivered");
    world.check_replay();
}

#[test]
fn an_operator_adopts_the_one_that_is_followed_and_the_other_is_refused_while_that_is_not_lost() {
    let mut world = cloned();
    let adopted = world.adopt("a", "aaaa").unwrap();
    assert_eq!((adopted.process.as_str(), adopted.life), ("aaaa1111", 4));
    assert_eq!((told_to_observe(&world, 1), world.findings().len()), (Some(false), 0));
    for life in [5, 6, 9] {
        let refusal = hello(&mut world, 10 + life, Twin { life, ..COPY }).unwrap_err();
        assert_eq!(refusal.reason, "NOT_ADOPTED");
        assert!(refusal.message.contains("state directory of its own"), "{}", refusal.message);
    }
    says(&mut world, 1);
    assert!(world.findings().is_empty(), "it is known which one counts");
    // Its next process, and after the orchestrator's restart.
    assert!(hello(&mut world, 30, Twin { process: "cccc3333", life: 5, ..FIRST }).unwrap().conduct.is_none());
    world.restart_orchestrator();
    assert_eq!(hello(&mut world, 31, COPY).unwrap_err().reason, "NOT_ADOPTED");
    world.check_replay();
}

#[test]
fn an_operator_adopts_the_other_one_and_the_stream_of_the_first_ends() {
    let mut world = cloned();
    world.adopt("a", "bbbb2222").unwrap();
    let ended = |a: &Action| matches!(a, Action::Close { session: 1, refusal } if refusal.reason == "NOT_ADOPTED");
    assert!(world.out.iter().any(ended));
    let welcome = hello(&mut world, 3, COPY).unwrap();
    assert!(welcome.conduct.is_none());
    assert_eq!(hello(&mut world, 4, FIRST).unwrap_err().reason, "NOT_ADOPTED");
    // A mistake can be mended.
    world.adopt("a", "aaaa").unwrap();
    let welcome = hello(&mut world, 5, FIRST).unwrap();
    assert_eq!(welcome.newest_life, 5, "it goes on above every life that was seen");
    assert!(!welcome.outdated.is_empty(), "the other one may have acted since");
    world.check_replay();
}

#[test]
fn what_cannot_be_adopted_is_refused_with_what_can() {
    let mut world = World::new(PLAN);
    let table = [("nobody", "x", "AGENT_UNKNOWN"), ("a", "x", "NOTHING_TO_ADOPT")];
    for (agent, sidecar, reason) in table {
        assert_eq!(world.adopt(agent, sidecar).unwrap_err().reason, reason);
    }
    let mut world = cloned();
    for sidecar in ["", "cccc", "aaaa1111x"] {
        let refusal = world.adopt("a", sidecar).unwrap_err();
        assert_eq!(refusal.reason, "SIDECAR_AMBIGUOUS");
        assert!(
            refusal.message.contains("aaaa1111 (life 4") && refusal.message.contains("bbbb2222"),
            "{}",
            refusal.message
        );
    }
    assert_eq!(world.findings(), ["sidecar_cloned a"]);
}

#[test]
fn a_superseded_life_that_reappears_is_a_clone_where_places_are_not_known() {
    let mut world = World::new(PLAN);
    let unknown = |twin: Twin| Twin { place: "", ..twin };
    hello(&mut world, 1, unknown(FIRST)).unwrap();
    hello(&mut world, 2, unknown(COPY)).unwrap();
    assert_eq!(hello(&mut world, 3, unknown(FIRST)).unwrap_err().reason, "LIFE_SUPERSEDED");
    assert_eq!((world.findings(), told_to_observe(&world, 2)), (vec!["sidecar_cloned a".to_string()], Some(true)));
    world.adopt("a", "aaaa").unwrap();
    assert!(hello(&mut world, 4, unknown(FIRST)).unwrap().conduct.is_none());
    world.check_replay();
}

#[test]
fn an_original_that_comes_back_after_it_was_lost_finds_its_copy_and_both_only_observe() {
    let mut world = World::new(PLAN);
    hello(&mut world, 1, FIRST).unwrap();
    world.advance(60_000);
    assert!(hello(&mut world, 2, COPY).unwrap().conduct.is_none(), "the first is lost: it may have been moved");
    assert_eq!(hello(&mut world, 3, FIRST).unwrap_err().reason, "LIFE_SUPERSEDED");
    assert_eq!(
        (told_to_observe(&world, 2), world.findings().contains(&"sidecar_cloned a".to_string())),
        (Some(true), true)
    );
}

#[test]
fn a_directory_that_was_moved_is_let_in_when_its_old_place_is_lost() {
    let mut world = World::new(PLAN);
    hello(&mut world, 1, FIRST).unwrap();
    world.input(Input::SessionClosed { session: 1 });
    assert_eq!(hello(&mut world, 2, COPY).unwrap_err().reason, "STATE_MOVED");
    world.advance(60_000);
    let outdated = hello(&mut world, 3, COPY).unwrap().outdated;
    assert!(outdated.contains("another place"), "it may be a copy all the same: {outdated}");
    says(&mut world, 3);
    assert!(!world.findings().iter().any(|f| f.contains("cloned")), "{:?}", world.findings());
}

#[test]
fn an_adopted_one_that_was_moved_is_let_in_when_its_old_place_is_lost_and_then_the_old_place_is_a_clone() {
    let mut world = cloned();
    world.adopt("a", "aaaa").unwrap();
    let moved = Twin { process: "ffff6666", place: "machine-3/1", life: 6 };
    world.input(Input::SessionClosed { session: 1 });
    assert_eq!(hello(&mut world, 40, moved).unwrap_err().reason, "NOT_ADOPTED");
    world.advance(60_000);
    let welcome = hello(&mut world, 41, moved).unwrap();
    assert!(welcome.outdated.contains("another place") && welcome.conduct.is_none(), "{welcome:?}");
    // It is the one that is followed now, also in its next stream and for the next orchestrator.
    assert!(hello(&mut world, 42, moved).unwrap().conduct.is_none());
    world.check_replay();
    world.restart_orchestrator();
    assert!(hello(&mut world, 43, moved).unwrap().conduct.is_none());
    assert_eq!(hello(&mut world, 44, FIRST).unwrap_err().reason, "LIFE_SUPERSEDED");
    assert_eq!(
        (world.findings().contains(&"sidecar_cloned a".into()), told_to_observe(&world, 43)),
        (true, Some(true))
    );
    world.check_replay();
}

#[test]
fn the_other_one_stays_refused_until_an_adopted_one_that_was_not_followed_has_come() {
    let mut world = cloned();
    world.adopt("a", "bbbb2222").unwrap();
    world.advance(60_000);
    assert_eq!(hello(&mut world, 3, FIRST).unwrap_err().reason, "NOT_ADOPTED", "lost is not the adopted one");
    assert!(hello(&mut world, 4, COPY).unwrap().conduct.is_none());
    world.check_replay();
}

#[test]
fn a_lower_life_is_let_in_as_outdated_when_the_one_that_is_followed_is_lost_and_that_is_a_clone_when_it_reappears() {
    let restored = Twin { process: "eeee5555", place: "machine-3/1", life: 2 };
    for unknown in [false, true] {
        let placed = |twin: Twin| if unknown { Twin { place: "", ..twin } } else { twin };
        let mut world = World::new(PLAN);
        hello(&mut world, 1, placed(Twin { life: 9, ..FIRST })).unwrap();
        world.input(Input::SessionClosed { session: 1 });
        world.advance(60_000);
        let welcome = hello(&mut world, 2, placed(restored)).unwrap();
        assert_eq!((welcome.outdated.is_empty(), welcome.newest_life, welcome.conduct), (false, 9, None));
        assert!(!world.findings().iter().any(|f| f.contains("cloned")), "{:?}", world.findings());
        // It goes on above every life that was seen, as it was told.
        hello(&mut world, 3, placed(Twin { life: 10, ..restored })).unwrap();
        let back = hello(&mut world, 4, placed(Twin { life: 9, ..FIRST })).unwrap_err();
        assert_eq!(back.reason, "LIFE_SUPERSEDED");
        assert_eq!(told_to_observe(&world, 3), Some(true));
        world.check_replay();
    }
}

#[test]
fn a_lower_life_of_no_named_process_is_outdated_too() {
    let mut world = World::new(PLAN);
    let nameless = Twin { process: "", place: "", life: 9 };
    hello(&mut world, 1, nameless).unwrap();
    world.input(Input::SessionClosed { session: 1 });
    world.advance(60_000);
    assert!(!hello(&mut world, 2, Twin { life: 2, ..nameless }).unwrap().outdated.is_empty());
}

#[test]
fn a_state_that_was_set_back_in_its_place_is_no_clone_and_goes_on_above_every_life() {
    let mut world = World::new(PLAN);
    hello(&mut world, 1, Twin { life: 9, ..FIRST }).unwrap();
    let welcome = hello(&mut world, 2, Twin { process: "dddd4444", life: 5, ..FIRST }).unwrap();
    assert_eq!((welcome.newest_life, welcome.outdated.is_empty()), (9, false));
    assert!(world.findings().is_empty());
    // As it was told.
    assert!(hello(&mut world, 3, Twin { process: "dddd4444", life: 10, ..FIRST }).unwrap().outdated.is_empty());
}

#[test]
fn another_instance_may_be_adopted_before_the_first_is_lost() {
    let mut world = World::new(PLAN);
    hello(&mut world, 1, FIRST).unwrap();
    let other = |world: &mut World, session| {
        world.hello("a", session, |h| (h.instance, h.process, h.place) = ("new".into(), "eeee".into(), "m/1".into()))
    };
    assert_eq!(other(&mut world, 2).unwrap_err().reason, "SECOND_INSTANCE");
    world.adopt("a", "eeee").unwrap();
    assert!(other(&mut world, 3).unwrap().conduct.is_none());
    assert_eq!(hello(&mut world, 4, FIRST).unwrap_err().reason, "SECOND_INSTANCE");
    world.check_replay();
}
