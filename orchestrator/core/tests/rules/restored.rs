//! After a restore from a backup a finding says what may be lost, until every sidecar has told again what it still has.
use pitwall_core::io::Input;
use pitwall_proto::v1::{self, FindingKind};

use crate::support::World;

const MINUTE: i64 = 60_000;
const PLAN: &str = "project: p\n\
    windows: { heartbeat_every: 10s, start_grace: 30s }\n\
    agents:\n\
    \x20 a: { deliverables: { page: { checks: [ { file: a } ] } } }\n\
    \x20 b: { deliverables: { page: { checks: [ { file: b } ] } } }\n\
    \x20 never: { deliverables: { page: { checks: [ { file: c } ] } } }\n";

/// Both sidecars had told something when the backup was made, a quarter of an hour before it is brought back.
fn restored() -> World {
    let mut world = World::new(PLAN);
    for agent in ["a", "b"] {
        world.start(agent);
        world.passes(&format!("{agent}/page"));
        world.cut(agent);
    }
    world.now += 15 * MINUTE;
    world.input(Input::Restored);
    world.restart_orchestrator();
    world
}

fn told(world: &World) -> Option<String> {
    let open = world.project.findings(false);
    open.into_iter().find(|f| f.kind() == FindingKind::JournalRestored).map(|f| f.message)
}

#[test]
fn it_says_from_when_to_when_and_who_has_not_told_again() {
    let mut world = restored();
    let last = world.project.state().restored.as_ref().unwrap().restored.backup_sequence;
    let message = told(&world).expect("it opens at once");
    assert!(message.contains(&format!("ends with event {last}, 15m before")), "{message}");
    assert!(message.ends_with("not told again yet by a, b"), "{message}");
    world.connect("a");
    world.advance(11_000);
    assert!(
        told(&world).unwrap().ends_with("not told again yet by a, b"),
        "the first sign of life comes before the facts"
    );
    world.advance(10_000);
    assert!(told(&world).unwrap().ends_with("not told again yet by b"), "{:?}", told(&world));
    world.check_replay();
}

#[test]
fn a_sidecar_has_told_again_only_when_its_newest_verdict_is_here() {
    let mut world = restored();
    world.connect("a");
    let beat = |revision| {
        let heartbeat = v1::Heartbeat { verdict_revision: revision, ..Default::default() };
        v1::connect_request::Body::Heartbeat(heartbeat)
    };
    for _ in 0..3 {
        world.say("a", beat(100));
    }
    assert!(told(&world).unwrap().ends_with("by a, b"));
    world.say("a", beat(2));
    assert!(told(&world).unwrap().ends_with("by b"));
}

#[test]
fn it_closes_when_all_have_told_and_a_quarter_of_an_hour_has_shown_it() {
    let mut world = restored();
    world.connect("a");
    world.connect("b");
    world.advance(MINUTE);
    assert!(told(&world).unwrap().ends_with("all of them have told it again"), "{:?}", told(&world));
    world.advance(13 * MINUTE);
    assert!(told(&world).is_some(), "it is shown for as long as any happening");
    world.advance(MINUTE);
    assert_eq!(told(&world), None);
    world.restart_orchestrator();
    world.advance(MINUTE);
    assert_eq!(told(&world), None, "once and for all");
}

#[test]
fn who_is_lost_is_named_and_not_waited_for() {
    let mut world = restored();
    world.connect("a");
    world.advance(14 * MINUTE);
    let message = told(&world).unwrap();
    assert!(message.ends_with("the others have told it again; lost, and told when it returns: b"), "{message}");
    world.advance(MINUTE);
    assert_eq!(told(&world), None);
}

