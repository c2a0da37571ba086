//! A state file of which a part cannot be read: what can is kept, and the rest is counted and told.
use pitwall_proto::{
    state::{self, record::Body},
    v1::{CommandState, LeaseState, Outcome, fact},
};

use super::{
    scripts::{begun, seen},
    world::{World, tell, throttle},
};
use crate::io::Input;

#[test]
fn a_damaged_file_makes_another_instance_that_starts_nothing_old() {
    let mut world = begun();
    let instance = world.durable.life.instance.clone();
    world.inputs.push_back(seen(Outcome::Passed, "1"));
    world.run(1_000);
    world.crash(0);
    let middle = world.file.len() / 2;
    world.file[middle] ^= 1;
    world.start();
    world.drain();
    assert_ne!(world.durable.life.instance, instance);
    assert!(world.logs.iter().any(|l| l.contains("is damaged")), "{:?}", world.logs);
    assert_eq!(crate::kept::read(&world.file).lost, crate::frame::Lost::Nothing);
}

/// The file of a sidecar that has told nothing yet of many things, and how many.
fn untold() -> (Vec<u8>, u64) {
    let mut world = World::new();
    world.orchestrator.mute = true;
    world.run(1_000);
    for n in 0..12 {
        world.inputs.push_back(Input::FilesChanged { paths: vec![format!("f{n}")], more: 0 });
        world.run(11_000);
    }
    (world.file.clone(), world.durable.spool.len() as u64)
}

fn started_from(file: &[u8]) -> World {
    let mut world = World::new();
    world.crash(0);
    world.file = file.to_vec();
    world.start();
    world.drain();
    world
}

#[test]
fn whatever_byte_is_flipped_facts_are_kept_or_counted_and_nothing_falls_over() {
    let (file, written) = untold();
    assert!(written >= 12);
    for at in 0..file.len() {
        let mut rotten = file.clone();
        rotten[at] ^= 1 << (at % 8);
        let spool = &started_from(&rotten).durable.spool;
        assert_eq!(spool.len() as u64 + spool.untold, written, "byte {at}");
    }
}

#[test]
fn wherever_it_is_torn_the_sidecar_goes_on_with_what_was_whole() {
    let (file, written) = untold();
    let mut last = 0;
    for cut in 0..=file.len() {
        let world = started_from(&file[..cut]);
        assert!(world.durable.spool.len() >= last && world.durable.spool.untold == 0, "cut at {cut}");
        last = world.durable.spool.len();
    }
    assert_eq!(last as u64, written);
}

#[test]
fn facts_that_damage_took_are_told_as_dropped_and_the_others_arrive() {
    let (mut file, written) = untold();
    let middle = file.len() / 2;
    file[middle] ^= 1;
    let mut world = started_from(&file);
    world.run(30_000);
    let dropped = world.orchestrator.facts.values().filter_map(|f| match f {
        fact::Kind::FactsDropped(dropped) => Some(dropped.count),
        _ => None,
    });
    assert_eq!(dropped.collect::<Vec<_>>(), [1]);
    let activity = world.orchestrator.facts.values().filter(|f| matches!(f, fact::Kind::Activity(_))).count() as u64;
    assert!(activity >= 11 && world.orchestrator.facts.len() as u64 >= written, "{activity}");
    assert!(world.logs.iter().any(|l| l.contains("1 facts are lost")), "{:?}", world.logs);
}

/// Wherever it is damaged: of a lease that was told to have begun somebody says in the end that it is over.
#[test]
fn no_lease_is_shown_for_ever_whatever_was_lost_of_it() {
    let mut world = begun();
    world.issue(throttle(0.2, 60_000, 5_000), 10_000);
    world.run(1_000);
    // The whole file anew; behind it, that the next life adopted it, which does not arrive.
    world.crash(0);
    world.file = world.durable.snapshot_bytes();
    world.orchestrator.mute = true;
    world.start();
    world.run(2_000);
    let before = world.orchestrator.clone();
    let file = world.file.clone();
    for at in 0..file.len() {
        let mut world = begun();
        world.crash(0);
        world.file = file.clone();
        world.file[at] ^= 1 << (at % 8);
        world.boot_ms += 10_000;
        world.orchestrator = before.clone();
        world.orchestrator.mute = false;
        // Another instance begins its numbers anew.
        (world.orchestrator.fact_acked, world.orchestrator.facts) = Default::default();
        world.start();
        world.run(40_000);
        let told = world.leases();
        let over = told.last().is_none_or(|last| !matches!(last, LeaseState::Active | LeaseState::Adopted));
        assert!(over, "byte {at}: {told:?}");
    }
}

/// With the name of the history that had acknowledged a result lost, the one that is there now is told.
#[test]
fn a_result_in_a_damaged_file_is_told_to_another_history() {
    let mut world = begun();
    let id = world.issue(tell("look here"), 10_000);
    world.run(2_000);
    // That it was acknowledged becomes durable with what comes next.
    world.issue(tell("and there"), 10_000);
    world.run(2_000);
    assert!(world.durable.commands[&id].acked);
    world.crash(0);
    let mut kept = world.durable.clone();
    let lost = Body::Cursor(std::mem::take(&mut kept.cursor));
    world.file = kept.snapshot_bytes();
    crate::kept::encode(vec![state::Record { body: Some(lost) }], &mut world.file);
    *world.file.last_mut().unwrap() ^= 1;
    (world.orchestrator.lineage, world.orchestrator.epoch) = ("l2".into(), 9);
    world.orchestrator.commands.clear();
    world.orchestrator.states.clear();
    (world.orchestrator.fact_acked, world.orchestrator.facts) = Default::default();
    world.start();
    world.run(20_000);
    assert!(world.logs.iter().any(|l| l.contains("is damaged")), "{:?}", world.logs);
    assert_eq!(world.result(&id), Some(CommandState::Succeeded));
}
