//! Snapshots: whatever the history and wherever it is cut, what comes back and goes on is what a replay from the beginning
//! gives, byte for byte; and snapshots that were written by earlier versions stay readable.
use pitwall_core::{project::Project, state::State};
use pitwall_proto::{
    journal,
    v1::{self, command_spec, connect_request, fact},
};
use proptest::prelude::*;

use crate::{
    replay::eventful,
    support::{
        LINEAGE, World,
        random::{history, team},
        render,
    },
};

/// The state after the first `cut` events went through a snapshot, and the others came behind it.
fn through_snapshot(project: &str, events: &[journal::Event], cut: usize) -> State {
    let (before, after) = events.split_at(cut);
    let mut whole = State::new(project, LINEAGE);
    before.iter().for_each(|event| whole.apply(event));
    let bytes = whole.to_snapshot();
    let mut state = State::from_snapshot(project, LINEAGE, &bytes).unwrap();
    assert_eq!(state.digest(), whole.digest(), "cut behind event {cut}");
    assert_eq!(state.to_snapshot(), bytes, "written again it is the same");
    after.iter().for_each(|event| state.apply(event));
    state
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// An orchestrator that starts from a snapshot decides on as the one that was killed would have.
    #[test]
    fn any_history_goes_on_from_a_snapshot(team in team(), ops in history(30), cut in 0.0..1.0f64, tells in 0usize..4) {
        let mut world = World::new(&team.yaml());
        let mut straight = World::new(&team.yaml());
        let all: Vec<_> = ops.iter().filter_map(|op| op.within(&team)).collect();
        let at = (all.len() as f64 * cut) as usize;
        for (n, op) in all.iter().enumerate() {
            for world in [&mut world, &mut straight] {
                op.play(world);
                if n < tells {
                    world.tell("a0", "d0", &format!("note {n}"));
                    world.throttle("a0", 0.5, 60_000);
                }
            }
            if n == at {
                world.restart_from_snapshot(cut);
                straight.restart_orchestrator();
            }
        }
        prop_assert_eq!(&world.journal, &straight.journal, "it decides the same");
        prop_assert_eq!(world.project.state_digest(), straight.project.state_digest());
        world.check_replay();
    }
}

#[test]
fn a_history_of_every_kind_of_event_may_be_cut_behind_any_of_them() {
    let world = restored();
    let digest = world.project.state_digest();
    for cut in 0..=world.journal.len() {
        let state = through_snapshot("talent-platform", &world.journal, cut);
        assert_eq!(state.digest(), digest, "cut behind event {cut}");
        if cut % 40 == 0 {
            let again = Project::resume(state, 1);
            assert_eq!(format!("{:?}", again.derived()), format!("{:?}", world.project.derived()));
        }
    }
}

fn note(text: &str) -> command_spec::Kind {
    command_spec::Kind::Directive(v1::Directive { text: text.into(), ..Default::default() })
}

/// What may never be done twice is remembered: facts that were taken, ids that were given, keys that were used.
#[test]
fn nothing_is_taken_twice_behind_a_snapshot() {
    let mut world = eventful();
    let first = world.issue_with("backend", note("the same"), 0, "key-1").unwrap();
    world.restart_from_snapshot(1.0);
    assert_eq!(world.issue_with("backend", note("the same"), 0, "key-1").unwrap().id, first.id, "a key counts on");
    assert_ne!(world.issue_with("backend", note("another"), 0, "key-2").unwrap().id, first.id);
    world.connect("backend");
    let told = world.sidecars["backend"].told_facts();
    let (before, claim) = (world.journal.len(), v1::Claim { progress: Some(1.0), ..Default::default() });
    let again =
        (1..=told).map(|seq| v1::Fact { seq, kind: Some(fact::Kind::Claim(claim.clone())), ..Default::default() });
    world.say("backend", connect_request::Body::Facts(v1::FactBatch { facts: again.collect() }));
    assert_eq!(world.journal.len(), before, "facts that were taken are not taken again");
}

fn restored() -> World {
    let mut world = eventful();
    world.tell("backend", "", "not ended");
    world.input(pitwall_core::io::Input::Restored);
    world
}

/// A snapshot as version 0.1 wrote it.
const GOLDEN: &[u8] = include_bytes!("golden/snapshot-0.1.bin");

#[test]
fn an_old_snapshot_is_read_to_the_same_situation() {
    let state = State::from_snapshot("talent-platform", LINEAGE, GOLDEN).unwrap();
    assert!(state.findings.values().any(|f| f.kind() == v1::FindingKind::JournalRestored));
    assert_eq!(state.to_snapshot(), GOLDEN, "nothing of it is lost");
    let text = render::situation_of(&Project::resume(state, 1), "as an old snapshot tells it");
    insta::assert_snapshot!("golden_snapshot", text);
}

/// Writes the golden snapshot anew. Only for a new golden file beside the old ones, which stay.
#[test]
#[ignore = "writes golden/snapshot-NEW.bin"]
#[allow(clippy::disallowed_methods, reason = "a tool in the shape of a test")]
fn write_a_golden_snapshot() {
    std::fs::write("tests/rules/golden/snapshot-NEW.bin", restored().project.state().to_snapshot()).unwrap();
}
