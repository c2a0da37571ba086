//! Silence: late, lost, the grace after a start, and most of them at once.
use pitwall_core::io::Input;
use pitwall_proto::v1::{AgentStatus as S, SidecarStatus};

use crate::support::World;

fn team(n: usize) -> String {
    let mut plan = String::from("project: p\ndefaults: { expected_within: 1h }\nagents:\n");
    for i in 0..n {
        plan.push_str(&format!("  a{i}: {{ deliverables: {{ d: {{ checks: [ file: x ] }} }} }}\n"));
    }
    plan
}

fn lost(world: &World) -> usize {
    world.project.derived().agents.values().filter(|a| a.status == S::Lost).count()
}

fn started(n: usize) -> World {
    let mut world = World::new(&team(n));
    world.start_all();
    world.advance(60_000);
    world
}

#[test]
fn late_after_two_intervals_and_lost_after_four() {
    let mut world = started(2);
    world.cut("a0");
    let status = |w: &World| w.project.state().agents["a0"].sidecar_status();
    let table = [
        (19_999, SidecarStatus::Live),
        (1, SidecarStatus::Late),
        (19_999, SidecarStatus::Late),
        (1, SidecarStatus::Lost),
    ];
    for (ms, expected) in table {
        world.advance(ms);
        assert_eq!(status(&world), expected, "after {} ms", world.now);
    }
    world.connect("a0");
    assert_eq!(status(&world), SidecarStatus::Live);
    assert_eq!(lost(&world), 0);
}

#[test]
fn nobody_is_lost_within_the_grace_and_who_stays_away_is_afterwards() {
    let mut world = started(3);
    world.restart_orchestrator();
    world.advance(29_999);
    assert_eq!(lost(&world), 0);
    world.connect("a0");
    world.advance(11_000);
    assert_eq!((lost(&world), world.status("a0")), (2, S::Active));
}

#[test]
fn most_of_them_at_once_is_the_network_or_the_orchestrator() {
    let mut world = started(7);
    for i in 0..4 {
        world.cut(&format!("a{i}"));
        world.advance(2_000);
    }
    world.advance(60_000);
    assert_eq!((lost(&world), world.findings()), (0, vec!["network_or_orchestrator p".to_string()]));
    world.check_replay();
    world.connect("a0");
    world.advance(1_000);
    assert_eq!((lost(&world), world.findings().len()), (3, 3), "one is back: the others are really lost");
    for i in 1..4 {
        world.connect(&format!("a{i}"));
    }
    assert_eq!((lost(&world), world.findings().len()), (0, 0));
}

#[test]
fn while_most_are_silent_an_orchestrator_that_starts_again_holds_back_too() {
    let mut world = started(20);
    (0..12).for_each(|i| world.cut(&format!("a{i}")));
    world.advance(60_000);
    assert_eq!(world.findings(), ["network_or_orchestrator p"]);
    world.restart_orchestrator();
    for back in [12, 13] {
        world.connect(&format!("a{back}"));
    }
    assert_eq!(
        (lost(&world), world.findings()),
        (0, vec!["network_or_orchestrator p".to_string()]),
        "two are not most"
    );
    (14..20).for_each(|i| world.connect(&format!("a{i}")));
    world.advance(60_000);
    assert_eq!((lost(&world), world.findings().len()), (0, 1), "8 of 20 are not most");
    (0..4).for_each(|i| world.connect(&format!("a{i}")));
    world.advance(1_000);
    assert_eq!((lost(&world), world.findings().len()), (8, 8), "12 of 20 are: the others are really lost");
    world.check_replay();
}

#[test]
fn sidecars_that_all_came_with_new_state_directories_are_no_mass_loss() {
    // Before it is told, and after.
    for knock_after in [1_000, 60_000] {
        let mut world = started(6);
        (0..6).for_each(|i| world.cut(&format!("a{i}")));
        world.advance(knock_after);
        for i in 0..6 {
            world.sidecar(&format!("a{i}")).instance = format!("new-{i}");
        }
        for _ in 0..20 {
            for i in (0..6).filter(|i| world.sidecars[&format!("a{i}")].session.is_none()).collect::<Vec<_>>() {
                world.connect(&format!("a{i}"));
            }
            world.advance(5_000);
        }
        let in_place = world.sidecars.values().filter(|s| s.session.is_some()).count();
        assert_eq!((in_place, lost(&world)), (6, 0), "knocking after {knock_after} ms: {:?}", world.findings());
        assert!(!world.findings().iter().any(|f| f.starts_with("network")));
        world.check_replay();
    }
}

