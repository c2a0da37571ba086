//! Replay: the same state byte for byte, the same situation, after any history and after any crash; and journals
//! that were written by earlier versions stay readable.
use pitwall_core::project::Project;
use pitwall_proto::{journal, v1};
use proptest::{prelude::*, test_runner::RngSeed};
use prost::Message as _;

use crate::support::{
    LINEAGE, World,
    random::{Op, history, team},
    render, script,
};

#[derive(Clone, Debug)]
enum Fault {
    None,
    /// Batches wait for the disk from here on.
    Hold,
    /// The disk answers.
    Release,
    /// The process is killed, with what was not durable.
    Crash,
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![12 => Just(Fault::None), 2 => Just(Fault::Hold), 2 => Just(Fault::Release), 1 => Just(Fault::Crash)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default() })]

    /// Nothing is seen outside before it is durable, nothing that was acknowledged is lost by a crash, and within the
    /// grace after a start nobody is newly lost.
    #[test]
    fn any_history_with_crashes_is_replayed(team in team(), ops in history(30), faults in prop::collection::vec(fault(), 200)) {
        let mut world = World::new(&team.yaml());
        for (op, fault) in ops.iter().filter_map(|op| op.within(&team)).zip(&faults) {
            let (was_held, released) = (world.hold && !world.held.is_empty(), world.out.len());
            op.play(&mut world);
            if was_held {
                prop_assert_eq!(world.out.len(), released, "something went out behind an append that waits");
            }
            match fault {
                Fault::None => {}
                Fault::Hold => world.hold = true,
                Fault::Release => world.append_held(),
                Fault::Crash => {
                    world.hold = false;
                    world.restart_orchestrator();
                    let lost = |w: &World| {
                        let all = w.project.derived().agents.values();
                        all.filter(|a| a.status == v1::AgentStatus::Lost).count()
                    };
                    let before = lost(&world);
                    world.advance(29_000);
                    prop_assert!(lost(&world) <= before, "lost within the grace");
                }
            }
        }
        world.append_held();
        for a in 0..team.agents.len() {
            world.connect(&format!("a{a}"));
        }
        for (name, sidecar) in &world.sidecars {
            prop_assert_eq!(
                world.project.state().agents[name].fact_acked(&sidecar.instance),
                sidecar.told_facts(),
                "every fact is in the journal in the end, and each once"
            );
        }
        world.check_replay();
    }

    /// A claim never changes verified progress, nor any status of a deliverable.
    #[test]
    fn no_claim_moves_verified_progress(team in team(), ops in history(25), a in 0usize..2, tenths in 0u8..11) {
        let mut world = World::new(&team.yaml());
        for op in ops.iter().filter_map(|op| op.within(&team)) {
            op.play(&mut world);
        }
        world.connect(&format!("a{a}"));
        let seen = |w: &World| {
            let all = w.project.derived().deliverables.values();
            all.map(|d| (d.status, d.verified)).collect::<Vec<_>>()
        };
        let before = seen(&world);
        Op::Claim { a, d: 0, tenths, waits: false }.play(&mut world);
        prop_assert_eq!(seen(&world), before);
    }
}

/// Journals as version 0.1 wrote them: each event with its length before it.
const GOLDEN: &[u8] = include_bytes!("golden/journal-0.1.bin");
const GOLDEN_SITUATION: &str = "golden_journal";

fn written(events: &[journal::Event]) -> Vec<u8> {
    events.iter().flat_map(journal::Event::encode_length_delimited_to_vec).collect()
}

fn read(mut bytes: &[u8]) -> Vec<journal::Event> {
    let mut events = Vec::new();
    while !bytes.is_empty() {
        events.push(journal::Event::decode_length_delimited(&mut bytes).unwrap());
    }
    events
}

/// The history behind the golden journal: every kind of event is in it.
pub fn eventful() -> World {
    let mut world = script::world_after(crate::scenarios::NIGHT, include_str!("scenarios/night.txt"));
    world.start("docs");
    world.cut("docs");
    world.claim("testing", 0.2, &[("suite", 0.2)], "a person");
    world.quiet("testing", true);
    world.looping("testing", true);
    world.pressure("devops", true, "throttled 62 % of 10 s", None);
    world.fact("devops", v1::fact::Kind::FactsDropped(v1::FactsDropped { count: 3 }));
    let absent = v1::WorkspaceFact { present: false, reason: "no such directory".into() };
    world.fact("devops", v1::fact::Kind::Workspace(absent));
    let id = world.tell("devops", "", "x").id;
    world.cancel(&id).unwrap();
    world.exits("integration", Some(3));
    let first = std::mem::replace(&mut world.sidecar("design").instance, "intruder".into());
    world.connect("design");
    world.sidecar("design").instance = first;
    for agent in ["backend", "frontend", "ai-ml", "devops", "testing"] {
        world.cut(agent);
    }
    world.advance(120_000);
    world.connect("backend");
    world.advance(20_000);
    world
}

#[test]
fn an_old_journal_replays_to_the_same_situation() {
    let events = read(GOLDEN);
    let mut kinds: Vec<String> = events.iter().map(|e| pitwall_core::tell::event(e).kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    assert!(kinds.len() >= 30, "every kind of event is in it: {kinds:?}");
    let project = Project::replay("talent-platform", LINEAGE, 1, events);
    let text = render::situation_of(&project, "as an old journal tells it");
    insta::assert_snapshot!(GOLDEN_SITUATION, text);
}

/// Writes the golden journal anew. Only for a first version of a new golden file beside the old ones: a journal that
/// was written must stay readable, so an existing file is never replaced.
#[test]
#[ignore = "writes golden/journal-NEW.bin"]
#[allow(clippy::disallowed_methods, reason = "a tool in the shape of a test")]
fn write_a_golden_journal() {
    let world = eventful();
    std::fs::write("tests/rules/golden/journal-NEW.bin", written(&world.journal)).unwrap();
}

#[test]
fn the_history_behind_the_golden_journal_still_plays() {
    let world = eventful();
    world.check_replay();
    assert_eq!(read(&written(&world.journal)), world.journal);
}