/// As when a whole machine is set back: nobody restored anything, and the lineage is the same.
#[test]
fn an_older_copy_in_the_journals_place_is_noticed_by_what_a_sidecar_knows() {
    let mut world = World::new(PLAN);
    world.start("a");
    world.start("b");
    let kept = world.journal.len();
    let lost: Vec<String> = (0..3).map(|n| world.tell("a", "", &format!("lost {n}")).id).collect();
    world.passes("a/page");
    world.hold = true;
    world.claim("a", 0.5, &[], "");
    world.journal.truncate(kept);
    world.hold = false;
    world.restart_orchestrator();
    // Given to a sidecar that is away, with an id that it has seen.
    let queued = world.tell("a", "", "queued").id;
    assert_eq!(queued, lost[0]);
    world.connect("b");
    assert_eq!(told(&world), None, "whoever knows no more than the journal proves nothing");
    world.connect("a");
    let message = told(&world).expect("it opens");
    assert!(message.starts_with("an older copy took the journal's place, which the sidecar of a knows"), "{message}");
    assert_eq!(world.command(&queued).state(), v1::CommandState::Unknown);
    assert!(!world.sidecars["a"].received.iter().any(|d| d.spec.as_ref().is_some_and(|s| says(s, "queued"))));
    let next = world.tell("a", "", "next").id;
    assert!(!lost.contains(&next), "{next} was given before");
    world.advance(30_000);
    assert_eq!(told(&world).map(|m| m.ends_with("all of them have told it again")), Some(true), "{:?}", told(&world));
    world.check_replay();
}

#[test]
fn a_cursor_that_no_history_can_have_reached_is_refused_and_doubts_nothing() {
    for cursor in [u64::MAX, u64::MAX - 1, 2_000_000] {
        let mut world = World::new(PLAN);
        world.start("a");
        world.start("b");
        let sent = world.tell("b", "", "goes on").id;
        let refusal = world.hello("a", 900, |h| h.resume.as_mut().unwrap().command_cursor = Some(cursor)).unwrap_err();
        assert_eq!(refusal.reason, "HELLO_INCOMPLETE");
        assert!(refusal.message.contains(&cursor.to_string()), "{}", refusal.message);
        assert_eq!((world.command(&sent).state(), told(&world)), (v1::CommandState::Sent, None));
        world.tell("b", "", "the next one has its place in the ledger");
        world.check_replay();
    }
}

#[test]
fn one_sidecar_that_names_higher_cursors_again_and_again_doubts_the_commands_of_others_once() {
    let mut world = World::new(PLAN);
    world.start("a");
    world.start("b");
    let claims = |world: &mut World, session: u64, ahead: u64| {
        let cursor = world.project.state().next_cursor + ahead;
        world.hello("a", session, |h| h.resume.as_mut().unwrap().command_cursor = Some(cursor)).unwrap();
        assert_eq!(world.project.state().next_cursor, cursor + 1, "no number is given twice");
    };
    let first = world.tell("b", "", "first").id;
    claims(&mut world, 900, 3);
    assert_eq!(world.command(&first).state(), v1::CommandState::Unknown);
    let second = world.tell("b", "", "second").id;
    let own = world.tell("a", "", "its own").id;
    for session in 901..905 {
        claims(&mut world, session, 3);
    }
    assert_eq!(world.command(&second).state(), v1::CommandState::Sent);
    assert_eq!(world.command(&own).state(), v1::CommandState::Unknown);
    world.check_replay();
}

fn says(spec: &v1::CommandSpec, text: &str) -> bool {
    matches!(&spec.kind, Some(v1::command_spec::Kind::Directive(directive)) if directive.text == text)
}

#[test]
fn while_one_is_only_late_it_stays_however_long_that_takes() {
    let mut world = restored();
    world.connect("a");
    // It is there and has facts that wait: signs of life, and a newest verdict that is not here.
    world.connect("b");
    world.sidecars.get_mut("b").unwrap().verdict_ahead = 1_000;
    world.advance(60 * MINUTE);
    assert!(told(&world).unwrap().ends_with("not told again yet by b"), "{:?}", told(&world));
    world.sidecars.get_mut("b").unwrap().verdict_ahead = 0;
    world.advance(MINUTE);
    assert_eq!(told(&world), None);
}