/// Volumes that were moved together: every one of them knocks from its new place with the instance that is known.
#[test]
fn sidecars_that_were_all_moved_to_other_places_are_no_mass_loss() {
    for knock_after in [1_000, 60_000] {
        let mut world = World::new(&team(6));
        let hello = |world: &mut World, i: u64, life: u64, place: &str, session: u64| {
            world
                .hello(&format!("a{i}"), session, |h| {
                    h.life = life;
                    (h.process, h.place) = (format!("process-{i}-{life}"), format!("{place}/{i}"));
                })
                .map(|_| ())
                .map_err(|refusal| refusal.reason)
        };
        for i in 0..6 {
            hello(&mut world, i, 1, "old", 100 + i).unwrap();
        }
        (0..6).for_each(|i| world.input(Input::SessionClosed { session: 100 + i }));
        world.advance(knock_after);
        let mut in_place = [false; 6];
        for round in 0..20 {
            for i in (0..6).filter(|i| !in_place[*i as usize]).collect::<Vec<_>>() {
                match hello(&mut world, i, 2, "new", 1_000 + round * 10 + i) {
                    Ok(()) => in_place[i as usize] = true,
                    Err(reason) => assert_eq!(reason, "STATE_MOVED"),
                }
            }
            world.advance(5_000);
        }
        assert_eq!(in_place, [true; 6], "knocking after {knock_after} ms: {:?}", world.findings());
        world.check_replay();
    }
}

#[test]
fn who_falls_silent_after_the_mass_is_lost_one_by_one() {
    let mut world = started(20);
    (0..12).for_each(|i| world.cut(&format!("a{i}")));
    world.advance(60_000);
    assert_eq!((lost(&world), world.findings().len()), (0, 1));
    for gone in ["a12", "a13"] {
        world.cut(gone);
        world.advance(60_000);
    }
    assert_eq!((world.status("a12"), world.status("a13"), lost(&world)), (S::Lost, S::Lost, 2));
    assert!(world.findings().contains(&"network_or_orchestrator p".to_string()), "it goes on for the others");
    world.check_replay();
}

#[test]
fn a_second_mass_during_the_first_is_held_back_too() {
    let mut world = started(20);
    (0..12).for_each(|i| world.cut(&format!("a{i}")));
    world.advance(60_000);
    (12..20).for_each(|i| world.cut(&format!("a{i}")));
    world.advance(60_000);
    assert_eq!((lost(&world), world.findings()), (0, vec!["network_or_orchestrator p".to_string()]));
    world.check_replay();
}

/// To this process all of them were silent from its start on.
#[test]
fn who_stays_away_after_a_start_during_a_mass_loss_is_one_of_the_mass() {
    let mut world = started(7);
    (0..5).for_each(|i| world.cut(&format!("a{i}")));
    world.advance(60_000);
    world.restart_orchestrator();
    world.connect("a5");
    world.advance(60_000);
    assert_eq!((lost(&world), world.findings()), (0, vec!["network_or_orchestrator p".to_string()]));
    world.advance(15 * 60_000);
    assert_eq!((lost(&world), world.status("a5")), (6, S::Active));
    world.check_replay();
}

#[test]
fn a_mass_loss_ends_by_itself_after_a_quarter_of_an_hour() {
    let mut world = started(7);
    (0..5).for_each(|i| world.cut(&format!("a{i}")));
    // It begins 40 s after the last sign of life, at most one interval ago.
    world.advance(40_000 + 15 * 60_000 - 10_001);
    assert_eq!((lost(&world), world.findings()), (0, vec!["network_or_orchestrator p".to_string()]));
    world.advance(10_001);
    assert_eq!(lost(&world), 5, "{:?}", world.findings());
    assert!(!world.findings().iter().any(|f| f.starts_with("network")), "{:?}", world.findings());
    world.check_replay();
}

#[test]
fn an_orchestrator_that_starts_in_a_mass_loss_listens_for_a_quarter_of_an_hour_itself() {
    let mut world = started(7);
    (0..5).for_each(|i| world.cut(&format!("a{i}")));
    world.advance(16 * 60_000 - 30_000);
    assert_eq!(lost(&world), 0);
    world.restart_orchestrator();
    for back in ["a5", "a6"] {
        world.connect(back);
    }
    world.advance(15 * 60_000 - 1);
    assert_eq!(lost(&world), 0, "the time before the start does not count");
    world.advance(60_000);
    assert_eq!((lost(&world), world.findings().iter().any(|f| f.starts_with("network"))), (5, false));
    world.check_replay();
}

#[test]
fn one_after_the_other_they_are_lost() {
    let table = [
        ("three of seven", 7, 3, 0, 3),
        ("all of four", 4, 4, 0, 4),
        ("four of seven, a minute apart", 7, 4, 60_000, 4),
    ];
    for (name, n, gone, apart, expected) in table {
        let mut world = started(n);
        for i in 0..gone {
            world.cut(&format!("a{i}"));
            world.advance(apart);
        }
        world.advance(60_000);
        assert_eq!(lost(&world), expected, "{name}: {:?}", world.findings());
    }
}

#[test]
fn readings_and_heartbeats_are_signs_of_life_and_no_events() {
    let mut world = started(2);
    let told = |w: &World| w.out.iter().filter(|a| !crate::support::is_pulse(a)).count();
    let (events, appends) = (world.journal.len(), told(&world));
    for _ in 0..50 {
        world.advance(1_000);
        world.reads("a0", 0.5, &[(7, "node", 0.5)]);
    }
    assert_eq!(world.journal.len(), events, "they are not journaled");
    assert_eq!(told(&world), appends, "and nobody is told");
    world.input(Input::Tick);
    assert_eq!(world.project.readouts(world.now).agents["a0"].top[0].identity.as_ref().unwrap().pid, 7);
}
